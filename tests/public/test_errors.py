"""What becomes of the errors of jobs: the three policies, and the exceptions that end all."""

from __future__ import annotations

import asyncio
import logging
import traceback
import weakref
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, all_blocked, cancel_when_blocked, check_idle, fail, give, ticks

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio

any_policy = pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
raising_policy = pytest.mark.parametrize("on_error", ["hold", "cancel"])
lasting_policy = pytest.mark.parametrize("on_error", ["hold", "log"])


class Log(logging.Filter):
    """What the logger ``anyslots`` was given: levels, messages, and exceptions as text.

    Takes the records from pytest, which would keep the exceptions alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[int, str, str]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        assert record.exc_info
        self.entries.append((record.levelno, record.getMessage(), repr(record.exc_info[1])))
        return False

    @property
    def errors(self) -> list[str]:
        return [error for _, _, error in self.entries]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    logging.getLogger("anyslots").addFilter(log)
    yield log
    logging.getLogger("anyslots").removeFilter(log)


class BaseBoom(BaseException):
    """What jobs raise that is no `Exception`, nor anything else that is known."""


class BodyError(Exception):
    """What the body of the block raises."""


async def submit_failed(executor: Executor, error: BaseException) -> Future[NoReturn]:
    """The future of a job that has failed, at which nobody has looked."""
    future = executor.submit(fail, error)
    await future.wait()
    return future


async def fail_in_cleanup(error: BaseException) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise error


def group_of(*errors: BaseException) -> pytest.RaisesGroup[Any]:
    """An exception group of just these, the same objects."""
    members = [pytest.RaisesExc(type(e), check=lambda m, e=e: m is e) for e in errors]
    return pytest.RaisesGroup(*members)


# Looking at an error.


LOOKS = ["await", "result", "exception", "gather", "gather exceptions", "callback"]
every_look = pytest.mark.parametrize("look", LOOKS)


async def look_at(future: Future[Any], look: str) -> None:
    match look:
        case "await":
            await future
        case "result":
            future.result()
        case "exception":
            future.exception()
        case "gather":
            await gather(future)
        case "gather exceptions":
            await gather(future, return_exceptions=True)
        case "callback":
            future.add_done_callback(lambda done: done.exception())


async def look_at_anything_else(future: Future[Any]) -> None:
    await future.wait()
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert repr(future)
    assert future.name
    assert future.cancel() is False
    future.add_done_callback(lambda done: None)


@lasting_policy
@every_look
async def test_errors_that_were_looked_at_are_forgotten(on_error, look: str, log: Log) -> None:
    """They are neither raised nor logged, then or later."""
    async with Executor(1, on_error=on_error) as executor:
        future = await submit_failed(executor, Boom())
        with suppress(Boom):
            await look_at(future, look)
    del future
    assert not log.entries


async def test_hold_raises_errors_that_nobody_looked_at(log: Log) -> None:
    error = Boom()
    with group_of(error):
        async with Executor(1) as executor:
            future = await submit_failed(executor, error)
            await look_at_anything_else(future)
    assert not log.entries
    # It's still its future's.
    with pytest.raises(Boom):
        await future
    assert future.exception() is error


async def test_log_tells_errors_that_nobody_looked_at(log: Log) -> None:
    """They are logged at ERROR with the job's name, once; none is raised."""
    async with Executor(1, on_error="log") as executor:
        future = await submit_failed(executor, Boom("unseen"))
        await look_at_anything_else(future)
        assert not log.entries
    [(level, message, error)] = log.entries
    assert level == logging.ERROR
    assert "job fail " in message
    assert error == "Boom('unseen')"
    with pytest.raises(Boom):
        await future
    del future
    assert len(log.entries) == 1


@every_look
async def test_cancel_raises_errors_that_were_looked_at_too(look: str, log: Log) -> None:
    """With "cancel" the block raises the first error in any case, as a task group does."""
    with group_of(error := Boom()):
        async with Executor(1, on_error="cancel") as executor:
            future = executor.submit(fail, error)
            with anyio.CancelScope(shield=True):
                await future.wait()
                with suppress(Boom):
                    await look_at(future, look)
    assert not log.entries


# The group that the block raises.


async def test_hold_raises_all_unseen_errors_in_one_group_in_order() -> None:
    """In the order in which the jobs failed, and without those that were looked at."""
    errors = [Boom(number) for number in range(3)]
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1) as executor:
            futures = [executor.submit(fail, error) for error in [*errors, Boom("seen")]]
            executor.submit(give)
            with pytest.raises(Boom, match="seen"):
                await futures[-1]
    assert type(caught.value) is ExceptionGroup
    assert list(caught.value.exceptions) == errors


