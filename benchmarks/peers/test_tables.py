"""The tables of docs/comparison.md: what a cell says of a Python library, the library does.

Each test runs small programs with every peer that is Python, and compares what comes out with one
column. Their limit is two, if nothing else is said, and their jobs take a second of virtual time;
threads and Dask's workers wait for each other in real time. "No" also rests on
`test_options_are_all_known`: an option that's new may be news for the tables.

The other peers aren't run here. Their rows rest on:

- p-queue: the readme of 9.3.5, and what that version does in Node: after a timeout, or an abort
  that it doesn't listen to, a function runs on; a job that waits for one of its own queue hangs.
- Go: the documentation of golang.org/x/sync/errgroup, 0.12 to 0.18.
- tokio: the documentation of `JoinSet` in tokio 1.25 and later, of `Semaphore`, `time::timeout` and
  `Handle` in tokio 1, and of `StreamExt::buffer_unordered` in futures 0.3.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import re
import sys
import threading
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import aiojobs
import aiometer
import anyio
import anyio.from_thread
import distributed
import pytest
import trio
from peers import (
    AIOJOBS,
    AIOMETER,
    ANYIO,
    ANYSLOTS,
    ASYNCIO,
    DASK,
    HOSTS,
    ORIGINAL,
    THREADS,
    TRIO,
    Host,
    Work,
    asyncio_host,
    echo,
    fail,
    fail_async,
    gate,
    log,
    never,
    note,
    run,
    until,
    wait_at_gate,
    wait_for_child,
)
from runners import HAS_UVLOOP
from virtual_time import run_in_virtual_time

from anyslots import Executor, Rate, from_thread

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.engines

PYTHON = [ANYSLOTS, ORIGINAL, ASYNCIO, TRIO, ANYIO, THREADS, AIOMETER, AIOJOBS, DASK]
ELSEWHERE = ["p-queue", "Go", "tokio"]


def tables() -> dict[str, dict[str, str]]:
    """The cells by column and peer. A peer is called what its link says; notes don't count."""
    columns: dict[str, dict[str, str]] = {}
    heads: list[str] = []
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    for line in page.partition("\n## ")[0].splitlines():
        if not line.startswith("| "):
            heads = heads if line.startswith("|--") else []
            continue
        peer, *cells = (re.sub("[*`¹²³⁴]", "", cell).strip() for cell in line[1:-1].split("|"))
        if not heads:
            heads = cells
            continue
        link = re.match(r"\[(.+?)\]", peer)
        for head, cell in zip(heads, cells, strict=True):
            columns.setdefault(head, {})[link[1] if link else peer] = cell
    return columns


TABLES = tables()


def says(column: str) -> dict[str, str]:
    return {peer: TABLES[column][peer] for peer in PYTHON}


def test_every_peer_has_every_cell() -> None:
    """No row is missing in either table."""
    assert {tuple(column) for column in TABLES.values()} == {(*PYTHON, *ELSEWHERE)}
    assert all(cell for column in TABLES.values() for cell in column.values())


