"""What becomes of the errors of jobs: the three policies, and the exceptions that end all."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, all_blocked, cancel_when_blocked, fail, give

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio

POLICIES = ("hold", "cancel", "log")


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


def group_of(*errors: BaseException) -> pytest.RaisesGroup[Any]:
    """An exception group of just these, the same objects."""
    members = [pytest.RaisesExc(type(e), check=lambda m, e=e: m is e) for e in errors]
    return pytest.RaisesGroup(*members)


# Looking at an error.


async def by_await(future: Future[Any]) -> None:
    await future


async def by_result(future: Future[Any]) -> None:
    future.result()


async def by_exception(future: Future[Any]) -> None:
    future.exception()


async def by_gather(future: Future[Any]) -> None:
    await gather(future)


async def by_gathering_exceptions(future: Future[Any]) -> None:
    await gather(future, return_exceptions=True)


async def by_callback(future: Future[Any]) -> None:
    future.add_done_callback(lambda done: done.exception())


LOOKS = (by_await, by_result, by_exception, by_gather, by_gathering_exceptions, by_callback)


async def not_by_waiting(future: Future[Any]) -> None:
    await future.wait()


async def not_by_reading(future: Future[Any]) -> None:
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert repr(future)
    assert future.name


async def not_by_cancelling(future: Future[Any]) -> None:
    assert future.cancel() is False


async def not_by_a_callback(future: Future[Any]) -> None:
    future.add_done_callback(lambda done: None)


NO_LOOKS = (not_by_waiting, not_by_reading, not_by_cancelling, not_by_a_callback)

Look = Callable[[Future[Any]], Awaitable[None]]


async def look_at(future: Future[Any], look: Look) -> None:
    try:
        await look(future)
    except Boom:
        pass


# Hold: no error is lost.


@pytest.mark.parametrize("look", LOOKS)
async def test_hold_forgets_errors_that_were_looked_at(look: Look, log: Log) -> None:
    """The block raises nothing for an error that somebody has looked at, in whatever way."""
    async with Executor(1) as executor:
        await look_at(await submit_failed(executor, Boom()), look)
    assert not log.entries


@pytest.mark.parametrize("look", NO_LOOKS)
async def test_hold_raises_errors_that_nobody_looked_at(look: Look, log: Log) -> None:
    error = Boom()
    with group_of(error):
        async with Executor(1) as executor:
            await look_at(await submit_failed(executor, error), look)
    assert not log.entries


@pytest.mark.usefixtures("asyncio_only")
async def test_asyncio_gather_looks_at_errors() -> None:
    """``asyncio.gather`` awaits the futures, so the block raises nothing for them."""
    async with Executor(1) as executor:
        futures = [executor.submit(fail, Boom()) for _ in range(3)]
        await asyncio.gather(*futures, return_exceptions=True)


async def test_hold_raises_all_errors_in_one_group_in_order() -> None:
    """All errors come in one `ExceptionGroup`, in the order in which the jobs failed."""
    errors = [Boom(number) for number in range(3)]
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1) as executor:
            for error in errors:
                executor.submit(fail, error)
            executor.submit(give)
    assert type(caught.value) is ExceptionGroup
    assert list(caught.value.exceptions) == errors


async def test_hold_leaves_out_the_errors_that_were_looked_at() -> None:
    seen, unseen = Boom("seen"), Boom("unseen")
    with group_of(unseen):
        async with Executor(2) as executor:
            executor.submit(fail, unseen)
            future = executor.submit(fail, seen)
            with pytest.raises(Boom, match="seen"):
                await future


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
async def test_group_names_the_executor(on_error: Any) -> None:
    """The group's message says which executor's jobs failed."""
    with pytest.raises(ExceptionGroup, match="crawler"):
        async with Executor(1, on_error=on_error, name="crawler") as executor:
            executor.submit(fail, Boom())


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
async def test_traceback_of_an_error_in_the_group_leads_to_its_origin(on_error: Any) -> None:
    """The errors in the block's group have tracebacks that begin and end in the job."""
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1, on_error=on_error) as executor:
            executor.submit(fail, Boom())
    names = []
    traceback = caught.value.exceptions[0].__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names == ["fail"]


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
async def test_group_that_a_job_raised_is_passed_on_unchanged(on_error: Any) -> None:
    """A job's own exception group is one error, the same object."""
    error = ExceptionGroup("of the job", [Boom(), Boom()])
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1, on_error=on_error) as executor:
            executor.submit(fail, error)
    assert caught.value.exceptions == (error,)


