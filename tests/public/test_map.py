"""`map`: results in order or as they come, from inputs that are taken as they're needed."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from jobs import Boom, all_blocked, check_idle
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, JobCancelled

pytestmark = pytest.mark.anyio

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
either_order = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


class Source:
    """Counts what's taken, and knows whether it was closed; endless unless a length is given."""

    def __init__(self, length: float = math.inf, fails: bool = False) -> None:
        self.length = length
        self.fails = fails
        self.taken = 0
        self.closed = False

    def plain(self) -> Iterator[int]:
        try:
            while self.taken < self.length:
                self.taken += 1
                yield self.taken - 1
            if self.fails:
                raise Boom("source")
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


either_source = pytest.mark.parametrize("kind", ["sync", "async"])


async def double(number: int) -> int:
    await checkpoint()
    return 2 * number


# Beside the built-in `map`.


@virtual
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
    backend: str,
    slots: Any,
    lane_slots: Any,
    max_pending: Any,
    buffer: Any,
    ordered: bool,
    delays: list[int],
    fails: int | None,
    kind: str,
    pauses: int | None,
) -> None:
    """Results and the exception are the built-in `map`'s, or the same as a multiset out of order.

    ``pauses``: how long the consumer takes over each result; None: it asks for a list.
    """

    def plain(number: int, delay: int) -> tuple[int, int]:
        if number == fails:
            raise Boom(number)
        return number, delay

    expected: list[tuple[int, int]] = []
    failed = False
    try:
        expected.extend(map(plain, itertools.count(), delays))
    except Boom:
        failed = True

    async def main() -> None:
        async def job(number: int, delay: int) -> tuple[int, int]:
            nonlocal running
            running += 1
            assert running <= limit
            starts.append(number)
            await anyio.sleep(delay)
            running -= 1
            result = plain(number, delay)
            finished.append(result)
            return result

        def items() -> Any:
            if kind == "list":
                return delays
            return iterate(delays) if kind == "sync" else aiterate(delays)

        def took(number: int) -> None:
            nonlocal taken
            taken += 1
            assert taken - len(results) <= limit + (limit if buffer is None else buffer)

        def iterate(items: list[int]) -> Iterator[int]:
            for item in items:
                took(item)
                yield item

        async def aiterate(items: list[int]) -> AsyncIterator[int]:
            for item in items:
                await anyio.sleep(item // 3)
                took(item)
                yield item

        running = taken = 0
        limit = min(slots, lane_slots or math.inf)
        starts: list[int] = []
        finished: list[tuple[int, int]] = []
        results: list[tuple[int, int]] = []
        error: Exception | None = None
        async with Executor(slots, on_error="log", max_pending=max_pending) as executor:
            lane = executor if lane_slots is None else executor.lane(slots=lane_slots)
            both = lane.map(job, itertools.count(), items(), ordered=ordered, buffer=buffer)
            try:
                if pauses is None:
                    results += await both
                else:
                    async for result in both:
                        results.append(result)
                        await anyio.sleep(pauses)
            except Boom as exc:
                error = exc
            if error is not None:
                assert [result async for result in both] == []
            check_idle(executor)
        assert (error is not None) == failed
        assert starts == sorted(starts)
        assert starts == list(range(len(starts)))
        if ordered and pauses is not None:
            assert results == expected
        elif pauses is not None:
            # In the order in which they were done.
            assert results == finished[: len(results)]
        if not failed:
            assert Counter(results) == Counter(expected)
            assert results == (expected if ordered else finished)

    # A list isn't watched while it's made: what's taken ahead of it is what isn't done.
    if pauses is None:
        kind = "list"
    run_in_virtual_time(backend, main)


@either_order
@pytest.mark.parametrize("kind", ["list", "sync", "async"])
async def test_nothing_to_map(kind: str, ordered: bool) -> None:
    """Of empty inputs there are no results, at once."""

    def empty() -> Any:
        return [] if kind == "list" else Source(0).of_kind(kind)

    async with Executor(2) as executor:
        assert await executor.map(double, empty(), ordered=ordered) == []
        assert [x async for x in executor.map(double, empty(), ordered=ordered)] == []
        async with executor.map(double, empty(), ordered=ordered) as results:
            assert [x async for x in results] == []
        await executor.join()
        assert executor.statistics().submitted == 0


async def test_several_iterables_of_different_lengths() -> None:
    """`fn` gets one item of each iterable, of whatever kinds, until the shortest one ends."""

    async def add(*numbers: int) -> int:
        await checkpoint()
        return sum(numbers)

    async with Executor(2) as executor:
        results = executor.map(add, [1, 2, 3], Source().slow(), iter([10, 20, 30, 40]))
        assert await results == [11, 23, 35]
        assert await executor.map(add, Source().plain(), range(2), range(3)) == [0, 3]
        assert await executor.map(add, *[range(2)] * 6) == [0, 6]


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


async def test_entering_after_iterating_goes_on() -> None:
    """The first result may be taken before the block that closes the rest."""
    async with Executor(2) as executor:
        results = executor.map(double, range(4))
        assert await anext(results) == 0
        async with results:
            assert await anext(results) == 2
        assert [result async for result in results] == []


async def test_awaiting_after_iterating_gives_the_rest() -> None:
    """What's awaited after some results were given out is the list of the others."""
    async with Executor(2) as executor:
        results = executor.map(double, range(5))
        assert await anext(results) == 0
        assert await results == [2, 4, 6, 8]
        assert await results == []


# How much is taken.


@virtual
@either_source
@either_order
@pytest.mark.parametrize("buffer", [None, 0, 1, 5])
@pytest.mark.parametrize("bounded", [False, True], ids=["", "bounded"])
@pytest.mark.parametrize("lane_slots", [math.inf, 2])
def test_endless_inputs_are_taken_up_to_the_bound(
    backend: str, kind: str, ordered: bool, buffer: int | None, bounded: bool, lane_slots: float
) -> None:
    """With nobody asking, exactly ``slots + buffer`` are taken; and as many ahead of who asks."""

    async def main() -> None:
        source, received = Source(), 0
        async with Executor(3) as executor:
            lane = executor.lane(slots=lane_slots, max_pending=1 if bounded else math.inf)
            slots = int(min(3, lane_slots))
            bound = slots + (slots if buffer is None else buffer)
            results = lane.map(double, source.of_kind(kind), ordered=ordered, buffer=buffer)
            async with results:
                await anyio.sleep(1)
                assert source.taken == bound
                async for _ in results:
                    received += 1
                    assert source.taken <= received + bound
                    if received == 20:
                        break
                await anyio.sleep(1)
                assert source.taken <= received + bound
            assert source.closed
            taken = source.taken
            await anyio.sleep(1)
            assert source.taken == taken
            check_idle(executor)

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("buffer", [0, 1, 4, 10])
@pytest.mark.parametrize("slow", [0, 3])
def test_slow_head_stops_nobody_until_the_buffer_is_full(
    backend: str, buffer: int, slow: int
) -> None:
    """In order, jobs go on behind a slow one until ``slots + buffer`` are taken ahead of it."""

    async def main() -> None:
        async def job(number: int) -> int:
            await anyio.sleep(100 if number == slow else 1)
            done.append(number)
            return number

        done: list[int] = []
        async with Executor(2) as executor:
            results = executor.map(job, itertools.count(), buffer=buffer)
            async with results:
                for number in range(slow):
                    assert await anext(results) == number
                with anyio.move_on_after(50):
                    await anext(results)
                # All but the slow one have been done that may be.
                assert sorted(done) == [n for n in range(slow + 2 + buffer) if n != slow]
                assert await anext(results) == slow
                assert anyio.current_time() < 110

    run_in_virtual_time(backend, main)


@virtual
@either_order
def test_jobs_go_on_while_the_consumer_is_busy(backend: str, ordered: bool) -> None:
    """A consumer that takes its time finds as many results as the buffer holds."""

    async def main() -> None:
        async def job(number: int) -> int:
            await anyio.sleep(1)
            done.append(number)
            return number

        done: list[int] = []
        async with Executor(1) as executor:
            results = executor.map(job, itertools.count(), ordered=ordered, buffer=3)
            async with results:
                assert await anext(results) == 0
                await anyio.sleep(50)
                assert done == [0, 1, 2, 3, 4]
                before = anyio.current_time()
                assert [await anext(results) for _ in range(4)] == [1, 2, 3, 4]
                assert anyio.current_time() == before

    run_in_virtual_time(backend, main)


@virtual
def test_source_is_pulled_while_jobs_run(backend: str) -> None:
    """Waiting for the next input and running the job of the last one overlap, with one slot."""

    async def main() -> None:
        async def source() -> AsyncIterator[int]:
            for number in range(5):
                await anyio.sleep(1)
                yield number

        async def job(number: int) -> int:
            nonlocal running
            running += 1
            assert running == 1
            await anyio.sleep(1)
            running -= 1
            return number

        running = 0
        async with Executor(1) as executor:
            assert await executor.map(job, source(), buffer=1) == list(range(5))
        assert anyio.current_time() == 6

    run_in_virtual_time(backend, main)


async def test_a_list_of_nothing_is_a_checkpoint() -> None:
    """Awaited, a `map` of nothing can be cancelled like any other."""
    async with Executor(1) as executor:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await executor.map(double, [])
        assert scope.cancelled_caught


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
def test_slots_are_looked_at_again(backend: str) -> None:
    """More slots let more be taken ahead."""

    async def main() -> None:
        source = Source()
        async with Executor(1) as executor, executor.map(double, source.plain()) as results:
            await anyio.sleep(1)
            assert source.taken == 2
            executor.slots = 4
            await anext(results)
            await anyio.sleep(1)
            assert source.taken == 1 + 8

    run_in_virtual_time(backend, main)


# Leaving early.


async def leave_by_break(results: Any) -> None:
    async with results:
        async for _ in results:
            break


async def leave_by_aclose(results: Any) -> None:
    await anext(results)
    await results.aclose()
    await results.aclose()


async def leave_by_exception(results: Any) -> None:
    with pytest.raises(Boom):
        async with results:
            await anext(results)
            raise Boom


async def leave_without_asking(results: Any) -> None:
    async with results:
        await all_blocked()


async def leave_by_cancelling_the_list(results: Any) -> None:
    async with anyio.create_task_group() as tg:

        async def ask() -> None:
            await results

        tg.start_soon(ask)
        await all_blocked()
        tg.cancel_scope.cancel()


@either_source
@either_order
@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_aclose,
        leave_by_exception,
        leave_without_asking,
        leave_by_cancelling_the_list,
    ],
    ids=lambda leave: leave.__name__,
)
async def test_leaving_early_ends_everything(leave: Any, kind: str, ordered: bool) -> None:
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

    async with Executor(2) as executor:
        results = executor.map(job, source.of_kind(kind), ordered=ordered)
        await leave(results)
        assert source.closed
        assert running == 0
        check_idle(executor)
        taken, submitted = source.taken, executor.statistics().submitted
        await all_blocked()
        assert (source.taken, executor.statistics().submitted) == (taken, submitted)
        assert [result async for result in results] == []
        assert await results == []


