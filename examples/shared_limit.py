"""A rate limit that several processes share, kept in Redis or Valkey: a gate for an executor.

    python examples/shared_limit.py redis://localhost [--backend trio] [--jobs 20] [--limit 5]

Start it several times, at once: together the programs start at most ``--limit`` jobs in any
``--per`` seconds. While the server is down, jobs wait; no job is lost.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from uuid import uuid4

import anyio
import coredis
from coredis.exceptions import ConnectionError as Disconnected

from anyslots import Executor

# The times of the last starts, as scores of a sorted set, by the server's clock. Returns for how
# many microseconds to wait; 0: the start is admitted.
ADMIT = """
local limit, window, start = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
if redis.call('ZSCORE', KEYS[1], start) then
    return 0 -- admitted before, by a call whose answer was lost
end
if redis.call('ZCARD', KEYS[1]) < limit then
    redis.call('ZADD', KEYS[1], now, start)
    redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
    return 0
end
return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + window - now
"""


class SharedLimit:
    """At most so many starts in any window of ``per`` seconds, in all processes together."""

    def __init__(
        self, redis: coredis.Redis[str], key: str, limit: int, per: float, *, patience: float = 0.5
    ) -> None:
        self._admit = redis.register_script(ADMIT)
        self._key = key
        self._arguments = limit, round(per * 1_000_000)
        self._patience = patience

    async def admit(self) -> None:
        """Wait until one more start is admitted: the gate of a lane or an executor."""
        start = uuid4().hex
        while True:
            try:
                wait = await self._admit([self._key], [*self._arguments, start])
            except Disconnected:  # the server is down, or reads its data after a start
                await anyio.sleep(self._patience)
                continue
            if not wait:
                return
            await anyio.sleep(int(wait) / 1_000_000)


async def work(number: int) -> str:
    return f"{time.strftime('%X')} job {number}"


async def main(url: str, limit: int, per: float, jobs: int) -> str | None:
    """Return what to complain about, if there's anything."""
    async with coredis.Redis.from_url(url, decode_responses=True) as redis:
        try:
            await redis.ping()
        except Disconnected as error:
            return f"{url}: {error}"
        shared = SharedLimit(redis, "anyslots-example", limit, per)
        async with Executor(slots=10, gate=shared.admit) as executor:
            async for line in executor.map(work, range(jobs)):
                print(line, flush=True)
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Share a rate limit among processes.")
    parser.add_argument("url")
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--per", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    args = parser.parse_args()
    run = partial(main, args.url, args.limit, args.per, args.jobs)
    sys.exit(anyio.run(run, backend=args.backend))