@pytest.mark.parametrize("on_error", POLICIES)
async def test_cancelled_jobs_are_no_errors(on_error: Any, log: Log) -> None:
    """The block neither raises nor logs anything for jobs that were cancelled."""
    async with Executor(1, on_error=on_error) as executor:
        running = executor.submit(anyio.sleep_forever)
        queued = executor.submit(give)
        await all_blocked()
        queued.cancel()
        running.cancel()
        await running.wait()
    assert not log.entries


async def test_held_error_can_be_looked_at_after_the_block() -> None:
    """An error that the block raised is still its future's."""
    error = Boom()
    with group_of(error):
        async with Executor(1) as executor:
            future = executor.submit(fail, error)
    with pytest.raises(Boom):
        await future
    assert future.exception() is error


# The body's own exceptions.


@pytest.mark.parametrize("on_error", ["hold", "log"])
async def test_exception_of_the_body_does_not_hide_errors_of_jobs(on_error: Any, log: Log) -> None:
    """When the body raises an exception of its own, unseen errors of jobs are logged, once each."""
    futures = []
    with pytest.raises(BodyError) as caught:
        async with Executor(2, on_error=on_error) as executor:
            futures += [executor.submit(fail, Boom(number)) for number in range(2)]
            await executor.join()
            raise BodyError
    assert sorted(log.errors) == ["Boom(0)", "Boom(1)"]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("error", [BodyError(), ExceptionGroup("body", [BodyError()])])
async def test_the_block_raises_the_very_exception_of_its_body(on_error: Any, error: Any) -> None:
    """The body's own exception leaves as the object that it is, be it a group."""
    with pytest.raises(type(error)) as caught:
        async with Executor(1, on_error=on_error) as executor:
            executor.submit(anyio.sleep_forever)
            await all_blocked()
            raise error
    assert caught.value is error


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
    error = Boom()
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1, on_error="cancel") as executor:
            await submit_failed(executor, error)
            if how == "submit":
                executor.submit(give)
            elif how == "enqueue":
                await executor.enqueue(give)
            else:
                await executor.map(give, [1])
    assert caught.value.exceptions == (error,)
    assert not log.entries


@pytest.mark.parametrize("on_error", ["hold", "log"])
async def test_errors_that_were_looked_at_are_not_logged(on_error: Any, log: Log) -> None:
    """When the body raises, an error that it has looked at before isn't logged."""
    with pytest.raises(BodyError):
        async with Executor(1, on_error=on_error) as executor:
            future = await submit_failed(executor, Boom())
            assert future.exception()
            raise BodyError
    assert not log.entries


@pytest.mark.parametrize("on_error", ["hold", "log"])
@pytest.mark.parametrize("look", [by_await, by_result, by_gather])
async def test_error_of_a_job_that_the_body_met_leaves_as_it_is(
    on_error: Any, look: Look, log: Log
) -> None:
    """With "hold" and "log", a job's error that the body lets through leaves as it is."""
    error = Boom()
    with pytest.raises(Boom) as caught:
        async with Executor(1, on_error=on_error) as executor:
            future = await submit_failed(executor, error)
            await look(future)
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert not log.entries


async def test_error_that_the_body_met_does_not_hide_the_others(log: Log) -> None:
    """With "hold", the errors beside the one that the body let through are logged."""
    first = Boom("first")
    with pytest.raises(Boom) as caught:
        async with Executor(2) as executor:
            future = await submit_failed(executor, first)
            await submit_failed(executor, Boom("second"))
            await future
    assert caught.value is first
    assert log.errors == ["Boom('second')"]


