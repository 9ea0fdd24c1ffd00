"""Every public signature, called as users would; checked by mypy, never run."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from anyslots import (
    FIRST_EXCEPTION,
    BlockingExecutor,
    Executor,
    Future,
    Results,
    Statistics,
    amap,
    as_completed,
    first_result,
    from_thread,
    gather,
    lend_slot,
    to_pool,
    wait,
)
from anyslots.instruments import Logging, OpenTelemetry, Progress, Prometheus, Timeline


async def fetch(url: str, *, retries: int = 3) -> bytes:
    return url.encode()


def fetch_task(url: str) -> asyncio.Task[bytes]:
    return asyncio.create_task(fetch(url))


async def main() -> None:
    async with Executor(4, on_error="cancel", name="fetching") as executor:
        future = executor.submit(fetch, "x", retries=2)
        assert_type(future, Future[bytes])
        assert_type(executor.submit(fetch_task, "x"), Future[bytes])
        assert_type(await future, bytes)
        assert_type(future.result(), bytes)
        assert_type(future.exception(), BaseException | None)
        assert_type(future.cancel("why"), bool)
        assert_type(future.slot, int | None)
        assert_type(future.name, str)
        future.add_done_callback(lambda done: done.result().decode())
        assert_type(future.remove_done_callback(print), int)
        assert_type(await gather(future, future), list[bytes])
        assert_type(await gather(future, return_exceptions=True), list[bytes | BaseException])
        assert_type(executor.statistics(), Statistics)
        assert_type(executor.slots, float)
        await executor.join()
        await executor.shutdown(grace=1.5)

        executor.submit(fetch)  # type: ignore[call-arg]
        executor.submit(fetch, 1)  # type: ignore[arg-type]
        executor.submit(fetch, "x", retries="many")  # type: ignore[arg-type]
        executor.submit(fetch("x"))  # type: ignore[arg-type]
        executor.submit(len, "x")  # type: ignore[arg-type]
    Executor(4, on_error="ignore")  # type: ignore[arg-type]


async def add(a: int, b: int, c: int = 0, d: int = 0, e: int = 0) -> str:
    return str(a + b + c + d + e)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def results() -> None:
    async with Executor(4) as executor:
        one = executor.map(fetch, ["x"])
        assert_type(one, Results[bytes])
        assert_type(await one, list[bytes])
        assert_type([page async for page in one], list[bytes])
        assert_type(await anext(one), bytes)
        await one.aclose()
        async with executor.map(fetch, ["x"], ordered=False, buffer=3) as pages:
            assert_type(pages, Results[bytes])
        assert_type(executor.lane().map(add, [1], numbers(), buffer=None), Results[str])
        assert_type(executor.map(add, [1], (2,), {3}, numbers()), Results[str])
        assert_type(executor.map(add, [1], [2], [3], [4], range(5)), Results[str])
        assert_type(executor.map(add, *[[1], [2]]), Results[str])
        assert_type(executor.map(fetch_task, ["x"]), Results[bytes])
        assert_type(await amap(fetch, ["x"], slots=2), list[bytes])
        assert_type(await amap(add, numbers(), [2], [3], slots=2), list[str])

        executor.map(fetch, [1])  # type: ignore[arg-type]
        executor.map(fetch, 1)  # type: ignore[call-overload]
        executor.map(add, [1], ["x"])  # type: ignore[arg-type]
        executor.map(len, ["x"])  # type: ignore[arg-type]
        executor.map(fetch, ["x"], slots=2)  # type: ignore[call-overload]
        executor.map(fetch, ["x"], buffer="all")  # type: ignore[call-overload]
        await amap(fetch, ["x"])  # type: ignore[call-overload]
        await amap(fetch, [1], slots=2)  # type: ignore[arg-type]
        for _ in one:  # type: ignore[attr-defined]
            pass


async def collecting(pages: list[Future[bytes]], other: Future[int]) -> None:
    done, not_done = await wait(pages)
    assert_type(done, set[Future[bytes]])
    assert_type(not_done, set[Future[bytes]])
    assert_type((await wait(iter(pages), return_when=FIRST_EXCEPTION)).done, set[Future[bytes]])
    async for future in as_completed(pages):
        assert_type(future, Future[bytes])
    assert_type(await first_result(*pages), bytes)
    assert_type(await gather(*pages, return_exceptions=True), list[bytes | BaseException])
    async with lend_slot() as nothing:
        assert_type(nothing, None)

    await wait(other)  # type: ignore[arg-type]
    await wait([1])  # type: ignore[arg-type]
    await gather(pages)  # type: ignore[call-overload]
    await first_result(pages)  # type: ignore[arg-type]
    as_completed(*pages)  # type: ignore[arg-type]
    for _ in as_completed(pages):  # type: ignore[attr-defined]
        pass
    with lend_slot():  # type: ignore[attr-defined]
        pass


async def seeing() -> None:
    timeline = Timeline(limit=10)
    with Progress(interval=5) as progress:
        instruments = [Logging(), OpenTelemetry(), Prometheus(), progress, timeline]
        async with Executor(4, instruments=instruments) as executor:
            assert_type(executor.submit(fetch, "x").slot, int | None)
    timeline.save_svg("timeline.svg")
    timeline.save_trace("timeline.json")
    assert_type(str(timeline), str)


def plain(word: str, number: int) -> float:
    return number


async def elsewhere(executor: Executor, pool: cf.Executor) -> None:
    assert_type(await to_pool.run_sync(plain, "x", 1, pool=pool), float)
    assert_type(await to_pool.run_sync(plain, "x", 1, pool=pool, abandon_on_cancel=True), float)
    await to_pool.run_sync(plain, "x", pool=pool)  # type: ignore[arg-type]
    await to_pool.run_sync(plain, "x", 1)  # type: ignore[call-arg]
    assert_type(from_thread.submit(executor, fetch, "x", retries=1), cf.Future[bytes])
    assert_type(from_thread.submit(executor.lane(), fetch, "x"), cf.Future[bytes])
    from_thread.submit(executor, fetch, 1)  # type: ignore[arg-type]
    from_thread.submit(executor, plain, "x", 1)  # type: ignore[arg-type]


def blocking() -> None:
    with BlockingExecutor(4, backend="trio", backend_options={}, timeout=3) as executor:
        assert_type(executor.submit(fetch, "x", retries=2), cf.Future[bytes])
        assert_type(executor.submit(plain, "x", 1), cf.Future[float])
        assert_type(executor.map(fetch, ["x"], timeout=3), Iterator[bytes])
        assert_type(executor.map(plain, ["x"], [1]), Iterator[float])
        executor.submit(fetch, 1)  # type: ignore[call-overload]
        executor.shutdown(wait=True, cancel_futures=True)
    BlockingExecutor("4")  # type: ignore[arg-type]
