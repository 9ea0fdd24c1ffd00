"""Submitting from plain callbacks of the event loop, outside of any task, with limits in time.

The programs start as users start them: `anyio.run` would leave a mark in each callback's context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
from runners import RUNNERS

from anyslots import Executor, Future, JobCancelled, QueueTimeout, Rate


async def give(value: object) -> object:
    return value


def run(loop_name: str, main: Callable[[], Awaitable[None]]) -> None:
    if loop_name == "trio":
        trio.run(main)
    elif loop_name == "uvloop":
        RUNNERS["uvloop.run"](main())
    else:
        asyncio.run(main(), debug=True)


async def in_callback(loop_name: str, fn: Callable[[], Any]) -> Any:
    """What ``fn`` returns, called by the event loop itself."""
    results: list[Any] = []
    called = anyio.Event()

    def callback() -> None:
        try:
            results.append(fn())
        finally:
            called.set()

    if loop_name == "trio":
        trio.lowlevel.current_trio_token().run_sync_soon(callback)
    else:
        asyncio.get_running_loop().call_soon(callback)
    await called.wait()
    return results[0]


LIMITS: list[dict[str, Any]] = [
    {"rate": Rate(1, per=0.01)},
    {"timeout": 60},
    {"queue_timeout": 60},
    {"max_pending": 2},
    {"rate": Rate(1, per=0.01), "timeout": 60, "queue_timeout": 60, "max_pending": 2},
]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: "+".join(limits))
def test_submitting_from_a_callback(loop_name: str, limits: dict[str, Any]):
    """A callback of the loop submits to executors and lanes that have limits in time."""

    async def main() -> None:
        async with Executor(1, **limits) as executor, Executor(1) as other:
            for place in (executor, other.lane(**limits)):
                futures = await in_callback(
                    loop_name,
                    lambda place=place: [place.submit(give, number) for number in range(2)],
                )
                assert [await future for future in futures] == [0, 1]

    run(loop_name, main)


def test_a_queued_job_of_a_callback_expires(loop_name: str):
    """A job that a callback submitted fails at its `queue_timeout`, and can be cancelled there."""

    async def main() -> None:
        async with Executor(1) as executor:
            running = executor.submit(anyio.sleep_forever)
            lane = executor.lane(queue_timeout=0.01)

            def submit() -> tuple[Future[object], Future[object]]:
                expires, cancelled = lane.submit(give, 1), lane.submit(give, 2)
                assert cancelled.cancel("by the callback")
                return expires, cancelled

            expires, cancelled = await in_callback(loop_name, submit)
            with pytest.raises(QueueTimeout):
                await expires
            with pytest.raises(JobCancelled, match="by the callback"):
                await cancelled
            assert await in_callback(loop_name, running.cancel)
            await running.wait()
            assert running.cancelled()

    run(loop_name, main)
