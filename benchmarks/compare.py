"""How much a job costs through slots, beside what people use instead.

Each figure is the median of ratios: ours and a peer's run in turn, in one process, garbage
collected before each run and not during it; a ratio of 0.5 means half the peer's time. First each
program is seen to run all its jobs. ``--help`` says what can be chosen; peers that aren't installed
are left out with a word.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import programs as p
from programs import Program

from anyslots import Executor

Peer = tuple[str, Program]


class Row(NamedTuple):
    name: str
    ours: Program
    peers: list[Peer]
    # The part of the jobs that this row is run with.
    share: float = 1


class Peers(NamedTuple):
    """What an event loop offers instead."""

    job: Any
    bare: Program
    unlimited: Program
    limited: Program
    instant: Program
    # Those of a plain job, and among them some that are so slow that fewer jobs must do.
    others: list[Peer]
    slow: list[Peer]
    one_at_a_time: Program | None = None


def asyncio_peers() -> Peers:
    return Peers(
        p.asyncio_job,
        p.asyncio_bare_tasks,
        p.asyncio_unlimited,
        p.asyncio_semaphore_gather,
        p.asyncio_unlimited_instant,
        [
            ("semaphore in TaskGroup", p.asyncio_semaphore_task_group),
            ("the original AsyncExecutor", p.original_program),
        ],
        [("aiojobs", p.aiojobs_scheduler)],
        p.asyncio_one_at_a_time,
    )


def trio_peers() -> Peers:
    return Peers(
        p.trio_job,
        p.trio_bare_tasks,
        p.trio_unlimited,
        p.trio_limiter,
        p.trio_unlimited_instant,
        [],
        [],
    )


def rows_beside(peers: Peers) -> list[Row]:
    job = peers.job
    ours = p.submit(job)
    unlimited = ("unlimited tasks", peers.unlimited)
    limited = ("semaphore or limiter, a task each", peers.limited)
    many = [
        ("bare tasks sharing an iterator", peers.bare),
        ("the least executor", p.least(job)),
        unlimited,
        limited,
        *peers.others,
        ("anyio.amap, unlimited", p.anyio_amap(job)),
        ("threads", p.thread_pool),
    ]
    slow = [
        ("anyio CapacityLimiter", p.anyio_limiter(job)),
        ("aiometer", p.aiometer_run_all(job)),
        *peers.slow,
        ("anyio-executor", p.anyio_executor_map(job)),
    ]
    instant = ("unlimited tasks", peers.instant)
    rows = [
        Row("one checkpoint", ours, many),
        Row("one checkpoint", ours, slow, 0.25),
        Row("no checkpoint", p.submit(p.instant_job), [instant]),
        Row("10 slots", p.submit(job, 10), [unlimited]),
        Row("1,000 slots", p.submit(job, 1000), [unlimited]),
        Row("submit, then await each", p.submit_and_await_each(job), [unlimited]),
        Row("gather", p.submit_and_gather(job), [unlimited, ("submit alone", ours)]),
        Row("map to a list", p.map_to_list(job), [unlimited, limited]),
        Row("map to a list, unordered", p.map_to_list(job, ordered=False), [unlimited, limited]),
        Row("map as a stream", p.map_as_stream(job), [unlimited, limited]),
        Row("ten lanes of twenty places", p.ten_lanes(job), [limited]),
        Row("a rate that's never reached", p.submit(job, rate=p.at_most(10**9)), [limited]),
        Row("cancelled in the queue", p.submit_and_cancel(job), [("running them", ours)]),
    ]
    if peers.one_at_a_time is not None:
        by_hand = ("await create_task", peers.one_at_a_time)
        rows.append(Row("one at a time", p.one_at_a_time(job), [by_hand], 0.25))
    return rows


LOOPS: dict[str, tuple[Callable[[], Peers], dict[str, Any]]] = {
    "asyncio": (asyncio_peers, {"backend": "asyncio"}),
    "uvloop": (asyncio_peers, {"backend": "asyncio", "backend_options": {"use_uvloop": True}}),
    "trio": (trio_peers, {"backend": "trio"}),
}


async def timed(program: Callable[[int], Awaitable[object]], jobs: int) -> float:
    """Seconds a job."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        await program(jobs)
        return (time.perf_counter() - start) / jobs
    finally:
        gc.enable()


async def ratio_of(
    ours: Program, theirs: Program, our_jobs: int, their_jobs: int, rounds: int
) -> float:
    pairs = [(await timed(ours, our_jobs), await timed(theirs, their_jobs)) for _ in range(rounds)]
    return statistics.median(mine / peer for mine, peer in pairs)


async def check(rows: list[Row]) -> set[str]:
    """See that each program runs all its jobs; the names of peers that aren't installed."""
    missing = set()
    for name, program in [peer for row in rows for peer in [(row.name, row.ours), *row.peers]]:
        p.done = 0
        try:
            await program(40)
        except ImportError as exc:
            print(f"  left out: {name} ({exc})", file=sys.stderr)
            missing.add(name)
        else:
            assert p.done == 40, f"{name}: {p.done} of 40 jobs ran"
    return missing


async def compare(
    rows: list[Row], missing: set[str], jobs: int, rounds: int
) -> list[dict[str, Any]]:
    figures = []
    for row in rows:
        number = max(int(jobs * row.share), 10)
        for name, peer in row.peers:
            if name in missing:
                continue
            await timed(peer, number)  # warm up
            ratio = await ratio_of(row.ours, peer, number, number, rounds)
            figures.append({"row": row.name, "peer": name, "ratio": ratio, "jobs": number})
            print(f"  {row.name:28} / {name:32} {ratio:6.2f}", flush=True)
    return figures


