"""What broke in comparable systems, and no other test looks at; docs/pitfalls.md has the list."""

from __future__ import annotations

import gc
import itertools
import math
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, all_blocked, fail, give, ticks
from virtual_time import virtual

from anyslots import (
    Executor,
    ExecutorClosed,
    Future,
    JobCancelled,
    Lane,
    QueueTimeout,
    Rate,
    as_completed,
    gather,
)
from anyslots._runtime.lending import TaskWaiter

pytestmark = pytest.mark.anyio


class Stop(Exception):
    """Leaves a block."""


# Order.


async def test_many_who_wait_for_the_same_end_are_all_told(monkeypatch: Any) -> None:
    """Many wait in `join`, half of them give up; the others return at the end.

    To see that none of them is a job's task, nobody has to list all tasks.
    """
    release = anyio.Event()
    joined: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(100)]

    async def join(number: int) -> None:
        with scopes[number]:
            await executor.join()
            joined.append(number)

    monkeypatch.setattr(anyio, "get_running_tasks", None)
    async with Executor(1) as executor, anyio.create_task_group() as group:
        executor.submit(release.wait)
        for number in range(len(scopes)):
            group.start_soon(join, number)
        await ticks(20)
        for scope in scopes[::2]:
            scope.cancel()
        await ticks(20)
        assert joined == []
        release.set()
    assert sorted(joined) == list(range(1, len(scopes), 2))


async def test_a_child_goes_ahead_of_lower_work() -> None:
    """A job's child, in the job's own lane, starts before queued jobs of lower priority."""
    order: list[str] = []

    async def low(name: str) -> None:
        order.append(name)
        await checkpoint()

    async def high() -> None:
        order.append("parent")
        await urgent.submit(low, "child")
        order.append("parent goes on")

    async with Executor(1) as executor:
        urgent = executor.lane(priority=1)
        for number in range(3):
            executor.submit(low, f"low {number}")
        urgent.submit(high)
    assert order[order.index("parent") :][:3] == ["parent", "child", "parent goes on"]
    assert order[-1] == "low 2"


# Being cancelled.


async def go_round(number: int) -> None:
    await ticks(number % 3)


async def produce(executor: Executor, max_pending: float = math.inf) -> None:
    lane = executor.lane(max_pending=max_pending)
    for number in itertools.count():
        await lane.enqueue(go_round, number)


async def consume(executor: Executor, ordered: bool = True) -> None:
    async for _ in executor.map(go_round, itertools.count(), ordered=ordered):
        pass


async def consume_a_list(executor: Executor) -> None:
    await executor.map(go_round, itertools.count())


async def submit_and_await(executor: Executor) -> None:
    while True:
        await gather(*[executor.submit(go_round, number) for number in range(4)])


async def submit_in_a_child_task(executor: Executor) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(submit_and_await, executor)
        group.start_soon(submit_and_await, executor)


# What fails where its executor has ended, and so can be in the body of its block only.
IN_THE_BODY = [(submit_and_await, ()), (submit_in_a_child_task, ())]
ANYWHERE = [
    (produce, ()),
    (produce, (1,)),
    (consume, ()),
    (consume, (False,)),
    (consume_a_list, ()),
]


@pytest.mark.parametrize(
    ("use", "args", "beside"),
    [(*each, False) for each in ANYWHERE + IN_THE_BODY] + [(*each, True) for each in ANYWHERE],
)
async def test_a_busy_block_that_is_cancelled_ends_cancelled(
    use: Any, args: Any, beside: bool
) -> None:
    """At whatever tick a scope around a block is cancelled, nothing but the cancellation comes out.

    Not what it did to the jobs or the executor, though the body may meet that first, or a task
    beside the block that's cancelled in the same scope.
    """

    async def run(executor: Executor, ready: anyio.Event) -> None:
        async with executor:
            ready.set()
            await (anyio.sleep_forever() if beside else use(executor, *args))

    for delay, slots in itertools.product(range(9), (1, 2)):
        executor, ready = Executor(slots), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(run, executor, ready)
            if beside:
                await ready.wait()
                group.start_soon(use, executor, *args)
            await ticks(delay)
            group.cancel_scope.cancel()
        assert group.cancel_scope.cancelled_caught


# Every future settles.


