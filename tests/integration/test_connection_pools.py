"""A connection pool loses nothing over random cancellations, timeouts and shutdowns of jobs."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import serve
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from anyslots import Executor, wait

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.engines,
    # aiosqlite leaves a connection to the collector that is cancelled as it opens.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]

ROUNDS = 50
JOBS = 10
SIZE = 3


@pytest.fixture(autouse=True)
def _asyncio_only(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("asyncio's own")


async def interrupt_at_random(job: Callable[[], Awaitable[object]], seed: int) -> int:
    """Run a job many times, most of them ended in some way before it has; return how many were."""
    choose = random.Random(seed)
    interrupted = 0
    for _ in range(ROUNDS):
        timeout = choose.choice([None, 0.001, 0.002, 0.004])
        async with Executor(SIZE + 1, on_error="log", timeout=timeout) as executor:
            futures = [executor.submit(job) for _ in range(JOBS)]
            for future in choose.sample(futures, 5):
                await asyncio.sleep(choose.uniform(0, 0.001))
                future.cancel()
            how = choose.choice(["cancel", "shutdown", "wait"])
            if how == "cancel":
                executor.cancel()
            elif how == "shutdown":
                await executor.shutdown(grace=choose.uniform(0, 0.002))
            await wait(futures)
        for future in futures:
            interrupted += future.cancelled() or isinstance(future.error, TimeoutError)
            assert future.cancelled() or isinstance(future.error, TimeoutError | None)
    return interrupted


@pytest.mark.parametrize("seed", range(2))
async def test_sqlalchemy_with_aiosqlite(seed: int, tmp_path: Path) -> None:
    """All connections are back in the pool, and it can still give out as many as it has."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'file.db'}",
        poolclass=AsyncAdaptedQueuePool,
        pool_size=SIZE,
        max_overflow=0,
        pool_timeout=5,
    )

    async def job() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            await asyncio.sleep(0.001)
            await connection.execute(text("select 2"))

    try:
        assert await interrupt_at_random(job, seed) > ROUNDS
        pool: Any = engine.pool
        assert pool.checkedout() == 0
        held = [await engine.connect() for _ in range(SIZE)]
        for connection in held:
            await connection.execute(text("select 1"))
            await connection.close()
    finally:
        await engine.dispose()
        gc.collect()


async def page(request: Request) -> PlainTextResponse:
    await asyncio.sleep(0.001)
    return PlainTextResponse("word" * 1000)


@pytest.mark.parametrize("seed", range(2))
async def test_httpx2(seed: int) -> None:
    """No connection is left that isn't idle, and the client can still open as many as it may.

    httpx 0.28 loses those that are cancelled as they open, in tasks of one's own as well.
    """
    async with (
        serve(Starlette(routes=[Route("/", page)])) as url,
        httpx2.AsyncClient(base_url=url, limits=httpx2.Limits(max_connections=SIZE)) as client,
    ):

        async def job() -> None:
            assert (await client.get("/")).text

        assert await interrupt_at_random(job, seed) > ROUNDS
        transport: Any = client._transport
        async with asyncio.timeout(5):
            while not all(each.is_idle() for each in transport._pool.connections):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.gather(*[job() for _ in range(SIZE)])
