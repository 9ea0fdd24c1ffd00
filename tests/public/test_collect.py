"""`wait`, `as_completed`, `first_result`, `amap`; and `gather`, where it's like them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, all_blocked, fail, give
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    JobCancelled,
    amap,
    as_completed,
    first_result,
    gather,
    wait,
)

pytestmark = pytest.mark.anyio

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def after(seconds: float, outcome: Any = None) -> Any:
    await anyio.sleep(seconds)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def forever() -> None:
    await anyio.sleep_forever()


async def one_of_each(executor: Executor) -> list[Future[Any]]:
    """Futures that are done: succeeded, failed and cancelled."""
    futures = [
        executor.submit(give, "result"),
        executor.submit(fail, Boom()),
        executor.submit(forever),
    ]
    futures[2].cancel()
    for future in futures:
        await future.wait()
    return futures


async def all_of(function: str, futures: Any) -> Any:
    """Collect futures with one of the functions, whatever becomes of them."""
    match function:
        case "gather":
            return await gather(*futures, return_exceptions=True)
        case "wait":
            return await wait(futures)
        case "as_completed":
            return [future async for future in as_completed(futures)]
        case _:
            return await first_result(*futures)


every_function = pytest.mark.parametrize(
    "function", ["gather", "wait", "as_completed", "first_result"]
)


# wait


async def test_wait_for_all() -> None:
    """By default `wait` returns when all are done, in whichever way; nothing is raised."""
    async with Executor(4, on_error="log") as executor:
        futures = [
            executor.submit(give, 1),
            executor.submit(fail, Boom()),
            executor.submit(forever),
        ]
        futures[2].cancel()
        for return_when in (ALL_COMPLETED, "ALL_COMPLETED"):
            result = await wait(futures, return_when=return_when)
            assert result == (set(futures), set())
            assert result.done == set(futures)
            assert result.not_done == set()


@virtual
@pytest.mark.parametrize(
    ("return_when", "first", "expected"),
    [
        (FIRST_COMPLETED, "result", 1),
        (FIRST_COMPLETED, "failure", 1),
        (FIRST_COMPLETED, "cancellation", 1),
        (FIRST_EXCEPTION, "result", 5),
        (FIRST_EXCEPTION, "failure", 1),
        (FIRST_EXCEPTION, "cancellation", 5),
        (ALL_COMPLETED, "failure", 9),
    ],
)
def test_when_wait_returns(backend: str, return_when: str, first: str, expected: int) -> None:
    """`wait` returns at the first that's done, at the first to fail, or once all are done."""

    async def main() -> None:
        async with Executor(4, on_error="log") as executor:
            futures = [
                executor.submit(after, 1 if first != "cancellation" else 99, Boom())
                if first != "result"
                else executor.submit(after, 1),
                executor.submit(after, 5, Boom()),
                executor.submit(after, 9),
            ]
            if first == "cancellation":
                executor.submit(after, 1).add_done_callback(lambda _: futures[0].cancel())
            done, not_done = await wait(iter(futures), return_when)
            assert anyio.current_time() == expected
            assert done == {future for future in futures if future.done()}
            assert not_done == set(futures) - done
            assert len(done) == {1: 1, 5: 2, 9: 3}[expected]

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
async def test_wait_for_nothing(return_when: str) -> None:
    """Nothing is done at once."""
    assert await wait([], return_when) == (set(), set())
    assert await wait(iter(()), return_when=return_when) == (set(), set())


async def test_wait_for_what_is_done() -> None:
    """What's done already may be what ends the wait; a cancelled job isn't a failed one."""
    async with Executor(4, on_error="log") as executor:
        result, failed, cancelled = await one_of_each(executor)
        pending = executor.submit(forever)
        for done in (result, failed, cancelled):
            assert await wait([done, pending], FIRST_COMPLETED) == ({done}, {pending})
            assert await wait([pending, done], FIRST_COMPLETED) == ({done}, {pending})
        assert await wait([pending, failed], FIRST_EXCEPTION) == ({failed}, {pending})
        for done in (result, cancelled):
            with anyio.CancelScope() as scope:
                executor.submit(give).add_done_callback(lambda _, scope=scope: scope.cancel())
                await wait([done, pending], FIRST_EXCEPTION)
            assert scope.cancelled_caught
        pending.cancel()


