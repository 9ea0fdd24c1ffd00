"""The demo: downloads through a few slots. `download_all` shows how the library is used.

The rest is what a demo needs besides: lines to print, and a web server that takes its time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import perf_counter, sleep

import httpx

from anyslots import Executor, Future


def run(backend: str, slots: int, jobs: int | None, urls: list[str] | None) -> int:
    """Run the demo, and return its exit status: 1 if a download failed, otherwise 0."""
    # A proxy that the environment names is not for the demo's own pages.
    trust_env = urls is not None
    with slow_pages(jobs or 11) if urls is None else nullcontext(urls[:jobs]) as pages:
        main = partial(download_all, pages, slots, backend, trust_env)
        if backend == "trio":
            import trio

            # Without this, Ctrl-C may strike in the middle of anything.
            downloads = trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
        else:
            downloads = asyncio.run(main())
    say("\nWhat ran in which slot, and from when to when, in seconds (xxx: failed)\n")
    for line in chart(downloads, slots):
        say(line)
    status = 0
    for download in downloads:
        error = download.future.exception()
        if error is not None:
            status = 1
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
            print(f"anyslots demo: {download.url} failed: {reason}", file=sys.stderr)
    return status


async def download_all(
    urls: list[str], slots: int, backend: str, trust_env: bool
) -> list[Download]:
    """Download everything, at most ``slots`` at once, and return once all have ended."""
    # The executor limits the connections: httpx needn't.
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(limits=limits, trust_env=trust_env, follow_redirects=True) as client,
        Executor(slots=slots) as executor,
    ):
        say(f"downloads: {len(urls)}   slots: {slots}   backend: {backend}\n")
        begin = perf_counter()
        downloads = [Download(number, url, begin) for number, url in enumerate(urls, 1)]
        for download in downloads:
            # A job is whatever returns an awaitable: a coroutine or, on asyncio, also a task.
            job: Callable[[httpx.AsyncClient], Awaitable[int]] = download.fetch
            if backend == "asyncio" and download.number % 2 == 0:
                job = download.fetch_in_task
            download.future = executor.submit(job, client)  # returns at once
            download.future.add_done_callback(download.finished)
    return downloads


@dataclass
class Download:
    """One download, which says when it starts and how it ends. Times count from ``begin``."""

    number: int
    url: str
    begin: float
    started: float = 0.0
    ended: float = 0.0
    future: Future[int] = field(init=False)

    async def fetch(self, client: httpx.AsyncClient) -> int:
        """Return the number of bytes."""
        self.started = perf_counter() - self.begin
        self.tell(self.started, f"starts: {self.url}")
        response = await client.get(self.url)
        return len(response.raise_for_status().content)

    def fetch_in_task(self, client: httpx.AsyncClient) -> asyncio.Task[int]:
        return asyncio.create_task(self.fetch(client))

    def finished(self, future: Future[int]) -> None:
        self.ended = perf_counter() - self.begin
        if future.cancelled():  # by Ctrl-C
            return
        error = future.exception()  # having looked at it, we won't get it from the executor
        how = f"failed: {type(error).__name__}" if error else f"finished: {future.result()} bytes"
        self.tell(self.ended, f"{how}, after {self.ended - self.started:.2f} s")

    def tell(self, at: float, what: str) -> None:
        say(f"{at:6.2f} s  slot {self.future.slot}  job {self.number:2} {what}")


def chart(downloads: list[Download], slots: int) -> Iterator[str]:
    """For each slot a row of bars, one for each job that ran in it, and their times."""
    columns = 72
    scale = columns / max(download.ended for download in downloads)
    for slot in range(min(slots, len(downloads))):
        row, times = "", []
        for job in (download for download in downloads if download.future.slot == slot):
            stroke = "x" if job.future.exception() else "="
            start = min(int(job.started * scale), columns - 1)
            width = max(int(job.ended * scale) - start, 1)
            bar = f"[{str(job.number).ljust(width - 2, stroke)}]"
            row = row[:start].ljust(start) + (bar if len(bar) == width else stroke * width)
            times.append(f"{job.number}: {job.started:.2f}-{job.ended:.2f}")
        yield f"slot {slot:<3}{row}"
        for first in range(0, len(times), 4):
            yield " " * 8 + "".join(f"{text:18}" for text in times[first : first + 4]).rstrip()


def say(line: str) -> None:
    """Print a line now, whatever standard output can encode, and whether anybody still reads."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # As https://docs.python.org/3/library/signal.html#note-on-sigpipe has it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def slow_pages(count: int) -> Iterator[list[str]]:
    """Serve pages that take between 0.2 and 0.6 seconds each, and give their URLs."""
    with SlowServer(("127.0.0.1", 0), SlowHandler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield [f"{address}/{n}?delay=0.{n * 3 % 5 + 2}" for n in range(1, count + 1)]
        finally:
            server.shutdown()
            thread.join()


class SlowServer(ThreadingHTTPServer):
    request_queue_size = 1000  # with the usual 5, connections that come together are turned away

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about a client that has gone."""


class SlowHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page, _, delay = self.path.partition("?delay=")
        sleep(float(delay))
        content = f"This is page {page}.\n".encode() * 100
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Leave the terminal to the demo."""
