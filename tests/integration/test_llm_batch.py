"""The batch example against a server that enforces limits: killed, interrupted, out of space."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

resource = pytest.importorskip("resource")

INTEGRATION = Path(__file__).parent
EXAMPLE = INTEGRATION.parents[1] / "examples" / "llm_batch.py"
PATH = os.pathsep.join([str(INTEGRATION), *sys.path])
LIMITS = ["--requests=1000", "--tokens=40000"]

pytestmark = [pytest.mark.engines, pytest.mark.real_time, pytest.mark.timeout(120)]


@contextmanager
def process(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | {"PYTHONPATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def server() -> Iterator[str]:
    port = free_port()
    options = [f"--port={port}", *LIMITS, "--window=2", "--errors=0.01"]
    with process("-m", "llm_server", *options):
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
            client.get(f"http://127.0.0.1:{port}/log")
        yield f"http://127.0.0.1:{port}"


class Batch:
    """Prompts, the answers to them so far, and how to start the program."""

    def __init__(self, folder: Path, url: str, prompts: int, backend: str = "asyncio") -> None:
        self.prompts = folder / "prompts.jsonl"
        self.answers = folder / "answers.sqlite"
        lines = [{"id": str(number), "prompt": f"prompt {number}"} for number in range(prompts)]
        self.prompts.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        options = [f"--url={url}/v1", f"--backend={backend}", *LIMITS, "--per=2"]
        self.command = ["-W", "error", EXAMPLE, self.prompts, self.answers, *options]

    def run(self, **options: Any) -> tuple[int, str, str]:
        with process(*self.command, **options) as program:
            return (*program.communicate(timeout=100), program.returncode)[::-1]

    def stored(self) -> list[str]:
        with closing(sqlite3.connect(self.answers)) as database:
            return [id for (id,) in database.execute("SELECT id FROM answers ORDER BY rowid")]


def until(fn: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fn():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_thousand_prompts_ended_twice(server: str, backend: str, tmp_path: Path) -> None:
    """Each is answered once, though the program is killed, then interrupted; few are refused."""
    batch = Batch(tmp_path, server, 2000, backend)
    kept: list[set[str]] = []
    answered: list[Counter[str]] = []

    def log() -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = httpx.get(f"{server}/log").json()
        return entries

    for number, ending in [(500, signal.SIGKILL), (1200, signal.SIGINT)]:
        with process(*batch.command) as program:
            until(lambda number=number: len(log()) > number)
            program.send_signal(ending)
            _, errors = program.communicate(timeout=30)
            assert program.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
            assert errors == ""
        kept.append(set(batch.stored()))
        answered.append(Counter(entry["id"] for entry in log() if entry["status"] == 200))
    status, errors, output = batch.run()
    assert (status, errors) == (0, "")
    assert "2000 answered, 0 failed" in output
    assert sorted(batch.stored(), key=int) == [str(number) for number in range(2000)]

    statuses = Counter(entry["status"] for entry in log())
    assert statuses[429] <= 0.01 * statuses.total()
    answers = Counter(entry["id"] for entry in log() if entry["status"] == 200)
    assert answers == {f"prompt {number}": 1 for number in range(2000)}
    # What was under way when it was killed was asked again, and nothing else.
    again = {entry["id"].split()[1] for entry in log() if entry["status"] == 208}
    assert not again & kept[0]
    assert len(again) < 50
    # After Ctrl-C the running ones were waited for.
    assert {id.split()[1] for id in answered[1]} == kept[1]


def test_a_prompt_that_is_malformed(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "http://127.0.0.1:1", 2)
    for line in ["[1]", '{"id": 1}', "{", "", '"id"', "\udcff"]:
        with batch.prompts.open("ab") as file:
            file.write(line.encode(errors="surrogateescape") + b"\n")
        status, errors, _ = batch.run()
        assert status == 1
        problem = "line 3 is no object with an id and a prompt"
        assert errors == f"{batch.prompts}: {problem}\n"
        batch.prompts.write_bytes(b"".join(batch.prompts.read_bytes().splitlines(True)[:2]))


def test_files_and_servers_that_are_not_there(server: str, tmp_path: Path) -> None:
    batch = Batch(tmp_path, f"http://127.0.0.1:{free_port()}", 2)
    assert batch.run()[:2] == (1, "ConnectError: All connection attempts failed\n")
    batch = Batch(tmp_path, f"{server}/nothing", 2)
    status, errors, _ = batch.run()
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("HTTPStatusError: Client error '404 Not Found' for url")
    batch.answers.mkdir()
    batch = Batch(tmp_path, server, 2)
    assert batch.run()[:2] == (1, "OperationalError: unable to open database file\n")
    batch.prompts.unlink()
    status, errors, _ = batch.run()
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("FileNotFoundError: ")


def limit_files() -> None:
    """Leave no space for more in a file than a few answers."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, resource.RLIM_INFINITY))


def test_a_full_disk(server: str, tmp_path: Path) -> None:
    """What's stored stays, and the program goes on with the rest once there's space."""
    batch = Batch(tmp_path, server, 100)
    status, errors, _ = batch.run(preexec_fn=limit_files)
    assert status == 1
    assert errors in ("OperationalError: disk I/O error\n", "OperationalError: disk is full\n")
    kept = batch.stored()
    assert 0 < len(kept) < 100
    assert batch.run()[:2] == (0, "")
    assert batch.stored()[: len(kept)] == kept
    assert len(batch.stored()) == 100


def test_one_program_at_a_time(server: str, tmp_path: Path) -> None:
    batch = Batch(tmp_path, server, 2000)
    with process(*batch.command):
        until(lambda: len(httpx.get(f"{server}/log").json()) > 10)
        assert batch.run()[:2] == (1, "OperationalError: database is locked\n")
