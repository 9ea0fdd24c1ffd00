"""As much of `Executor` as a transport uses, in a few lines: slots, FIFO, timeouts, cancelling."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import anyio

from anyslots import JobCancelled


class Executor:
    def __init__(
        self, slots: int, *, timeout: float | None = None, instruments: Iterable[Any] = ()
    ) -> None:
        self.semaphore = anyio.Semaphore(slots)
        self.timeout = timeout
        self.instruments = list(instruments)
        self.blocks: list[_Block] = []
        self.paused = False
        self.queued = 0
        self.changed = anyio.Event()

    async def __aenter__(self) -> Executor:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        while self.blocks or self.queued:  # an executor waits for its jobs
            self.changed = anyio.Event()
            await self.changed.wait()

    def slot(self, *args: Any, **kwargs: Any) -> _Block:
        return _Block(self)

    def pause(self, seconds: float | None = None) -> None:
        self.paused = bool(seconds)

    def cancel(self, reason: str | None = None) -> None:
        for block in self.blocks:
            block.error = JobCancelled(reason)
            block.scope.cancel()

    def statistics(self) -> Any:
        return SimpleNamespace(running=len(self.blocks), queued=self.queued)


class _Block:
    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.scope = anyio.CancelScope()
        self.error: Exception | None = None

    async def __aenter__(self) -> object:
        self.executor.queued += 1
        try:
            await self.executor.semaphore.acquire()
        finally:
            self.executor.queued -= 1
            self.executor.changed.set()
        self.executor.blocks.append(self)
        if self.executor.timeout is not None:
            self.scope.deadline = anyio.current_time() + self.executor.timeout
        self.scope.__enter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        caught = self.scope.__exit__(kind, error, traceback) and error is not None
        self.executor.blocks.remove(self)
        self.executor.semaphore.release()
        self.executor.changed.set()
        if caught:
            error = self.error or TimeoutError("the slot's time is over")
        elif error is not None and not isinstance(error, Exception):
            error = JobCancelled()
        future = SimpleNamespace(error=error, cancelled=lambda: isinstance(error, JobCancelled))
        for instrument in self.executor.instruments:
            instrument.job_finished(future)
        if caught:
            raise error
        return False


class Ended:
    """An instrument that keeps what each slot has ended with."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []

    def job_finished(self, future: Any) -> None:
        self.errors.append(JobCancelled() if future.cancelled() else future.error)

    @property
    def names(self) -> list[str]:
        return [type(error).__name__ for error in self.errors]