@either_source
async def test_source_is_closed_at_its_end(kind: str) -> None:
    """A source that has given all, or as much as the shortest one, is closed."""
    source, longer = Source(3), Source()

    async def first(number: int, other: int) -> int:
        return number

    async with Executor(2) as executor:
        results = executor.map(first, source.of_kind(kind), longer.of_kind(kind))
        assert await results == [0, 1, 2]
        assert source.closed
        assert longer.closed


@either_source
async def test_breaking_out_without_closing(kind: str) -> None:
    """A loop that's left and forgotten doesn't keep the executor's block from ending."""
    source = Source()
    async with Executor(2) as executor:
        async for _ in executor.map(double, source.of_kind(kind)):
            break
    assert source.closed
    check_idle(executor)


@virtual
@either_order
def test_cancelled_consumer_loses_nothing(backend: str, ordered: bool) -> None:
    """Cancelled at whatever moment, that in which a result arrives included, a loop goes on."""

    async def main() -> None:
        async def job(number: int) -> int:
            await anyio.sleep(1)
            return number

        got = []
        async with Executor(1) as executor:
            results = executor.map(job, range(6), ordered=ordered, buffer=0)
            for patience in itertools.cycle([1, 0.5, 0]):
                with anyio.move_on_after(patience) as scope:
                    async for result in results:
                        got.append(result)
                if not scope.cancelled_caught:
                    break
                await anyio.sleep(0.5)
        assert got == list(range(6))

    run_in_virtual_time(backend, main)


