"""CPython's own tests of asyncio, run as jobs: a program, started by test_cpythons_tests.py.

``python cpython_asyncio_tests.py bodies``: the body of each test is a job;
``python cpython_asyncio_tests.py tasks``: so is what the tests give to `asyncio.create_task`.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import math
import sys
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from anyslots import Executor, Future, JobCancelled

NOT_SHIPPED = 77
MODULES = ["test_timeouts", "test_taskgroups", "test_locks", "test_queues", "test_waitfor"]

# Not run with jobs for tasks: those that count the loop's turns until several tasks have begun, of
# which jobs take more; that ask for the very `CancelledError` the task had; that look into a task.
NOT_FOR_JOBS = (
    "AsyncioWaitForTest.test_cancel_blocking_wait_for",
    "AsyncioWaitForTest.test_cancel_wait_for",
    "BarrierTests.test_repr",
    "ConditionTests.test_cancelled_error_re_aquire",
    "ConditionTests.test_cancelled_error_wakeup",
    "ConditionTests.test_notify_all",
    "ConditionTests.test_wait",
    "EventTests.test_wait",
    "QueuePutTests.test_cancelled_put_silence_value_error_exception",
    "SemaphoreTests.test_acquire",
    "SemaphoreTests.test_acquire_fifo_order_4",
    "SemaphoreTests.test_acquire_no_hang",
    "TestTaskGroup.test_error_and_cancel",
)

executor: Executor
"""Of the test that runs now."""


async def run_as_job(fn: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test in an executor, for its own tasks, too."""
    global executor
    async with Executor(math.inf, on_error="log") as executor:
        future = executor.submit(fn)
        try:
            await future.wait()
        except asyncio.CancelledError:
            future.cancel()
            await future.wait()
        executor.cancel()  # what a test leaves waiting
    return result_of(future)


def result_of(future: Future[Any]) -> Any:
    try:
        return future.result()
    except JobCancelled as cancelled:
        if isinstance(cancelled.__cause__, asyncio.CancelledError):
            raise cancelled.__cause__ from None  # the job's own, that nobody asked for
        args = [str(cancelled).split(": ", 1)[1]] if ": " in str(cancelled) else []
        raise asyncio.CancelledError(*args) from None


class JobTask:
    """What stands for the task: a job's future, with the names and errors of asyncio's."""

    # What asyncio itself looks for in a future.
    _asyncio_future_blocking = False
    _cancel_message = None

    def __init__(self, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self.future = executor.submit(lambda: coro)
        self.done = self.future.done
        self.cancelled = self.future.cancelled
        self.callbacks: list[Callable[[Any], object]] = []
        self.future.add_done_callback(self._call)

    def _call(self, _: Future[Any]) -> None:
        for fn in self.callbacks:
            asyncio.get_running_loop().call_soon(fn, self)

    def cancel(self, msg: str | None = None) -> bool:
        return self.future.cancel(msg)

    def result(self) -> Any:
        return result_of(self.future)

    def exception(self) -> BaseException | None:
        return result_of(self.future) if self.future.cancelled() else self.future.exception()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        if self.done():
            asyncio.get_running_loop().call_soon(fn, self)
        else:
            self.callbacks.append(fn)

    def remove_done_callback(self, fn: Callable[[Any], object]) -> None:
        if fn in self.callbacks:
            self.callbacks.remove(fn)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            yield from self.future.wait().__await__()
        except asyncio.CancelledError:
            # As awaiting a task does: it's cancelled and waited for, and its outcome counts.
            if not self.future.cancel():
                raise
            if not self.future.done():
                yield from self.future.wait().__await__()
        return self.result()


def body_as_job(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(self: unittest.TestCase) -> None:
        await run_as_job(functools.partial(test, self))

    return run


def load(module: Any) -> list[unittest.TestCase]:
    tests: list[unittest.TestCase] = []
    for case in vars(module).values():
        if not (inspect.isclass(case) and issubclass(case, unittest.IsolatedAsyncioTestCase)):
            continue
        names = [name for name in dir(case) if name.startswith("test")]
        names = [name for name in names if inspect.iscoroutinefunction(getattr(case, name))]
        wrapped = {name: body_as_job(getattr(case, name)) for name in names}
        subclass = type(case.__name__, (case,), wrapped)
        tests += [subclass(name) for name in names]
    return tests


def name_of(test: unittest.TestCase) -> str:
    return test.id().split(".", 1)[1]


def main(mode: str) -> None:
    try:
        modules = [importlib.import_module(f"test.test_asyncio.{name}") for name in MODULES]
    except ImportError:
        print("this Python doesn't ship its tests")
        sys.exit(NOT_SHIPPED)
    if mode == "tasks":
        asyncio.create_task = JobTask  # type: ignore[assignment]
    tests = [test for module in modules for test in load(module)]
    if mode == "tasks":
        tests = [test for test in tests if name_of(test) not in NOT_FOR_JOBS]
    failed = 0
    for test in tests:
        result = test.run()
        assert result is not None
        problems = result.errors + result.failures
        failed += bool(problems)
        for _, traceback in problems:
            print(name_of(test), traceback)
    print(len(tests), "tests")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(sys.argv[1])