async def test_wait_takes_each_future_once() -> None:
    """A future that's given twice is waited for, and returned, once."""
    async with Executor(2) as executor:
        one, two = executor.submit(give, 1), executor.submit(give, 2)
        assert await wait([one, two, one, one]) == ({one, two}, set())


@pytest.mark.parametrize("return_when", ["first_completed", "SOME", None, 1])
async def test_wait_until_something_else(return_when: Any) -> None:
    """Another `return_when` is refused, even when there's nothing to wait for."""
    with pytest.raises(ValueError, match=r"return_when.*FIRST_COMPLETED"):
        await wait([], return_when)


# as_completed


@virtual
def test_as_completed_gives_futures_as_they_are_done(backend: str) -> None:
    """Those that are done come first, the others at the time at which they're done."""

    async def main() -> None:
        async with Executor(9) as executor:
            done = executor.submit(give)
            await done
            futures = [executor.submit(after, seconds) for seconds in (4, 1, 3)]
            expected = [(done, 0), (futures[1], 1), (futures[2], 3), (futures[0], 4)]
            those = as_completed([*futures, done])
            assert [(f, anyio.current_time()) async for f in those] == expected

    run_in_virtual_time(backend, main)


async def test_as_completed_gives_every_future_once() -> None:
    """Succeeded, failed, cancelled, done already or not, given twice: each comes out once."""
    async with Executor(9, on_error="log") as executor:
        futures = await one_of_each(executor)
        futures += [executor.submit(give), executor.submit(fail, Boom()), executor.submit(forever)]
        futures[-1].cancel()
        queued = executor.lane()
        queued.pause()
        futures.append(queued.submit(forever))
        those = as_completed([*futures, *futures])
        futures[-1].cancel()
        came = [future async for future in those]
        assert len(came) == len(futures)
        assert set(came) == set(futures)
        assert [future async for future in those] == []


async def test_as_completed_of_nothing() -> None:
    """Of no futures, none comes."""
    assert [future async for future in as_completed([])] == []
    assert [future async for future in as_completed(iter(()))] == []


async def test_as_completed_goes_on_where_it_was_left() -> None:
    """Neither a `break` nor a cancellation loses a future, and the jobs go on."""
    async with Executor(9) as executor:
        release = anyio.Event()
        futures = [executor.submit(give), executor.submit(release.wait), executor.submit(give)]
        those, came = as_completed(futures), []
        async for future in those:
            came.append(future)
            break
        await all_blocked()
        with anyio.CancelScope() as scope:
            async for future in those:
                came.append(future)
                if len(came) == 2:
                    scope.cancel()
        assert scope.cancelled_caught
        release.set()
        came += [future async for future in those]
        assert sorted(map(id, came)) == sorted(map(id, futures))


async def test_as_completed_shared_by_two_loops() -> None:
    """Two tasks may share the futures: each comes out in one of them, and both end."""
    async with Executor(9) as executor:
        those, came = as_completed([executor.submit(give, n) for n in range(9)]), []

        async def loop() -> None:
            async for future in those:
                came.append(future.result())

        with anyio.fail_after(1):
            async with anyio.create_task_group() as tg:
                tg.start_soon(loop)
                tg.start_soon(loop)
        assert sorted(came) == list(range(9))


# first_result


@virtual
def test_first_result_is_the_first_success(backend: str) -> None:
    """A failure is passed over and counts as seen; the jobs without a result are cancelled."""

    async def main() -> None:
        async with Executor(3) as executor:
            futures = [executor.submit(after, 1, Boom()), executor.submit(after, 2, "first")]
            futures += [executor.submit(after, 5, Boom()) for _ in range(3)]
            assert await first_result(*futures) == "first"
            assert anyio.current_time() == 2
            await wait(futures)
            assert anyio.current_time() == 2
            assert [future.cancelled() for future in futures] == [False, False, True, True, True]

    run_in_virtual_time(backend, main)


