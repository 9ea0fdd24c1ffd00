"""Cancelling a job under asyncio: once, as `asyncio.Task.cancel` does, and respecting shields.

anyio's scopes cancel again at each checkpoint until they're left. Code that was written for asyncio
(connection pools, `asyncio.TaskGroup`, `asyncio.gather`) cleans up by awaiting, and relies on one
cancellation. `Task.cancel` instead would go through anyio's shields.

So there are two scopes. The outer one is cancelled, which waits for shields inside. As soon as it
has called `Task.cancel`, the inner one is shielded, and what the job awaits from then on isn't
cancelled again, unless it's asked for again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from anyio._backends import _asyncio as anyio_asyncio

from .exceptions import connected, get_traceback

LOOKS = 3
"""In how many turns of the event loop to look whether a cancellation was delivered."""


class OnceScope:
    """The scopes that one worker's jobs run in; see `backend.JobScope`."""

    __slots__ = (
        "_deliveries", "_inner", "_kept", "_looks", "_loop", "_outer", "_outside_references",
        "_task", "is_pending", "is_spent",
    )  # fmt: skip

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()
        # Those of its backend: `anyio.CancelScope` looks for that each time, and makes them twice.
        self._outer = anyio_asyncio.CancelScope()
        self._inner = anyio_asyncio.CancelScope()
        # Whether it was cancelled, and whether a cancellation is under way.
        self.is_spent = self.is_pending = False
        # How often the outer scope had cancelled it, before a cancellation that's under way; and
        # in how many turns more to look whether that has come.
        self._deliveries = self._looks = 0
        # How much refers to the task outside of the scopes.
        self._outside_references = 0
        # How many of what a job has left are of no account.
        self._kept = 0

    def open(self) -> None:
        self._outside_references = sys.getrefcount(self._task)
        self._outer.__enter__()
        self._inner.__enter__()

    def close(self) -> bool:
        states = anyio_asyncio._task_states  # noqa: SLF001
        is_intact = True
        while (scope := states[self._task].cancel_scope) not in (self._inner, None):
            is_intact = False
            assert scope is not None
            scope.cancel()  # it may be a task group's
            scope.__exit__(None, None, None)
            del scope
        self._inner.__exit__(None, None, None)
        # Else anyio would have the host's task take back the cancellations of this one, if a scope
        # around both of them is cancelled, too.
        self._outer.shield = True
        self._outer.__exit__(None, None, None)
        return is_intact

    def watched(self) -> tuple[object, Callable[[], int]]:
        return self._task, self._task.cancelling

    def count_ended(self, exception: BaseException) -> int:
        ended: set[int] = set()
        for each in connected(exception):
            traceback = get_traceback(each)
            while traceback is not None:
                values = traceback.tb_frame.f_locals.values()
                ended.update(id(value) for value in values if self._has_ended(value))
                traceback = traceback.tb_next
        self._kept = len(ended)
        return self._kept

    def _has_ended(self, value: object) -> bool:
        """Whether it refers to the task, and won't cancel it any more."""
        if type(value) is asyncio.Timeout:
            ended = repr(value).startswith(("<Timeout [expired]", "<Timeout [finished]"))
            return ended and getattr(value, "_task", None) is self._task
        if type(value) is asyncio.TaskGroup:
            ended = getattr(value, "_exiting", False) and not getattr(value, "_tasks", True)
            return ended and getattr(value, "_parent_task", None) is self._task
        return value is self._task

    def is_referred_to(self) -> bool:
        return sys.getrefcount(self._task) > self._outside_references + self._kept

    def cancel(self) -> None:
        self.is_pending = True
        self._expect_delivery()
        if self.is_spent:
            self._inner.shield = False  # anyio delivers it again
        else:
            self.is_spent = True
            self._outer.cancel()
        self.look()

    def suspend(self) -> None:
        """The job waits for something: what a shield of its own has held up may come now."""
        if self.is_pending:
            self._expect_delivery()
            self._loop.call_soon(self.look)

    def _expect_delivery(self) -> None:
        self._deliveries = self._count_deliveries()
        self._looks = LOOKS

    def _count_deliveries(self) -> int:
        """How often the outer scope has called `Task.cancel`.

        anyio adds what scopes of the job have called once these are left, but that's always in a
        step of the job: it's never between two calls of `suspend` and `look`. There's no public way
        to that number. `Task.cancelling` counts timeouts of the job's, too.
        """
        return self._outer._pending_uncancellations or 0  # noqa: SLF001

    def look(self) -> None:
        """If a cancellation was delivered, shield the job from another one."""
        if not self.is_pending:
            return
        if self._count_deliveries() > self._deliveries:
            self._delivered()
        elif self._looks:
            self._looks -= 1
            self._loop.call_soon(self.look)

    def deliver(self, thrown: BaseException) -> BaseException:
        if not isinstance(thrown, asyncio.CancelledError) or not self.is_spent:
            return thrown
        message = str(thrown.args[0]) if thrown.args else ""
        if not message.startswith(f"Cancelled via cancel scope {id(self._outer):x}") and not (
            self.is_pending and self._comes_along()
        ):
            return thrown
        self._delivered()
        # Without the message, by which a scope or group of the job would take it for its own.
        return asyncio.CancelledError()

    def _comes_along(self) -> bool:
        """Whether a scope of the job, cancelled too, has kept anyio from cancelling the job again.

        That scope lets its own cancellation pass then.
        """
        scope = anyio_asyncio._task_states[self._task].cancel_scope  # noqa: SLF001
        while scope is not None and scope is not self._inner and not scope.shield:
            if scope.cancel_called:
                return True
            scope = scope._parent_scope  # noqa: SLF001
        return False

    def _delivered(self) -> None:
        self.is_pending = False
        self._inner.shield = True