@pytest.mark.parametrize("on_error", POLICIES)
async def test_cancelled_job_that_the_body_awaits_raises_job_cancelled(on_error: Any) -> None:
    """Where no job failed, the `JobCancelled` that the body lets through leaves as it is."""
    with pytest.raises(JobCancelled, match="by the body"):
        async with Executor(1, on_error=on_error) as executor:
            future = executor.submit(anyio.sleep_forever)
            await all_blocked()
            future.cancel("by the body")
            await future


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
async def test_errors_raised_while_jobs_unwind_are_not_lost(on_error: Any, log: Log) -> None:
    """An error that a job raises while the body's exception cancels it is logged."""

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("unwinding")

    with pytest.raises(BodyError):
        async with Executor(1, on_error=on_error) as executor:
            executor.submit(job)
            await all_blocked()
            raise BodyError
    assert log.errors == ["Boom('unwinding')"]


# Cancellation from outside.


@pytest.mark.parametrize("on_error", POLICIES)
async def test_cancellation_alone_goes_on(on_error: Any, log: Log) -> None:
    """When the surrounding scope is cancelled and no job failed, the cancellation goes on."""
    with anyio.CancelScope() as scope:
        async with Executor(1, on_error=on_error) as executor:
            future = executor.submit(anyio.sleep_forever)
            await all_blocked()
            scope.cancel()
            await anyio.sleep_forever()
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert future.cancelled()
    assert not log.entries


@pytest.mark.parametrize("where", ["in the body", "while leaving"])
async def test_hold_raises_unseen_errors_when_cancelled_from_outside(where: str, log: Log) -> None:
    """Errors that nobody has looked at are raised though the surrounding scope was cancelled."""
    error = Boom()
    with anyio.CancelScope() as scope:
        with group_of(error):
            async with Executor(2) as executor:
                executor.submit(fail, error)
                executor.submit(cancel_when_blocked, scope)
                executor.submit(anyio.sleep_forever)
                if where == "in the body":
                    await anyio.sleep_forever()
        await checkpoint()
        pytest.fail("the cancellation was lost")
    assert scope.cancelled_caught
    assert not log.entries


async def test_cancel_raises_the_error_when_cancelled_from_outside() -> None:
    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    error = Boom()
    with anyio.CancelScope() as scope:
        with group_of(error):
            async with Executor(1, on_error="cancel") as executor:
                executor.submit(job)
                await all_blocked()
                scope.cancel()
                await anyio.sleep_forever()
        await checkpoint()
        pytest.fail("the cancellation was lost")
    assert scope.cancelled_caught


async def test_log_leaves_a_cancellation_from_outside_alone(log: Log) -> None:
    """With "log", unseen errors are logged, and the cancellation goes on."""
    with anyio.CancelScope() as scope:
        async with Executor(1, on_error="log") as executor:
            future = executor.submit(fail, Boom())
            await executor.join()
            scope.cancel()
            await anyio.sleep_forever()
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert future.done()
    assert log.errors == ["Boom()"]


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


# Cancel: the first error ends the rest.


async def test_cancel_ends_everything_at_the_first_error(log: Log) -> None:
    """The first error cancels queued and running jobs and the body; the block raises it."""
    error = Boom()
    reached = []
    with group_of(error):
        async with Executor(2, on_error="cancel") as executor:
            running = executor.submit(anyio.sleep_forever)
            failed = executor.submit(fail, error)
            queued = executor.submit(anyio.sleep_forever)
            queued_too = executor.submit(give)
            await anyio.sleep_forever()
            reached.append("the end of the body")
    assert running.cancelled()
    assert failed.exception() is error
    assert queued.cancelled()
    assert queued_too.cancelled()
    assert not reached
    assert not log.entries


async def test_cancel_at_an_error_while_the_block_is_left() -> None:
    """An error that comes while the block waits for its jobs cancels the others."""
    error = Boom()
    event = anyio.Event()

    async def job() -> None:
        await event.wait()
        raise error

    with group_of(error):
        async with Executor(2, on_error="cancel") as executor:
            other = executor.submit(anyio.sleep_forever)
            executor.submit(job)
            await all_blocked()
            event.set()
    assert other.cancelled()


@pytest.mark.parametrize("look", LOOKS)
async def test_cancel_raises_errors_that_were_looked_at_too(look: Look, log: Log) -> None:
    """With "cancel" the block raises the first error in any case, as a task group does."""
    error = Boom()
    with group_of(error):
        async with Executor(1, on_error="cancel") as executor:
            future = executor.submit(fail, error)
            with anyio.CancelScope(shield=True):
                await future.wait()
                await look_at(future, look)
    assert not log.entries


