"""The example service under real servers: requests, clients that leave, and SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

# Looked for, not imported: only the servers' own processes need them.
MISSING = [name for name in ("starlette", "uvicorn", "hypercorn") if find_spec(name) is None]

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
    pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is POSIX"),
    pytest.mark.real_time,
]

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parents[1] / "examples"
UVICORN = ["uvicorn", "--no-access-log", "--log-level=warning", "--port={port}"]
HYPERCORN = ["hypercorn", "--bind=127.0.0.1:{port}", "--log-level=warning"]
SERVERS = {
    "uvicorn-uvloop": [*UVICORN, "--loop=uvloop"],
    "hypercorn-asyncio": [*HYPERCORN, "--worker-class=asyncio"],
    "hypercorn-uvloop": [*HYPERCORN, "--worker-class=uvloop"],
    "hypercorn-trio": [*HYPERCORN, "--worker-class=trio"],
}
SLOTS = 6
GRACE = 1


class Server:
    """One server's process."""

    def __init__(self, command: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        words = [word.format(port=self.port) for word in command]
        path = os.pathsep.join([str(EXAMPLES), str(TESTS), os.environ.get("PYTHONPATH", "")])
        settings = {"SLOTS": str(SLOTS), "SLOTS_OF_A_TENANT": "2", "GRACE": str(GRACE)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", *words, "counting_service:app"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # hypercorn has a process below
            env={**os.environ, **settings, "PYTHONPATH": path},
        )

    def wait_until_up(self) -> None:
        until(lambda: self.process.poll() is not None or answers(self.port))
        assert self.process.poll() is None, self.process.communicate()

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=20).json()

    def terminate(self) -> tuple[str, str]:
        """What it wrote by the time that it had ended, asked to by SIGTERM."""
        self.process.terminate()
        output = self.process.communicate(timeout=20)
        # uvicorn ends by the signal that it was sent, once it's done.
        assert self.process.returncode in (0, -signal.SIGTERM), output
        return output

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()


def until(fn: Callable[[], bool]) -> None:
    """Wait for another process to get somewhere."""
    deadline = time.monotonic() + 30
    while not fn():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """All of them, starting at the same time."""
    started = {name: Server(command) for name, command in SERVERS.items()}
    yield started
    for server in started.values():
        server.kill()


@pytest.fixture(params=SERVERS)
def server(servers: dict[str, Server], request: pytest.FixtureRequest) -> Server:
    server = servers[request.param]
    if server.process.poll() is not None:  # an earlier run of the test has ended it
        servers[request.param] = server = Server(SERVERS[request.param])
    server.wait_until_up()
    return server


def idle(server: Server) -> dict[str, int]:
    """What the service has counted, once nothing is queued or running."""
    until(lambda: server.get("/")["running"] + server.get("/")["queued"] == 0)
    return {**server.get("/"), **server.get("/counts")}


def send(server: Server, requests: int) -> None:
    """Requests of five tenants, twelve at a time, each to be answered with its own result."""

    def client(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        for number in range(first, requests, 12):
            path, seconds, status = "render", 0.001, 200
            answer = b'{"result":"worked for 0.001 seconds"}'
            if number % 10 == 0:
                seconds, status = -1, 400
                answer = b'{"error":"can\'t work for -1.0 seconds"}'
            elif number % 10 == 1:
                path, status, answer = "mail", 202, b""
            connection.request("POST", f"/tenant{number % 5}/{path}?seconds={seconds}")
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, answer)
        connection.close()

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(client, range(12)))


def test_a_client_that_leaves(server: Server) -> None:
    """Its job is cancelled where the service says so; the executor and other clients go on."""
    before = server.get("/")
    connections = []
    for number, (path, seconds) in enumerate({"render": 60, "mail": 0.5}.items()):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        request = f"POST /{path}/{path}?seconds={seconds} HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(request.encode())
        connections.append(connection)
        until(lambda number=number: server.get("/")["running"] == number + 1)
    for connection in connections:
        connection.close()
    until(lambda: server.get("/")["cancelled"] == before["cancelled"] + 1)
    response = httpx.post(f"{server.url}/another/render", timeout=20)
    assert response.json() == {"result": "worked for 0.0 seconds"}
    until(lambda: server.get("/")["succeeded"] == before["succeeded"] + 2)


def test_five_hundred_requests_and_sigterm(server: Server) -> None:
    """Nothing is lost, no limit passed, and memory is flat; SIGTERM lets jobs finish, in time."""
    start = idle(server)
    send(server, 200)
    before = idle(server)
    send(server, 300)
    after = idle(server)
    counts = {key: after[key] - start[key] for key in after}
    assert (counts["submitted"], counts["done"]) == (500, 500)
    assert (counts["succeeded"], counts["failed"], counts["cancelled"]) == (450, 50, 0)
    assert 2 < after["peak"] <= SLOTS
    assert after["objects"] - before["objects"] < 10
    assert after["kilobytes"] - before["kilobytes"] < 5_000

    # Two jobs that end in time, and one that doesn't.
    for seconds in (0.3, 0.3, 60):
        url = f"{server.url}/tenant{seconds}/mail"
        assert httpx.post(url, params={"seconds": seconds}).status_code == 202
    stdout, stderr = server.terminate()
    ended = {"succeeded": 2, "failed": 0, "cancelled": 1}
    for key, number in ended.items():
        assert f"{key}={after[key] + number}" in stdout
    assert "Traceback" not in stderr
