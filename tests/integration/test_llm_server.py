"""The LLM server that other tests rely on: its limits, its failures and its log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from llm_server import Options, completion_tokens, make_app, prompt_tokens
from serving import serve

pytestmark = [pytest.mark.engines, pytest.mark.real_time]

PATH = "/v1/chat/completions"


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": prompt}], **more}


@pytest.mark.anyio
async def test_requests_per_window() -> None:
    """One more than the limit is refused, and admitted after the seconds that it's told."""
    options = Options(requests=3, window=0.5)
    async with serve(make_app(options)) as url, httpx.AsyncClient(base_url=url) as client:
        first = [await client.post(PATH, json=body(f"prompt {n}")) for n in range(4)]
        assert [response.status_code for response in first] == [200, 200, 200, 429]
        wait = float(first[-1].headers["retry-after"])
        assert 0 < wait <= 0.5
        await anyio.sleep(wait)
        answer = await client.post(PATH, json=body("again", metadata={"id": "fifth"}))
        made = completion_tokens("again", 50)
        assert answer.json()["usage"]["completion_tokens"] == made
        assert answer.json()["usage"]["total_tokens"] == made + prompt_tokens("again")
        log = (await client.get("/log")).json()
        assert [entry["status"] for entry in log] == [200, 200, 200, 429, 200]
        assert [entry["id"] for entry in log[2:]] == ["prompt 2", "prompt 3", "fifth"]
        assert log[4]["time"] - log[0]["time"] >= 0.5


@pytest.mark.anyio
async def test_tokens_per_window() -> None:
    """Each request uses its prompt's and its answer's tokens, of which `max_tokens` are enough."""
    each = prompt_tokens("prompt") + 5
    app = make_app(Options(tokens=3 * each))
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as client:
        answers = [await client.post(PATH, json=body("prompt", max_tokens=5)) for _ in range(4)]
        assert [response.status_code for response in answers] == [200, 200, 200, 429]


@pytest.mark.anyio
async def test_random_failures_are_the_same_in_any_order() -> None:
    """They are as many as asked for, about, and a second attempt is a chance of its own."""
    failed = []
    for order in (1, -1):
        app = make_app(Options(requests=1000, tokens=1e9, errors=0.3, delay=0, seed=7))
        async with serve(app) as url, httpx.AsyncClient(base_url=url) as client:
            for prompt in [f"prompt {n}" for n in range(50)][::order] + ["prompt 0"] * 20:
                await client.post(PATH, json=body(prompt))
            log = (await client.get("/log")).json()
        failed.append({entry["id"] for entry in log[:50] if entry["status"] == 500})
        assert {entry["status"] for entry in log[50:]} == {200, 500}
    assert failed[0] == failed[1]
    assert 5 < len(failed[0]) < 25


@pytest.mark.anyio
async def test_slower_under_load() -> None:
    """Twice as many requests as it has capacity for take twice as long."""
    app = make_app(Options(capacity=5, delay=0.1))
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as client:
        start = time.monotonic()
        await client.post(PATH, json=body("alone"))
        alone = time.monotonic() - start
        async with anyio.create_task_group() as group:
            for number in range(15):
                group.start_soon(lambda n=number: client.post(PATH, json=body(f"prompt {n}")))
        together = time.monotonic() - start - alone
        assert alone >= 0.1
        assert together >= 0.2


def test_in_a_process_of_its_own() -> None:
    """It's started by `python -m`, with its options as arguments."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "llm_server", f"--port={port}", "--requests=1"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, env=env) as process:
        try:
            transport = httpx.HTTPTransport(retries=8)  # with growing waits between them
            with httpx.Client(transport=transport) as client:
                url = f"http://127.0.0.1:{port}{PATH}"
                statuses = [client.post(url, json=body("hi")).status_code for _ in range(2)]
        finally:
            process.terminate()
    assert statuses == [200, 429]
