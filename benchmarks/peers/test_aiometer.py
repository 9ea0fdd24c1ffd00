"""What aiometer is used for, said with executors: `run_on_each`, `run_all`, `amap`, `run_any`.

``max_at_once`` is `slots`, and ``max_per_second`` is ``rate=Rate(1, 1 / max_per_second)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Rate, amap, first_result, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

FRUIT = ["apple", "banana", "cherry", "apple"]
Runner = Callable[[Executor, Any, int], Awaitable[object]]


async def run_on_each(executor: Executor, fn: Any, count: int) -> None:
    """Call a function with each item; there are no results."""
    for number in range(count):
        executor.submit(fn, number)
    await executor.join()


async def run_all(executor: Executor, fn: Any, count: int) -> list[object]:
    """Call several functions; their results are in the order of the functions."""
    return await gather(*[executor.submit(partial(fn, number)) for number in range(count)])


async def map_unordered(executor: Executor, fn: Any, count: int) -> list[object]:
    """Call a function with each item; each result comes when it's there."""
    async with executor.map(fn, range(count), ordered=False) as results:
        return [result async for result in results]


async def run_any(executor: Executor, fn: Any, count: int) -> object:
    """Call several functions until one of them has returned."""
    return await first_result(*[executor.submit(fn, number) for number in range(count)])


every_runner = pytest.mark.parametrize("run", [run_on_each, run_all, map_unordered, run_any])


def test_each_item_is_processed(backend: str) -> None:
    """The function is called with every item, the same ones too."""

    async def main() -> None:
        async def process(item: str) -> None:
            seen.append(item)

        seen: list[str] = []
        async with Executor(10) as executor:
            for item in FRUIT:
                executor.submit(process, item)
        assert seen == FRUIT

    run_in_virtual_time(backend, main)


def test_results_are_in_the_order_of_the_functions(backend: str) -> None:
    """However long each takes, its result is where it was asked for."""

    async def main() -> None:
        async def fast() -> str:
            return "fast"

        async def slow() -> str:
            await anyio.sleep(1)
            return "slow"

        async with Executor(10) as executor:
            assert await gather(executor.submit(fast), executor.submit(slow)) == ["fast", "slow"]
            assert await gather(executor.submit(slow), executor.submit(fast)) == ["slow", "fast"]
            assert await first_result(executor.submit(slow), executor.submit(fast)) == "fast"
            await executor.join()
        assert anyio.current_time() == 2

    run_in_virtual_time(backend, main)


def test_results_come_as_they_are_there(backend: str) -> None:
    """Each result is given out at the time at which its job ends."""

    async def main() -> None:
        async def process(seconds: int) -> int:
            await anyio.sleep(seconds)
            return seconds

        async with Executor(10) as executor:
            results = executor.map(process, [3, 1, 2], ordered=False)
            ends = [(result, anyio.current_time()) async for result in results]
            assert ends == [(1, 1), (2, 2), (3, 3)]

        async def capitalize(item: str) -> str:
            return item.capitalize()

        assert await amap(capitalize, FRUIT, slots=2) == ["Apple", "Banana", "Cherry", "Apple"]

    run_in_virtual_time(backend, main)


def test_results_that_nobody_reads(backend: str) -> None:
    """To have every job run and read no result, submit the jobs: the block waits for them."""

    async def main() -> None:
        async def process(item: str) -> str:
            await anyio.sleep(1)
            calls.append(item)
            return item

        calls: list[str] = []
        async with Executor(2) as executor:
            for item in FRUIT:
                executor.submit(process, item)
        assert sorted(calls) == sorted(FRUIT)
        assert anyio.current_time() == 2

    run_in_virtual_time(backend, main)


def test_failure_ends_the_loop_over_results(backend: str) -> None:
    """A job's exception comes out of the loop as itself, and the others are cancelled."""

    class Failure(Exception):
        pass

    async def main() -> None:
        async def process(item: str) -> str:
            if item == "fail":
                raise Failure
            await anyio.sleep(9)
            return item

        async with Executor(10) as executor:
            with pytest.raises(Failure):
                async with executor.map(process, [*FRUIT, "fail"], ordered=False) as results:
                    async for _ in results:
                        pytest.fail("the failure is first")
            assert executor.statistics().cancelled == 4
        assert anyio.current_time() == 0

    run_in_virtual_time(backend, main)


@every_runner
@pytest.mark.parametrize("max_at_once", [1, 2, 5, 10, 20])
def test_max_at_once(backend: str, run: Runner, max_at_once: int) -> None:
    """As many calls as there are slots run at once, and never more."""

    async def main() -> None:
        async def call(_: object) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(1)
            running -= 1

        running = most = 0
        async with Executor(max_at_once) as executor:
            await run(executor, call, 30)
        assert most == max_at_once

    run_in_virtual_time(backend, main)


@every_runner
@pytest.mark.parametrize("max_per_second", [1, 5, 10, 100])
def test_max_per_second(backend: str, run: Runner, max_per_second: int) -> None:
    """Calls start evenly spaced, however fast they are and however many slots are free."""

    async def main() -> None:
        async def call(_: object) -> None:
            starts.append(anyio.current_time())
            if run is run_any:
                await anyio.sleep(100)

        starts: list[float] = []
        async with Executor(10, rate=Rate(1, 1 / max_per_second)) as executor:
            await run(executor, call, 4)
        assert starts == pytest.approx([number / max_per_second for number in range(4)])

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("max_at_once", [0, -1, -10])
def test_max_at_once_must_be_positive(backend: str, max_at_once: int) -> None:
    """A limit of nothing is refused."""

    async def main() -> None:
        with pytest.raises(ValueError, match="slots"):
            await amap(anyio.sleep, [0], slots=max_at_once)

    run_in_virtual_time(backend, main)