async def test_consumer_cancelled_in_the_tick_of_a_result() -> None:
    """A result that arrives together with the consumer's cancellation is the next one's."""
    event, got = anyio.Event(), []

    async def job(number: int) -> int:
        await event.wait()
        return number

    async with Executor(1) as executor, executor.map(job, range(2)) as results:
        async with anyio.create_task_group() as tg:

            async def consume() -> None:
                got.append(await anext(results))

            tg.start_soon(consume)
            await all_blocked()
            event.set()
            for _ in range(2):
                await checkpoint()
            tg.cancel_scope.cancel()
        got += [result async for result in results]
    assert got == [0, 1]


@virtual
def test_closing_waits_for_jobs_that_take_their_time(backend: str) -> None:
    """`aclose` ends once the jobs have unwound, even if it's cancelled itself meanwhile."""

    async def main() -> None:
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

    run_in_virtual_time(backend, main)


# Failures.


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


@either_source
@either_order
async def test_error_of_the_source_comes_out_after_the_results(kind: str, ordered: bool) -> None:
    """What a source raises is raised as it is, after the results of what it gave before."""
    async with Executor(2) as executor:
        results, got = executor.map(double, Source(5, True).of_kind(kind), ordered=ordered), []
        with pytest.raises(Boom, match="source"):
            async for result in results:
                got.append(result)
        assert sorted(got) == [0, 2, 4, 6, 8]
        with pytest.raises(Boom, match="source"):
            await executor.map(double, Source(5, True).of_kind(kind), ordered=ordered)
        check_idle(executor)