@pytest.mark.parametrize("how", ["await", "gather", "wait", "result"])
async def test_cancel_wraps_the_error_that_the_body_met(how: str, log: Log) -> None:
    """With "cancel", a body that awaits the failing job itself ends in the same group."""
    error = Boom()
    with group_of(error):
        async with Executor(2, on_error="cancel") as executor:
            future = executor.submit(fail, error)
            match how:
                case "await":
                    await future
                case "gather":
                    await gather(executor.submit(give), future)
                case "wait":
                    await future.wait()
                case "result":
                    with anyio.CancelScope(shield=True):
                        await future.wait()
                        future.result()
    assert not log.entries


@pytest.mark.parametrize("slots", [1, 2], ids=["queued", "running"])
@pytest.mark.parametrize("how", ["await", "gather", "wait", "shielded", "in a task group"])
async def test_cancel_raises_the_cause_and_not_what_it_caused(
    slots: int, how: str, log: Log
) -> None:
    """A body that waits for another job gets the real error out, not `JobCancelled`."""
    error = Boom()
    with group_of(error):
        async with Executor(slots, on_error="cancel") as executor:
            executor.submit(fail, error)
            other = executor.submit(anyio.sleep_forever)
            match how:
                case "await":
                    await other
                case "gather":
                    await gather(other)
                case "wait":
                    await other.wait()
                case "shielded":
                    with anyio.CancelScope(shield=True):
                        await other
                case "in a task group":
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(gather, other)
                        tg.start_soon(by_await, other)
    with pytest.raises(JobCancelled, match="failed"):
        other.result()
    assert not log.entries


async def test_cancel_raises_the_errors_of_the_unwinding_too() -> None:
    """Errors that jobs raise while the first one cancels them are in the same flat group."""
    first, second = Boom("first"), Boom("second")

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise second

    with group_of(first, second):
        async with Executor(2, on_error="cancel") as executor:
            executor.submit(job)
            executor.submit(fail, first)
            await anyio.sleep_forever()


async def test_cancel_closes_the_executor() -> None:
    """After the first error nothing begins any more, not even what is submitted by a cleanup."""
    refused = []

    async def job() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            try:
                executor.submit(give)
            except RuntimeError as error:
                refused.append(error)

    with group_of(error := Boom()):
        async with Executor(2, on_error="cancel") as executor:
            executor.submit(job)
            executor.submit(fail, error)
            await anyio.sleep_forever()
    assert len(refused) == 1


async def test_cancel_with_a_base_exception() -> None:
    """With "cancel", a failure that is no `Exception` cancels the rest like any other."""
    with group_of(error := BaseBoom()):
        async with Executor(2, on_error="cancel") as executor:
            other = executor.submit(anyio.sleep_forever)
            executor.submit(fail, error)
            await anyio.sleep_forever()
    assert other.cancelled()


# Log: for executors that live as long as a service.


@pytest.mark.parametrize("look", LOOKS)
async def test_log_forgets_errors_that_were_looked_at(look: Look, log: Log) -> None:
    """An error that somebody has looked at isn't logged, neither then nor later."""
    async with Executor(1, on_error="log") as executor:
        future = await submit_failed(executor, Boom())
        await look_at(future, look)
    del future
    assert not log.entries


@pytest.mark.parametrize("look", NO_LOOKS)
async def test_log_tells_errors_that_nobody_looked_at(look: Look, log: Log) -> None:
    """An error that nobody has looked at is logged at ERROR with the job's name; none is raised."""
    async with Executor(1, on_error="log") as executor:
        future = await submit_failed(executor, Boom("unseen"))
        await look_at(future, look)
        assert not log.entries
    assert len(log.entries) == 1
    level, message, error = log.entries[0]
    assert level == logging.ERROR
    assert "job fail " in message
    assert error == "Boom('unseen')"
    del future
    assert len(log.entries) == 1


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


async def test_log_counts_looks_after_the_block(log: Log) -> None:
    """An error that was logged at the end isn't logged again, and can still be looked at."""
    async with Executor(1, on_error="log") as executor:
        future = executor.submit(fail, Boom())
    assert log.errors == ["Boom()"]
    with pytest.raises(Boom):
        await future
    assert len(log.entries) == 1


