"""Mistakes that type checkers must find, each on a line with the error that mypy finds there."""

from __future__ import annotations

import concurrent.futures as cf

from api import Client, Handler, add, fetch, numbers, plain, retried_fetch, traced_fetch

from anyslots import (
    Adaptive,
    BlockingExecutor,
    Executor,
    Future,
    Lane,
    Rate,
    Retry,
    amap,
    as_completed,
    charge,
    first_result,
    from_thread,
    gather,
    lend_slot,
    to_pool,
    wait,
)


async def constructors(executor: Executor) -> None:
    Executor()  # type: ignore[call-arg]
    Executor("4")  # type: ignore[arg-type]
    Executor(4, 5)  # type: ignore[call-arg]
    Executor(4, on_error="ignore")  # type: ignore[arg-type]
    Executor(4, rate=10)  # type: ignore[arg-type]
    Rate("10")  # type: ignore[arg-type]
    executor.lane(1)  # type: ignore[arg-type]
    executor.lane(slots="2")  # type: ignore[arg-type]
    executor.lane(retry=3.5)  # type: ignore[arg-type]
    executor.lane(gate=len)  # type: ignore[arg-type]
    executor.lane(gate=fetch)  # type: ignore[arg-type]
    Retry(3, OSError)  # type: ignore[call-arg]
    Retry(on=OSError())  # type: ignore[arg-type]
    Retry(on=KeyboardInterrupt)  # type: ignore[arg-type]
    Adaptive(4)  # type: ignore[call-arg]
    Rate(4, cost=3)  # type: ignore[arg-type]
    Rate(4, cost=fetch)  # type: ignore[arg-type]
    charge("tokens", 3)  # type: ignore[arg-type]
    with executor:  # type: ignore[attr-defined]
        pass

    class Own(Executor):  # type: ignore[misc]
        pass


async def submitting(executor: Executor, lane: Lane, client: Client, handler: Handler) -> None:
    executor.submit(fetch)  # type: ignore[call-arg]
    executor.submit(fetch, 1)  # type: ignore[arg-type]
    executor.submit(fetch, "x", "y")  # type: ignore[arg-type, call-arg]
    executor.submit(fetch, "x", retries="many")  # type: ignore[arg-type]
    executor.submit(fetch, "x", retry=2)  # type: ignore[call-arg]
    executor.submit(fetch("x"))  # type: ignore[arg-type]
    executor.submit(len, "x")  # type: ignore[arg-type]
    executor.submit(numbers)  # type: ignore[arg-type]
    lane.submit(client.get, 1)  # type: ignore[arg-type]
    lane.submit(Client.get, "x")  # type: ignore[arg-type, call-arg]
    lane.submit(handler, "x")  # type: ignore[call-arg]
    lane.submit(traced_fetch, 1)  # type: ignore[arg-type]
    lane.submit(retried_fetch, "x", retries="many")  # type: ignore[arg-type]
    await executor.enqueue(fetch)  # type: ignore[call-arg]
    await executor.enqueue(fetch, 1)  # type: ignore[arg-type]
    await lane.enqueue(len, "x")  # type: ignore[arg-type]
    await lane.enqueue(traced_fetch, 1)  # type: ignore[arg-type]
    (await lane.enqueue(fetch, "x")).send(None)  # type: ignore[attr-defined]


async def options(executor: Executor, lane: Lane) -> None:
    executor.slots = "3"  # type: ignore[assignment]
    lane.rate = 3  # type: ignore[assignment]
    lane.gate = fetch  # type: ignore[assignment]
    lane.retry = OSError()  # type: ignore[assignment]
    lane.pace = 3  # type: ignore[attr-defined]
    lane.pause("1")  # type: ignore[arg-type]
    lane.parent = executor  # type: ignore[misc]
    lane.keyed(3)  # type: ignore[call-overload]
    with lane.slot():  # type: ignore[attr-defined]
        pass


async def futures(future: Future[bytes], name: str) -> None:
    future.result(1.0)  # type: ignore[call-arg]
    future.result().encode()  # type: ignore[attr-defined]
    future.add_done_callback(lambda: None)  # type: ignore[arg-type, misc]
    future.name = name  # type: ignore[misc]
    number: Future[int] = future  # type: ignore[assignment]
    await number


async def mapping(executor: Executor, client: Client) -> None:
    executor.map(fetch)  # type: ignore[call-overload]
    executor.map(fetch, [1])  # type: ignore[arg-type]
    executor.map(fetch, 1)  # type: ignore[call-overload]
    executor.map(add, [1], ["x"])  # type: ignore[arg-type]
    executor.map(add, [1], [1], ["x"])  # type: ignore[arg-type]
    executor.map(fetch, ["x"], ["y"])  # type: ignore[arg-type]
    executor.map(fetch, numbers())  # type: ignore[arg-type]
    executor.map(client.get, [1])  # type: ignore[arg-type]
    executor.map(traced_fetch, [1])  # type: ignore[arg-type]
    executor.map(len, ["x"])  # type: ignore[arg-type]
    executor.map(fetch, ["x"], slots=2)  # type: ignore[call-overload]  # unseen by ty
    executor.map(fetch, ["x"], buffer="all")  # type: ignore[call-overload]
    for _ in executor.map(fetch, ["x"]):  # type: ignore[attr-defined]
        pass
    await amap(fetch, ["x"])  # type: ignore[call-overload]
    await amap(fetch, [1], slots=2)  # type: ignore[arg-type]
    await amap(add, [1], ["x"], slots=2)  # type: ignore[arg-type]
    await amap(len, ["x"], slots=2)  # type: ignore[arg-type]
    await amap(fetch, ["x"], slots=2, retry="3")  # type: ignore[call-overload]
    executor.map(fetch, ["x"], return_exceptions="yes")  # type: ignore[call-overload]


async def collecting(pages: list[Future[bytes]], other: Future[int]) -> None:
    await wait(other)  # type: ignore[arg-type]
    await wait([1])  # type: ignore[arg-type]
    await gather(pages)  # type: ignore[call-overload]
    await gather(1)  # type: ignore[call-overload]
    await first_result(pages)  # type: ignore[arg-type]
    as_completed(*pages)  # type: ignore[arg-type]
    for _ in as_completed(pages):  # type: ignore[attr-defined]
        pass
    with lend_slot():  # type: ignore[attr-defined]
        pass


async def elsewhere(executor: Executor, pool: cf.Executor, blocking: BlockingExecutor) -> None:
    await to_pool.run_sync(plain, "x", 1)  # type: ignore[call-arg]
    from_thread.submit(executor, fetch, 1)  # type: ignore[arg-type]
    from_thread.submit(executor, plain, "x", 1)  # type: ignore[arg-type]
    blocking.submit(fetch, 1)  # type: ignore[call-overload]
    BlockingExecutor("4")  # type: ignore[arg-type]
