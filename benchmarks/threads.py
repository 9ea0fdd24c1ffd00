"""What calls across threads cost beside the standard library's, in processor time, under asyncio.

``python benchmarks/threads.py``: each figure is the median of ratios of two programs that run in
turn, in one process; processor time of all threads, since most of the time they wait for another.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from concurrent.futures import ThreadPoolExecutor

from anyslots import BlockingExecutor, Executor, from_thread, to_pool

THREADS = 4


def plain(number: int) -> int:
    return number


async def job(number: int) -> int:
    await asyncio.sleep(0)
    return number


def submit_all(pool: Pool, jobs: int) -> None:
    with pool:
        futures = [pool.submit(plain, number) for number in range(jobs)]
        assert [future.result() for future in futures] == list(range(jobs))


def blocking_executor(jobs: int) -> None:
    submit_all(BlockingExecutor(THREADS), jobs)


def thread_pool(jobs: int) -> None:
    submit_all(ThreadPoolExecutor(THREADS), jobs)


Program = Callable[[int], None]


def from_another_thread(
    call: Callable[[Executor, asyncio.AbstractEventLoop, int], int],
) -> Program:
    def program(jobs: int) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            async with Executor(THREADS) as executor:

                def one_at_a_time() -> None:
                    for number in range(jobs):
                        assert call(executor, loop, number) == number

                await loop.run_in_executor(None, one_at_a_time)

        asyncio.run(main())

    return program


def by_from_thread(executor: Executor, loop: asyncio.AbstractEventLoop, number: int) -> int:
    return from_thread.submit(executor, job, number).result()


def by_coroutine(executor: Executor, loop: asyncio.AbstractEventLoop, number: int) -> int:
    return asyncio.run_coroutine_threadsafe(job(number), loop).result()


def calls_on_a_pool(ours: bool) -> Program:
    def program(jobs: int) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(1) as pool:
                for number in range(jobs):
                    if ours:
                        assert await to_pool.run_sync(plain, number, pool=pool) == number
                    else:
                        assert await loop.run_in_executor(pool, plain, number) == number

        asyncio.run(main())

    return program


ROWS = {
    ("`BlockingExecutor`, plain functions", "`ThreadPoolExecutor`"): (
        blocking_executor,
        thread_pool,
    ),
    ("`from_thread.submit`, one at a time", "`asyncio.run_coroutine_threadsafe`"): (
        from_another_thread(by_from_thread),
        from_another_thread(by_coroutine),
    ),
    ("`to_pool.run_sync`, one at a time", "`loop.run_in_executor`"): (
        calls_on_a_pool(ours=True),
        calls_on_a_pool(ours=False),
    ),
}


def seconds(program: Program, jobs: int) -> float:
    gc.collect()
    gc.disable()
    start = time.process_time()
    program(jobs)
    taken = time.process_time() - start
    gc.enable()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs a figure")
    options = parser.parse_args()
    print("| ours | compared with | asyncio |\n|---|---|---|")
    for (name, other), programs in ROWS.items():
        ratios = []
        for _ in range(options.rounds):
            ours, peers = (seconds(program, options.jobs) for program in programs)
            ratios.append(ours / peers)
        print(f"| {name} | {other} | {statistics.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