# What isn't a ratio of two programs.


async def bytes_queued(jobs: int) -> float:
    async with Executor(1) as executor:
        await executor.submit(p.asyncio_job)
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(jobs):
            executor.submit(p.asyncio_job)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        executor.cancel()
    return (after - before) / jobs


async def bytes_waiting_on_a_semaphore(jobs: int) -> float:
    semaphore = asyncio.Semaphore(1)

    async def limited() -> None:
        async with semaphore:
            await p.asyncio_job()

    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    async with semaphore:
        tasks = [asyncio.create_task(limited()) for _ in range(jobs)]
        await asyncio.sleep(0)
        after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await asyncio.gather(*tasks)
    return (after - before) / jobs


async def growth(most: int, rounds: int) -> list[dict[str, Any]]:
    """What a job costs among few and among many, beside what it costs among ten thousand."""
    usual = min(10_000, most)
    program = p.submit(p.asyncio_job)
    figures = []
    for jobs in (1_000, 100_000, 500_000, 1_000_000):
        if jobs <= most:
            ratio = await ratio_of(program, program, jobs, usual, rounds)
            figures.append({"row": f"a job among {jobs:,}", "peer": f"among {usual:,}"})
            figures[-1] |= {"ratio": ratio, "jobs": jobs}
            print(f"  a job among {jobs:9,} / among {usual:,} {ratio:6.2f}", flush=True)
    return figures


async def over_http(jobs: int, rounds: int) -> list[dict[str, Any]]:
    """Real requests to a server on loopback, which runs in a thread, through twenty slots."""
    import httpx

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except asyncio.IncompleteReadError:
            writer.close()

    def run_server() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    async def start() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), list[int]()
    threading.Thread(target=run_server, daemon=True).start()
    ready.wait()
    url = f"http://127.0.0.1:{ports[0]}/"

    async with httpx.AsyncClient(trust_env=False) as client:

        async def fetch() -> None:
            response = await client.get(url)
            assert response.text == "ok"

        async def by_hand(jobs: int) -> None:
            semaphore = anyio.Semaphore(20)

            async def limited() -> None:
                async with semaphore:
                    await fetch()

            async with anyio.create_task_group() as group:
                for _ in range(jobs):
                    group.start_soon(limited)

        ours = p.submit(fetch, 20)
        await timed(ours, 20)
        ratio = await ratio_of(ours, by_hand, jobs, jobs, rounds)
    return [
        {"row": "HTTP through 20 slots", "peer": "anyio.Semaphore", "ratio": ratio, "jobs": jobs}
    ]


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """All ratios as a Markdown table: a line for each row and peer, a column for each loop."""
    lines: dict[tuple[str, str], dict[str, float]] = {}
    for loop, found in figures.items():
        for figure in found:
            lines.setdefault((figure["row"], figure["peer"]), {})[loop] = figure["ratio"]
    text = f"| ours | beside | {' | '.join(figures)} |\n|---|---|{'---|' * len(figures)}\n"
    for (row, peer), ratios in lines.items():
        cells = (f"{ratios[loop]:.2f}" if loop in ratios else "" for loop in figures)
        text += f"| {row} | {peer} | {' | '.join(cells)} |\n"
    return text


def where() -> str:
    packages = []
    for name in ("anyio", "trio", "uvloop", "aiometer", "aiojobs", "anyio-executor"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.system()} {platform.machine()}, {', '.join(packages)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="of most rows (20000)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs a figure (7)")
    parser.add_argument("--loop", choices=LOOPS, action="append", help="this event loop (all)")
    parser.add_argument("--row", action="append", help="rows whose name contains this (all)")
    parser.add_argument("--many", type=int, default=1_000_000, help="jobs of the large rows")
    parser.add_argument("--table", type=Path, help="write a Markdown table here")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    heading = f"{where()}; {options.jobs:,} jobs, {p.SLOTS} slots, {options.rounds} pairs of runs"
    print(heading)

    def wanted(name: str) -> bool:
        return not options.row or any(part in name for part in options.row)

    figures: dict[str, list[dict[str, Any]]] = {}
    for loop in options.loop or LOOPS:
        print(f"\n{loop}", flush=True)
        peers, arguments = LOOPS[loop]
        with p.counted():
            missing = anyio.run(check, rows_beside(peers()), **arguments)
        chosen = [row for row in rows_beside(peers()) if wanted(row.name)]
        figures[loop] = anyio.run(
            compare, chosen, missing, options.jobs, options.rounds, **arguments
        )
        if wanted("HTTP"):
            number = max(options.jobs // 20, 20)
            figures[loop] += anyio.run(over_http, number, options.rounds, **arguments)
    if wanted("many") and "asyncio" in figures:
        figures["asyncio"] += anyio.run(growth, options.many, 3)
        queued = anyio.run(bytes_queued, options.many)
        waiting = anyio.run(bytes_waiting_on_a_semaphore, options.many // 10)
        print(
            f"\na queued job: {queued:.0f} bytes; a task that waits on a semaphore: {waiting:.0f}"
        )
        ratio = queued / waiting
        row = {"row": "bytes a queued job", "peer": "a task on a semaphore", "ratio": ratio}
        figures["asyncio"].append(row | {"jobs": options.many})
    text = f"{heading}\n\n{table(figures)}"
    print(f"\n{table(figures)}")
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    if options.json:
        text = json.dumps({"where": heading, "figures": figures}, indent=1)
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