@raising_policy
@pytest.mark.parametrize("is_group", [False, True])
async def test_the_group_names_the_executor_and_has_the_errors_as_they_are(
    on_error: Any, is_group: bool
) -> None:
    """A job's own group is one error; tracebacks begin and end in the job."""
    error = ExceptionGroup("of the job", [Boom(), Boom()]) if is_group else Boom()
    with pytest.raises(ExceptionGroup, match="crawler") as caught:
        async with Executor(1, on_error=on_error, name="crawler") as executor:
            executor.submit(fail, error)
    assert caught.value.exceptions == (error,)
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fail"]


@any_policy
async def test_cancelled_jobs_are_no_errors(on_error: Any, log: Log) -> None:
    """Nothing is raised or logged for them; the `JobCancelled` that the body meets is its own."""
    with pytest.raises(JobCancelled, match="by the body"):
        async with Executor(1, on_error=on_error) as executor:
            running = executor.submit(anyio.sleep_forever)
            queued = executor.submit(give)
            await all_blocked()
            queued.cancel()
            running.cancel("by the body")
            await running.wait()
            await running
    async with Executor(1, on_error=on_error) as executor:
        executor.submit(give).cancel()
    assert not log.entries


# The body's own exceptions.


@lasting_policy
async def test_exception_of_the_body_does_not_hide_errors_of_jobs(on_error: Any, log: Log) -> None:
    """When the body raises an exception of its own, unseen errors of jobs are logged, once each."""
    with pytest.raises(BodyError) as caught:
        async with Executor(2, on_error=on_error) as executor:
            futures = [executor.submit(fail, Boom(number)) for number in range(3)]
            await executor.join()
            assert futures[2].exception()
            raise BodyError
    assert sorted(log.errors) == ["Boom(0)", "Boom(1)"]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@any_policy
@pytest.mark.parametrize(
    "error", [BodyError(), ExceptionGroup("body", [BodyError()]), KeyboardInterrupt()]
)
async def test_the_block_raises_the_very_exception_of_its_body(on_error: Any, error: Any) -> None:
    with pytest.raises(type(error)) as caught:
        async with Executor(1, on_error=on_error) as executor:
            future = executor.submit(anyio.sleep_forever)
            await all_blocked()
            raise error
    assert caught.value is error
    assert future.cancelled()


async def test_cancel_logs_errors_beside_an_exception_of_the_body(log: Log) -> None:
    """With "cancel", too, a body's own exception leaves unwrapped, and the jobs' are logged."""
    with pytest.raises(BodyError):
        async with Executor(1, on_error="cancel") as executor:
            executor.submit(fail, Boom())
            try:
                await anyio.sleep_forever()
            finally:
                raise BodyError
    assert log.errors == ["Boom()"]


@pytest.mark.parametrize("how", ["submit", "enqueue", "map"])
async def test_cancel_raises_the_first_error_though_the_body_is_refused(how: str, log: Log) -> None:
    with group_of(error := Boom()):
        async with Executor(1, on_error="cancel") as executor:
            await submit_failed(executor, error)
            if how == "submit":
                executor.submit(give)
            elif how == "enqueue":
                await executor.enqueue(give)
            else:
                await executor.map(give, [1])
    assert not log.entries


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_body_that_is_refused_before_anything_failed(whose: str) -> None:
    """With `cancel`, `ExecutorClosed` hides behind a job's failure only if that came first."""
    async with Executor(1) as other:
        pass
    with pytest.raises(ExecutorClosed):
        async with Executor(1, on_error="cancel") as executor:
            executor.submit(fail_in_cleanup, Boom())
            await all_blocked()
            if whose == "its own":
                executor.close()
            (executor if whose == "its own" else other).submit(give)


@lasting_policy
@pytest.mark.parametrize("look", ["await", "result", "gather"])
async def test_error_of_a_job_that_the_body_met_leaves_as_it_is(
    on_error: Any, look: str, log: Log
) -> None:
    """With "hold" and "log" it's the body's own then; others beside it are logged."""
    error = Boom("first")
    with pytest.raises(Boom) as caught:
        async with Executor(1, on_error=on_error) as executor:
            future = await submit_failed(executor, error)
            other = await submit_failed(executor, Boom("second"))
            await look_at(future, look)
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert other.done()
    assert log.errors == ["Boom('second')"]


@raising_policy
async def test_errors_raised_while_jobs_unwind_are_not_lost(on_error: Any, log: Log) -> None:
    """An error that a job raises while the body's exception cancels it is logged."""
    with pytest.raises(BodyError):
        async with Executor(1, on_error=on_error) as executor:
            executor.submit(fail_in_cleanup, Boom("unwinding"))
            await all_blocked()
            raise BodyError
    assert log.errors == ["Boom('unwinding')"]


# Cancellation from outside.


