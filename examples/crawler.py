"""A recursive crawler: each page is a job that submits its links as jobs, and waits for them.

    python examples/crawler.py [--backend trio] [--slots 4] [URL]

Without a URL it crawls a small site that it serves itself. Each host has a lane, for at most two
requests at once. A job that waits for others lends them its slot, so one slot is enough.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urldefrag, urljoin, urlsplit

import anyio
import httpx

from anyslots import Executor, Lane, gather

LINK = re.compile(r"""<a\s[^>]*href=["']([^"']+)""", re.IGNORECASE)
SITE = {
    "/": "Welcome: <a href='/books'>books</a> <a href='/films'>films</a>",
    "/books": "<a href='/'>home</a> <a href='/books/1'>one</a>",
    "/books/1": "<a href='/books/2'>next</a> <a href='/films#top'>films</a>",
    "/books/2": "",
    "/films": "<a href='/lost'>lost</a>",
}


class Crawler:
    def __init__(self, executor: Executor, client: httpx.AsyncClient, start: str) -> None:
        self.executor = executor
        self.client = client
        self.hosts = executor.keyed(slots=2, timeout=60)
        self.seen = {start}

    def lane(self, url: str) -> Lane:
        return self.hosts[urlsplit(url).netloc]

    async def crawl(self, url: str) -> int:
        """Print a page and all that it leads to on its host; return how many links were dead."""
        response = await self.client.get(url)
        print(response.status_code, url)
        links = {urldefrag(urljoin(url, link)).url for link in LINK.findall(response.text)}
        new = sorted(link for link in links - self.seen if self.lane(link) is self.lane(url))
        self.seen.update(new)
        below = [self.lane(link).submit(self.crawl, link) for link in new]
        return sum(await gather(*below)) + int(response.is_error)


async def main(url: str, slots: int) -> None:
    async with httpx.AsyncClient() as client, Executor(slots) as executor:
        crawler = Crawler(executor, client, url)
        dead = await crawler.lane(url).submit(crawler.crawl, url)
        print(f"{len(crawler.seen)} pages, {dead} dead")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in SITE else 404)
        self.end_headers()
        self.wfile.write(SITE.get(self.path, "").encode())

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Crawl a site.")
    parser.add_argument("url", nargs="?")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--slots", type=int, default=4)
    args = parser.parse_args()
    with nullcontext(args.url) if args.url else serve_site() as start:
        anyio.run(main, start, args.slots, backend=args.backend)