async def test_error_of_closing_the_source_comes_out() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise Boom("closing")

    async def first(number: int, _: object) -> int:
        return number

    async with Executor(1) as executor:
        with pytest.raises(Boom, match="closing"):
            await executor.map(first, source(), [0])


def unclosable() -> Iterator[int]:
    try:
        while True:
            yield 1
    finally:
        raise Boom("closing")


async def unclosable_too() -> AsyncIterator[int]:
    try:
        while True:
            yield 1
    finally:
        raise Boom("closing")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("leave", ["the block", "aclose"])
async def test_error_of_closing_the_source_early_comes_out(leave, asynchronous) -> None:
    """Who leaves early is told if the source can't be closed, too; once."""

    async with Executor(1) as executor:
        results = executor.map(double, unclosable_too() if asynchronous else unclosable())
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


async def test_error_of_closing_the_source_hides_no_other() -> None:
    """An exception that leaves the block, or a job's, goes on though the source can't be closed."""

    async def fail(_: int) -> None:
        raise KeyError("job")

    async with Executor(1, on_error="log") as executor:
        with pytest.raises(KeyError, match="body"):
            async with executor.map(double, unclosable_too()) as results:
                assert await anext(results) == 2
                raise KeyError("body")
        with pytest.raises(KeyError, match="job"):
            async for _ in executor.map(fail, unclosable_too()):
                pass
        with pytest.raises(KeyError, match="job"):
            await executor.map(fail, unclosable_too())