@any_policy
async def test_cancellation_from_outside_goes_on(on_error: Any, log: Log) -> None:
    """The jobs are cancelled; with "log", errors are logged as always."""
    with anyio.CancelScope() as scope:
        async with Executor(1, on_error=on_error) as executor:
            if on_error == "log":
                failed = await submit_failed(executor, Boom())
            future = executor.submit(anyio.sleep_forever)
            await all_blocked()
            scope.cancel()
            await anyio.sleep_forever()
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert future.cancelled()
    if on_error == "log":
        assert failed.done()
    assert log.errors == ["Boom()"] * (on_error == "log")


@raising_policy
@pytest.mark.parametrize("where", ["in the body", "while leaving"])
async def test_unseen_errors_are_raised_when_cancelled_from_outside(
    on_error: Any, where: str, log: Log
) -> None:
    """With "cancel", those that jobs raise as they unwind; and the cancellation goes on."""
    with anyio.CancelScope() as scope:
        with group_of(error := Boom()):
            async with Executor(2, on_error=on_error) as executor:
                executor.submit(*(fail, error) if on_error == "hold" else (fail_in_cleanup, error))
                executor.submit(cancel_when_blocked, scope)
                executor.submit(anyio.sleep_forever)
                if where == "in the body":
                    await anyio.sleep_forever()
        await checkpoint()
        pytest.fail("the cancellation was lost")
    assert scope.cancelled_caught
    assert not log.entries


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("fails", [False, True])
async def test_native_cancellation_is_not_lost(fails: bool) -> None:
    """A Task that is cancelled inside the block ends cancelled, though errors are raised first."""
    error = Boom()

    async def main() -> None:
        with group_of(error) if fails else nullcontext():
            async with Executor(1) as executor:
                if fails:
                    executor.submit(fail, error)
                await anyio.sleep_forever()
        await asyncio.sleep(0)
        pytest.fail("not cancelled")

    task = asyncio.create_task(main())
    await all_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_hold_keeps_the_error_of_a_job_that_an_awaiter_was_cancelled_from(log: Log) -> None:
    event, error = anyio.Event(), Boom()

    async def job() -> None:
        await event.wait()
        raise error

    with group_of(error):
        async with Executor(1) as executor:
            future = executor.submit(job)
            with anyio.move_on_after(0):
                await future
            event.set()
    assert not log.entries


# Cancel: the first error ends the rest.


@pytest.mark.parametrize("error", [Boom(), BaseBoom()])
@pytest.mark.parametrize("where", ["in the body", "while leaving"])
async def test_cancel_ends_everything_at_the_first_error(where: str, error: Any, log: Log) -> None:
    """It cancels queued and running jobs and the body; the block raises it."""
    event = anyio.Event()

    async def job() -> None:
        await event.wait()
        raise error

    with group_of(error):
        async with Executor(2, on_error="cancel") as executor:
            running = executor.submit(anyio.sleep_forever)
            failed = executor.submit(job)
            queued = [executor.submit(anyio.sleep_forever), executor.submit(give)]
            await all_blocked()
            event.set()
            if where == "in the body":
                await anyio.sleep_forever()
                pytest.fail("not cancelled")
    assert failed.exception() is error
    assert [each.cancelled() for each in [running, *queued]] == [True] * 3
    assert not log.entries


@pytest.mark.parametrize("slots", [1, 2], ids=["queued", "running"])
@pytest.mark.parametrize("whose", ["failing", "other"])
@pytest.mark.parametrize("how", ["await", "gather", "wait", "shielded", "in a task group"])
async def test_cancel_raises_the_cause_and_not_what_it_caused(slots, whose, how, log: Log) -> None:
    """A body that waits for a job, that which fails or another, gets the real error in a group."""
    with group_of(error := Boom()):
        async with Executor(slots, on_error="cancel") as executor:
            failing = executor.submit(fail, error)
            other = executor.submit(anyio.sleep_forever)
            future: Future[Any] = failing if whose == "failing" else other
            match how:
                case "await":
                    await future
                case "gather":
                    await gather(executor.submit(give), future)
                case "wait":
                    await future.wait()
                case "shielded":
                    with anyio.CancelScope(shield=True):
                        await future
                case "in a task group":
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(gather, other)
                        tg.start_soon(look_at, other, "await")
    with pytest.raises(JobCancelled, match="failed"):
        other.result()
    assert not log.entries


async def test_cancel_raises_the_errors_of_the_unwinding_too() -> None:
    """They are in the same flat group; and nothing begins any more, from a cleanup either."""
    first, second, refused = Boom("first"), Boom("second"), []

    async def submit_in_cleanup() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with pytest.raises(ExecutorClosed) as caught:
                executor.submit(give)
            refused.append(caught.value)

    with group_of(first, second):
        async with Executor(3, on_error="cancel") as executor:
            executor.submit(fail_in_cleanup, second)
            executor.submit(submit_in_cleanup)
            executor.submit(fail, first)
            await anyio.sleep_forever()
    assert len(refused) == 1


