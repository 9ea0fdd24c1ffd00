"""One change of state at a time: commit, then notify."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Transaction:
    """Keeps code of users out of the transitions of a tree.

    Code of users runs in callbacks and instruments, which a transition only notes for later; but
    also in ``__del__`` methods and signal handlers, anywhere. Whatever these ask for while a
    transition is under way is done right after it, before anything is notified that might depend on
    it. Notifications go out of one loop, never nested.
    """

    __slots__ = (
        "busy", "catching_up", "deferred", "delivering", "has_delivered", "is_pending",
        "notifications",
    )  # fmt: skip

    def __init__(self) -> None:
        self.busy = False
        # Whether there's anything for `deliver`; whether it has called anything since a reset.
        self.is_pending = self.has_delivered = False
        self.catching_up = self.delivering = False
        self.deferred: deque[Callable[[], object]] = deque()
        self.notifications: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def notify(self, call: Callable[..., object], *args: object) -> None:
        """Have something called once no transition is under way."""
        self.is_pending = True
        self.notifications.append((call, args))

    def defer(self, call: Callable[[], object]) -> None:
        """Have a transition made right after the one that is under way."""
        self.is_pending = True
        self.deferred.append(call)

    def deliver(self) -> None:
        """Do what was asked for in the middle of the transition, and notify of all that's done."""
        if self.catching_up:
            return
        if self.deferred:
            self.catching_up = True
            try:
                while self.deferred:
                    self.deferred.popleft()()
            finally:
                self.catching_up = False
        if self.delivering:
            return
        self.delivering = self.has_delivered = True
        try:
            while self.notifications:
                call, args = self.notifications.popleft()
                call(*args)
                del call, args
            self.is_pending = bool(self.deferred)
        finally:
            self.delivering = False


class Transitioning(Protocol):
    @property
    def transaction(self) -> Transaction: ...

    def close_transition(self) -> None:
        """Commit it, and then notify."""


Self = TypeVar("Self", bound=Transitioning)


def transition(
    change: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], R | None]:
    """Make a method a transition: the tree is consistent before anything is notified.

    Called in the middle of another one, it's done after that, and returns None.
    """

    @functools.wraps(change)
    def perform(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        transaction = self.transaction
        if transaction.busy:
            transaction.defer(functools.partial(perform, self, *args, **kwargs))
            return None
        transaction.busy = True
        try:
            return change(self, *args, **kwargs)
        finally:
            self.close_transition()

    return perform
