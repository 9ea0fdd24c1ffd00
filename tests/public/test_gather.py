"""`gather`: several futures' results at once."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import anyio
import pytest
from jobs import Boom, all_blocked, fail, give

from anyslots import Executor, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio


async def fail_after(event: anyio.Event, error: BaseException) -> NoReturn:
    await event.wait()
    raise error


async def test_results_are_in_the_order_of_the_arguments() -> None:
    """`gather` gives the results in the order of its arguments, whichever job ends first."""
    async with Executor(5) as executor:
        futures = [executor.submit(give, number, 10 - number) for number in range(10)]
        assert await gather(*futures) == list(range(10))


async def test_gathering_nothing_gives_an_empty_list() -> None:
    """Without futures `gather` returns at once, after a checkpoint."""
    assert await gather() == []
    assert await gather(return_exceptions=True) == []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await gather()
        pytest.fail("not cancelled")
    assert scope.cancelled_caught


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_futures_that_are_done_are_gathered_too(return_exceptions: bool) -> None:
    """It doesn't matter whether futures are done before `gather` is called."""
    async with Executor(2) as executor:
        done = executor.submit(give, "done")
        await done
        pending = executor.submit(give, "pending")
        results = await gather(done, pending, return_exceptions=return_exceptions)
        assert results == ["done", "pending"]
        results = await gather(done, pending, return_exceptions=return_exceptions)
        assert results == ["done", "pending"]


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_future_may_be_given_more_than_once(return_exceptions: bool) -> None:
    """A future given twice has its result in both places."""
    async with Executor(2) as executor:
        one, two = executor.submit(give, 1), executor.submit(give, 2)
        results = await gather(one, two, one, return_exceptions=return_exceptions)
        assert results == [1, 2, 1]


async def test_futures_of_several_executors_are_gathered_together() -> None:
    async with Executor(1) as one, Executor(1) as other:
        assert await gather(one.submit(give, 1), other.submit(give, 2)) == [1, 2]


async def test_gather_waits_until_the_last_is_done() -> None:
    """`gather` returns once every job has ended, not before."""
    events = [anyio.Event() for _ in range(3)]
    gathered = []

    async def gatherer() -> None:
        gathered.append(await gather(*futures))

    async with Executor(3) as executor, anyio.create_task_group() as tg:
        futures = [executor.submit(event.wait) for event in events]
        tg.start_soon(gatherer)
        for event in (events[1], events[0], events[2]):
            await all_blocked()
            assert not gathered
            event.set()
    assert gathered


async def test_first_failure_is_raised_as_soon_as_it_happens() -> None:
    """The first job that fails ends the wait with its own exception; the others go on."""
    error = Boom()
    async with Executor(3) as executor:
        running = executor.submit(anyio.sleep_forever)
        failing = executor.submit(fail, error)
        queued = executor.submit(give, 1)
        with pytest.raises(Boom) as caught:
            await gather(running, failing, queued)
        assert caught.value is error
        assert running.running()
        assert await queued == 1
        running.cancel()


async def test_first_failure_in_time_is_raised_not_the_first_argument() -> None:
    """Of several failures the one that happens first is raised, wherever it stands."""
    first, second = anyio.Event(), anyio.Event()
    async with Executor(2) as executor:
        late = executor.submit(fail_after, second, Boom("late"))
        early = executor.submit(fail_after, first, Boom("early"))
        async with anyio.create_task_group() as tg:

            async def expect_early() -> None:
                with pytest.raises(Boom, match="early"):
                    await gather(late, early)

            tg.start_soon(expect_early)
            await all_blocked()
            first.set()
        second.set()
        with pytest.raises(Boom, match="late"):
            await late


