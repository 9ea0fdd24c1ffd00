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
from typing import Any
from urllib.parse import urlsplit

import anyio

from anyslots import Executor, Retry, as_completed


async def main(
    urls: list[str],
    into: Path,
    slots: int = 4,
    per_host: int = 2,
    wait: float = 0.1,
    library: str = "httpx",
) -> dict[str, int]:
    """Download all URLs; return the sizes, and -1 for what couldn't be had."""
    httpx: Any = importlib.import_module(library)

    def is_temporary(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return bool(error.response.is_server_error)
        return isinstance(error, httpx.TransportError)

    async def download(url: str) -> int:
        """Save what's at a URL under its last name; return its size in bytes."""
        path = anyio.Path(into, urlsplit(url).path.rpartition("/")[2] or "index.html")
        response = await client.get(url)
        response.raise_for_status()
        return await path.write_bytes(response.content)

    sizes: dict[str, int] = {}
    retry = Retry(on=is_temporary, wait=wait)
    async with httpx.AsyncClient() as client, Executor(slots, retry=retry) as executor:
        hosts = executor.keyed(slots=per_host)
        futures = {hosts[urlsplit(url).netloc].submit(download, url): url for url in urls}
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
    options = {"slots": args.slots, "per_host": args.per_host}
    if args.urls:
        anyio.run(partial(main, args.urls, args.into, **options), backend=args.backend)
    else:
        with TemporaryDirectory() as directory, serve_site() as site:
            anyio.run(partial(main, site, Path(directory), **options), backend=args.backend)
