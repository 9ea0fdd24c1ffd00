"""Every public signature, called as users would, and what type checkers make of it; never run."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, assert_type, overload

import anyio
import httpx
import httpx2
from anyio import to_thread

from anyslots import (
    FIRST_EXCEPTION,
    Adaptive,
    BlockingExecutor,
    Executor,
    Future,
    KeyedLanes,
    Lane,
    Rate,
    Results,
    Retry,
    Statistics,
    amap,
    as_completed,
    charge,
    first_result,
    from_thread,
    gather,
    lend_slot,
    testing,
    to_pool,
    wait,
)
from anyslots.httpx import LimitedTransport, Overloaded
from anyslots.instruments import Logging, OpenTelemetry, Progress, Prometheus, Timeline

P = ParamSpec("P")
T = TypeVar("T")


async def fetch(url: str, *, retries: int = 3) -> bytes:
    return url.encode()


def fetch_task(url: str) -> asyncio.Task[bytes]:
    return asyncio.create_task(fetch(url))


async def add(
    a: int, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, g: int = 0
) -> str:
    return str(a + b + c + d + e + f + g)


async def same(thing: T) -> T:
    return thing


@overload
async def either(thing: int) -> int: ...
@overload
async def either(thing: str) -> str: ...
async def either(thing: int | str) -> int | str:
    return thing


async def any_number_of(*urls: str, **options: int) -> float:
    return len(urls) + len(options)


async def nothing() -> None:
    pass


async def numbers() -> AsyncIterator[int]:
    yield 1


class Client:
    async def get(self, url: str, seconds: float = 1) -> bytes:
        return await fetch(url)

    @classmethod
    async def connect(cls, host: str) -> Client:
        return cls()

    @staticmethod
    async def ping(host: str) -> float:
        return 0.1

    async def __call__(self, url: str) -> bytes:
        return await self.get(url)


class Box(Generic[T]):
    async def swap(self, thing: T) -> T:
        return thing


class Handler(Protocol):
    async def __call__(self, request: str, *, user: str) -> int: ...


def traced(fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A decorator as they're written: it keeps the parameters."""

    @wraps(fn)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(*args, **kwargs)

    return wrapper