@pytest.mark.parametrize(
    "drop",
    [
        "each is cancelled",
        "the lane is cancelled",
        "the executor is cancelled",
        "shutdown",
        "the body raises",
        "the scope around is cancelled",
        "a job fails",
        "an interrupt in a job",
        "they expire",
    ],
)
@virtual
async def test_however_queued_jobs_are_dropped_whoever_waits_is_told(drop: str) -> None:
    """Each way to drop a queued job settles its future, wakes its waiters, and runs none of it."""
    executor = Executor(1, on_error="cancel" if drop == "a job fails" else "log")
    scope, release, ready = anyio.CancelScope(), anyio.Event(), anyio.Event()
    futures: list[Future[Any]] = []
    told: list[type[BaseException]] = []

    async def first() -> None:
        await release.wait()
        if drop == "a job fails":
            raise Boom
        if drop == "an interrupt in a job":
            raise KeyboardInterrupt

    def never() -> NoReturn:
        pytest.fail("it ran")

    async def drop_them(lane: Lane) -> None:
        match drop:
            case "each is cancelled":
                for future in futures:
                    future.cancel()
            case "the lane is cancelled":
                lane.cancel()
            case "the executor is cancelled":
                executor.cancel()
            case "shutdown":
                await executor.shutdown(grace=0)
            case "the body raises":
                raise Stop
            case "the scope around is cancelled":
                scope.cancel()
                await anyio.sleep_forever()
            case "a job fails" | "an interrupt in a job":
                release.set()
                await anyio.sleep_forever()
            case "they expire":
                await anyio.sleep(10)

    async def host() -> None:
        with suppress(Stop, ExceptionGroup, KeyboardInterrupt), scope:
            async with executor:
                executor.submit(first)
                await ticks(5)
                lane = executor.lane(queue_timeout=10)
                futures.extend(lane.submit(never) for _ in range(3))
                ready.set()
                await all_blocked()
                await drop_them(lane)
                release.set()

    async def wait(future: Future[Any]) -> None:
        with pytest.raises((JobCancelled, QueueTimeout)) as caught:
            await future
        told.append(caught.type)

    async with anyio.create_task_group() as group:
        group.start_soon(host)
        await ready.wait()
        for future in futures:
            group.start_soon(wait, future)
    assert told == [QueueTimeout if drop == "they expire" else JobCancelled] * 3
    assert all(future.done() for future in futures)


# Exceptions.


async def test_one_error_met_by_many_jobs_has_in_each_the_same_traceback() -> None:
    """Jobs that fail with the very exception of another job don't make its traceback longer."""

    async def passes_on() -> None:
        await cause

    async with Executor(2) as executor:
        cause = executor.submit(fail)
        futures = [executor.submit(passes_on) for _ in range(50)]
        lengths = set()
        for future in futures * 2:
            error = (await gather(future, return_exceptions=True))[0]
            assert error is cause.exception()
            future.exception()
            frames = traceback.extract_tb(error.__traceback__)
            assert (frames[0].name, frames[-1].name) == ("passes_on", "fail")
            lengths.add(len(frames))
        assert len(lengths) == 1
        cause.exception()
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fail"]


async def test_the_group_of_many_errors_is_as_long_as_they_are_many() -> None:
    """To print four times as many errors takes four times the text: none contains another."""

    lengths = []
    for count in (20, 80):
        with pytest.raises(ExceptionGroup) as info:
            async with Executor(3) as executor:
                for number in range(count):
                    executor.submit(fail, Boom(number))
        printed = traceback.TracebackException.from_exception(info.value, max_group_width=count)
        lengths.append(sum(map(len, printed.format())))
    assert lengths[1] < 4.2 * lengths[0]


