"""`map`: results in order or as they come, from inputs that are taken as they're needed."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from jobs import Boom, all_blocked, check_idle, fail, ticks
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time, virtual

from anyslots import Executor, ExecutorClosed, JobCancelled

pytestmark = pytest.mark.anyio

either_order = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
either_source = pytest.mark.parametrize("kind", ["sync", "async"])


class Source:
    """Counts what's taken, and knows whether it was closed; endless unless a length is given."""

    def __init__(self, length: float = math.inf) -> None:
        self.length = length
        self.taken = 0
        self.closed = False

    def plain(self) -> Iterator[int]:
        try:
            while self.taken < self.length:
                self.taken += 1
                yield self.taken - 1
        finally:
            self.closed = True

    async def slow(self) -> AsyncIterator[int]:
        try:
            for item in self.plain():
                await checkpoint()
                yield item
        finally:
            # As a database's cursor would: the close takes a moment.
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.closed = True

    def of_kind(self, kind: str) -> Any:
        return self.plain() if kind == "sync" else self.slow()


async def double(number: int) -> int:
    await checkpoint()
    return 2 * number


async def last_second(number: int) -> int:
    await anyio.sleep(1)
    return number


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@given(
    slots=st.one_of(st.integers(1, 4), st.just(math.inf)),
    lane_slots=st.sampled_from([None, None, 1, 2]),
    max_pending=st.sampled_from([math.inf, math.inf, 0, 2]),
    buffer=st.sampled_from([None, 0, 1, 3, math.inf]),
    ordered=st.booleans(),
    delays=st.lists(st.integers(0, 5), max_size=12),
    fails=st.one_of(st.none(), st.none(), st.integers(0, 12)),
    kind=st.sampled_from(["list", "sync", "async"]),
    pauses=st.sampled_from([None, 0, 1, 4]),
)
def test_map_equals_the_built_in_map(
    backend, slots, lane_slots, max_pending, buffer, ordered, delays, fails, kind, pauses
) -> None:
    """Results and the exception are the built-in `map`'s, or the same as a multiset out of order.

    ``pauses``: how long the consumer takes over each result; None: it asks for a list.
    """
    expected: list[tuple[int, int]] = []
    results: list[tuple[int, int]] = []
    finished: list[tuple[int, int]] = []
    starts: list[int] = []
    limit = min(slots, lane_slots or math.inf)

    def plain(number: int, delay: int) -> tuple[int, int]:
        if number == fails:
            raise Boom(number)
        return number, delay

    async def main() -> bool:
        running = taken = 0

        async def job(number: int, delay: int) -> tuple[int, int]:
            nonlocal running
            running += 1
            assert running <= limit
            starts.append(number)
            await anyio.sleep(delay)
            running -= 1
            finished.append(plain(number, delay))
            return finished[-1]

        def source() -> Iterator[int]:
            nonlocal taken
            for delay in delays:
                taken += 1
                assert taken - len(results) <= limit + (limit if buffer is None else buffer)
                yield delay

        async def async_source() -> AsyncIterator[int]:
            for delay in source():
                await anyio.sleep(delay // 3)
                yield delay

        # A list isn't watched while it's made: what's taken ahead of it is what isn't done.
        inputs: Any = delays
        if kind != "list" and pauses is not None:
            inputs = source() if kind == "sync" else async_source()
        async with Executor(slots, on_error="log", max_pending=max_pending) as executor:
            lane = executor if lane_slots is None else executor.lane(slots=lane_slots)
            both = lane.map(job, itertools.count(), inputs, ordered=ordered, buffer=buffer)
            try:
                if pauses is None:
                    results.extend(await both)
                else:
                    async for result in both:
                        results.append(result)
                        await anyio.sleep(pauses)
            except Boom:
                assert [result async for result in both] == []
                return True
            finally:
                check_idle(executor)
        return False

    try:
        expected.extend(map(plain, itertools.count(), delays))
        failed = False
    except Boom:
        failed = True
    assert run_in_virtual_time(backend, main) == failed
    assert starts == list(range(len(starts)))
    if pauses is not None:
        assert results == (expected if ordered else finished[: len(results)])
    if not failed:
        assert Counter(results) == Counter(expected)
        assert results == (expected if ordered else finished)


@either_order
@pytest.mark.parametrize("kind", ["list", "sync", "async"])
async def test_nothing_to_map(kind: str, ordered: bool) -> None:
    def results() -> Any:
        empty = [] if kind == "list" else Source(0).of_kind(kind)
        return executor.map(double, empty, ordered=ordered)

    async with Executor(2) as executor:
        assert await results() == []
        assert [x async for x in results()] == []
        async with results() as entered:
            assert [x async for x in entered] == []
        with anyio.CancelScope() as scope:
            scope.cancel()
            await results()
        assert scope.cancelled_caught
        await executor.join()
        assert executor.statistics().submitted == 0


async def test_several_iterables_of_different_lengths() -> None:
    """`fn` gets one item of each iterable, of whatever kinds, until the shortest one ends."""

    class Squares:
        """A sequence of the old fashion, which `iter` takes, too."""

        def __getitem__(self, index: int) -> int:
            if index == 4:
                raise IndexError
            return index**2

    async def add(*numbers: int) -> int:
        await checkpoint()
        return sum(numbers)

    async with Executor(2) as executor:
        results = executor.map(add, [1, 2, 3], Source().slow(), iter([10, 20, 30, 40]))
        assert await results == [11, 23, 35]
        assert await executor.map(add, Source().plain(), range(2), range(3)) == [0, 3]
        assert await executor.map(add, *[range(2)] * 6) == [0, 6]
        assert await executor.map(double, Squares()) == [0, 2, 8, 18]  # type: ignore[arg-type]


async def test_results_as_they_finish() -> None:
    """Out of order, each result comes when its job is done, whatever came before it."""
    events = [anyio.Event() for _ in range(3)]

    async def job(number: int) -> int:
        await events[number].wait()
        return number

    async with Executor(3) as executor, executor.map(job, range(3), ordered=False) as results:
        for number in (2, 0, 1):
            events[number].set()
            assert await anext(results) == number


async def test_ways_to_take_the_rest() -> None:
    """What's entered, iterated over or awaited after some results were taken gives the others."""
    async with Executor(2) as executor:
        results = executor.map(double, range(4))
        assert await anext(results) == 0
        async with results:
            assert await anext(results) == 2
        assert [result async for result in results] == []
        results = executor.map(double, range(5))
        assert await anext(results) == 0
        assert await results == [2, 4, 6, 8]
        assert await results == []


# How much is taken.


@either_source
@either_order
@pytest.mark.parametrize("buffer", [None, 0, 1, 5])
@pytest.mark.parametrize("bounded", [False, True], ids=["", "bounded"])
@pytest.mark.parametrize("lane_slots", [math.inf, 2])
@virtual
async def test_endless_inputs_are_taken_up_to_the_bound(
    kind: str, ordered: bool, buffer: int | None, bounded: bool, lane_slots: float
) -> None:
    """Nobody asks: exactly ``slots + buffer`` are taken, and done; as many ahead of who asks."""
    source, received = Source(), 0
    async with Executor(3) as executor:
        lane = executor.lane(slots=lane_slots, max_pending=1 if bounded else math.inf)
        slots = int(min(3, lane_slots))
        bound = slots + (slots if buffer is None else buffer)
        results = lane.map(double, source.of_kind(kind), ordered=ordered, buffer=buffer)
        async with results:
            await anyio.sleep(1)
            assert source.taken == executor.statistics().succeeded == bound
            async for _ in results:
                received += 1
                assert source.taken <= received + bound
                if received == 20:
                    break
            assert anyio.current_time() == 1
            await anyio.sleep(1)
            assert source.taken <= received + bound
        assert source.closed
        taken = source.taken
        await anyio.sleep(1)
        assert source.taken == taken
        check_idle(executor)


@pytest.mark.parametrize("buffer", [0, 1, 4, 10])
@pytest.mark.parametrize("slow", [0, 3])
@virtual
async def test_slow_head_stops_nobody_until_the_buffer_is_full(buffer: int, slow: int) -> None:
    """In order, jobs go on behind a slow one until ``slots + buffer`` are taken ahead of it."""
    done: list[int] = []

    async def job(number: int) -> int:
        await anyio.sleep(100 if number == slow else 1)
        done.append(number)
        return number

    async with Executor(2) as executor:
        async with executor.map(job, itertools.count(), buffer=buffer) as results:
            for number in range(slow):
                assert await anext(results) == number
            with anyio.move_on_after(50):
                await anext(results)
            # All but the slow one have been done that may be.
            assert sorted(done) == [n for n in range(slow + 2 + buffer) if n != slow]
            assert await anext(results) == slow
            assert anyio.current_time() < 110


@virtual
async def test_source_is_pulled_while_jobs_run() -> None:
    """Waiting for the next input and running the job of the last one overlap, with one slot."""

    async def source() -> AsyncIterator[int]:
        for number in range(5):
            await anyio.sleep(1)
            yield number

    async with Executor(1) as executor:
        assert await executor.map(last_second, source(), buffer=1) == list(range(5))
    assert anyio.current_time() == 6


async def test_nothing_is_taken_before_it_is_asked_for() -> None:
    """A `map` that's only made takes nothing, runs nothing and warns of nothing."""
    source = Source()
    async with Executor(2) as executor:
        results = executor.map(double, source.plain())
        executor.map(double, Source().slow())
        await all_blocked()
        assert source.taken == executor.statistics().submitted == 0
        del results
        gc.collect()


@virtual
async def test_slots_are_looked_at_again() -> None:
    """More slots let more be taken ahead."""
    source = Source()
    async with Executor(1) as executor, executor.map(double, source.plain()) as results:
        await anyio.sleep(1)
        assert source.taken == 2
        executor.slots = 4
        await anext(results)
        await anyio.sleep(1)
        assert source.taken == 1 + 8


@pytest.mark.parametrize("buffer", [None, math.inf])
@virtual
async def test_more_inputs_than_are_taken_at_once(buffer: float | None) -> None:
    """A list of thousands in any order is made though no job has ended when others get a turn."""
    async with Executor(2000) as executor:
        found = await executor.map(last_second, range(2500), ordered=False, buffer=buffer)
    assert sorted(found) == list(range(2500))


# Leaving early.


@either_source
@either_order
@pytest.mark.parametrize("way", ["break", "aclose", "exception", "no result", "cancelled list"])
async def test_leaving_early_ends_everything(way: str, kind: str, ordered: bool) -> None:
    """Left early, a `map` takes nothing more, its source is closed and its jobs have unwound."""
    source, running = Source(), 0

    async def job(number: int) -> int:
        nonlocal running
        running += 1
        try:
            if number:
                await anyio.sleep_forever()
            return number
        finally:
            running -= 1

    async def leave() -> None:
        match way:
            case "break":
                async with results:
                    async for _ in results:
                        break
            case "aclose":
                await anext(results)
                await results.aclose()
                await results.aclose()
            case "exception":
                with pytest.raises(Boom):
                    async with results:
                        await anext(results)
                        raise Boom
            case "no result":
                async with results:
                    await all_blocked()
            case "cancelled list":
                async with anyio.create_task_group() as tg:
                    tg.start_soon(list_of, results)
                    await all_blocked()
                    tg.cancel_scope.cancel()

    async with Executor(2) as executor:
        results = executor.map(job, source.of_kind(kind), ordered=ordered)
        await leave()
        assert source.closed
        assert running == 0
        check_idle(executor)
        taken, submitted = source.taken, executor.statistics().submitted
        await all_blocked()
        assert (source.taken, executor.statistics().submitted) == (taken, submitted)
        assert [result async for result in results] == []
        assert await results == []


async def list_of(results: Any) -> list[Any]:
    return await results


@either_source
async def test_sources_are_closed(kind: str) -> None:
    """At their end, at that of the shortest one, or when the executor ends without them."""
    source, longer, left = Source(3), Source(), Source()

    async def first(number: int, other: int) -> int:
        return number

    async with Executor(2) as executor:
        both = executor.map(first, source.of_kind(kind), longer.of_kind(kind))
        assert await both == [0, 1, 2]
        assert source.closed
        assert longer.closed
        async for _ in executor.map(double, left.of_kind(kind)):
            break
    assert left.closed
    check_idle(executor)


@either_order
@virtual
async def test_cancelled_consumer_loses_nothing(ordered: bool) -> None:
    """Cancelled before a result arrives, or as it does, a loop goes on where it was."""
    got = []
    async with Executor(1) as executor:
        results = executor.map(last_second, range(6), ordered=ordered, buffer=0)
        for patience in itertools.cycle([1, 0.5, 0]):
            with anyio.move_on_after(patience) as scope:
                async for result in results:
                    got.append(result)
            if not scope.cancelled_caught:
                break
            await anyio.sleep(0.5)
    assert got == list(range(6))


@pytest.mark.parametrize("consumers", [1, 2])
async def test_consumers_cancelled_about_when_a_result_comes_lose_nothing(consumers: int) -> None:
    for delay in range(5):
        event, got = anyio.Event(), []

        async def job(number: int, event: anyio.Event = event) -> int:
            await event.wait()
            return number

        async def consume(results: Any, got: list[int] = got) -> None:
            async for result in results:
                got.append(result)

        async with Executor(3) as executor:
            results = executor.map(job, range(9))
            async with anyio.create_task_group() as tg:
                for _ in range(consumers):
                    tg.start_soon(consume, results)
                await all_blocked()
                event.set()
                await ticks(delay)
                tg.cancel_scope.cancel()
            await consume(results)
        assert sorted(got) == list(range(9))


@virtual
async def test_closing_waits_for_jobs_that_take_their_time() -> None:
    """`aclose` ends once the jobs have unwound, even if it's cancelled itself meanwhile."""

    async def stubborn(number: int) -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    async with Executor(2) as executor:
        results = executor.map(stubborn, itertools.count())
        with anyio.move_on_after(1):
            await anext(results)
        with anyio.move_on_after(2):
            await results.aclose()
        assert anyio.current_time() == 6
        check_idle(executor)


async def test_closing_a_map_that_has_not_begun_is_not_cut_short() -> None:
    """`aclose` closes the sources though it's cancelled, and may be called again."""
    closed = []

    class Closable:
        def __aiter__(self) -> Closable:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await checkpoint()
            closed.append(self)

    async with Executor(1) as executor:
        results = executor.map(double, Closable())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await results.aclose()
        assert len(closed) == 1
        with anyio.fail_after(5):
            await results.aclose()


# Failures. What sources raise: see test_hostile_exceptions.py.


@either_source
async def test_failing_job_raises_at_its_place(kind: str) -> None:
    """After the results before it comes the job's own exception; and then there's no more."""
    source, error = Source(), Boom()

    async def job(number: int) -> int:
        if number == 3:
            raise error
        if number > 3:
            await anyio.sleep_forever()
        return number

    async with Executor(2) as executor:
        results, got = executor.map(job, source.of_kind(kind)), []
        with pytest.raises(Boom) as caught:
            async for result in results:
                got.append(result)
        assert caught.value is error
        assert got == [0, 1, 2]
        assert source.closed
        check_idle(executor)
        assert [result async for result in results] == []
        with pytest.raises(Boom):
            await executor.map(job, Source().of_kind(kind))
        check_idle(executor)


async def test_what_jobs_raise_comes_out_as_an_error() -> None:
    """Neither a cancelled job nor what would end a loop is taken for the end of the results."""
    async with Executor(2) as executor:
        for error in (StopIteration(), StopAsyncIteration()):
            with pytest.raises(RuntimeError, match=type(error).__name__):
                async for _ in executor.map(fail, [error]):
                    pass
        with pytest.raises(TypeError, match="can't be awaited"):
            await executor.map(len, ["x"])  # type: ignore[arg-type]
        async with executor.map(anyio.sleep, [1000, 1000]) as results:
            await all_blocked()
            executor.cancel("test")
            with pytest.raises(JobCancelled, match="test"):
                await anext(results)


def unclosable(kind: str) -> Any:
    """A source whose close fails."""

    def sync_source() -> Iterator[int]:
        try:
            yield from itertools.repeat(1)
        finally:
            raise Boom("closing")

    async def async_source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise Boom("closing")

    return sync_source() if kind == "sync" else async_source()


@either_source
@pytest.mark.parametrize("leave", ["the block", "aclose"])
async def test_error_of_closing_a_source_comes_out_once(leave: str, kind: str) -> None:
    async def first(number: int, _: object) -> int:
        return number

    async with Executor(1) as executor:
        with pytest.raises(Boom, match="closing"):
            await executor.map(first, unclosable(kind), [0])
        results = executor.map(double, unclosable(kind))
        assert await anext(results) == 2
        with pytest.raises(Boom, match="closing"):
            if leave == "aclose":
                await results.aclose()
            else:
                async with results:
                    pass
        await results.aclose()
        assert await results == []
        check_idle(executor)


@either_source
async def test_error_of_closing_a_source_hides_no_other(kind: str) -> None:
    """An exception that leaves the block, or a job's, goes on though the source can't be closed."""

    async def fail_with_key(_: int) -> None:
        raise KeyError("job")

    async with Executor(1, on_error="log") as executor:
        with pytest.raises(KeyError, match="body"):
            async with executor.map(double, unclosable(kind)) as results:
                assert await anext(results) == 2
                raise KeyError("body")
        with pytest.raises(KeyError, match="job"):
            async for _ in executor.map(fail_with_key, unclosable(kind)):
                pass
        with pytest.raises(KeyError, match="job"):
            await executor.map(fail_with_key, unclosable(kind))


async def test_a_failure_behind_a_loop_that_was_left_is_held() -> None:
    async def fail_second(number: int) -> int:
        if number == 1:
            raise Boom
        return number

    with pytest.RaisesGroup(Boom):
        async with Executor(2) as executor, executor.map(fail_second, range(2)) as results:
            await anext(results)
            await all_blocked()


@either_source
@pytest.mark.parametrize("max_pending", [0, math.inf])
async def test_no_input_is_taken_once_a_failure_was_given(kind: str, max_pending: float) -> None:
    source = Source(10)

    async def fail_first(number: int) -> None:
        await checkpoint()
        if not number:
            raise Boom(number)

    async with Executor(1, on_error="log", max_pending=max_pending) as executor:
        with pytest.raises(Boom):
            await anext(executor.map(fail_first, source.of_kind(kind), ordered=False, buffer=0))
        await all_blocked()
    assert source.taken == 1


# When the executor ends.


@either_source
async def test_executor_closed_meanwhile(kind: str) -> None:
    """What can't be submitted any more is said, after the results of what could."""
    async with Executor(1) as executor:
        results, got = executor.map(double, Source().of_kind(kind), buffer=2), []
        with pytest.raises(ExecutorClosed):
            async for result in results:
                got.append(result)
                if len(got) == 3:
                    executor.close()
        assert len(got) >= 3
        assert got == [2 * number for number in range(len(got))]
        check_idle(executor)


@either_order
@pytest.mark.parametrize("as_list", [True, False])
async def test_block_left_while_another_task_maps(as_list: bool, ordered: bool) -> None:
    """A `map` whose executor ends before its inputs do raises; it doesn't give less as if all."""
    ended: list[Exception] = []

    async def source() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    async def consume(executor: Executor) -> None:
        results = executor.map(double, source(), ordered=ordered)
        with pytest.raises((ExecutorClosed, JobCancelled)) as caught:
            if as_list:
                await results
            else:
                async for _ in results:
                    pass
        ended.append(caught.value)

    async with anyio.create_task_group() as tg, Executor(1) as executor:
        tg.start_soon(consume, executor)
        await all_blocked()
    assert len(ended) == 1


async def test_not_entered_or_ended_executors() -> None:
    """A `map` may be made at any time; its results need an executor that takes jobs."""
    executor = Executor(1)
    with pytest.raises(RuntimeError, match="enter"):
        await executor.map(double, [1])
    with pytest.raises(RuntimeError, match="enter"):
        await anext(executor.map(double, [1]))
    early = executor.map(double, [1])
    async with executor:
        assert await early == [2]
        lane = executor.lane()
        lane.close()
        with pytest.raises(ExecutorClosed):
            await lane.map(double, [1])
    for ended in (executor, lane):
        with pytest.raises(ExecutorClosed):
            await ended.map(double, [1])
        with pytest.raises(ExecutorClosed):
            async with ended.map(double, [1]):
                pass


@either_order
@virtual
async def test_map_inside_a_job(ordered: bool) -> None:
    """A job may map over its own executor with one slot, and leave early, or be cancelled."""

    async def early() -> int:
        async with executor.map(last_second, itertools.count(), ordered=ordered) as results:
            return await anext(results)

    async def lasting() -> None:
        async for _ in executor.map(last_second, itertools.count(), ordered=ordered):
            pass

    async with Executor(1) as executor:
        whole = executor.submit(list_of, executor.map(last_second, range(5), ordered=ordered))
        assert await whole == list(range(5))
        assert await executor.submit(early) == 0
        check_idle(executor)
        before = anyio.current_time()
        future = executor.submit(lasting)
        await anyio.sleep(3)
        future.cancel()
        await future.wait()
        assert future.cancelled()
        assert anyio.current_time() == before + 3


# Memory.


class Item:
    """Something that a weak reference may refer to."""


async def test_results_given_out_are_not_kept(no_collector: None) -> None:
    """Neither the executor nor the `map` keeps inputs, results or jobs that it's done with."""
    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def source() -> Iterator[Item]:
        for _ in range(20):
            item = Item()
            alive.add(item)
            yield item
            del item

    async def job(item: Item) -> Item:
        await checkpoint()
        return item

    async with Executor(1) as executor:
        for ordered in (True, False):
            results = executor.map(job, source(), ordered=ordered, buffer=1)
            count = 0
            async for item in results:
                count += 1
                del item
                # Two are taken ahead, and one more may be on its way.
                assert len(alive) <= 3
            assert count == 20
            await all_blocked()
            assert not alive


@pytest.mark.parametrize("failing", [False, True])
async def test_dropped_map_is_freed(no_collector: None, failing: bool) -> None:
    """Once it has ended, nothing refers to a `map`, whatever became of it."""

    class Watched(list[Any]):
        pass

    async with Executor(1, on_error="log") as executor:
        inputs = Watched([Boom() if failing else 1] * 3)
        alive = weakref.ref(inputs)
        results = executor.map(fail if failing else double, inputs)
        try:
            await results
        except Boom:
            pass
        del results, inputs
        await all_blocked()
        assert alive() is None


# Arguments.


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        ((42, [1]), {}, TypeError, r"fn must be callable.*42"),
        ((double,), {}, TypeError, "at least one iterable"),
        ((double, 42), {}, TypeError, "iterable"),
        ((double, [1], None), {}, TypeError, "iterable"),
        ((), {"fn": double, "iterables": [1]}, TypeError, "fn"),
        ((double, [1]), {"slots": 3}, TypeError, "slots"),
        ((double, [1]), {"ordered": "yes"}, TypeError, r"ordered.*'yes'"),
        ((double, [1]), {"ordered": None}, TypeError, "ordered"),
        ((double, [1]), {"return_exceptions": 1}, TypeError, "return_exceptions"),
        ((double, [1]), {"return_exceptions": None}, TypeError, "return_exceptions"),
        ((double, [1]), {"buffer": -1}, ValueError, "buffer"),
        ((double, [1]), {"buffer": 1.5}, ValueError, "buffer"),
        ((double, [1]), {"buffer": math.nan}, ValueError, "buffer"),
        ((double, [1]), {"buffer": True}, TypeError, "buffer"),
        ((double, [1]), {"buffer": "x"}, TypeError, "buffer"),
    ],
)
def test_bad_arguments_are_refused_at_once(args, options: Any, error, match: str) -> None:
    """Each wrong argument is named, before anything is taken."""
    with pytest.raises(error, match=match):
        Executor(2).map(*args, **options)