async def test_old_fashioned_sequences() -> None:
    """What `iter` takes, `map` takes: objects that have but `__getitem__`, too."""

    class Squares:
        def __getitem__(self, index: int) -> int:
            if index == 4:
                raise IndexError
            return index**2

    async with Executor(2) as executor:
        assert await executor.map(double, Squares()) == [0, 2, 8, 18]  # type: ignore[arg-type]


async def test_cancelled_job_raises_at_its_place() -> None:
    """A job that's cancelled, here all of them, counts as a failure."""
    async with Executor(2) as executor, executor.map(anyio.sleep, [1000, 1000]) as results:
        await all_blocked()
        executor.cancel("test")
        with pytest.raises(JobCancelled, match="test"):
            await anext(results)


async def test_jobs_that_raise_stop_iteration() -> None:
    """A job's StopIteration, or StopAsyncIteration, doesn't end a loop as if all were done."""

    async def job(error: type[Exception]) -> None:
        raise error

    async with Executor(1) as executor:
        for error in (StopIteration, StopAsyncIteration):
            with pytest.raises(RuntimeError, match=error.__name__):
                async for _ in executor.map(job, [error]):
                    pass


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
        assert got[:3] == [0, 2, 4]
        assert got == [2 * number for number in range(len(got))]
        check_idle(executor)


@either_order
@pytest.mark.parametrize("way", ["list", "stream"])
async def test_block_left_while_another_task_maps(way: str, ordered: bool) -> None:
    """A `map` whose executor ends before its inputs do raises; it doesn't give less as if all."""
    ended: list[Any] = []

    async def source() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    async def consume(executor: Executor) -> None:
        results = executor.map(double, source(), ordered=ordered)
        try:
            if way == "list":
                ended.append(await results)
            else:
                ended.append([result async for result in results])
        except (ExecutorClosed, JobCancelled) as exc:
            ended.append(exc)

    async with anyio.create_task_group() as tg, Executor(1) as executor:
        tg.start_soon(consume, executor)
        await all_blocked()
    assert len(ended) == 1
    assert isinstance(ended[0], Exception)


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


@virtual
@either_order
def test_map_inside_a_job(backend: str, ordered: bool) -> None:
    """A job may map over its own executor with one slot, and leave early, or be cancelled."""

    async def main() -> None:
        async def leaf(number: int) -> int:
            await anyio.sleep(1)
            return number

        async def whole() -> list[int]:
            return await executor.map(leaf, range(5), ordered=ordered)

        async def early() -> int:
            async with executor.map(leaf, itertools.count(), ordered=ordered) as results:
                return await anext(results)

        async def lasting() -> None:
            async for _ in executor.map(leaf, itertools.count(), ordered=ordered):
                pass

        async with Executor(1) as executor:
            assert await executor.submit(whole) == list(range(5))
            assert await executor.submit(early) == 0
            check_idle(executor)
            before = anyio.current_time()
            future = executor.submit(lasting)
            await anyio.sleep(3)
            future.cancel()
            await future.wait()
            assert future.cancelled()
            assert anyio.current_time() == before + 3

    run_in_virtual_time(backend, main)


# Memory.


class Item:
    """Something that a weak reference may refer to."""