async def test_first_result_that_is_there_already() -> None:
    """Of results that are there, the first argument's is returned."""
    async with Executor(3) as executor:
        one, two, pending = (
            executor.submit(give, 1),
            executor.submit(give, 2),
            executor.submit(forever),
        )
        await wait([one, two])
        assert await first_result(pending, two, one) == 2
        await pending.wait()
        assert pending.cancelled()


async def test_first_result_forgives_those_that_fail_when_cancelled() -> None:
    """What the others raise while they unwind counts as seen, too."""

    async def sore_loser() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom

    async with Executor(3) as executor:
        loser = executor.submit(sore_loser)
        assert await first_result(loser, executor.submit(give, 1)) == 1
        await loser.wait()
        assert not loser.cancelled()


async def test_first_result_of_failures_only() -> None:
    """If no job succeeds, all their exceptions come in one group, and count as seen."""
    errors = [Boom(1), Boom(2)]
    async with Executor(3) as executor:
        futures = [executor.submit(fail, error) for error in errors]
        futures.append(executor.submit(forever))
        futures[-1].cancel("no time")
        with pytest.raises(ExceptionGroup) as caught:
            await first_result(*futures)
        assert caught.value.exceptions[:2] == tuple(errors)
        assert isinstance(caught.value.exceptions[2], JobCancelled)
        assert "no time" in str(caught.value.exceptions[2])


async def test_first_result_of_nothing() -> None:
    """Without futures there's nothing to return."""
    with pytest.raises(ValueError, match="at least one"):
        await first_result()


# amap


@virtual
def test_amap_is_an_executor_in_one_line(backend: str) -> None:
    """At most `slots` calls run at once, and the results are in the order of the inputs."""

    async def main() -> None:
        async def job(number: int, seconds: float) -> int:
            nonlocal running
            running += 1
            assert running <= 3
            await anyio.sleep(seconds)
            running -= 1
            return number

        async def seconds() -> Any:
            for number in range(12):
                yield number % 4

        running = 0
        assert await amap(job, range(99), seconds(), slots=3) == list(range(12))
        assert await amap(job, [], [], slots=3) == []

    run_in_virtual_time(backend, main)


async def test_amap_raises_the_first_failure() -> None:
    """A failure cancels the rest, and leaves as itself, in no group."""
    begun = unwound = 0

    async def job(number: int) -> None:
        nonlocal begun, unwound
        if number == 0:
            for _ in range(5):
                await checkpoint()
            raise Boom
        begun += 1
        try:
            await anyio.sleep_forever()
        finally:
            unwound += 1

    with pytest.raises(Boom):
        await amap(job, range(100), slots=3)
    assert 2 <= begun <= 3
    assert unwound == begun


async def test_cancelled_amap_leaves_nothing_behind() -> None:
    """Cancelled, `amap` ends when its jobs have unwound."""
    unwound = 0

    async def job(number: int) -> None:
        nonlocal unwound
        if number == 2:
            scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            unwound += 1

    with anyio.CancelScope() as scope:
        await amap(job, range(100), slots=3)
    assert scope.cancelled_caught
    assert unwound == 3


async def test_arguments_of_amap() -> None:
    """They're checked as `Executor`'s and `map`'s are."""
    with pytest.raises(ValueError, match="slots"):
        await amap(give, [1], slots=0)
    with pytest.raises(TypeError, match="slots"):
        await amap(give, [1])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="at least one iterable"):
        await amap(give, slots=1)
    with pytest.raises(TypeError, match="callable"):
        await amap(None, [1], slots=1)  # type: ignore[call-overload]


# All of them.


