"""What several instruments read of futures and lanes; all of it is public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar
from weakref import ref

from .. import Lane

T = TypeVar("T")

Clock: TypeAlias = Callable[[], float]


def names_of(lane: Lane) -> tuple[str, str]:
    """Return the names of an executor and of its lane; "" for what has no name, or no lane."""
    executor = lane.executor
    return executor.name or "", "" if lane is executor else lane.name or ""


class PerLane(Generic[T]):
    """What an instrument keeps for each lane, made at the lane's first job.

    It doesn't keep lanes alive, and forgets what belonged to one that is gone. A dict of weak
    references rather than a `WeakKeyDictionary`, whose lookups run Python code for each job.
    """

    __slots__ = ("_make", "found")

    def __init__(self, make: Callable[[Lane], T]) -> None:
        self._make = make
        self.found: dict[ref[Lane], T] = {}

    def __getitem__(self, lane: Lane) -> T:
        found = self.found.get(ref(lane))
        if found is None:
            found = self.found[ref(lane, self._forget)] = self._make(lane)
        return found

    def _forget(self, lane: ref[Lane]) -> None:
        self.found.pop(lane, None)

    def __len__(self) -> int:
        return len(self.found)
