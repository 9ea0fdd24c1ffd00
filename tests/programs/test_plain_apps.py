"""Programs as users write them: `asyncio.run`, `uvloop.run` and `trio.run`, and real clients."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
import trio
from runners import HAS_UVLOOP, run

from anyslots import Executor, gather


async def trio_app() -> list[int]:
    """Nothing but trio, and the library."""

    async def square(number: int) -> int:
        await trio.sleep(0.001)
        return number**2

    async with trio.open_nursery() as nursery, Executor(3) as executor:
        nursery.start_soon(trio.sleep, 0)
        futures = [executor.submit(square, number) for number in range(10)]
        with trio.move_on_after(0.01) as scope:
            await executor.submit(trio.sleep, 0.1)
        assert scope.cancelled_caught
        return await gather(*futures)


async def asyncio_app() -> list[int]:
    """Nothing but asyncio, and the library."""

    async def square(number: int) -> int:
        await asyncio.sleep(0.001)
        return number**2

    async with asyncio.TaskGroup() as group, Executor(3) as executor:
        group.create_task(asyncio.sleep(0))
        futures = [executor.submit(square, number) for number in range(10)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await executor.submit(asyncio.sleep, 0.1)
        return list(await asyncio.gather(*futures))


def test_both_kinds_of_program_in_turn() -> None:
    """One process runs trio's event loop, then asyncio's, then uvloop's, and again."""
    apps = [("trio", trio_app), ("asyncio", asyncio_app), ("uvloop", asyncio_app)]
    for _ in range(2):
        for name, app in apps if HAS_UVLOOP else apps[:2]:
            assert run(name, app) == [number**2 for number in range(10)]


class Site(ThreadingHTTPServer):
    """Files, of which some fail at first; counts how many requests it serves at once."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("", 0), Handler)
        self.lock = Lock()
        self.requests: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()

    def url(self, host: str, name: str) -> str:
        return f"http://{host}:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        counted = (self.headers["Host"].partition(":")[0], "all")
        with site.lock:
            site.requests[self.path] += 1
            for key in counted:
                site.running[key] += 1
                site.peaks[key] = max(site.peaks[key], site.running[key])
            first = site.requests[self.path] == 1
        status = 404 if "lost" in self.path else 503 if first and "flaky" in self.path else 200
        time.sleep(0.005)  # so that requests overlap
        with site.lock:
            for key in counted:
                site.running[key] -= 1
        self.send_response(status)
        self.end_headers()
        self.wfile.write(self.path.encode() * 10)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = Thread(target=partial(site.serve_forever, poll_interval=0.01))
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture
def downloader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example, as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import downloader

    yield downloader
    del sys.modules["downloader"]


@pytest.mark.unmeasured
@pytest.mark.real_time
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_downloader(
    loop_name: str, library: str, site: Site, downloader: Any, tmp_path: Path, capsys: Any
) -> None:
    """All files come, after retries; no more at once than there are slots, and each host's."""
    pytest.importorskip(library)
    names = [f"{'flaky' if n % 3 == 0 else 'lost' if n == 7 else 'file'}{n}" for n in range(24)]
    hosts = ("127.0.0.1", "localhost")
    urls = [site.url(hosts[n % 2], name) for n, name in enumerate(names)]
    download = partial(downloader.main, urls, tmp_path, 4, 2, wait=0.01, library=library)
    sizes = run(loop_name, download)
    assert sizes == {
        url: -1 if "lost" in name else len(name) * 10 + 10
        for url, name in zip(urls, names, strict=True)
    }
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {"lost7"}
    assert site.requests == Counter({f"/{name}": 2 if "flaky" in name else 1 for name in names})
    assert site.peaks["all"] <= 4
    assert max(site.peaks[host] for host in hosts) <= 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{n}/24" for n in range(1, 25)]


@pytest.mark.real_time
def test_a_retry_holds_no_slot(loop_name: str, site: Site, downloader: Any, tmp_path: Path) -> None:
    """With one slot, the others are downloaded while one waits for its second attempt."""
    urls = [site.url("127.0.0.1", name) for name in ("flaky", "one", "two", "three")]
    sizes = run(loop_name, partial(downloader.main, urls, tmp_path, 1, 1, wait=1))
    assert list(sizes) == [*urls[1:], urls[0]]
