"""A downloader: so many at once, so many from each host, with retries that don't hold a slot.

    python examples/downloader.py [--backend trio] [--slots 4] [--per-host 2] [--into .] [URL ...]

Without URLs it downloads from a small site that it serves itself, where each file fails once.
While a download waits for its next attempt, another one runs in its slot.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import stamina

from anyslots import Executor, Lane, as_completed, lend_slot


class LendingAttempts:
    """The attempts of stamina's ``retry_context``, with the slot lent while it backs off."""

    def __init__(self, context: Any) -> None:
        self._attempts = aiter(context)
        self._has_begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> stamina.Attempt:
        if not self._has_begun:  # the first attempt doesn't wait
            self._has_begun = True
            return await anext(self._attempts)
        async with lend_slot():
            return await anext(self._attempts)


class Downloader:
    def __init__(self, httpx: Any, client: Any, into: Path, wait: float) -> None:
        self.httpx = httpx
        self.client = client
        self.into = into
        self.retries = partial(stamina.retry_context, attempts=5, wait_initial=wait)

    def may_go_better(self, error: Exception) -> bool:
        """Whether to try again: the network, or the server, has a problem."""
        if isinstance(error, self.httpx.HTTPStatusError):
            return bool(error.response.status_code >= 500)
        return isinstance(error, self.httpx.TransportError)

    async def download(self, url: str) -> int:
        """Save what's at a URL under its last name; return its size in bytes."""
        path = anyio.Path(self.into, urlsplit(url).path.rpartition("/")[2] or "index.html")
        async for attempt in LendingAttempts(self.retries(on=self.may_go_better)):
            with attempt:
                response = await self.client.get(url)
                response.raise_for_status()
                return await path.write_bytes(response.content)
        raise AssertionError("the last attempt returns or raises")


async def main(
    urls: list[str],
    into: Path,
    slots: int = 4,
    per_host: int = 2,
    wait: float = 0.1,
    library: str = "httpx",
) -> dict[str, int]:
    """Download all URLs; return the sizes, and -1 for what couldn't be had."""
    httpx = importlib.import_module(library)
    hosts: dict[str, Lane] = {}
    sizes: dict[str, int] = {}
    async with httpx.AsyncClient() as client, Executor(slots) as executor:
        downloader = Downloader(httpx, client, into, wait)
        futures = {}
        for url in urls:
            host = urlsplit(url).netloc
            if host not in hosts:
                hosts[host] = executor.lane(host, slots=per_host)
            futures[hosts[host].submit(downloader.download, url)] = url
        async for future in as_completed(futures):
            url, error = futures[future], future.exception()
            sizes[url] = -1 if error else future.result()
            outcome = str(error).partition("\n")[0] if error else f"{sizes[url]:,} bytes"
            print(f"{len(sizes)}/{len(urls)}", url, outcome)
    return sizes


class Handler(BaseHTTPRequestHandler):
    seen: set[str] = set()  # noqa: RUF012

    def do_GET(self) -> None:
        status = 200 if self.path in self.seen else 503
        self.seen.add(self.path)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(self.path.encode() * 100)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_site() -> Iterator[list[str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield [f"http://127.0.0.1:{server.server_port}/file{number}" for number in range(6)]
        server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Download files.")
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--per-host", type=int, default=2)
    parser.add_argument("--into", type=Path, default=Path())
    args = parser.parse_args()
    stamina.instrumentation.set_on_retry_hooks([])  # it would log each retry
    options = {"slots": args.slots, "per_host": args.per_host}
    if args.urls:
        anyio.run(partial(main, args.urls, args.into, **options), backend=args.backend)
    else:
        with TemporaryDirectory() as directory, serve_site() as site:
            anyio.run(partial(main, site, Path(directory), **options), backend=args.backend)