@pytest.mark.parametrize("on_error", ["hold", "log"])
async def test_a_failed_job_raises_the_same_error_before_during_and_after_the_end(
    on_error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However far its executor is, a failed job's error is the same; once seen, it's not logged."""
    error, release = Boom(), anyio.Event()

    async def unwinds() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await release.wait()

    async def look() -> None:
        with pytest.raises(Boom) as info:
            await future
        assert info.value is error

    async def look_during_the_end() -> None:
        await all_blocked()
        await look()
        release.set()

    async with anyio.create_task_group() as group:
        with pytest.raises(Stop):
            async with Executor(2, on_error=on_error) as executor:
                future = executor.submit(fail, error)
                await look()
                executor.submit(unwinds)
                await all_blocked()
                group.start_soon(look_during_the_end)
                raise Stop
        await look()
    assert not caplog.records


# Memory.


async def test_as_completed_keeps_no_future_that_it_gave_out(no_collector: None) -> None:
    """A result that came out of the loop is freed when its consumer has dropped it."""

    class Result:
        pass

    async def job(number: int) -> Result:
        await ticks(number)
        return Result()

    async with Executor(3) as executor:
        loop = as_completed([executor.submit(job, number) for number in range(10)])
        given = []
        async for future in loop:
            given.append(weakref.ref(await future))
            del future
            await ticks(3)
            assert given[-1]() is None
        assert len(given) == 10


@pytest.mark.parametrize("queue_timeout", [None, 3600])
async def test_cancelled_jobs_do_not_pile_up_in_the_queue(queue_timeout: float | None) -> None:
    """Behind a job that stays queued, cancelled ones are forgotten long before their time is up."""
    futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
    async with Executor(1, queue_timeout=queue_timeout) as executor:
        executor.pause()
        executor.submit(give)
        for _ in range(2000):
            future = executor.submit(give)
            futures.add(future)
            future.cancel()
        del future
        assert len(futures) < 100
        executor.resume()


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", ["as_completed", "map"])
async def test_waits_for_results_that_were_given_up_do_not_pile_up(kind: str) -> None:
    """Who asks for the next result again and again, in vain, leaves nothing behind each time."""

    def waits() -> int:
        return sum(type(each) is TaskWaiter for each in gc.get_objects())

    release = anyio.Event()
    async with Executor(1) as executor:
        results: Any = (
            as_completed([executor.submit(release.wait)])
            if kind == "as_completed"
            else executor.map(lambda _: release.wait(), [1], ordered=False)
        )
        await all_blocked()
        gc.collect()
        before = waits()
        for _ in range(50):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(results)
            assert scope.cancelled_caught
        gc.collect()
        assert waits() <= before + 1
        release.set()
        assert len([result async for result in results]) == 1


def sizes(*things: object) -> dict[str, int]:
    """How much is in what these objects refer to by name."""
    return {
        f"{type(thing).__name__}.{name}": len(value)
        for thing in things
        for name in getattr(type(thing), "__slots__", None) or vars(thing)
        if isinstance(value := getattr(thing, name, None), Sized)
        and not isinstance(value, str | tuple)
        and not name.startswith("__")
    }


@virtual
async def test_jobs_of_all_kinds_leave_every_table_of_the_executor_as_it_was() -> None:
    """Prioritised, limited, timed, cancelled, refused and expired jobs leave no entry anywhere."""

    async def give_up(lane: Lane) -> None:
        with anyio.move_on_after(1):
            await lane.enqueue(give)

    async def round_of_jobs() -> None:
        for priority in range(5):
            options: Any = {"slots": 2, "max_pending": 20, "rate": Rate(5, 1), "timeout": 3}
            lane = executor.lane(priority=priority, queue_timeout=2, **options)
            futures = [lane.submit(anyio.sleep, number % 5) for number in range(20)]
            for future in futures[::4]:
                future.cancel()
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(give_up, lane)
                if priority == 4:
                    await anyio.sleep(1)
                    executor.cancel()
        await executor.join()
        await anyio.sleep(100)

    async with Executor(3, on_error="log", max_pending=75) as executor:
        await round_of_jobs()
        runtime = executor._runtime
        scheduler = runtime.scheduler
        parts = [scheduler.tree, scheduler.tree.timers, scheduler.loans, scheduler.admission]
        parts += [scheduler, scheduler.permits, executor._node, runtime, runtime.pool]
        before = sizes(*parts)
        await round_of_jobs()
        await round_of_jobs()
        gc.collect()
        after = sizes(*parts)
        # Workers that were idle together may have become one or two more, but not above this.
        before.pop("WorkerPool.workers")
        assert after.pop("WorkerPool.workers") <= executor.slots + 2
        assert after == before
        for name in ("Permits.jobs", "Admission.putters", "Timers.deadlines"):
            assert after[name] == 0


async def test_a_refused_job_is_kept_by_nobody(no_collector: None) -> None:
    """What was to be submitted to a closed executor is freed with the error that refuses it."""

    class Argument:
        pass

    async with Executor(1) as executor:
        executor.close()
        argument = Argument()
        alive = weakref.ref(argument)
        for submit in (executor.submit, executor.enqueue):
            with pytest.raises(ExecutorClosed):
                refused: Any = submit(give, argument)
                await refused
        del argument
        assert alive() is None


# Context and iteration.

variable: ContextVar[object] = ContextVar("variable", default="unset")


async def async_source(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await checkpoint()
        yield number


@pytest.mark.parametrize("source", [range, async_source])
@pytest.mark.parametrize("as_list", [True, False])
async def test_each_job_of_a_map_has_its_own_copy_of_the_context_it_was_made_in(
    source: Callable[[int], Any], as_list: bool
) -> None:
    """A hundred jobs see what was set when `map` was called, and nothing of each other."""

    async def job(number: int) -> list[object]:
        seen = [variable.get()]
        variable.set(number)
        await ticks(number % 4)
        return [*seen, variable.get()]

    async with Executor(10) as executor:
        variable.set("made")
        results = executor.map(job, source(100))
        variable.set("later")
        if as_list:
            seen = await results
        else:
            seen = []
            async for each in results:
                variable.set("later still")
                seen.append(each)
    assert seen == [["made", number] for number in range(100)]


async def test_a_map_is_begun_used_and_closed_in_different_tasks_and_scopes() -> None:
    """Results belong to no scope: one task begins, another goes on, a third one leaves."""
    log: list[object] = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            log.append("source closed")

    async def one() -> None:
        with anyio.CancelScope():
            log.append(await anext(results))

    async def close() -> None:
        with anyio.fail_after(60):
            await results.aclose()

    async with Executor(2) as executor:
        results = executor.map(give, source())
        for step in (one, one, close):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
        forgotten = executor.map(give, source())
        async with anyio.create_task_group() as group:
            group.start_soon(anext, forgotten)
        del forgotten
        gc.collect()
        assert [value async for value in results] == []
    assert log == [0, 1, "source closed", "source closed"]


async def test_a_loop_over_as_completed_that_is_cancelled_as_a_job_ends_loses_nothing() -> None:
    """Cancelled some ticks before or after a job's end: the future comes out of the next loop."""

    async def consume(loop: Any, got: list[Future[None]]) -> None:
        async for future in loop:
            got.append(future)

    async with Executor(2) as executor:
        for delay in range(6):
            futures = [executor.submit(ticks, number) for number in (2, 3, 50)]
            loop, got = as_completed(futures), []
            async with anyio.create_task_group() as group:
                group.start_soon(consume, loop, got)
                await ticks(delay)
                group.cancel_scope.cancel()
            await consume(loop, got)
            assert len(got) == len(futures)
            assert set(got) == set(futures)


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("slots", [1, 10])
async def test_endless_inputs_without_a_bound_leave_turns_to_other_tasks(
    slots: float, as_list: bool
) -> None:
    """A `map` that may take all of an endless source at once can be cancelled while it does."""
    numbers = iter(range(20_000))  # or the test would never end

    async def run() -> None:
        async with Executor(slots) as executor:
            results = executor.map(give, numbers, buffer=math.inf)
            if as_list:
                await results
            else:
                async for _ in results:
                    pass

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await ticks(4)
        group.cancel_scope.cancel()
    assert 14_000 < numbers.__length_hint__() < 20_000


async def test_a_failure_ends_a_list_whose_inputs_would_never_end() -> None:
    """Awaited as a list, a `map` without a bound raises its first error while it takes inputs."""
    async with Executor(1, on_error="log") as executor:
        with pytest.raises(Boom):
            await executor.map(fail, itertools.repeat(Boom()), buffer=math.inf)


async def test_a_loop_over_thousands_of_results_leaves_turns_to_other_tasks() -> None:
    """Without a bound there may be many results to give: who takes them all isn't alone."""
    turns: list[bool] = []

    async def other() -> None:
        turns.append(True)

    async with (
        Executor(1) as executor,
        anyio.create_task_group() as group,
        executor.map(give, range(4000), buffer=math.inf) as results,
    ):
        while executor.statistics().succeeded < 4000:
            await checkpoint()
        group.start_soon(other)
        taken = 0
        while not turns:
            await anext(results)
            taken += 1
    assert 0 < taken <= 3000