def retried(times: int) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    def decorate(fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        return traced(fn)

    return decorate


@traced
async def traced_fetch(url: str, *, retries: int = 3) -> bytes:
    return await fetch(url, retries=retries)


@retried(3)
async def retried_fetch(url: str, *, retries: int = 3) -> bytes:
    return await fetch(url, retries=retries)


async def constructors() -> None:
    executor = Executor(
        4,
        max_pending=100,
        rate=Rate(10, per=1),
        timeout=1.5,
        queue_timeout=None,
        on_error="cancel",
        name="fetching",
    )
    async with executor as entered:
        assert_type(entered, Executor)
    lane = executor.lane(
        "hosts", slots=2, priority=1, max_pending=5, rate=[Rate(1), Rate(9, 60.0)], timeout=1
    )
    assert_type(lane, Lane)
    assert_type(executor.lane(), Lane)
    either: Lane = executor
    either.submit(nothing)


async def submitting(executor: Executor, lane: Lane, client: Client, handler: Handler) -> None:
    future = executor.submit(fetch, "x", retries=2)
    assert_type(future, Future[bytes])
    assert_type(lane.submit(fetch, "x"), Future[bytes])
    assert_type(executor.submit(fetch_task, "x"), Future[bytes])
    assert_type(executor.submit(nothing), Future[None])
    assert_type(executor.submit(client.get, "x", seconds=2), Future[bytes])
    assert_type(executor.submit(Client.get, client, "x"), Future[bytes])
    assert_type(executor.submit(Client.connect, "x"), Future[Client])
    assert_type(executor.submit(client.ping, "x"), Future[float])
    assert_type(executor.submit(client, "x"), Future[bytes])
    assert_type(executor.submit(handler, "x", user="me"), Future[int])
    assert_type(executor.submit(lambda: fetch("x")), Future[bytes])
    assert_type(executor.submit(traced_fetch, "x", retries=2), Future[bytes])
    assert_type(executor.submit(retried_fetch, "x", retries=2), Future[bytes])
    assert_type(executor.submit(partial(fetch, retries=2), "x"), Future[bytes])
    assert_type(executor.submit(partial(fetch, "x"), retries=2), Future[bytes])
    assert_type(executor.submit(partial(fetch, "x")), Future[bytes])
    assert_type(executor.submit(any_number_of, "x", "y", retries=2), Future[float])
    assert_type(executor.submit(Box[int]().swap, 1), Future[int])
    assert_type(executor.submit(anyio.sleep, 1), Future[None])
    # Functions that are generic or overloaded themselves.
    number: int = 1
    assert_type(executor.submit(same, number), Future[int])  # beyond ty
    assert_type(executor.submit(either, number), Future[int])  # beyond ty
    assert_type(executor.submit(to_thread.run_sync, len, "x"), Future[int])  # beyond ty

    assert_type(await executor.enqueue(fetch, "x", retries=2), Future[bytes])
    assert_type(await lane.enqueue(client.get, "x"), Future[bytes])
    assert_type(await executor.enqueue(traced_fetch, "x", retries=2), Future[bytes])
    assert_type(await executor.enqueue(partial(fetch, retries=2), "x"), Future[bytes])
    assert_type(await (await executor.enqueue(fetch, "x")), bytes)


async def futures(future: Future[bytes]) -> None:
    assert_type(await future, bytes)
    assert_type(await future.wait(), None)
    assert_type(future.result(), bytes)
    assert_type(future.exception(), BaseException | None)
    assert_type(future.cancel("why"), bool)
    assert_type(future.done(), bool)
    assert_type(future.running(), bool)
    assert_type(future.cancelled(), bool)
    assert_type(future.slot, int | None)
    assert_type(future.name, str)
    assert_type(future.lane, Lane)
    future.add_done_callback(lambda done: done.result().decode())
    assert_type(future.remove_done_callback(print), int)
    await maybe(future)


async def maybe(future: Future[bytes | None]) -> None:
    assert_type(await future, bytes | None)


async def steering(executor: Executor, lane: Lane) -> None:
    for either in (executor, lane):
        assert_type(either.pause(), None)
        assert_type(either.pause(1.5), None)
        assert_type(either.resume(), None)
        assert_type(either.paused, bool)
        assert_type(either.slots, float)
        either.slots = 3
        either.slots = Adaptive(8, on=OSError)
        assert_type(either.priority, float)
        either.priority = 2
        assert_type(either.max_pending, float)
        either.max_pending = 10
        assert_type(either.rate, tuple[Rate, ...])
        either.rate = Rate(5)
        either.rate = [Rate(5), Rate(100, per=60)]
        either.rate = None
        assert_type(either.gate, Callable[[], Awaitable[object]] | None)
        either.gate = admit
        either.gate = None
        assert_type(either.timeout, float | None)
        either.timeout = 1.5
        assert_type(either.queue_timeout, float | None)
        either.queue_timeout = None
        assert_type(either.retry, Retry | bool | None)
        either.retry = Retry(3)
        either.retry = False
        assert_type(either.executor, Lane)
        assert_type(either.parent, Lane | None)
        assert_type(either.children, tuple[Lane, ...])
        assert_type(either.clear("why"), None)
        assert_type(either.name, str | None)
        assert_type(either.cancel("why"), None)
        assert_type(either.close(), None)
        assert_type(await either.join(), None)
        assert_type(either.statistics(), Statistics)
    assert_type(executor.statistics().running, int)
    await executor.shutdown(grace=1.5)


async def admit() -> bool:
    return True


def is_busy(exception: Exception) -> bool | float | None:
    return 3.5 if exception.args else None


async def limits(executor: Executor, lane: Lane, future: Future[bytes]) -> None:
    tokens = Rate(1e5, per=60, cost=tokens_of)
    Rate(10, 2.5, cost=price)
    assert_type(tokens.limit, float)
    assert_type(charge(tokens, 12.5), None)
    retries = [
        Retry(),
        Retry(3, on=(OSError, ValueError), wait=1, factor=3, most=10, jitter=False),
        Retry(on=[TimeoutError]),
        Retry(on=is_busy),
        Retry(on=lambda exception: bool(exception.args)),
    ]
    limits = Adaptive(2, least=1, most=9, on=(OSError,), backoff=0.7)
    Adaptive(on=is_busy)
    Executor(limits, max_pending=3, rate=[tokens], gate=admit, retry=retries[0])
    inner = lane.lane("inner", slots=limits, rate=tokens, gate=admit, retry=False, timeout=3)
    assert_type(inner, Lane)
    assert_type(future.attempts, int)
    async with lane.slot() as held:
        assert_type(held, Future[None])
    async with executor.slot("prompt", more=3):
        pass
    hosts = executor.keyed(slots=2, rate=Rate(1))
    assert_type(hosts["example.org"], Lane)
    tenants = lane.keyed(options_of)
    assert_type(tenants, KeyedLanes[int])
    assert_type(tenants[3], Lane)
    assert_type(tenants.get(3), Lane | None)
    assert_type(tenants.get(3, lane), Lane)
    assert_type(3 in tenants, bool)
    assert_type(len(tenants), int)
    assert_type(list(tenants), list[int])


def tokens_of(prompt: str, *, more: int = 0) -> int:
    return len(prompt) + more


def price(size: int) -> float:
    return size / 2


def options_of(key: int) -> dict[str, Any]:
    return {"slots": key}


def virtual() -> None:
    assert_type(testing.run(fetch, "x"), bytes)
    assert_type(testing.run(add, 1, 2, backend="trio"), str)
    assert_type(testing.format_stacks(Executor(1)), str)


async def mapping(executor: Executor, lane: Lane, client: Client) -> None:
    one = executor.map(fetch, ["x"])
    assert_type(one, Results[bytes])
    assert_type(await one, list[bytes])
    assert_type([page async for page in one], list[bytes])
    assert_type(await anext(one), bytes)
    await one.aclose()
    async with executor.map(fetch, ["x"], ordered=False, buffer=3) as pages:
        assert_type(pages, Results[bytes])
        async for page in pages:
            assert_type(page, bytes)
    some, more = [1], (2, 3)
    assert_type(executor.map(add, some), Results[str])
    assert_type(executor.map(add, numbers()), Results[str])
    assert_type(executor.map(add, some, numbers()), Results[str])
    assert_type(executor.map(add, some, more, {3}), Results[str])
    assert_type(executor.map(add, some, more, numbers(), range(4)), Results[str])
    assert_type(executor.map(add, some, more, some, some, numbers(), buffer=1), Results[str])
    assert_type(executor.map(add, some, more, some, some, some, numbers()), Results[str])
    assert_type(executor.map(add, some, some, some, some, some, some, numbers()), Results[str])
    assert_type(executor.map(add, *[some, some]), Results[str])
    assert_type(lane.map(add, some, numbers(), buffer=None), Results[str])
    assert_type(lane.map(fetch_task, ["x"]), Results[bytes])
    assert_type(lane.map(client.get, ["x"], more), Results[bytes])
    assert_type(lane.map(traced_fetch, ["x"]), Results[bytes])
    assert_type(lane.map(partial(fetch, retries=2), ["x"]), Results[bytes])
    assert_type(lane.map(lambda url: fetch(url), ["x"]), Results[bytes])

    assert_type(lane.map(fetch, ["x"]).items(), Results[tuple[Any, bytes]])
    async for url, page in lane.map(fetch, ["x"]).items():
        assert_type(page, bytes)
        print(url)
    async with lane.map(add, some, more).items() as items:
        assert_type(await items, list[tuple[Any, str]])
    either_way = executor.map(fetch, ["x"], return_exceptions=True)
    assert_type(either_way, Results[bytes | BaseException])
    assert_type(await either_way.items(), list[tuple[Any, bytes | BaseException]])
    assert_type(executor.map(add, some, more, return_exceptions=True), Results[str | BaseException])
    assert_type(executor.map(add, some, return_exceptions=False), Results[str])

    assert_type(lane.map(same, some), Results[int])
    assert_type(lane.map(either, some), Results[int])
    assert_type(lane.map(Box[int]().swap, some), Results[int])
    assert_type(lane.map(to_thread.run_sync, [lambda: "x"]), Results[str])  # beyond ty

    assert_type(await amap(same, some, slots=2), list[int])
    assert_type(await amap(fetch, ["x"], slots=2), list[bytes])
    assert_type(await amap(add, numbers(), slots=2), list[str])
    assert_type(await amap(add, numbers(), some, slots=2), list[str])
    assert_type(await amap(add, some, more, {3}, slots=2), list[str])
    assert_type(await amap(add, some, more, numbers(), range(4), slots=2), list[str])
    assert_type(await amap(add, some, more, some, some, numbers(), slots=2), list[str])
    assert_type(await amap(add, some, more, some, some, some, numbers(), slots=2), list[str])
    assert_type(
        await amap(
            fetch, ["x"], slots=Adaptive(on=OSError), rate=Rate(3), timeout=3, retry=Retry()
        ),
        list[bytes],
    )
    assert_type(
        await amap(fetch, ["x"], slots=2, return_exceptions=True), list[bytes | BaseException]
    )
    assert_type(await amap(add, some, more, slots=2, return_exceptions=False), list[str])


async def collecting(
    pages: list[Future[bytes]], page: Future[bytes], count: Future[int], both: bool
) -> None:
    assert_type(await gather(page, page), list[bytes])
    assert_type(await gather(*pages), list[bytes])
    assert_type(await gather(page, return_exceptions=False), list[bytes])
    assert_type(await gather(page, return_exceptions=True), list[bytes | BaseException])
    assert_type(await gather(*pages, return_exceptions=both), list[bytes | BaseException])
    mixed: list[Future[bytes | int]] = [page, count]
    assert_type(await gather(*mixed), list[bytes | int])

    done, not_done = await wait(pages)
    assert_type(done, set[Future[bytes]])
    assert_type(not_done, set[Future[bytes]])
    assert_type((await wait(iter(pages), return_when=FIRST_EXCEPTION)).done, set[Future[bytes]])
    async for future in as_completed(pages):
        assert_type(future, Future[bytes])
    assert_type(await anext(as_completed(mixed)), Future[bytes | int])
    assert_type(await first_result(*pages), bytes)
    assert_type(await first_result(page, page), bytes)
    async with lend_slot() as lent:
        assert_type(lent, None)


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
    assert_type(from_thread.submit(executor, fetch, "x", retries=1), cf.Future[bytes])
    assert_type(from_thread.submit(executor.lane(), fetch, "x"), cf.Future[bytes])


def blocking() -> None:
    with BlockingExecutor(4, backend="trio", backend_options={}, timeout=3) as executor:
        assert_type(executor.submit(fetch, "x", retries=2), cf.Future[bytes])
        assert_type(executor.submit(plain, "x", 1), cf.Future[float])
        assert_type(executor.map(fetch, ["x"], timeout=3), Iterator[bytes])
        assert_type(executor.map(plain, ["x"], [1]), Iterator[float])
        with executor.lane("lane", slots=2, retry=Retry(), gate=admit) as lane:
            assert_type(lane.submit(fetch, "x"), cf.Future[bytes])
            assert_type(lane.map(plain, ["x"], [1]), Iterator[float])
            pool: cf.Executor = lane.lane(rate=Rate(3))
            pool.shutdown()
        executor.shutdown(wait=True, cancel_futures=True)


def callbacks(future: Future[Any], count: Future[int]) -> None:
    def whatever(done: Future[Any]) -> None: ...

    def of_an_int(done: Future[int]) -> int:
        return done.result()

    future.add_done_callback(whatever)
    count.add_done_callback(whatever)
    count.add_done_callback(of_an_int)
    count.remove_done_callback(of_an_int)


def limited_clients(executor: Executor, lane: Lane) -> None:
    def overloaded(response: httpx.Response) -> float | None:
        return 1.5 if response.status_code == 429 else None

    transport = LimitedTransport(executor, overloaded=overloaded)
    httpx.AsyncClient(transport=transport)
    httpx2.AsyncClient(transport=LimitedTransport(lambda request: lane))
    LimitedTransport(lane, httpx.AsyncHTTPTransport(), overloaded=lambda response: False)
    assert_type(Overloaded(429, None).seconds, float | None)
