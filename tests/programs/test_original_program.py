"""The program that anyslots grew from, translated: downloads through four slots, under asyncio.

It submitted both coroutine functions and functions that create a task, and gathered the futures
with asyncio's own `gather`.
"""

from __future__ import annotations

import asyncio

import pytest
from runners import RUNNERS

from anyslots import Executor


class Downloads:
    """Stands for the network: knows how many downloads were under way at once."""

    def __init__(self) -> None:
        self.under_way = self.most = 0
        self.order: list[int] = []

    async def download(self, number: int) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.order.append(number)
        try:
            for _ in range(number % 5 + 1):
                await asyncio.sleep(0)
            if number == 7:
                raise OSError("connection reset")
            return f"page {number}"
        finally:
            self.under_way -= 1

    def start_download(self, number: int) -> asyncio.Task[str]:
        return asyncio.create_task(self.download(number))


@pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS)
def test_eleven_downloads_through_four_slots(run) -> None:
    """Coroutine functions and task makers share the slots, and one failure costs no slot."""

    async def main() -> tuple[Downloads, list[str | BaseException]]:
        downloads = Downloads()
        async with Executor(slots=4) as executor:
            futures = [
                executor.submit(
                    downloads.start_download if number % 2 else downloads.download, number
                )
                for number in range(11)
            ]
            results = await asyncio.gather(*futures, return_exceptions=True)
        assert executor.statistics().failed == 1
        return downloads, results

    downloads, results = run(main())
    failure = results.pop(7)
    assert isinstance(failure, OSError)
    assert results == [f"page {number}" for number in range(11) if number != 7]
    assert downloads.most == 4
    assert sorted(downloads.order) == list(range(11))


def test_gather_raises_the_first_failure() -> None:
    """Under asyncio, `asyncio.gather` on our futures raises the job's own exception."""

    async def main() -> None:
        downloads = Downloads()
        async with Executor(slots=4) as executor:
            with pytest.raises(OSError, match="connection reset"):
                await asyncio.gather(*(executor.submit(downloads.download, n) for n in range(11)))
            await executor.join()
            assert executor.statistics().succeeded == 10

    asyncio.run(main())
