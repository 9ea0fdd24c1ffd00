"""What tests of this project need of virtual time: `anyslots.testing` by its backend's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyslots import testing
from anyslots.testing import _VirtualLoop as VirtualLoop

__all__ = ("VIRTUAL_BACKENDS", "VirtualLoop", "run_in_virtual_time", "tally")

T = TypeVar("T")

tally: Counter[str] = Counter()
"""How much random work was done, for soak.py to tell."""

VIRTUAL_BACKENDS = ("asyncio", "trio")


def run_in_virtual_time(backend: str, fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run ``fn(*args)`` from time 0."""
    return testing.run(fn, *args, backend=backend)
