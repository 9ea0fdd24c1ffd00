"""The demo: downloads through a few slots. `download_all` shows how the library is used.

The rest is what else a demo needs: lines to print, and a web server that takes its time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import perf_counter, sleep
from typing import Any, Protocol, TypeVar

import httpx
from rich.console import Console

from anyslots import Executor, Future
from anyslots.instruments import Progress, Timeline

T = TypeVar("T")


class Options(Protocol):
    """What the command was asked for."""

    backend: str
    slots: int
    jobs: int | None
    url_file: list[str] | None
    svg: str | None
    html: str | None
    trace: str | None


def run(options: Options) -> int:
    """Run the demo, and return its exit status: 1 if something failed, otherwise 0."""
    urls, timeline = options.url_file, Timeline()
    console = Console()
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    # A proxy that the environment names is not for the demo's own pages.
    pages = slow_pages(options.jobs or 11) if urls is None else nullcontext(urls[: options.jobs])
    bars = Progress(console=console) if is_terminal else nullcontext()
    with pages as chosen, bars as progress:
        say(f"downloads: {len(chosen)}   slots: {options.slots}   backend: {options.backend}\n")
        instruments: list[object] = [timeline] if progress is None else [timeline, progress]
        main = partial(download_all, chosen, options, instruments)
        downloads = run_on(options.backend, main)
    say("\nWhat ran in which slot when\n")
    if is_terminal:
        console.print(timeline)
    else:
        for line in str(timeline).splitlines():
            say(line)
    errors = [f"{it.url} failed: {reason(e)}" for it in downloads if (e := it.future.exception())]
    for path, save in (
        (options.svg, timeline.save_svg),
        (options.html, timeline.save_html),
        (options.trace, timeline.save_trace),
    ):
        try:
            if path is not None:
                save(path)
        except OSError as error:
            errors.append(f"cannot write {path!r}: {error.strerror}")
    for line in errors:
        print(f"anyslots demo: {line}", file=sys.stderr)
    return 1 if errors else 0


def run_on(backend: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run an async function on the event loop of that name."""
    if backend == "trio":
        import trio

        # Without this, Ctrl-C may strike in the middle of anything.
        return trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    if backend == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    return asyncio.run(main())


def reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")


async def download_all(
    urls: list[str], options: Options, instruments: list[object]
) -> list[Download]:
    """Download everything, a few at once, and return once all have ended."""
    # The executor limits the connections: httpx needn't.
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            limits=limits, trust_env=options.url_file is not None, follow_redirects=True
        ) as client,
        Executor(options.slots, name="downloads", instruments=instruments) as executor,
    ):
        # Where there are bars to watch, that's enough.
        report = say if len(instruments) == 1 else say_nothing
        begin = perf_counter()
        downloads = [Download(number, url, begin, report) for number, url in enumerate(urls, 1)]
        for download in downloads:
            # A job is whatever returns an awaitable: a coroutine or, under asyncio, also a task.
            job: Callable[[httpx.AsyncClient], Awaitable[int]] = download.fetch
            if options.backend != "trio" and download.number % 2 == 0:
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
    say: Callable[[str], object]
    started: float = 0.0
    future: Future[int] = field(init=False)

    async def fetch(self, client: httpx.AsyncClient) -> int:
        """Return the number of bytes."""
        self.started = perf_counter() - self.begin
        self.report(self.started, f"starts: {self.url}")
        response = await client.get(self.url)
        return len(response.raise_for_status().content)

    def fetch_in_task(self, client: httpx.AsyncClient) -> asyncio.Task[int]:
        return asyncio.create_task(self.fetch(client))

    def finished(self, future: Future[int]) -> None:
        ended = perf_counter() - self.begin
        if future.cancelled():  # by Ctrl-C
            return
        error = future.exception()  # now that it's retrieved, the executor won't raise it
        how = f"failed: {type(error).__name__}" if error else f"finished: {future.result()} bytes"
        self.report(ended, f"{how}, after {ended - self.started:.2f} s")

    def report(self, at: float, what: str) -> None:
        self.say(f"{at:6.2f} s  slot {self.future.slot}  job {self.number:2} {what}")


def say(line: str) -> None:
    """Print a line now, whatever standard output can encode, and whether or not it's still read."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # As https://docs.python.org/3/library/signal.html#note-on-sigpipe has it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_nothing(line: str) -> None:
    pass


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