async def test_results_given_out_are_not_kept(no_collector: None) -> None:
    """Neither the executor nor the `map` keeps inputs, results or jobs that it's done with."""
    alive: list[weakref.ref[Item]] = []

    def source() -> Iterable[Item]:
        for _ in range(20):
            item = Item()
            alive.append(weakref.ref(item))
            yield item
            del item

    async def job(item: Item) -> Item:
        await checkpoint()
        return item

    async with Executor(1) as executor:
        for ordered in (True, False):
            del alive[:]
            results = executor.map(job, source(), ordered=ordered, buffer=1)
            count = 0
            async for item in results:
                count += 1
                del item
                # Two are taken ahead, and one more may be on its way.
                assert sum(ref() is not None for ref in alive) <= 3
            assert count == 20
            await all_blocked()
            assert all(ref() is None for ref in alive)


async def test_dropped_map_is_freed(no_collector: None) -> None:
    """Once it has ended, nothing refers to a `map`, whatever became of it."""
    refs = []

    async def fail(number: int) -> None:
        raise Boom

    class Watched(list[int]):
        pass

    async with Executor(1, on_error="log") as executor:
        for fn in (double, fail):
            inputs = Watched(range(3))
            refs.append(weakref.ref(inputs))
            results = executor.map(fn, inputs)
            try:
                await results
            except Boom:
                pass
            del results, inputs
        await all_blocked()
        assert [ref() for ref in refs] == [None, None]


# Arguments.


def test_bad_arguments_are_refused_at_once() -> None:
    """Each wrong argument is named, before anything is taken."""
    executor = Executor(2)
    with pytest.raises(TypeError, match=r"fn must be callable.*42"):
        executor.map(42, [1])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="at least one iterable"):
        executor.map(double)
    with pytest.raises(TypeError, match="iterable"):
        executor.map(double, 42)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="iterable"):
        executor.map(double, [1], None)
    with pytest.raises(TypeError, match=r"ordered.*'yes'"):
        executor.map(double, [1], ordered="yes")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="fn"):
        executor.map(fn=double, iterables=[1])
    with pytest.raises(TypeError, match="slots"):
        executor.map(double, [1], slots=3)


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (-1, ValueError),
        (1.5, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("x", TypeError),
    ],
)
def test_bad_buffers_are_refused_at_once(buffer: Any, error: type[Exception]) -> None:
    """A buffer is a whole number from 0, or infinite."""
    with pytest.raises(error, match="buffer"):
        Executor(1).map(double, [1], buffer=buffer)


async def test_function_that_is_not_async() -> None:
    """What can't be awaited is the failure of its job, at its place."""
    async with Executor(1) as executor:
        with pytest.raises(TypeError, match="can't be awaited"):
            await executor.map(len, ["x"])  # type: ignore[arg-type]


@virtual
@pytest.mark.parametrize("buffer", [None, math.inf])
def test_more_inputs_than_are_taken_at_once(buffer: float | None, backend: str) -> None:
    """A list of thousands in any order is made though no job has ended when others get a turn."""

    async def main() -> None:
        async def job(number: int) -> int:
            await anyio.sleep(1)
            return number

        async with Executor(2000) as executor:
            found = await executor.map(job, range(2500), ordered=False, buffer=buffer)
        assert sorted(found) == list(range(2500))

    run_in_virtual_time(backend, main)


async def test_closing_a_map_that_has_not_begun_is_not_cut_short() -> None:
    """`aclose` closes the sources though it's cancelled, and may be called again."""
    closed = []

    class Source:
        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await checkpoint()
            closed.append(self)

    async with Executor(1) as executor:
        results = executor.map(double, Source())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await results.aclose()
        assert len(closed) == 1
        with anyio.fail_after(5):
            await results.aclose()


async def test_a_failure_behind_a_loop_that_was_left_is_held() -> None:
    async def fail_second(number: int) -> int:
        if number == 1:
            raise Boom
        return number

    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(2) as executor:
            async with executor.map(fail_second, range(2)) as results:
                async for _ in results:
                    await wait_all_tasks_blocked()
                    break
    assert [type(each) for each in caught.value.exceptions] == [Boom]


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
