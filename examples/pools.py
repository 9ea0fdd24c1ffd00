"""Functions that compute, in processes of this machine or on a Dask cluster.

    python examples/pools.py [--backend trio] [--scheduler tcp://scheduler:8786] [--until 20]

From one to the other is one line. Results come in as they are done, while inputs are taken as
they're needed: there may be more of them than fit into memory.
"""

from __future__ import annotations

import argparse
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import anyio

from anyslots import Executor, to_pool


def longest_sequence(first: int, last: int) -> tuple[int, int]:
    """The most steps that a number of a range takes to 1 by Collatz's rule, and that number."""
    most = (0, 0)
    for start in range(first, last):
        number, steps = start, 0
        while number != 1:
            number = 3 * number + 1 if number % 2 else number // 2
            steps += 1
        most = max(most, (steps, start))
    return most


async def main(until: int, slots: int, pool: Pool) -> None:
    step = 5000
    firsts = range(1, until, step)
    compute = partial(to_pool.run_sync, longest_sequence, pool=pool)
    best = (0, 0)
    async with Executor(slots) as executor:
        lasts = (min(first + step, until) for first in firsts)
        async for result in executor.map(compute, firsts, lasts, ordered=False):
            if result > best:
                best = result
                print(f"{best[1]:,} takes {best[0]} steps", flush=True)
    print(f"below {until:,}, {best[1]:,} takes the most: {best[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find numbers that take long to get to 1.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--until", type=int, default=200_000)
    parser.add_argument("--scheduler", help="the address of a Dask scheduler")
    args = parser.parse_args()
    run = partial(anyio.run, main, args.until, args.slots, backend=args.backend)
    if args.scheduler is None:
        with ProcessPoolExecutor() as pool:
            run(pool)
    else:
        from distributed import Client

        with Client(args.scheduler) as client, client.get_executor(pure=False) as pool:
            run(pool)