def test_every_column_is_checked() -> None:
    """Each column of the tables is compared with what a test here has found."""
    compared = re.findall(r'== says\("(.+?)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(compared) == sorted(TABLES)


@pytest.fixture(autouse=True)
def closed_gate() -> Iterator[None]:
    gate.clear()
    log.clear()
    yield
    gate.set()


@pytest.fixture
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            resources={"api": 1},
            dashboard_address="127.0.0.1:0",
            silence_logs=False,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
        gate.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor
        gate.set()


KNOWN_OPTIONS = [
    (asyncio.Semaphore, "value"),
    (trio.CapacityLimiter, "total_tokens"),
    (trio.Nursery.start_soon, "self async_fn args name"),
    (anyio.amap, "func args"),
    (anyio.gather, "coros"),
    (anyio.CapacityLimiter, "total_tokens"),
    (ThreadPoolExecutor, "max_workers thread_name_prefix initializer initargs ctxkwargs"),
    (ThreadPoolExecutor.submit, "self fn args kwargs"),
    (ThreadPoolExecutor.shutdown, "self wait cancel_futures"),
    (aiometer.run_on_each, "async_fn args max_at_once max_per_second _include_index _send_to"),
    (aiometer.run_all, "async_fns max_at_once max_per_second"),
    (aiometer.amap, "async_fn args max_at_once max_per_second _include_index"),
    (
        aiojobs.Scheduler,
        "close_timeout wait_timeout limit pending_limit exception_handler",
    ),
    (aiojobs.Scheduler.spawn, "self coro name"),
    (
        distributed.Client.submit,
        "self func args key workers resources retries priority fifo_timeout allow_other_workers"
        " actor actors pure kwargs",
    ),
]


def test_options_are_all_known() -> None:
    """A peer without an option for something has none that we have missed."""
    for fn, names in KNOWN_OPTIONS:
        unknown = set(inspect.signature(fn).parameters) - set(names.split())
        assert unknown <= {"args", "kwargs"}, fn


# Which job starts when.


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_event_loops(client: Any) -> None:
    """Each peer runs its jobs in the event loops named, and in no other."""

    async def three_jobs(peer: str) -> None:
        work = Work()
        if peer == AIOMETER:
            await aiometer.run_on_each(work, range(3), max_at_once=2)
        else:
            async with HOSTS[peer]() as host:
                for number in range(3):
                    await host.submit(work, number)
                await anyio.sleep(3)
        assert len(work.ended) == 3

    def works(peer: str, loop: str) -> bool:
        try:
            if loop == "uvloop":
                anyio.run(quick_job, peer, backend_options={"use_uvloop": True})
            else:
                run_in_virtual_time(loop, three_jobs, peer)
        except Exception:  # each complains in its own way
            return False
        return True

    async def quick_job(peer: str) -> None:
        if peer == AIOMETER:
            await aiometer.run_on_each(anyio.sleep, [0])
        else:
            async with HOSTS[peer]() as host:
                await host.submit(anyio.sleep, 0)

    loops = ["asyncio", "uvloop", "trio"] if HAS_UVLOOP else ["asyncio", "trio"]
    found = {
        peer: ", ".join(loop for loop in loops if works(peer, loop)) for peer in [*HOSTS, AIOMETER]
    }
    if not HAS_UVLOOP:
        found = {peer: cell.replace("asyncio", "asyncio, uvloop") for peer, cell in found.items()}
    with ThreadPoolExecutor(2) as pool:
        in_thread = pool.submit(threading.current_thread).result()
    found[THREADS] = "threads" if in_thread is not threading.main_thread() else ""
    found[DASK] = "a cluster" if client.scheduler_info()["workers"] else ""
    gc.collect()  # what has complained
    assert found == says("runs on")


def test_limits(pool: ThreadPoolExecutor, client: Any) -> None:
    """Of six jobs two run at once, and the others wait."""

    async def most(peer: str) -> int:
        work = Work()
        async with HOSTS[peer]() as host:
            for number in range(6):
                await host.submit(work, number)
            await anyio.sleep(6)
        return work.most

    async def most_with_aiometer() -> int:
        work = Work()
        await aiometer.run_on_each(work, range(6), max_at_once=2)
        return work.most

    async def most_with_amap() -> int:
        work = Work()
        await anyio.amap(work, range(6))
        return work.most

    def most_in_threads(submit: Callable[..., Any]) -> int:
        futures = [submit(wait_at_gate, f"job {number}") for number in range(6)]
        assert until(lambda: len(log) >= 2)
        count = 2 if never(lambda: len(log) > 2) else 6
        gate.set()
        assert until(lambda: all(future.done() for future in futures))
        return count

    found = {peer: "yes" if run(peer, most, peer) == 2 else "no" for peer in HOSTS}
    found[AIOMETER] = "yes" if run(AIOMETER, most_with_aiometer) == 2 else "no"
    if run(ANYIO, most_with_amap) == 6:
        found[ANYIO] = {"yes": "recipe", "no": "no"}[found[ANYIO]]
    for peer, submit in [(THREADS, pool.submit), (DASK, client.submit)]:
        found[peer] = "yes" if most_in_threads(submit) == 2 else "no"
        gate.clear()
        log.clear()
    assert found == says("limit")


def test_resizing(client: Any) -> None:
    """Three jobs run at once when the limit has been raised, and one when it's lowered again."""

    async def resized(peer: str, resize: Callable[[Any, int], Awaitable[None]]) -> str:
        work = Work()
        async with HOSTS[peer](2) as host:
            for number in range(12):
                await host.submit(work, number)
            await anyio.sleep(0.5)
            await resize(host.limiter, 3)
            await anyio.sleep(0.2)
            raised = work.now
            await resize(host.limiter, 1)
            await anyio.sleep(2)
            lowered = work.now
        return {(3, 1): "yes", (3, 3): "only up", (2, 2): "no"}[raised, lowered]

    async def set_slots(executor: Any, limit: int) -> None:
        executor.slots = limit

    async def set_tokens(limiter: Any, limit: int) -> None:
        limiter.total_tokens = limit

    async def move_semaphore(semaphore: Any, limit: int) -> None:
        if limit == 3:
            semaphore.release()  # one more than there were
        else:  # two that nobody gives back, once those who wait have had theirs
            taken.append(asyncio.ensure_future(semaphore.acquire()))
            taken.append(asyncio.ensure_future(semaphore.acquire()))

    taken: list[Any] = []
    found = dict.fromkeys(PYTHON, "no")
    for peer, resize in [
        (ANYSLOTS, set_slots),
        (ASYNCIO, move_semaphore),
        (TRIO, set_tokens),
        (ANYIO, set_tokens),
    ]:
        found[peer] = run(peer, resized, peer, resize)
    found[ANYIO] = {"yes": "recipe"}[found[ANYIO]]  # as its limit is
    assert aiojobs.Scheduler.limit.fset is None
    client.cluster.scale(2)
    if until(lambda: len(client.scheduler_info()["workers"]) == 2):
        found[DASK] = "yes"
    assert found == says("resizing")


def test_lanes(client: Any) -> None:
    """Some jobs have a limit of their own, within that of all; one that waits holds up no other."""

    async def lane_of_an_executor(api: Work, other: Work) -> None:
        async with Executor(2) as executor:
            lane = executor.lane(slots=1)
            for number in range(3):
                lane.submit(api, number)
            for number in range(3):
                executor.submit(other, number)

    async def two_limiters(peer: str, limiter: Any, api: Work, other: Work) -> None:
        """The lane's first: who waits for that has no place among all."""
        async with HOSTS[peer](2) as host:

            async def in_lane(number: int) -> None:
                async with lane, host.limiter:
                    await api(number)

            lane = limiter(1)
            for number in range(3):
                if peer == ASYNCIO:
                    host.group.create_task(in_lane(number))
                else:
                    host.group.start_soon(in_lane, number)
            for number in range(3):
                await host.submit(other, number)

    async def works(fn: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """While two jobs of the lane wait, both slots are used."""
        api, other = Work(), Work()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(fn, *args), api, other)
            await anyio.sleep(0.5)
            running = [api.now + other.now]
            await anyio.sleep(1)
            running.append(api.now + other.now)
        return (api.most, running, len(api.ended + other.ended)) == (1, [2, 2], 6)

    found = dict.fromkeys(PYTHON, "no")
    if run(ANYSLOTS, works, lane_of_an_executor):
        found[ANYSLOTS] = "yes"
    for peer, limiter in [
        (ASYNCIO, asyncio.Semaphore),
        (TRIO, trio.CapacityLimiter),
        (ANYIO, anyio.CapacityLimiter),
    ]:
        if run(peer, works, two_limiters, peer, limiter):
            found[peer] = "recipe"
    held = [client.submit(wait_at_gate, name, resources={"api": 1}) for name in ("one", "two")]
    assert client.submit(note, "other").result(10) == "other"
    assert until(lambda: len(log) == 2)
    if never(lambda: len(log) > 2):
        found[DASK] = "yes"
    gate.set()
    client.gather(held)
    assert found == says("lanes")


def test_priorities(client: Any) -> None:
    """What is urgent goes before what was submitted earlier."""

    async def urgent_first() -> bool:
        work = Work()
        async with Executor(1) as executor:
            urgent = executor.lane(priority=1)
            for number in range(3):
                executor.submit(work, number)
            await anyio.sleep(0.5)
            urgent.submit(work, 9)
        return work.began == [0, 9, 1, 2]

    found = dict.fromkeys(PYTHON, "no")
    if run(ANYSLOTS, urgent_first):
        found[ANYSLOTS] = "yes"
    futures = [client.submit(wait_at_gate, name) for name in ("one", "two")]
    assert until(lambda: len(log) == 2)
    futures += [client.submit(note, f"later {number}") for number in range(20)]
    futures += [client.submit(note, "urgent", priority=1)]
    assert until(lambda: len(client.cluster.scheduler.tasks) == len(futures))
    gate.set()
    client.gather(futures)
    if log.index("urgent") < log.index("later 10"):
        found[DASK] = "yes"
    assert found == says("priorities")


def test_rates() -> None:
    """Of jobs that take no time, two start in a second."""

    async def when(start: Callable[[Any], Awaitable[None]]) -> list[float]:
        async def job(_: int = 0) -> None:
            times.append(anyio.current_time())

        times: list[float] = []
        await start(job)
        return times

    async def with_rate(job: Any) -> None:
        async with Executor(10, rate=Rate(1, per=0.5)) as executor:
            for _ in range(4):
                executor.submit(job)

    async def with_max_per_second(job: Any) -> None:
        await aiometer.run_on_each(job, range(4), max_per_second=2)

    found = dict.fromkeys(PYTHON, "no")
    for peer, start in [(ANYSLOTS, with_rate), (AIOMETER, with_max_per_second)]:
        if run(peer, when, start) == [0, 0.5, 1, 1.5]:
            found[peer] = "yes"
    assert found == says("rates")


def test_back_pressure(pool: ThreadPoolExecutor, client: Any) -> None:
    """Submitting twenty jobs takes nearly as long as running them, if submitting waits for room."""

    async def waits(submit_all: Callable[[Any, Any], Awaitable[None]]) -> bool:
        work, times = Work(), []
        await submit_all(work, lambda: times.append(anyio.current_time()))
        await anyio.sleep(20)
        assert len(work.ended) == 20
        return times[0] > 5

    async def by_enqueue(work: Any, submitted: Any) -> None:
        async with Executor(2, max_pending=4) as executor:
            for number in range(20):
                await executor.enqueue(work, number)
            submitted()

    async def by_spawn(work: Any, submitted: Any) -> None:
        async with aiojobs.Scheduler(limit=2, pending_limit=4) as scheduler:
            for number in range(20):
                await scheduler.spawn(work(number))
            submitted()

    async def by_acquiring_first(peer: str, work: Any, submitted: Any) -> None:
        async def release_after(token: object, number: int) -> None:
            await work(number)
            host.limiter.release() if peer == ASYNCIO else host.limiter.release_on_behalf_of(token)

        async with HOSTS[peer](2) as host:
            for number in range(20):
                token = object()
                if peer == ASYNCIO:
                    await host.limiter.acquire()
                    host.group.create_task(release_after(token, number))
                else:
                    await host.limiter.acquire_on_behalf_of(token)
                    host.group.start_soon(release_after, token, number)
            submitted()

    async def by_submitting(peer: str, work: Any, submitted: Any) -> None:
        async with HOSTS[peer](2) as host:
            for number in range(20):
                await host.submit(work, number)
            submitted()

    found = {AIOMETER: "takes a list"}  # all its jobs at once
    for peer, own, by_hand in [
        (ANYSLOTS, by_enqueue, None),
        (ORIGINAL, partial(by_submitting, ORIGINAL), None),
        (ASYNCIO, partial(by_submitting, ASYNCIO), partial(by_acquiring_first, ASYNCIO)),
        (TRIO, partial(by_submitting, TRIO), partial(by_acquiring_first, TRIO)),
        (ANYIO, partial(by_submitting, ANYIO), partial(by_acquiring_first, ANYIO)),
        (AIOJOBS, by_spawn, None),
    ]:
        found[peer] = "yes" if run(peer, waits, own) else "no"
        if by_hand is not None and run(peer, waits, by_hand):
            found[peer] = "recipe"
    for peer, submit in [(THREADS, pool.submit), (DASK, client.submit)]:
        futures = [submit(wait_at_gate, f"job {number}") for number in range(20)]
        found[peer] = "no" if not any(future.done() for future in futures) else "yes"
        gate.set()
        assert until(lambda futures=futures: all(future.done() for future in futures))
        gate.clear()
    assert found == says("back-pressure")


class Inputs:
    """A thousand inputs that are counted as they are taken, and have no length."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(1000):
            self.taken += 1
            yield number


def test_endless_inputs(pool: ThreadPoolExecutor, client: Any) -> None:
    """When a result has come, only a few inputs have been taken."""

    async def by_map(inputs: Iterable[int]) -> None:
        async with Executor(2) as executor, executor.map(echo, inputs) as results:
            async for _ in results:
                break

    async def by_as_completed(inputs: Iterable[int]) -> None:
        for next_one in asyncio.as_completed(map(echo, inputs)):
            await next_one

    async def by_amap_of_anyio(inputs: Iterable[int]) -> None:
        await anyio.amap(echo, inputs)

    async def by_amap_of_aiometer(inputs: Iterable[int]) -> None:
        async with aiometer.amap(echo, inputs, max_at_once=2) as results:
            async for _ in results:
                break

    def by_pool(inputs: Iterable[int]) -> None:
        buffer = {"buffersize": 4} if sys.version_info >= (3, 14) else {}
        next(pool.map(str, inputs, **buffer))

    def by_client(inputs: Iterable[int]) -> None:
        next(iter(distributed.as_completed(client.map(str, iter(inputs)))))

    def few_are_taken(way: Callable[[Any], Any]) -> bool:
        inputs = Inputs()
        try:
            if inspect.iscoroutinefunction(way):
                anyio.run(way, inputs)
            else:
                way(inputs)
        except TypeError:  # it wants a list
            return False
        return inputs.taken < 10

    found = dict.fromkeys(PYTHON, "no")
    for peer, way in [
        (ANYSLOTS, by_map),
        (ASYNCIO, by_as_completed),
        (ANYIO, by_amap_of_anyio),
        (AIOMETER, by_amap_of_aiometer),
        (THREADS, by_pool),
        (DASK, by_client),
    ]:
        if few_are_taken(way):
            found[peer] = "yes"
    assert found[THREADS] == ("yes" if sys.version_info >= (3, 14) else "no")
    found[THREADS] = "since 3.14"
    assert found == says("endless inputs")


def test_nested_jobs(client: Any) -> None:
    """A job that waits for a job of its own goes on, though there's one slot."""

    async def ends(peer: str) -> bool:
        async def parent(host: Host) -> None:
            has_run = anyio.Event()
            handle = await host.submit(child, has_run)
            await (has_run.wait() if handle is None else host.result(handle))
            ended.append(True)

        async def child(has_run: anyio.Event) -> None:
            has_run.set()

        ended: list[bool] = []
        with anyio.move_on_after(100):
            async with HOSTS[peer](1) as host:
                await host.submit(parent, host)
                await anyio.sleep(100)
        return bool(ended)

    async def most_with_aiometer() -> int:
        async def parent(_: int) -> None:
            await aiometer.run_on_each(work, range(3), max_at_once=2)

        work = Work()
        await aiometer.run_on_each(parent, range(3), max_at_once=2)
        return work.most

    found = {peer: "yes" if run(peer, ends, peer) else "deadlock" for peer in HOSTS}
    found[AIOMETER] = {2: "yes", 4: "limits multiply"}[run(AIOMETER, most_with_aiometer)]
    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(lambda: pool.submit(note, "child").result(0.05))
        found[THREADS] = "deadlock" if isinstance(child.exception(10), TimeoutError) else "yes"
    parents = [client.submit(wait_for_child, number, pure=False) for number in range(2)]
    if client.gather(parents) == [0, 1]:  # two, on two threads
        found[DASK] = "yes"
    assert found == says("nested jobs")


# Each job, and the end.


def test_futures(pool: ThreadPoolExecutor, client: Any) -> None:
    """Each job has a handle, of which its result can be had."""

    async def has_result(peer: str) -> bool:
        async with HOSTS[peer]() as host:
            handle = await host.submit(echo, 5)
            return handle is not None and await host.result(handle) == 5

    async def one_for_all() -> bool:
        assert await aiometer.run_all([partial(echo, 5)]) == [5]
        return await aiometer.run_on_each(echo, [5]) is not None

    found = {peer: "yes" if run(peer, has_result, peer) else "no" for peer in HOSTS}
    found[AIOMETER] = "yes" if run(AIOMETER, one_for_all) else "no"
    for peer, submit in [(THREADS, pool.submit), (DASK, client.submit)]:
        found[peer] = "yes" if submit(abs, -5).result() == 5 else "no"
    assert found == says("a future each")


def test_cancelling_one(client: Any) -> None:
    """A running job is stopped, and a queued one never runs; the others go on."""

    async def outcome(peer: str, which: int) -> Work:
        """Of three jobs, one after the other: while the first runs, one is cancelled."""
        work = Work()
        async with HOSTS[peer](1) as host:
            handles = [await host.submit(work, number) for number in range(3)]
            await anyio.sleep(0.5)
            if peer != TRIO:
                host.cancel(handles[which])
            await anyio.sleep(3)
        return work

    def stops(peer: str) -> str:
        queued = 2 not in run(peer, outcome, peer, 2).began
        running = 0 not in run(peer, outcome, peer, 0).ended
        return "yes" if queued and running else "if queued" if queued else "no"

    async def by_scope() -> bool:
        async def in_scope(number: int) -> None:
            with scopes[number]:
                async with limiter:
                    await work(number)

        work = Work()
        limiter = trio.CapacityLimiter(1)
        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(in_scope, number)
            await trio.sleep(0.5)
            (running,) = work.began
            queued, other = {0, 1, 2} - {running}
            scopes[running].cancel()
            scopes[queued].cancel()
        return (work.began, work.ended) == ([running, other], [other])

    def in_threads(submit: Callable[..., Any], idle: int) -> str:
        running = [submit(wait_at_gate, f"running {number}") for number in range(idle)]
        assert until(lambda: len(log) == idle)
        queued = submit(note, "queued")
        queued.cancel()
        running[0].cancel()
        assert never(lambda: "queued" in log)
        gate.set()
        assert until(lambda: len(log) >= 2 * idle)
        never_began = never(lambda: "queued" in log)
        went_on = log.count("running 0 ended") == 1
        gate.clear()
        log.clear()
        return "if queued" if never_began and went_on else "yes" if never_began else "no"

    found = {peer: stops(peer) for peer in HOSTS}
    if run(TRIO, by_scope):
        found[TRIO] = "recipe"
    found[AIOMETER] = "no"  # without a handle
    with ThreadPoolExecutor(1) as pool:
        found[THREADS] = in_threads(pool.submit, 1)
    found[DASK] = in_threads(partial(client.submit, pure=False), 2)
    assert found == says("cancel one")


def test_time_limits(pool: ThreadPoolExecutor, client: Any) -> None:
    """A job that takes too long is stopped, and the next one runs."""

    async def is_stopped(start: Callable[[Any], Awaitable[None]]) -> bool:
        async def job(_: int = 0) -> None:
            try:
                await anyio.sleep(100)
            finally:
                ends.append(anyio.current_time())

        ends: list[float] = []
        with anyio.move_on_after(50):
            await start(job)
        return ends == [1]

    async def by_option(job: Any) -> None:
        async with Executor(1, timeout=1, on_error="log") as executor:
            await executor.submit(job).wait()

    async def by_wait(job: Any) -> None:
        async with aiojobs.Scheduler(limit=1) as scheduler:
            spawned = await scheduler.spawn(job())
            with pytest.raises(TimeoutError):
                await spawned.wait(timeout=1)

    async def by_hand(peer: str, job: Any) -> None:
        async def limited(_: int = 0) -> None:
            with anyio.move_on_after(1):  # inside of the job
                await job()

        if peer == AIOMETER:
            await aiometer.run_on_each(limited, range(1), max_at_once=1)
        else:
            async with HOSTS[peer](1) as host:
                await host.submit(limited)
                await anyio.sleep(2)

    found = {}
    for peer, own in [(ANYSLOTS, by_option), (AIOJOBS, by_wait)]:
        found[peer] = "yes" if run(peer, is_stopped, own) else "no"
    for peer in (ORIGINAL, ASYNCIO, TRIO, ANYIO, AIOMETER):
        found[peer] = "recipe" if run(peer, is_stopped, partial(by_hand, peer)) else "no"
    for peer, submit in [(THREADS, pool.submit), (DASK, client.submit)]:
        future = submit(wait_at_gate, peer)
        assert until(lambda peer=peer: f"{peer} began" in log)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        gate.set()
        went_on = until(lambda peer=peer: f"{peer} ended" in log)
        gate.clear()
        found[peer] = "no" if went_on else "yes"
    assert found == says("time limit each")


def test_unseen_errors(
    caplog: pytest.LogCaptureFixture, pool: ThreadPoolExecutor, client: Any
) -> None:
    """A job fails, and nobody asks for its result."""

    async def fails(peer: str) -> None:
        if peer == AIOMETER:
            await aiometer.run_on_each(fail_async, range(1), max_at_once=1)
        else:
            async with HOSTS[peer]() as host:
                await host.submit(fail_async)
                await anyio.sleep(1)

    def what_is_told(fn: Callable[[], Any]) -> str:
        caplog.clear()
        try:
            fn()
        except (LookupError, ExceptionGroup):
            return "raised"
        told = "".join(f"{record.exc_info} {record.getMessage()}" for record in caplog.records)
        return "logged" if "failed" in told else "lost"

    def in_a_thread(submit: Callable[..., Any]) -> None:
        future = submit(fail)
        assert until(future.done)
        never(lambda: caplog.records)

    caplog.set_level(logging.WARNING)
    found = {peer: what_is_told(partial(run, peer, fails, peer)) for peer in [*HOSTS, AIOMETER]}
    found[THREADS] = what_is_told(partial(in_a_thread, pool.submit))
    found[DASK] = what_is_told(partial(in_a_thread, client.submit))
    assert found == says("unretrieved errors")


def test_the_end() -> None:
    """No job runs when the block has ended: by itself, by an error, or cancelled as it waits."""

    async def left(peer: str, how: str) -> int:
        work = Work()
        with anyio.move_on_after(0.5 if how == "cancelled" else 100):
            if peer == AIOMETER:
                await aiometer.run_on_each(work, range(3), max_at_once=2)
            else:
                try:
                    async with HOSTS[peer]() as host:
                        for number in range(3):
                            await host.submit(work, number)
                        if how == "by an error":
                            raise LookupError("failed")
                except (LookupError, ExceptionGroup):
                    pass
            await anyio.lowlevel.checkpoint()
        count = work.now
        if peer == AIOJOBS:
            await host.limiter.close()
        return count

    found = {}
    for peer in [*HOSTS, AIOMETER]:
        ways = ["by itself", "by an error", "cancelled"]
        none = {how: run(peer, left, peer, how) == 0 for how in ways}
        found[peer] = "yes" if all(none.values()) else "no"
        if none == {"by itself": True, "by an error": True, "cancelled": False}:
            found[peer] = "if not cancelled"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(wait_at_gate, "thread")
        assert until(lambda: log == ["thread began"])
        threading.Timer(0.05, gate.set).start()
    found[THREADS] = "yes" if log[-1] == "thread ended" else "no"
    gate.clear()
    with (
        distributed.LocalCluster(
            n_workers=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=False
        ) as cluster,
    ):
        with distributed.Client(cluster) as client:
            future = client.submit(wait_at_gate, "Dask")
            assert until(lambda: "Dask began" in log)
            del future
        found[DASK] = "no" if never(lambda: "Dask ended" in log) else "yes"
        gate.set()
    assert found == says("none after the end")


def test_gather_instead_of_a_task_group(caplog: pytest.LogCaptureFixture) -> None:
    """The note: it raises the first error, loses the second, and lets other jobs run on."""

    async def main() -> None:
        work = Work()
        with pytest.raises(LookupError):
            await asyncio.gather(fail_async(), fail_async(), work(1))
        assert work.now == 1
        await anyio.sleep(2)
        assert work.ended == [1]

    run(ASYNCIO, main)
    gc.collect()
    assert not caplog.records


def test_grace() -> None:
    """Told to stop, it gives jobs five seconds: one ends in time, and another is cancelled."""

    async def ends(stop: Callable[[Any], Awaitable[None]]) -> bool:
        async def job(seconds: int) -> None:
            try:
                await anyio.sleep(seconds)
                ended.append((seconds, "ended"))
            except anyio.get_cancelled_exc_class():
                ended.append((anyio.current_time(), "cancelled"))
                raise

        ended: list[tuple[float, str]] = []
        await stop(job)
        return ended == [(1, "ended"), (5, "cancelled")]

    async def by_shutdown(job: Any) -> None:
        async with Executor(2) as executor:
            executor.submit(job, 1)
            executor.submit(job, 100)
            await executor.shutdown(grace=5)

    async def by_wait_and_close(job: Any) -> None:
        async with aiojobs.Scheduler(limit=2) as scheduler:
            await scheduler.spawn(job(1))
            await scheduler.spawn(job(100))
            await scheduler.wait_and_close(timeout=5)

    async def by_wait(job: Any) -> None:
        async with asyncio_host() as host:
            tasks = [await host.submit(job, seconds) for seconds in (1, 100)]
            _, late = await asyncio.wait(tasks, timeout=5)
            for task in late:
                task.cancel()

    async def by_deadline(peer: str, job: Any) -> None:
        async with HOSTS[peer]() as host:
            for seconds in (1, 100):
                await host.submit(job, seconds)
            host.group.cancel_scope.deadline = anyio.current_time() + 5

    found = dict.fromkeys(PYTHON, "no")
    for peer, stop, how in [
        (ANYSLOTS, by_shutdown, "yes"),
        (AIOJOBS, by_wait_and_close, "yes"),
        (ASYNCIO, by_wait, "recipe"),
        (TRIO, partial(by_deadline, TRIO), "recipe"),
        (ANYIO, partial(by_deadline, ANYIO), "recipe"),
    ]:
        if run(peer, ends, stop):
            found[peer] = how
    assert found == says("grace")


def test_threads(pool: ThreadPoolExecutor, client: Any) -> None:
    """Another thread has a job run."""

    async def runs(peer: str, submit: Callable[..., Any]) -> bool:
        done = threading.Event()

        async def job() -> None:
            done.set()

        async with HOSTS[peer]() as host:
            await anyio.to_thread.run_sync(submit, host, job)
            await anyio.to_thread.run_sync(done.wait, 10)
        return done.is_set()

    found = dict.fromkeys(PYTHON, "no")
    loops: list[asyncio.AbstractEventLoop] = []

    async def on_loop(peer: str, submit: Callable[..., Any]) -> bool:
        loops[:] = [asyncio.get_running_loop()]
        return await runs(peer, submit)

    def by_submit(host: Host, job: Any) -> None:
        from_thread.submit(host.group, job).result(10)

    def by_coroutine(host: Host, job: Any) -> None:
        asyncio.run_coroutine_threadsafe(host.submit(job), loops[0]).result(10)

    def by_call_soon(host: Host, job: Any) -> None:
        loops[0].call_soon_threadsafe(host.limiter.submit, job)

    def by_trio(host: Host, job: Any) -> None:
        trio.from_thread.run(host.submit, job)

    def by_anyio(host: Host, job: Any) -> None:
        anyio.from_thread.run(host.submit, job)

    for peer, submit, how in [
        (ANYSLOTS, by_submit, "yes"),
        (ORIGINAL, by_call_soon, "recipe"),
        (ASYNCIO, by_coroutine, "yes"),
        (ANYIO, by_anyio, "yes"),
        (AIOJOBS, by_coroutine, "recipe"),
    ]:
        if anyio.run(on_loop, peer, submit):
            found[peer] = how
    if anyio.run(runs, TRIO, by_anyio, backend="trio"):
        found[TRIO] = "yes"
    for peer, way in [(THREADS, pool.submit), (DASK, client.submit)]:
        with ThreadPoolExecutor(1) as other:
            if other.submit(lambda way=way: way(abs, -5).result(10)).result(10) == 5:
                found[peer] = "yes"
    assert found == says("from threads")


def test_needs() -> None:
    """The sentence below the tables: what else each needs."""

    def others(name: str) -> list[str]:
        return [need for need in requires(name) or [] if ";" not in need]

    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [need[:5] for need in ours["dependencies"]] == ["anyio"]
    assert [need[:5] for need in others("aiometer")] == ["anyio"]
    assert others("aiojobs") == []
    assert len(others("distributed")) > 5
