"""What the executor asks of the event loop that it runs in, and who answers.

A backend belongs to one executor, and is made in its event loop. Its waits are generators that
both ``await`` and ``__await__`` can drive. The answers are in ``_asyncio`` and ``_trio``, each of
which is imported only where its event loop runs; no other module imports asyncio or trio.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from ._future import Future


Wait: TypeAlias = Any
"""A generator that serves both ``await`` and ``yield from``, which no type says."""


class Parked(Protocol):
    """A task that waits to be woken, once, and that may give up."""

    def is_waiting(self) -> bool:
        """Whether it has neither been woken nor been cancelled, to the very step."""

    def wake(self) -> None: ...

    def wait(self) -> Wait: ...


class Backend(Protocol):
    cancelled: type[BaseException]
    """What a cancelled task is thrown."""
    current_time: Callable[[], float]
    """The event loop's clock; works in its plain callbacks, too, unlike `anyio.current_time`."""

    post: Callable[[Callable[[], object]], object]
    """Have the event loop call something soon; from any thread, its own included, and at once.

    Raises `RuntimeError` once the loop is closed.
    """

    def current_task(self) -> object:
        """The task that this code runs in, if any."""

    def is_running(self) -> bool:
        """Whether the event loop runs, and isn't gone."""

    def lineages(self) -> Callable[[object], Iterator[int]]:
        """How to tell the ids of a task, if it's one, and of those that started one another.

        Known of the tasks of anyio's task groups, and of trio's nurseries.
        """

    def checkpoint(self) -> Wait:
        """Let other tasks run, and notice a cancellation."""

    def wait(self, future: Future[Any]) -> Wait:
        """Wait until a future that isn't done is."""

    def park(self) -> Parked:
        """A place for the current task to wait in."""

    def follow(self, result: object) -> Coroutine[Any, Any, Any] | None:
        """A coroutine that stands for the backend's own kind of task, if that's what it got."""

    def native_cancels(self) -> Callable[[], int] | None:
        """How to count the cancellations of the current task, where native ones come uncounted."""

    def forgive(self) -> Wait:
        """Take back all native cancellations of the current task."""

    def remind(self) -> None:
        """Make a native cancellation that the current task got show at its next checkpoint."""

    def is_over(self, task: object) -> bool:
        """Whether a task has ended, where tasks say so."""

    def protect(self, functions: Iterable[Callable[..., Any]]) -> None:
        """Have Ctrl-C strike nowhere inside these functions, where the backend allows that."""


def current_backend() -> Backend:
    """The backend of the running event loop; `RuntimeError` if none runs in this thread."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        from ._trio import TrioBackend

        return TrioBackend()
    from ._asyncio import AsyncioBackend

    try:
        return AsyncioBackend()
    except RuntimeError:
        raise RuntimeError("an executor is entered inside a running event loop") from None


def is_cancellation(exception: BaseException, backend: Backend) -> bool:
    """Whether this is how a task of the backend is cancelled, or how asyncio's are."""
    import asyncio

    return isinstance(exception, (asyncio.CancelledError, backend.cancelled))


def forget_backend() -> None:
    """Have anyio look anew which event loop runs here: the context may come from another's."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(None)