@pytest.mark.usefixtures("no_collector")
async def test_log_keeps_no_failed_future_that_nobody_holds(log: Log) -> None:
    refs: dict[tuple[object, ...], weakref.ref[object]] = {}

    class Local:
        pass

    async def job(kind: type[BaseException], turns: int) -> None:
        local = Local()
        refs["locals", kind, turns] = weakref.ref(local)
        for _ in range(turns):
            await checkpoint()
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


async def test_hold_keeps_the_error_of_a_job_that_an_awaiter_was_cancelled_from(log: Log) -> None:
    event = anyio.Event()

    async def job() -> None:
        await event.wait()
        raise error

    error = Boom()
    with group_of(error):
        async with Executor(1) as executor:
            future = executor.submit(job)
            with anyio.move_on_after(0):
                await future
            event.set()
    assert not log.entries


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


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("where", ["in the body", "awaited by the body", "while leaving"])
async def test_interrupt_in_a_job_ends_the_executor(on_error: Any, where: str, log: Log) -> None:
    """`KeyboardInterrupt` in a job cancels all else; the block raises it bare, the same object."""
    error = KeyboardInterrupt()
    unwound = []

    async def other() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            unwound.append(True)

    futures: list[Future[Any]] = []
    with pytest.raises(KeyboardInterrupt) as caught:
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


@pytest.mark.parametrize("on_error", POLICIES)
async def test_system_exit_in_a_job_ends_the_executor(on_error: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        async with Executor(2, on_error=on_error) as executor:
            other = executor.submit(anyio.sleep_forever)
            executor.submit(fail, SystemExit(3))
            await anyio.sleep_forever()
    assert caught.value.code == 3
    assert other.cancelled()


@pytest.mark.parametrize("turns", [0, 1], ids=["at once", "later"])
async def test_interrupt_settles_every_future(turns: int) -> None:
    """After an interrupt in a job every future is done, and the counts add up."""

    async def job() -> None:
        for _ in range(turns):
            await checkpoint()
        raise KeyboardInterrupt

    futures: list[Future[Any]] = []
    with pytest.raises(KeyboardInterrupt):
        async with Executor(3) as executor:
            futures += [executor.submit(give) for _ in range(10)]
            futures.append(executor.submit(job))
            futures += [executor.submit(anyio.sleep_forever) for _ in range(10)]
    assert all(future.done() for future in futures)
    statistics = executor.statistics()
    assert (statistics.submitted, statistics.queued, statistics.running) == (21, 0, 0)
    assert statistics.succeeded + statistics.failed + statistics.cancelled == 21


async def test_interrupt_of_a_job_does_not_hide_other_errors(log: Log) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with Executor(1) as executor:
            await submit_failed(executor, Boom())
            executor.submit(fail, KeyboardInterrupt())
            await anyio.sleep_forever()
    assert log.errors == ["Boom()"]


async def test_interrupt_inside_a_group_ends_the_executor() -> None:
    error = BaseExceptionGroup("of a task group", [Boom(), KeyboardInterrupt()])
    with pytest.raises(BaseExceptionGroup) as caught:
        async with Executor(2) as executor:
            other = executor.submit(anyio.sleep_forever)
            executor.submit(fail, error)
            await anyio.sleep_forever()
    assert caught.value is error
    assert other.cancelled()


@pytest.mark.parametrize("on_error", POLICIES)
async def test_interrupt_in_the_body_leaves_unwrapped(on_error: Any) -> None:
    """`KeyboardInterrupt` in the body cancels the jobs and leaves as it is."""
    with pytest.raises(KeyboardInterrupt):
        async with Executor(1, on_error=on_error) as executor:
            future = executor.submit(anyio.sleep_forever)
            await all_blocked()
            raise KeyboardInterrupt
    assert future.cancelled()


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_body_that_is_refused_before_anything_failed(whose: str) -> None:
    """With `cancel`, `ExecutorClosed` hides behind a job's failure only if that came first."""

    async def fails_in_cleanup() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom

    async with Executor(1) as other:
        pass
    with pytest.raises(ExecutorClosed):
        async with Executor(1, on_error="cancel") as executor:
            executor.submit(fails_in_cleanup)
            await all_blocked()
            if whose == "its own":
                executor.close()
            (executor if whose == "its own" else other).submit(give)
