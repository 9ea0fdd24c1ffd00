"""How many processor instructions a job takes, beside what people use instead, and in its parts.

Counted by valgrind's callgrind, so the figures hardly depend on what else the machine does, nor on
how fast it is: each program runs with a thousand jobs and with six thousand, and the difference is
what five thousand of them take. It takes a minute a row.

``--csv docs/benchmarks.csv`` counts what the documentation compares, on both loops, and writes the
ratios there, from which `chart.py` draws the picture.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import programs as p

from anyslots import Executor, Future, Retry
from anyslots.instruments import OpenTelemetry, Prometheus, Timeline

FEW, MANY = 1_000, 6_000


def in_a_full_executor(part: Callable[[Executor, Any], object]) -> p.Program:
    """Does just one part of what a job needs, many times, and ends the process."""

    async def program(jobs: int) -> None:
        async with Executor(1) as executor:
            executor.submit(anyio.sleep_forever)
            await anyio.lowlevel.checkpoint()
            for _ in range(jobs):
                part(executor, p.instant_job)
            sys.stdout.flush()
            os._exit(0)

    return program


PARTS: dict[str, p.Program] = {
    "a loop": in_a_full_executor(lambda executor, job: None),
    "copy_context": in_a_full_executor(lambda executor, job: copy_context()),
    "submit": in_a_full_executor(lambda executor, job: executor.submit(job)),
}


# What there is under asyncio alone.
MORE = PARTS | {
    "asyncio.Semaphore when it's free": p.semaphore_blocks,
}

PLAIN, TASKS, SEMAPHORE = "anyslots", "unlimited tasks", "semaphore or limiter, a task each"
# What's compared: what it's called, our row, what it's compared with, and that row.
COMPARED = [
    ("a plain job", PLAIN, "an unlimited task", TASKS),
    ("a plain job", PLAIN, "a task and a semaphore", SEMAPHORE),
    ("ten lanes", "anyslots, ten lanes", "a task and a semaphore", SEMAPHORE),
    (
        "a rate, never reached",
        "anyslots, a rate never reached",
        "a task and a semaphore",
        SEMAPHORE,
    ),
    ("`map` to a list", "anyslots, map to a list", "an unlimited task", TASKS),
    ("`map` as a stream", "anyslots, map as a stream", "an unlimited task", TASKS),
    ("submit all, await each", "anyslots, await each", "an unlimited task", TASKS),
    (
        "a job that returns at once",
        "anyslots, jobs that return at once",
        "such an unlimited task",
        "unlimited tasks that return at once",
    ),
    ("`enqueue`", "anyslots, enqueue", "acquire, then spawn", "acquire a semaphore, then spawn"),
    (
        "100 jobs in 100 slots, the executor included",
        "anyslots, 100 jobs in 100 slots",
        "anyio's task group",
        "an anyio task group for 100 jobs",
    ),
    (
        "`slot()`, free",
        "anyslots, slot() when it's free",
        "`anyio.Semaphore`, free",
        "anyio.Semaphore when it's free",
    ),
    ("a `Retry`, not needed", "anyslots, with a Retry", "a plain job", PLAIN),
    ("a time limit", "anyslots, with a timeout", "a plain job", PLAIN),
    ("a lane in a lane", "anyslots, a lane in a lane", "a plain job", PLAIN),
    ("with Timeline", "with Timeline", "a plain job", PLAIN),
    ("with Prometheus", "with Prometheus", "a plain job", PLAIN),
    ("with OpenTelemetry", "with OpenTelemetry", "a plain job", PLAIN),
    ("making a keyed lane", "anyslots, making a keyed lane", "a plain job", PLAIN),
    ("a job that awaits another", "anyslots, nested pairs", "a plain job", PLAIN),
]


class Silent:
    """An instrument that does nothing: what the calls of instruments cost by themselves."""

    def job_submitted(self, future: Future[Any]) -> None: ...

    job_started = job_finished = job_submitted


def with_instrument(job: Any, make: Callable[[], object]) -> p.Program:
    async def program(jobs: int) -> None:
        async with Executor(p.SLOTS, name="bench", instruments=[make()]) as executor:
            for _ in range(jobs):
                executor.submit(job)

    return program


def prometheus() -> object:
    from prometheus_client import CollectorRegistry

    return Prometheus(registry=CollectorRegistry())


def opentelemetry() -> object:
    """Spans are made and ended by the SDK, and go nowhere."""
    from opentelemetry.sdk.trace import TracerProvider

    return OpenTelemetry(tracer_provider=TracerProvider(shutdown_on_exit=False))


def opentelemetry_metrics() -> object:
    """Spans and metrics by the SDK; they are never read."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    return OpenTelemetry(
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        meter_provider=MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    )


