"""`testing.format_stacks`: where each running job is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from types import coroutine
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyslots import Executor, Rate, Retry
from anyslots.testing import format_stacks

pytestmark = pytest.mark.anyio


def functions_of(paragraph: str) -> list[str]:
    """The functions in a stack that are in this file, the outermost first."""
    return re.findall(r'File "[^"]*test_stacks\.py", line \d+, in (?:\w+\.)*(\w+)', paragraph)


def stacks_of(text: str) -> dict[str, list[str]]:
    """The functions of this file in each paragraph, by its first line."""
    paragraphs = [each for each in text.split("\n\n") if not each.startswith("queued:")]
    return {each.partition("\n")[0]: functions_of(each) for each in paragraphs}


async def sleep() -> None:
    await anyio.sleep_forever()


# What awaits `sleep` in its own way.


async def plainly() -> None:
    await sleep()


async def in_a_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        await sleep()

    async for _ in numbers():
        pass


async def in_a_closing_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await sleep()

    generator: Any = numbers()
    await anext(generator)
    await generator.aclose()


async def with_a_default() -> None:
    async def numbers() -> AsyncIterator[int]:
        await sleep()
        yield 1

    await anext(numbers(), None)


async def through_an_awaitable() -> None:
    class Waits:
        def __await__(self) -> Generator[Any, Any, None]:
            return sleep().__await__()

    await Waits()


async def from_a_plain_generator() -> None:
    @coroutine
    def delegate() -> Generator[Any, Any, None]:
        yield from sleep().__await__()

    await delegate()


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (plainly, ["plainly", "sleep"]),
        (in_a_generator, ["in_a_generator", "numbers", "sleep"]),
        (in_a_closing_generator, ["in_a_closing_generator", "numbers", "sleep"]),
        (with_a_default, ["with_a_default", "numbers", "sleep"]),
        (through_an_awaitable, ["through_an_awaitable", "sleep"]),
        (from_a_plain_generator, ["from_a_plain_generator", "delegate", "sleep"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_the_whole_stack_is_told(fn: Callable[[], Awaitable[None]], expected: Any) -> None:
    async with Executor(1) as executor:
        executor.submit(fn)
        await anyio.wait_all_tasks_blocked()
        assert stacks_of(format_stacks(executor)) == {f"job {fn.__name__}, slot 0": expected}
        executor.cancel()


async def test_a_line_of_source_is_told() -> None:
    async with Executor(1) as executor:
        executor.submit(plainly)
        await anyio.wait_all_tasks_blocked()
        assert "in plainly\n    await sleep()\n" in format_stacks(executor)
        executor.cancel()


async def test_jobs_are_told_by_slot_with_their_lane() -> None:
    async with Executor(3) as executor:
        lane = executor.lane("api")
        for owner in (lane, executor, lane.lane("inside")):
            owner.submit(sleep)
        await anyio.wait_all_tasks_blocked()
        first, second, third = (
            "job sleep, lane 'api', slot 0",
            "job sleep, slot 1",
            "job sleep, lane 'inside', slot 2",
        )
        assert list(stacks_of(format_stacks(executor))) == [first, second, third]
        assert list(stacks_of(format_stacks(lane))) == [first, third]
        executor.cancel()


async def test_a_job_that_waits_for_another_has_lent_its_slot() -> None:
    async def outer() -> None:
        await executor.submit(sleep)

    async with Executor(1) as executor:
        executor.submit(outer)
        await anyio.wait_all_tasks_blocked()
        stacks = stacks_of(format_stacks(executor))
        assert [functions[0] for functions in stacks.values()] == ["sleep", "outer"]
        assert [line.partition(", ")[2] for line in stacks] == ["slot 0", "slot lent"]
        executor.cancel()


async def test_a_block_that_occupies_a_slot_is_told_with_its_task() -> None:
    async def block() -> None:
        async with executor.slot():
            await sleep()

    async with Executor(1) as executor, anyio.create_task_group() as group:
        group.start_soon(block, name="a block")
        await anyio.wait_all_tasks_blocked()
        assert stacks_of(format_stacks(executor)) == {"job a block, slot 0": ["block", "sleep"]}
        group.cancel_scope.cancel()


async def test_slots_inside_one_another_are_all_told() -> None:
    async def job() -> None:
        async with executor.slot(), executor.slot():
            await sleep()

    async with Executor(1) as executor:
        executor.submit(job)
        await anyio.wait_all_tasks_blocked()
        assert list(stacks_of(format_stacks(executor)).values()) == [["job", "sleep"]] * 3
        assert format_stacks(executor).count("slot lent") == 2
        executor.cancel()


async def test_a_job_sees_itself_run() -> None:
    async def look() -> str:
        await checkpoint()
        return format_stacks(executor)

    async with Executor(1) as executor:
        text = await executor.submit(look)
    ((first, functions),) = stacks_of(text).items()
    assert first.endswith("look, slot 0")
    assert functions == ["look"]
    assert "in format_stacks" in text


async def test_a_job_that_blocks_the_event_loop_is_told_to_other_threads() -> None:
    told: list[str] = []
    looked = threading.Event()

    def look() -> None:
        while "in block" not in "".join(told):
            told[:] = [format_stacks(executor)]
            time.sleep(0.001)
        looked.set()

    async def block() -> bool:
        return looked.wait(10)

    async with Executor(2) as executor:
        executor.submit(sleep)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=look)
        thread.start()
        assert await executor.submit(block)
        executor.cancel()
    thread.join()
    assert list(stacks_of(told[0]).values()) == [["sleep"], ["block"]]


async def test_queued_jobs_are_counted_with_what_holds_them_up() -> None:
    async with Executor(1) as executor:
        paused = executor.lane("paused")
        paused.pause()
        limited = executor.lane("limited", rate=Rate(1, per=3600))
        gated = executor.lane("gated", gate=sleep)
        await limited.submit(checkpoint)
        for owner in (paused, paused, limited, gated):
            owner.submit(sleep)
        await anyio.wait_all_tasks_blocked()
        assert sorted(format_stacks(executor).splitlines()) == [
            "  1 in lane 'gated', waits for its gate",
            "  1 in lane 'limited', waits for its rate",
            "  2 in lane 'paused', paused",
            "queued:",
        ]
        executor.submit(sleep)
        executor.submit(sleep)
        await anyio.wait_all_tasks_blocked()
        assert "\n  1 in the executor itself\n" in format_stacks(executor)
        executor.cancel()


async def test_how_long_ago_it_started_is_told_where_it_is_known() -> None:
    again = anyio.Event()

    async def fail_once() -> None:
        if job.attempts == 1:
            raise OSError
        again.set()
        await sleep()

    async with Executor(2, retry=Retry(wait=0)) as executor:
        executor.submit(sleep)
        job = executor.submit(fail_once)
        await again.wait()
        first, second = stacks_of(format_stacks(executor))
        assert re.fullmatch(r"job sleep, slot 0, started \d\.\d seconds ago", first)
        pattern = r"job .*fail_once, slot 1, attempt 2, the first started \d\.\d seconds ago"
        assert re.fullmatch(pattern, second)
        executor.cancel()


async def test_a_job_that_is_a_task_is_told_with_the_task(loop_name: str) -> None:
    if loop_name == "trio":
        return
    import asyncio

    def start() -> asyncio.Task[None]:
        return asyncio.ensure_future(plainly())

    async with Executor(1) as executor:
        executor.submit(start)
        await anyio.wait_all_tasks_blocked()
        ((_, functions),) = stacks_of(format_stacks(executor)).items()
        assert functions == ["plainly", "sleep"]
        executor.cancel()


async def test_there_are_no_jobs_outside_of_the_block() -> None:
    executor = Executor(1)
    assert format_stacks(executor) == "no jobs\n"
    async with executor:
        assert format_stacks(executor) == "no jobs\n"
    assert format_stacks(executor) == "no jobs\n"


@pytest.mark.parametrize("wrong", [None, Executor, partial(Executor, 1)])
def test_anything_else_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor must be an anyslots Executor or Lane"):
        format_stacks(wrong)
