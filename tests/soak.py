"""Run the property tests with ever new random programs, for as long as one likes.

``nox -s soak`` takes an hour; ``nox -s soak -- --minutes 5`` takes five minutes. Each round is a
process of its own with a seed of its own, as many at once as there are processors. A round that
fails is replayed by ``nox -s soak -- --seed N --rounds 1``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
import time
from collections import Counter

import anyio

from anyslots import Executor


class Soak:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()
        self.ran: Counter[str] = Counter()
        self.failed: list[int] = []

    async def round(self, seed: int) -> None:
        command = [sys.executable, "-X", "dev", "-m", "pytest", "-q"]
        command += ["-m", "hypothesis or soak"]
        command += [f"--hypothesis-seed={seed}", "-p", "no:cacheprovider", *self.options.pytest]
        environment = os.environ | {
            "HYPOTHESIS_PROFILE": "soak",
            "SOAK_EXAMPLES": str(self.options.examples),
        }
        process = await anyio.run_process(command, check=False, env=environment)
        output = process.stdout.decode()
        for count, what in re.findall(r"^ran (\d+) (.+)$", output, re.MULTILINE):
            self.ran[what] += int(count)
        if process.returncode:
            self.failed.append(seed)
            print(output)
            print(f"seed {seed} failed; replay it: nox -s soak -- --seed {seed} --rounds 1")
        minutes = (time.monotonic() - self.began) / 60
        counts = ", ".join(f"{count:,} {what}" for what, count in self.ran.items())
        print(f"{minutes:.1f} min: seed {seed} done; so far {counts}", flush=True)

    async def main(self) -> None:
        end = self.began + 60 * self.options.minutes
        last = self.options.seed + self.options.rounds
        async with Executor(os.cpu_count() or 1, max_pending=0) as executor:
            for seed in itertools.count(self.options.seed):
                if seed >= last or time.monotonic() >= end or self.failed:
                    break
                await executor.enqueue(self.round, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long to begin rounds for")
    parser.add_argument("--rounds", type=float, default=math.inf, help="how many at most")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    parser.add_argument("--examples", type=int, default=500, help="programs a test and round")
    parser.add_argument("pytest", nargs="*", help="for pytest: files, or options after a `--`")
    soak = Soak(parser.parse_args())
    anyio.run(soak.main)
    return len(soak.failed) > 0


if __name__ == "__main__":
    sys.exit(main())