async def test_first_of_two_that_end_in_one_step_is_raised() -> None:
    """What comes before the gathering task wakes changes nothing any more."""
    caught: list[str] = []

    async def collect(*futures: Future[Any]) -> None:
        with pytest.raises(JobCancelled) as info:
            await gather(*futures)
        caught.append(str(info.value))

    async with Executor(1) as executor, anyio.create_task_group() as group:
        running = executor.submit(anyio.sleep_forever)
        queued = [executor.submit(give) for _ in range(2)]
        group.start_soon(collect, *queued)
        await all_blocked()
        queued[1].cancel("the first")
        queued[0].cancel("the second")
        running.cancel()
    assert caught == ["job give was cancelled: the first"]


async def test_failure_before_the_call_is_raised() -> None:
    """A future that has failed before ends `gather`, though others aren't done."""
    event = anyio.Event()
    async with Executor(2) as executor:
        failed = executor.submit(fail, Boom())
        await failed.wait()
        pending = executor.submit(event.wait)
        with pytest.raises(Boom):
            await gather(pending, failed)
        assert not pending.done()
        event.set()


async def test_other_failures_are_still_unseen() -> None:
    """`gather` looks at the failure that it raises, and at no other one."""
    seen, unseen = Boom("seen"), Boom("unseen")
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(1) as executor:
            with pytest.raises(Boom, match="seen"):
                await gather(executor.submit(fail, seen), executor.submit(fail, unseen))
    assert caught.value.exceptions == (unseen,)


@pytest.mark.parametrize("was", ["queued", "running", "done"])
async def test_cancelled_job_ends_the_wait(was: str) -> None:
    """A job that is cancelled ends `gather` at once with `JobCancelled`, as a failure does."""
    event = anyio.Event()
    async with Executor(2) as executor:
        other = executor.submit(event.wait)
        if was == "queued":
            executor.submit(event.wait)
        future = executor.submit(anyio.sleep_forever)
        await all_blocked()
        async with anyio.create_task_group() as tg:
            if was == "done":
                future.cancel()
                await future.wait()

            async def expect_cancelled() -> None:
                with pytest.raises(JobCancelled, match="for a reason"):
                    await gather(other, future)

            if was == "done":
                with pytest.raises(JobCancelled):
                    await gather(other, future)
            else:
                tg.start_soon(expect_cancelled)
                await all_blocked()
                future.cancel("for a reason")
        assert not other.done()
        event.set()


async def test_exceptions_are_returned_in_place_of_results() -> None:
    error = Boom()
    async with Executor(4) as executor:
        futures: list[Future[Any]] = [
            executor.submit(give, 1, 20),
            executor.submit(fail, error),
            executor.submit(anyio.sleep_forever),
        ]
        await all_blocked()
        futures[2].cancel("for a reason")
        last = executor.submit(give, 4)
        results = await gather(*futures, last, return_exceptions=True)
    assert results[0] == 1
    assert results[1] is error
    assert isinstance(results[2], JobCancelled)
    assert "for a reason" in str(results[2])
    assert results[3] == 4


async def test_base_exceptions_are_returned_too() -> None:
    class BaseBoom(BaseException):
        pass

    error = BaseBoom()
    async with Executor(1) as executor:
        assert await gather(executor.submit(fail, error), return_exceptions=True) == [error]


async def test_exception_that_a_job_returns_is_a_result() -> None:
    error = Boom()
    async with Executor(1) as executor:
        assert await gather(executor.submit(give, error)) == [error]


@pytest.mark.parametrize("thing", [None, 3, "future", asyncio.sleep], ids="{!r:.15}".format)
async def test_gather_takes_only_futures(thing: Any) -> None:
    """Anything but an anyslots `Future` is a `TypeError` that shows it, before any wait."""
    async with Executor(1) as executor:
        future = executor.submit(give, 1)
        with pytest.raises(TypeError) as caught:
            await gather(future, thing)
        assert repr(thing) in str(caught.value)
        assert not future.done()
        assert await future == 1


async def test_gathering_a_coroutine_names_the_mistake() -> None:
    """A coroutine, which asyncio's `gather` would take, is refused."""
    coroutine = give()
    with pytest.raises(TypeError, match="futures"):
        await gather(coroutine)  # type: ignore[arg-type]
    coroutine.close()