# Log: for executors that live as long as a service.


@pytest.mark.usefixtures("no_collector")
async def test_log_tells_at_once_when_nobody_holds_the_future(log: Log) -> None:
    """The error of a job whose future is dropped is logged right then, and only once."""
    async with Executor(1, on_error="log") as executor:
        future = await submit_failed(executor, Boom())
        await all_blocked()
        assert not log.entries
        del future
        assert log.errors == ["Boom()"]
        executor.submit(fail, Boom("dropped"))
        await executor.join()
        await all_blocked()
        assert log.errors == ["Boom()", "Boom('dropped')"]
    assert len(log.entries) == 2


@pytest.mark.usefixtures("no_collector")
async def test_log_keeps_no_failed_future_that_nobody_holds(log: Log) -> None:
    refs: dict[tuple[object, ...], weakref.ref[object]] = {}

    class Local:
        pass

    async def job(kind: type[BaseException], turns: int) -> None:
        local = Local()
        refs["locals", kind, turns] = weakref.ref(local)
        await ticks(turns)
        raise kind

    async with Executor(1, on_error="log") as executor:
        for kind in (Boom, BaseBoom, StopAsyncIteration):
            for turns in (0, 1):
                refs["future", kind, turns] = weakref.ref(executor.submit(job, kind, turns))
        await executor.join()
        await all_blocked()
        assert len(refs) == 12
        assert [key for key, ref in refs.items() if ref() is not None] == []
        assert len(log.entries) == 6


@pytest.mark.usefixtures("no_collector")
async def test_log_holds_constant_memory(log: Log) -> None:
    """However many jobs have failed, no more of their exceptions live than there are slots."""
    alive: weakref.WeakSet[Boom] = weakref.WeakSet()
    most = 0

    async def job() -> None:
        await checkpoint()
        error = Boom()
        try:
            alive.add(error)
            raise error
        finally:
            del error

    async with Executor(2, on_error="log") as executor:
        for number in range(100):
            future = executor.submit(job)
            await future.wait()
            if number % 2:
                future.exception()
            del future
            most = max(most, len(alive))
    assert most <= 3
    assert len(log.entries) == 50


# Exceptions that aren't `Exception`s.


async def test_base_exception_fails_its_job_alone() -> None:
    """A `BaseException` that means nothing is held like any error, and the executor goes on."""
    error = BaseBoom()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with Executor(2) as executor:
            other = executor.submit(anyio.sleep_forever)
            future = await submit_failed(executor, error)
            assert [await executor.submit(give, number) for number in range(3)] == [0, 1, 2]
            assert not other.done()
            other.cancel()
    assert caught.value.exceptions == (error,)
    assert future.exception() is error


@any_policy
@pytest.mark.parametrize("where", ["in the body", "awaited by the body", "while leaving"])
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        BaseExceptionGroup("of a task group", [Boom(), KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_interrupt_in_a_job_ends_the_executor(
    on_error: Any, where: str, error: BaseException, log: Log
) -> None:
    """It cancels all else, and waits for it; the block raises it bare, the same object."""
    unwound = []

    async def other() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            unwound.append(True)

    futures: list[Future[Any]] = []
    with pytest.raises(type(error)) as caught:
        async with Executor(3, on_error=on_error) as executor:
            futures += [executor.submit(other), executor.submit(other)]
            futures += [executor.submit(fail, error), executor.submit(give)]
            if where == "in the body":
                await anyio.sleep_forever()
            elif where == "awaited by the body":
                await futures[2]
    assert caught.value is error
    assert unwound == [True, True]
    assert [future.cancelled() for future in futures] == [True, True, False, True]
    assert futures[2].exception() is error
    assert not log.entries


@pytest.mark.parametrize("turns", [0, 1], ids=["at once", "later"])
async def test_interrupt_settles_every_future(turns: int, log: Log) -> None:
    """After an interrupt in a job every future is done, counts add up, and errors are logged."""

    async def job() -> None:
        await ticks(turns)
        raise KeyboardInterrupt

    futures: list[Future[Any]] = []
    with pytest.raises(KeyboardInterrupt):
        async with Executor(3) as executor:
            futures.append(await submit_failed(executor, Boom()))
            futures += [executor.submit(give) for _ in range(10)]
            futures.append(executor.submit(job))
            futures += [executor.submit(anyio.sleep_forever) for _ in range(10)]
    assert all(future.done() for future in futures)
    assert executor.statistics().submitted == len(futures)
    check_idle(executor)
    assert log.errors == ["Boom()"]