@every_function
@pytest.mark.parametrize("done", [False, True], ids=["pending", "done"])
async def test_cancelling_the_wait_leaves_the_jobs_alone(function: str, done: bool) -> None:
    """A cancelled task ends cancelled, at once; neither its jobs nor others who wait notice."""
    async with Executor(3) as executor:
        release, got = anyio.Event(), []
        futures = [executor.submit(release.wait) for _ in range(3)]
        if done:
            release.set()
            await wait(futures)

        async def other() -> None:
            got.append(await all_of(function, futures))

        async with anyio.create_task_group() as tg:
            with anyio.CancelScope() as scope:
                if not done:
                    tg.start_soon(other)
                    executor.submit(give).add_done_callback(lambda _: scope.cancel())
                    await all_blocked()
                scope.cancel()
                await all_of(function, futures)
                pytest.fail("not cancelled")
            assert scope.cancelled_caught
            release.set()
        assert len(got) == (0 if done else 1)
        await wait(futures)
        if function != "first_result":
            assert not any(future.cancelled() for future in futures)


@every_function
async def test_other_things_than_futures(function: str) -> None:
    """What isn't a future is refused at once, by a message that names the function."""
    async with Executor(1) as executor:
        future = executor.submit(give)
        coroutine = give()
        for thing in (coroutine, 42, None, asyncio.sleep):
            with pytest.raises(TypeError, match=f"{function}.*futures"):
                await all_of(function, [future, thing])
        coroutine.close()


@pytest.mark.parametrize("function", [gather, first_result])
async def test_list_instead_of_futures(function: Callable[..., Any]) -> None:
    """A list of futures instead of each is refused by a message that names the function."""
    async with Executor(1) as executor:
        with pytest.raises(TypeError, match=f"{function.__name__}.*futures"):
            await function([executor.submit(give)])


@every_function
async def test_waiting_in_another_thread(function: str) -> None:
    """Futures are waited for in their own event loop's thread only."""

    def in_thread() -> BaseException | None:
        try:
            asyncio.run(all_of(function, [done]))
        except RuntimeError as exc:
            return exc
        return None

    async with Executor(1) as executor:
        done = executor.submit(give)
        await done
        assert "thread" in str(await anyio.to_thread.run_sync(in_thread))
    assert threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(
    ("function", "seen"),
    [("gather", True), ("wait", False), ("as_completed", False), ("first_result", True)],
)
async def test_who_looks_at_failures(function: str, seen: bool) -> None:
    """`gather` and `first_result` look at the errors of jobs; the others leave it to the caller."""

    async def body() -> None:
        async with Executor(2) as executor:
            futures = [executor.submit(fail, Boom()), executor.submit(give)]
            await wait(futures)
            await all_of(function, futures)

    if seen:
        await body()
    else:
        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert [type(exc) for exc in caught.value.exceptions] == [Boom]


# What else the machine does counts in real time only; Windows tells the other in steps of 16 ms.
clock = time.perf_counter if sys.platform == "win32" else time.thread_time


@pytest.mark.unmeasured
@pytest.mark.real_time
@pytest.mark.parametrize("function", ["gather", "wait", "as_completed", "first_result"])
def test_cost_of_a_future_does_not_grow(function: str) -> None:
    """Ten times as many futures take about ten times as long, one wake-up at a time or not."""

    async def seconds_per_future(count: int) -> float:
        async def job() -> None:
            # Slow enough for whoever waits to wait for every single one.
            for _ in range(3 if function == "as_completed" else 1):
                await checkpoint()

        async def lose() -> None:
            await job()
            raise Boom

        async with Executor(1, on_error="log") as executor:
            started = clock()
            if function == "first_result":
                futures = [executor.submit(lose) for _ in range(count - 1)]
                futures.append(executor.submit(job))
            else:
                futures = [executor.submit(job) for _ in range(count)]
            await all_of(function, futures)
            taken = clock() - started
        return taken / count

    async def main() -> None:
        small = min([await seconds_per_future(2_000) for _ in range(2)])
        large = await seconds_per_future(20_000)
        assert large <= 3 * small

    # The number of steps is the same on every backend.
    anyio.run(main, backend_options={"debug": False})
