"""A rate limit in a real Valkey server that several processes share, and that survives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import coredis
import httpx
import pytest
from anyio.lowlevel import checkpoint
from valkey_server import Server, run_server

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from shared_limit import ADMIT, SharedLimit  # noqa: E402

pytestmark = [
    pytest.mark.engines,
    pytest.mark.real_time,
    # coredis leaves streams open where a connection is lost.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

LIMIT = 5
PER = 0.25

CALLER = f"""
import sys
import anyio, coredis
from shared_limit import SharedLimit

async def main():
    async with coredis.Redis.from_url(sys.argv[1], decode_responses=True) as redis:
        shared = SharedLimit(redis, "shared", {LIMIT}, {PER}, patience=0.02)
        for _ in range(int(sys.argv[3])):
            await shared.admit()
            print("admitted", flush=True)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with run_server(durable=True) as server:
        yield server


class Monitor:
    """The times at which the server has admitted starts, by its own clock."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.times: list[float] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(b"MONITOR\r\n")
            lines = connection.makefile("rb")
            assert lines.readline() == b"+OK\r\n"
            thread = Thread(target=self.read, args=[lines])
            thread.start()
            try:
                yield
            finally:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the server has gone
                thread.join()

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.times) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def read(self, lines: Iterator[bytes]) -> None:
        try:
            for line in lines:
                # +1700000000.123456 [0 lua] "ZADD" "shared" "1700000000123450" "id"
                _, _, source, command, _, score, *_ = [*line.split(), *[b""] * 7][:7]
                if source == b"lua]" and command == b'"ZADD"':
                    self.times.append(int(score.strip(b'"')) / 1_000_000)
        except ConnectionError:
            pass


def start_callers(server: Server, admissions: int) -> list[subprocess.Popen[str]]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    return [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, server.url, backend, str(admissions)],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for backend in ("asyncio", "trio", "asyncio")
    ]


def outputs(callers: list[subprocess.Popen[str]]) -> list[str]:
    return [caller.communicate(timeout=60)[0] for caller in callers]


def assert_kept(times: list[float]) -> None:
    """Never more than the limit in any window."""
    times.sort()
    for first, last in zip(times, times[LIMIT:], strict=False):
        assert last - first >= PER


def test_processes_together_keep_to_the_limit(server: Server) -> None:
    monitor = Monitor(server)
    with monitor.watching():
        assert outputs(start_callers(server, 12)) == ["admitted\n" * 12] * 3
    assert len(monitor.times) == 36
    assert_kept(monitor.times)
    # Nor is it slower than it must be.
    assert monitor.times[-1] - monitor.times[0] < 2 * 36 / LIMIT * PER


def test_a_server_that_dies_and_comes_back(server: Server) -> None:
    """All wait until it's back, none is refused, and the limit holds across the crash."""
    monitor = Monitor(server)
    callers = start_callers(server, 20)
    for attempt in range(3):
        with monitor.watching():
            monitor.wait_for(len(monitor.times) + 8)
            if attempt < 2:
                server.kill()
            else:
                assert outputs(callers) == ["admitted\n" * 20] * 3
        if attempt < 2:
            time.sleep(0.1)
            server.start()
    assert_kept(monitor.times)


@pytest.mark.anyio
async def test_an_answer_that_was_lost(server: Server) -> None:
    """Asking again for the same start uses up no second one."""
    async with coredis.Redis.from_url(server.url, decode_responses=True) as redis:
        admit = redis.register_script(ADMIT)
        for start in ("one", "one", "two", "two"):
            assert await admit(["key"], [2, 60_000_000, start]) == 0
        assert 59_000_000 < await admit(["key"], [2, 60_000_000, "three"]) <= 60_000_000
        assert await redis.zcard("key") == 2
        assert 0 < await redis.ttl("key") <= 60


@pytest.mark.anyio
async def test_cancelled_while_it_waits(server: Server) -> None:
    async with coredis.Redis.from_url(server.url, decode_responses=True) as redis:
        shared = SharedLimit(redis, "key", 1, 60)
        await shared.admit()
        for steps in range(10):
            async with anyio.create_task_group() as group:
                group.start_soon(shared.admit)
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()
        assert await redis.zcard("key") == 1


def test_an_unreachable_server_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, EXAMPLES / "shared_limit.py", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    host = url.removeprefix("redis://")
    assert done.stderr == f"{url}: Unable to establish a connection to {host}\n"


@contextmanager
def process(*arguments: object, **env: object) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([str(Path(__file__).parent), str(EXAMPLES), *sys.path])
    started = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | {name: str(env[name]) for name in env},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # workers are processes below
    )
    try:
        yield started
    finally:
        try:
            os.killpg(started.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        started.communicate()


def post(url: str) -> str:
    transport = httpx.HTTPTransport(retries=8)  # until the server is up
    with httpx.Client(transport=transport, timeout=60) as client:
        return client.post(url).raise_for_status().text


def test_two_workers_and_a_trio_program() -> None:
    """They never exceed the limit together; Valkey is killed meanwhile, and no job is lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    uvicorn: list[Any] = ["-m", "uvicorn", "limited_app:app", f"--port={port}", "--workers=2"]
    program = [EXAMPLES / "shared_limit.py", "--backend=trio", "--jobs=30"]
    options = [f"--limit={LIMIT}", f"--per={PER}"]
    with (
        run_server(durable=True) as server,
        process(*uvicorn, "--log-level=warning", URL=server.url, LIMIT=LIMIT, PER=PER),
        process(*program, *options, server.url) as trio_program,
        ThreadPoolExecutor(30) as threads,
    ):
        monitor = Monitor(server)
        with monitor.watching():
            urls = [f"http://127.0.0.1:{port}/{number}" for number in range(30)]
            responses = threads.map(post, urls)
            monitor.wait_for(20)
            server.kill()
        time.sleep(0.1)
        server.start()
        with monitor.watching():
            answers = list(responses)
            lines = trio_program.communicate(timeout=60)[0].splitlines()
    numbers = [int(answer.split()[2]) for answer in answers]
    assert numbers == list(range(30))
    assert len({answer.split()[-1] for answer in answers}) == 2
    assert [int(line.split()[-1]) for line in lines] == list(range(30))
    assert_kept(monitor.times)
