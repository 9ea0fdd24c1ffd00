"""Maps that go on after failures, and results with their inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from jobs import Boom, Starts, give, ticks
from virtual_time import virtual

from anyslots import Executor, JobCancelled, Rate, Results, amap

pytestmark = pytest.mark.anyio


async def double(number: int) -> int:
    await checkpoint()
    return 2 * number


async def fail_if_odd(number: int) -> int:
    """Later ones end earlier, where there are slots enough."""
    await ticks(40 - 3 * number)
    if number % 2:
        raise Boom(number)
    return number


def plain(count: int) -> Iterator[int]:
    return iter(range(count))


async def asynchronous(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await checkpoint()
        yield number


sources = pytest.mark.parametrize("source", [plain, asynchronous])


async def by_await(results: Results[Any]) -> list[Any]:
    return await results


async def by_loop(results: Results[Any]) -> list[Any]:
    return [each async for each in results]


async def by_block(results: Results[Any]) -> list[Any]:
    async with results as entered:
        return [each async for each in entered]


ways = pytest.mark.parametrize("take", [by_await, by_loop, by_block])


def kinds(results: list[Any]) -> list[Any]:
    return [type(each) if isinstance(each, BaseException) else each for each in results]


# Exceptions as results.


@ways
@sources
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("slots", "max_pending"), [(1, math.inf), (3, math.inf), (3, 2), (math.inf, math.inf)]
)
async def test_exceptions_take_the_place_of_results(
    take, source, ordered, slots, max_pending
) -> None:
    """Alone, and in pairs with their inputs; they count as retrieved: the block raises none."""
    async with Executor(slots, max_pending=max_pending) as executor:
        results = await take(
            executor.map(fail_if_odd, source(10), ordered=ordered, return_exceptions=True)
        )
        counts = executor.statistics()
        assert (counts.succeeded, counts.failed) == (5, 5)
        items = await take(
            executor.map(fail_if_odd, source(10), ordered=ordered, return_exceptions=True).items()
        )
    pairs = [result for _, result in items]
    for found in (results, pairs):
        numbers = [each.args[0] if isinstance(each, Boom) else each for each in found]
        assert found is results or [number for number, _ in items] == numbers
        assert [type(each) for each in found] == [Boom if n % 2 else int for n in numbers]
        assert sorted(numbers) == list(range(10))
        assert (numbers == sorted(numbers)) == (ordered or slots == 1)


@ways
async def test_a_cancelled_job_gives_job_cancelled(take) -> None:
    async def cancel_own(number: int) -> int:
        if number == 1:
            executor.cancel("because")
        await checkpoint()
        return number

    async with Executor(1) as executor:
        results = await take(executor.map(cancel_own, range(4), return_exceptions=True))
    assert kinds(results)[0] == 0
    assert JobCancelled in kinds(results)
    assert len(results) == 4
    assert "because" in str(results[1])


async def test_a_job_may_return_an_exception() -> None:
    error = Boom()
    async with Executor(2) as executor:
        assert await executor.map(give, [error, 1]) == [error, 1]
        assert await executor.map(give, [error, 1], return_exceptions=True) == [error, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_is_no_result(error) -> None:
    async def leave(_: int) -> None:
        await checkpoint()
        raise error

    with pytest.raises(error):
        async with Executor(2) as executor:
            await executor.map(leave, range(3), return_exceptions=True)


async def test_exceptions_keep_their_tracebacks_and_are_in_no_cycle() -> None:
    async with Executor(2) as executor:
        (error,) = await executor.map(fail_if_odd, [1], return_exceptions=True)
        lengths = set()
        for _ in range(3):
            length, traceback = 0, error.__traceback__
            while traceback is not None:
                length, traceback = length + 1, traceback.tb_next
            lengths.add(length)
        assert len(lengths) == 1
        assert 0 < lengths.pop() <= 2


# Results with their inputs.


@ways
async def test_of_several_iterables_the_input_is_a_tuple(take) -> None:
    async def add(a: int, b: int) -> int:
        await checkpoint()
        return a + b

    async with Executor(3) as executor:
        items = await take(executor.map(add, [1, 2], [3, 4]).items())
    assert items == [((1, 3), 4), ((2, 4), 6)]


async def test_items_of_what_cannot_be_hashed_or_compared() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError

    inputs = [Odd(), [], {}]
    async with Executor(3) as executor:
        items = await executor.map(give, inputs).items()
    assert all(found is given for (found, _), given in zip(items, inputs, strict=True))


async def test_items_without_exceptions_raise_the_first() -> None:
    async with Executor(1) as executor:
        taken = []
        with pytest.raises(Boom):
            async for item in executor.map(fail_if_odd, range(9)).items():
                taken += [item]
    assert taken == [(0, 0)]


@pytest.mark.parametrize("how", ["loop", "await", "block", "aclose"])
async def test_items_are_asked_for_before_the_first_result(how) -> None:
    async with Executor(2) as executor:
        results = executor.map(double, range(3))
        if how == "loop":
            await anext(results)
        elif how == "await":
            await results
        elif how == "block":
            await results.__aenter__()
        else:
            await results.aclose()
        with pytest.raises(RuntimeError, match="items"):
            results.items()
        await results.aclose()


# Several consumers.


@sources
@pytest.mark.parametrize("ordered", [True, False])
async def test_several_tasks_take_each_result_once(source, ordered) -> None:
    taken: list[tuple[int, Any]] = []

    async def consume(consumer: int) -> None:
        async for item in items:
            taken.append((consumer, item))
            for _ in range(1 + consumer):
                await checkpoint()

    async with Executor(4) as executor:
        items = executor.map(double, source(40), ordered=ordered).items()
        async with anyio.create_task_group() as group:
            for consumer in range(4):
                group.start_soon(consume, consumer)
    assert sorted(item for _, item in taken) == [(number, 2 * number) for number in range(40)]
    assert len({consumer for consumer, _ in taken}) > 1


@sources
async def test_with_several_consumers_a_failure_reaches_one_and_ends_all(source) -> None:
    ends: list[str] = []

    async def consume() -> None:
        try:
            async for _ in results:
                await checkpoint()
        except Boom:
            ends.append("failed")
        else:
            ends.append("ended")

    async def fail_late(number: int) -> int:
        await checkpoint()
        if number == 20:
            raise Boom
        return number

    async with Executor(4) as executor:
        results = executor.map(fail_late, source(1000))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(consume)
    assert sorted(ends) == ["ended", "ended", "ended", "failed"]


# Slots that are raised meanwhile.


@pytest.mark.parametrize("whose", ["executor", "lane"])
@sources
@virtual
async def test_more_slots_are_noticed_while_it_runs(whose: str, source: Any) -> None:
    starts = Starts()

    async def widen() -> None:
        await anyio.sleep(3)
        lane.slots = 5

    async with Executor(1 if whose == "executor" else 9) as executor:
        lane = executor if whose == "executor" else executor.lane(slots=1)
        async with anyio.create_task_group() as group:
            group.start_soon(widen)
            results = lane.map(starts, source(5), itertools.repeat(10), buffer=0)
            assert len([each async for each in results]) == 5
    assert anyio.current_time() == 13
    assert starts == [(0, 0), (1, 3), (2, 3), (3, 3), (4, 3)]


# A source that closes its own results.


@pytest.mark.parametrize("what", ["aclose", "next", "await"])
async def test_an_async_source_that_waits_for_its_own_map_is_an_error(what) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        with pytest.raises(RuntimeError, match="source"):
            if what == "aclose":
                await results.aclose()
            elif what == "next":
                await anext(results)
            else:
                await results
        yield 2

    async with Executor(2) as executor:
        results = executor.map(double, source())
        with anyio.fail_after(5):
            assert [each async for each in results] == [2, 4]


async def test_another_task_may_close_it_while_a_source_waits() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    async def close() -> None:
        await wait_all_tasks_blocked()
        await results.aclose()

    async with Executor(2) as executor:
        results = executor.map(double, source())
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(close)
                assert [each async for each in results] == [2]


# `amap`.


@sources
async def test_amap_returns_exceptions(source) -> None:
    results = await amap(fail_if_odd, source(4), slots=2, return_exceptions=True)
    assert kinds(results) == [0, Boom, 2, Boom]
    with pytest.raises(Boom):
        await amap(fail_if_odd, source(4), slots=2)


@virtual
async def test_amap_has_a_rate_and_a_timeout() -> None:
    async def sleep(seconds: float) -> float:
        await anyio.sleep(seconds)
        return anyio.current_time()

    options: Any = {"rate": Rate(1, per=2), "timeout": 3, "return_exceptions": True}
    assert kinds(await amap(sleep, [1, 5, 1], slots=9, **options)) == [1, TimeoutError, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": 1, "rate": 3},
        {"slots": 1, "timeout": 0},
        {"slots": 1, "retry": 3},
        {"slots": 1, "return_exceptions": 1},
        {"slots": 1, "return_exceptions": None},
    ],
)
async def test_bad_options_of_amap(options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=list(options)[-1]):
        await amap(double, [1], **options)
