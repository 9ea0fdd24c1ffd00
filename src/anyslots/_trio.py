"""The backend for trio; what each method is for stands in ``_backend``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from types import coroutine
from typing import TYPE_CHECKING, Any

import trio
from trio import lowlevel

if TYPE_CHECKING:
    from ._backend import Parked
    from ._future import Future


class TrioBackend:
    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self) -> None:
        self.current_time: Callable[[], float] = lowlevel.current_clock().current_time
        token = lowlevel.current_trio_token()
        self.post: Callable[[Callable[[], object]], object] = token.run_sync_soon

    def current_task(self) -> object:
        return lowlevel.current_task() if lowlevel.in_trio_task() else None

    def is_running(self) -> bool:
        return True

    def lineages(self) -> Callable[[object], Iterator[int]]:
        def lineage(task: Any) -> Iterator[int]:
            while task is not None:
                yield id(task)
                task = None if task.parent_nursery is None else task.parent_nursery.parent_task

        return lineage

    @coroutine
    def checkpoint(self) -> Generator[Any, Any, None]:
        yield from lowlevel.checkpoint()

    @coroutine
    def wait(self, future: Future[Any]) -> Generator[Any, Any, None]:
        task = lowlevel.current_task()

        def wake(_: Future[Any]) -> None:
            lowlevel.reschedule(task)

        def abort(_: object) -> Any:
            future._unwatch(wake)
            return lowlevel.Abort.SUCCEEDED

        future._watch(wake)
        yield from lowlevel.wait_task_rescheduled(abort)

    def park(self) -> Parked:
        return _TrioParked()

    def follow(self, result: object) -> None:
        return None

    def native_cancels(self) -> Callable[[], int] | None:
        return None

    @coroutine
    def forgive(self) -> Generator[Any, Any, None]:
        yield from lowlevel.cancel_shielded_checkpoint()

    def remind(self) -> None:
        """Nothing native to make come again."""

    def is_over(self, task: object) -> bool:
        return False

    def protect(self, functions: Iterable[Callable[..., Any]]) -> None:
        for function in functions:
            if function not in _protected:
                _protected.add(function)
                lowlevel.enable_ki_protection(function)


class _TrioParked:
    def __init__(self) -> None:
        self._waiting = True
        self._task: Any = None

    def is_waiting(self) -> bool:
        return self._waiting

    def wake(self) -> None:
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


_protected: set[Callable[..., Any]] = set()
