"""What the runtime asks of the event loop that it runs in.

A backend belongs to one executor, and is made in its event loop. Its waits are generators that
both ``await`` and ``__await__`` can drive. `asyncio_backend` and `trio_backend` implement it, each
of which is imported only where its event loop runs; no other module imports asyncio or trio.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .._scheduling.job import Job

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Wait: TypeAlias = Any
"""A generator that serves both ``await`` and ``yield from``, which no type says."""


class Parked(Protocol):
    """A task that waits to be woken, once, and that may give up."""

    def is_waiting(self) -> bool:
        """Whether it has neither been woken nor been cancelled, to the very step."""

    def wake(self, _: object = None) -> None: ...

    def wait(self) -> Wait: ...


class JobScope(Protocol):
    """Where a worker's jobs can be cancelled from outside, until one was: then it's spent."""

    def open(self) -> None: ...

    def close(self) -> bool:
        """Leave it; False if a job had left a scope open inside, which is closed now."""

    def watched(self) -> tuple[object, Callable[[], int]]:
        """What tells whether a job that has just ended has left the task as it was.

        An object that has as many references as before, since whatever could cancel the task later
        refers to it; and a function that returns 0. For the path of every job.
        """

    def count_ended(self, exception: BaseException) -> int:
        """How many of the references to what's `watched` an exception keeps, and are of no account.

        Its traceback may keep timeouts and task groups that have ended.
        """

    def is_referred_to(self) -> bool:
        """After `close`: whether something may yet cancel the task for the sake of an old job."""

    def cancel(self) -> None:
        """Cancel the job at its next checkpoint; again if it was before."""

    def suspend(self) -> None: ...

    def deliver(self, thrown: BaseException) -> BaseException:
        """Return what the job is to be thrown for what was thrown into the task."""


class Scope(Protocol):
    """What's used of a cancel scope."""

    deadline: float

    @property
    def cancel_called(self) -> bool: ...

    def cancel(self) -> object: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class Backend(Protocol):
    cancelled: type[BaseException]
    """What a cancelled task is thrown."""
    current_time: Callable[[], float]
    """The event loop's clock; works in its plain callbacks, too, unlike `anyio.current_time`."""
    defers_cancel: bool
    """Whether `defer_cancel` works for native cancellations, if there are any."""
    clock_error: float
    """By how many seconds the clock may be behind."""

    post: Callable[[Callable[[], object]], object]
    """Have the event loop call something soon; from any thread, its own included, and at once.

    Raises `RuntimeError` once the loop is closed.
    """

    def start_task(
        self, group: TaskGroup, fn: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> None:
        """Start a task of the executor, which runs whatever is cancelled natively before that."""

    def current_task(self) -> object:
        """The task that this code runs in, if any."""

    def task_name(self) -> str:
        """The name of the current task."""

    def task_coroutine(self, task: Any) -> object:
        """The coroutine that a task drives, from any thread; None for what isn't a task."""

    def is_running(self) -> bool:
        """Whether the event loop runs, and isn't gone."""

    def task_ancestors(self) -> Callable[[object], Iterator[int]]:
        """How to tell the ids of a task, if it's one, and of those that started one another.

        Known of the tasks of anyio's task groups, and of trio's nurseries.
        """

    def spawn_detached(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start a task that belongs to the event loop alone, in a copy of the present context."""

    def checkpoint(self) -> Wait:
        """Let other tasks run, and notice a cancellation."""

    def wait(self, job: Job[Any]) -> Wait:
        """Wait until a job that isn't done is."""

    def park(self) -> Parked:
        """A place for the current task to wait in."""

    def cancel_scope(self) -> Scope:
        """A cancel scope of the backend's own; what anyio puts around it costs twice as much."""

    def job_scope(self) -> JobScope:
        """A scope for jobs of the current task."""

    def swapped_context(self) -> Callable[[], bool] | None:
        """How to tell whether the current task runs in a context that isn't its own, if it can."""

    def await_native(self, result: object) -> Coroutine[Any, Any, Any] | None:
        """A coroutine that awaits the backend's own kind of task, if that's what it got."""

    def cancel_count(self) -> Callable[[], int] | None:
        """How to count the cancellations of the current task, where native ones come uncounted."""

    def uncancel(self) -> Wait:
        """Take back all native cancellations of the current task."""

    def redeliver_cancel(self) -> None:
        """Make a native cancellation that the current task got show at its next checkpoint."""

    def defer_cancel(self, error: BaseException) -> bool:
        """Have a cancellation that has just come show at the next checkpoint; False if it can't."""

    def task_done(self, task: object) -> bool:
        """Whether a task has ended, where tasks say so."""

    def protect(
        self, functions: Iterable[Callable[..., Any]], but: Iterable[Callable[..., Any]]
    ) -> None:
        """Have Ctrl-C strike nowhere inside functions, but inside others that these call."""


def current_backend() -> Backend:
    """The backend of the running event loop; `RuntimeError` if none runs in this thread."""
    trio = sys.modules.get("trio")
    # Another thread may be importing it.
    in_trio_task = getattr(getattr(trio, "lowlevel", None), "in_trio_task", None)
    if in_trio_task is not None and in_trio_task():
        from .trio_backend import TrioBackend

        return TrioBackend()
    from .asyncio_backend import AsyncioBackend

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
