"""The web examples, under a real server on each backend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from serving import serve

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import background_jobs
import service

pytestmark = [pytest.mark.anyio, pytest.mark.engines, pytest.mark.real_time]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


async def until(client: httpx.AsyncClient, url: str, fn: Callable[[Any], bool]) -> Any:
    with anyio.fail_after(10):
        while not fn(answer := (await client.get(url)).json()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return answer


async def test_background_jobs() -> None:
    """Each has an id, by which it's asked about and cancelled."""
    async with serve(background_jobs.app) as url, httpx.AsyncClient(base_url=url) as client:

        async def start(**query: float) -> str:
            response = await client.post("/jobs", params=query)
            assert response.status_code == 202
            id: str = response.json()["id"]
            return id

        quick, wrong, *slow = [await start(seconds=seconds) for seconds in (0.05, -1, 60, 60, 60)]
        last = await start(seconds=60)
        assert await until(client, f"/jobs/{quick}", lambda job: job["result"] is not None) == {
            "id": quick,
            "status": "succeeded",
            "result": "worked for 0.05 seconds",
            "error": None,
        }
        job = await until(client, f"/jobs/{wrong}", lambda job: job["status"] == "failed")
        assert job["error"]
        await until(client, f"/jobs/{last}", lambda job: job["status"] == "running")
        for id in (*slow, last):
            job = (await client.delete(f"/jobs/{id}")).json()
            assert job == {"id": id, "status": "cancelled", "result": None, "error": None}
        assert (await client.delete(f"/jobs/{quick}")).json()["status"] == "succeeded"
        assert (await client.get("/jobs/nothing")).status_code == 404


async def test_too_many_background_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the bound are refused; of those that are done, the oldest are forgotten."""
    monkeypatch.setattr(background_jobs, "KEPT", 10)
    async with serve(background_jobs.app) as url, httpx.AsyncClient(base_url=url) as client:
        responses = [await client.post("/jobs", params={"seconds": 60}) for _ in range(110)]
        assert [response.status_code for response in responses].count(503) >= 5
        accepted = [each.json()["id"] for each in responses if each.status_code == 202]
        for id in accepted:
            await client.delete(f"/jobs/{id}")
        await client.post("/jobs", params={"seconds": 0})
        known = [(await client.get(f"/jobs/{id}")).status_code == 200 for id in accepted]
        assert known == [False] * (len(accepted) - 10) + [True] * 10


async def test_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what each lane has, and shows it in a browser."""
    monkeypatch.setattr(service, "GRACE", 0)
    async with serve(service.app) as url, httpx.AsyncClient(base_url=url) as client:
        for number in range(9):
            await client.post(f"/tenant<{number % 3}>/mail", params={"seconds": 60})
        data = await until(client, "/live/data", lambda data: data["statistics"]["running"] == 6)
        assert (data["name"], data["slots"], data["hidden"]) == ("service", 8, 0)
        lanes = {lane["name"]: lane for lane in data["children"]}
        assert set(lanes) == {"tenant<0>", "tenant<1>", "tenant<2>"}
        for lane in lanes.values():
            assert (lane["slots"], lane["paused"], lane["children"]) == (2, False, [])
            assert (lane["statistics"]["running"], lane["statistics"]["queued"]) == (2, 1)
        page = await client.get("/live/")
        assert page.headers["content-type"].startswith("text/html")
        if CHROMIUM is not None:
            dom = await render(f"{url}/live/")
            assert "6 of 8, 3 queued" in dom
            assert dom.count("2 of 2, 1 queued") == 3
            assert "tenant&lt;1&gt;" in dom
            assert "no connection" not in dom.partition("<script>")[0]


async def render(url: str) -> str:
    """What a page is like once its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    process = await anyio.run_process(
        [*command, "--virtual-time-budget=2000", url], stderr=subprocess.DEVNULL
    )
    return process.stdout.decode()