def rows(loop: str) -> dict[str, Callable[[int], Awaitable[object]]]:
    trio = loop == "trio"
    job = p.trio_job if trio else p.asyncio_job
    return {
        "bare tasks sharing an iterator": p.trio_bare_tasks if trio else p.asyncio_bare_tasks,
        "the least executor": p.least(job),
        "anyslots": p.submit(job),
        "anyslots, ten lanes": p.ten_lanes(job),
        "anyslots, gather": p.submit_and_gather(job),
        "anyslots, map to a list": p.map_to_list(job),
        "anyslots, await each": p.submit_and_await_each(job),
        "anyslots, a lane in a lane": p.lanes_in_lanes(job, 2),
        "anyslots, three lanes deep": p.lanes_in_lanes(job, 3),
        "anyslots, map as a stream": p.map_as_stream(job),
        "anyslots, jobs that return at once": p.submit(p.instant_job),
        "anyslots, a rate never reached": p.submit(job, rate=p.at_most(10**9)),
        "anyslots, with a timeout": p.submit(job, timeout=3600),
        "anyslots, with a Retry": p.submit(job, retry=Retry()),
        "anyslots, 100 jobs in 100 slots": p.small_runs(job),
        "an anyio task group for 100 jobs": p.small_task_groups(job),
        "anyslots, nested pairs": p.nested_pairs(job),
        "anyslots, enqueue": p.enqueue_each(job),
        "acquire a semaphore, then spawn": (
            p.trio_acquire_then_spawn if trio else p.asyncio_acquire_then_spawn
        ),
        "anyslots, making a keyed lane": p.keyed_lanes,
        "anyslots, slot() when it's free": p.slot_blocks,
        "anyio.Semaphore when it's free": p.anyio_semaphore_blocks,
        "with an instrument that does nothing": with_instrument(job, Silent),
        "with Prometheus": with_instrument(job, prometheus),
        "with OpenTelemetry": with_instrument(job, opentelemetry),
        "with OpenTelemetry and its metrics": with_instrument(job, opentelemetry_metrics),
        "with Timeline": with_instrument(job, Timeline),
        "unlimited tasks that return at once": (
            p.trio_unlimited_instant if trio else p.asyncio_unlimited_instant
        ),
        "unlimited tasks": p.trio_unlimited if trio else p.asyncio_unlimited,
        "semaphore or limiter, a task each": p.trio_limiter if trio else p.asyncio_semaphore_gather,
    } | ({} if trio else MORE)


async def run(name: str, loop: str, jobs: int) -> None:
    program = rows(loop)[name]
    gc.disable()
    if name not in PARTS:
        await program(300)  # warm up
    await program(jobs)


def instructions(name: str, loop: str, jobs: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += [__file__, "--loop", loop, "--run", name, "--jobs", str(jobs)]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


@cache
def of_a_job(name: str, loop: str) -> int:
    few, many = (instructions(name, loop, jobs) for jobs in (FEW, MANY))
    return (many - few) // (MANY - FEW)


def write_ratios(path: Path) -> None:
    loops = ["asyncio", "trio"]
    needed = {
        (row, loop) for _, ours, _, theirs in COMPARED for row in (ours, theirs) for loop in loops
    }
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for wanted in threads.map(lambda each: (*each, of_a_job(*each)), sorted(needed)):
            print(*wanted, flush=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["ours", "compared with", *loops])
        for name, ours, other, theirs in COMPARED:
            ratios = [of_a_job(ours, loop) / of_a_job(theirs, loop) for loop in loops]
            lines.writerow([name, other, *(f"{ratio:.2f}" for ratio in ratios)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--run", help="just run this program, without counting")
    parser.add_argument("--rows", help="count only the rows whose names have this in them")
    parser.add_argument("--jobs", type=int, default=MANY)
    parser.add_argument("--csv", type=Path, help="count what's compared, and write ratios here")
    options = parser.parse_args()
    if options.run:
        anyio.run(run, options.run, options.loop, options.jobs, backend=options.loop)
        return
    if options.csv:
        write_ratios(options.csv)
        return
    for name in rows(options.loop):
        if (options.rows or "") in name:
            print(f"{name:37} {of_a_job(name, options.loop):8,}", flush=True)


if __name__ == "__main__":
    main()
