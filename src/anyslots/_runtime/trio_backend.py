"""The backend for trio; what each method is for stands in `backend`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextvars import copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any

import trio
from trio import lowlevel

from .._scheduling.job import Job
from .backend import JobScope, Parked, Scope

if TYPE_CHECKING:
    from anyio.abc import TaskGroup


class TrioBackend:
    cancelled: type[BaseException] = trio.Cancelled
    defers_cancel = True
    clock_error = 0.0

    def __init__(self) -> None:
        self.current_time: Callable[[], float] = lowlevel.current_clock().current_time
        token = lowlevel.current_trio_token()
        self.post: Callable[[Callable[[], object]], object] = token.run_sync_soon

    def start_task(
        self, group: TaskGroup, fn: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> None:
        group.start_soon(fn, name=name)

    def current_task(self) -> object:
        return lowlevel.current_task() if lowlevel.in_trio_task() else None

    def task_name(self) -> str:
        return lowlevel.current_task().name

    def task_coroutine(self, task: Any) -> object:
        return getattr(task, "coro", None)

    def is_running(self) -> bool:
        return True

    def task_ancestors(self) -> Callable[[object], Iterator[int]]:
        def ancestors(task: Any) -> Iterator[int]:
            while task is not None:
                yield id(task)
                task = None if task.parent_nursery is None else task.parent_nursery.parent_task

        return ancestors

    def spawn_detached(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        lowlevel.spawn_system_task(fn, name=name, context=copy_context())

    @coroutine
    def checkpoint(self) -> Generator[Any, Any, None]:
        yield from lowlevel.checkpoint()

    @coroutine
    def wait(self, job: Job[Any]) -> Generator[Any, Any, None]:
        task = lowlevel.current_task()

        def wake(_: Job[Any]) -> None:
            lowlevel.reschedule(task)

        def abort(_: object) -> Any:
            job.remove_listener(wake)
            return lowlevel.Abort.SUCCEEDED

        job.add_listener(wake)
        yield from lowlevel.wait_task_rescheduled(abort)

    def park(self) -> Parked:
        return _TrioParked()

    def cancel_scope(self) -> Scope:
        return trio.CancelScope()

    def job_scope(self) -> JobScope:
        return _TrioScope(lowlevel.current_task())

    def swapped_context(self) -> Callable[[], bool]:
        # `trio.from_thread.run` has a task step in the context of the thread that calls it.
        task = lowlevel.current_task()
        own = task.context
        return lambda: task.context is not own

    def await_native(self, result: object) -> None:
        return None

    def cancel_count(self) -> Callable[[], int] | None:
        return None

    @coroutine
    def uncancel(self) -> Generator[Any, Any, None]:
        yield from lowlevel.cancel_shielded_checkpoint()

    def redeliver_cancel(self) -> None:
        """Nothing native to make come again."""

    def defer_cancel(self, error: BaseException) -> bool:
        return True  # it comes again by itself

    def task_done(self, task: object) -> bool:
        return False

    def protect(
        self, functions: Iterable[Callable[..., Any]], but: Iterable[Callable[..., Any]]
    ) -> None:
        for function in functions:
            if function not in _marked:
                _marked.add(function)
                lowlevel.enable_ki_protection(function)
        for function in but:
            if function not in _marked:
                _marked.add(function)
                lowlevel.disable_ki_protection(function)


class _TrioParked:
    __slots__ = ("_task", "_waiting")

    def __init__(self) -> None:
        self._waiting = True
        self._task: Any = None

    def is_waiting(self) -> bool:
        return self._waiting

    def wake(self, _: object = None) -> None:
        if self._waiting:
            self._waiting = False
            if self._task is not None:
                lowlevel.reschedule(self._task)

    def _abort(self, _: object) -> Any:
        self._waiting = False
        return lowlevel.Abort.SUCCEEDED

    @coroutine
    def wait(self) -> Generator[Any, Any, None]:
        if self._waiting:
            self._task = lowlevel.current_task()
            yield from lowlevel.wait_task_rescheduled(self._abort)
        else:
            yield from lowlevel.checkpoint()


class _TrioScope:
    """One of trio's cancel scopes, which deliver a cancellation at each checkpoint."""

    __slots__ = ("_left_nurseries", "_scope", "_status", "_task")

    def __init__(self, task: Any) -> None:
        self._task = task
        self._scope = trio.CancelScope()
        self._status: object = None
        self._left_nurseries = False

    def open(self) -> None:
        self._scope.__enter__()
        # There's no public way to what a job leaves open.
        self._status = self._task._cancel_status  # noqa: SLF001

    def close(self) -> bool:
        for nursery in self._task.child_nurseries:
            self._left_nurseries = True
            nursery.cancel_scope.cancel()
        try:
            self._scope.__exit__(None, None, None)
        except RuntimeError:
            return False  # trio has mended its stack of scopes
        finally:
            # A task that ends with a nursery open would raise.
            self._task._child_nurseries.clear()  # noqa: SLF001
        return True

    def watched(self) -> tuple[object, Callable[[], int]]:
        task, status = self._task, self._status
        return status, lambda: task._cancel_status is not status  # noqa: SLF001

    def count_ended(self, exception: BaseException) -> int:
        return 0

    def is_referred_to(self) -> bool:
        # Closed later, one of them would close one of another job in this task.
        return self._left_nurseries

    def cancel(self) -> None:
        self._scope.cancel()

    def suspend(self) -> None:
        """Nothing to look at."""

    def deliver(self, thrown: BaseException) -> BaseException:
        return thrown


_marked: set[Callable[..., Any]] = set()
