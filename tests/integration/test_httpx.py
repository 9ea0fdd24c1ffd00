"""Clients of httpx and httpx2 whose requests occupy slots, against a real server."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from anyio.lowlevel import checkpoint
from ended_jobs import Ended
from serving import serve
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from anyslots import Adaptive, Executor, JobCancelled, QueueTimeout, Rate
from anyslots.httpx import LimitedTransport, Overloaded, retry_after

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real_time,
    # The clients' own: trio warns of each that is left before its end.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2.5", 2.5),
        ("-3", 0),
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 3600, id="a date"
        ),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        *((nonsense, 7) for nonsense in (None, "", "soon", "nan", "inf", "Wed, 99 Oct 2015")),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(header: str | None, seconds: float) -> None:
    headers = {} if header is None else {"Retry-After": header}
    assert retry_after(httpx.Response(429, headers=headers), 7) == pytest.approx(seconds, abs=60)


class Site:
    """A server that counts the requests it has."""

    def __init__(self) -> None:
        self.running = 0
        self.peak = 0
        paths = ["/hello", "/redirect", "/busy", "/slow", "/stream", "/endless", "/broken"]
        self.app = Starlette(routes=[Route(path, self.serve) for path in paths])

    async def serve(self, request: Request) -> Response:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            match request.url.path:
                case "/redirect":
                    return RedirectResponse("/hello")
                case "/busy":
                    return JSONResponse({}, 429, {"Retry-After": "2.5"})
                case "/slow":
                    await anyio.sleep(float(request.query_params["seconds"]))
                case "/stream":
                    return StreamingResponse(self.parts(100))
                case "/endless":
                    return StreamingResponse(self.parts(1_000_000))
                case "/broken":
                    return StreamingResponse(self.parts(3), headers={"Content-Length": "1000"})
            return JSONResponse({"hello": "world"})
        finally:
            self.running -= 1

    async def parts(self, number: int) -> AsyncIterator[bytes]:
        for _ in range(number):
            yield b"x" * 100
            await anyio.sleep(0.001)


class Setting:
    """A server, a lane with its slots, and a client."""

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.site = Site()
        self.ended = Ended()

    @asynccontextmanager
    async def client(
        self, slots: int | Adaptive = 1, *, slot_timeout: float | None = None, **options: Any
    ) -> AsyncIterator[Any]:
        async with (
            serve(self.site.app) as self.url,
            Executor(slots, timeout=slot_timeout, instruments=[self.ended]) as self.lane,
        ):
            self.transport = LimitedTransport(self.lane, **options)
            async with self.library.AsyncClient(
                transport=self.transport, base_url=self.url, timeout=10
            ) as client:
                yield client
            assert self.free()

    def free(self) -> bool:
        statistics = self.lane.statistics()
        return (statistics.running, statistics.queued) == (0, 0)

    async def until_free(self) -> None:
        await until(self.free)


async def until(fn: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not fn():  # noqa: ASYNC110
            await anyio.sleep(0.001)


@pytest.fixture(params=[httpx, httpx2], ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def setting(library: ModuleType) -> Setting:
    return Setting(library)


async def test_never_more_requests_than_slots(setting: Setting) -> None:
    async with setting.client(slots=3) as client:

        async def get() -> None:
            assert (await client.get("/slow?seconds=0.02")).json() == {"hello": "world"}

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(get)
        assert setting.free()
        assert setting.site.peak == 3
        assert setting.ended.errors == [None] * 12


async def test_a_streamed_response_keeps_its_slot(setting: Setting) -> None:
    async with setting.client() as client, anyio.create_task_group() as group:
        async with client.stream("GET", "/stream") as response:
            parts = response.aiter_bytes()
            await anext(parts)
            group.start_soon(client.get, "/hello")
            await until(lambda: setting.lane.statistics().queued == 1)
            assert setting.lane.statistics().running == 1
            assert sum([len(part) async for part in parts]) > 0
        await setting.until_free()
        assert setting.ended.errors == [None, None]


async def test_a_response_left_early_gives_its_slot_back(setting: Setting) -> None:
    async with setting.client() as client:
        for _ in range(3):
            async with client.stream("GET", "/stream") as response:
                async for _ in response.aiter_bytes():
                    break
            assert setting.free()
        assert (await client.get("/hello")).status_code == 200


async def test_each_hop_of_a_redirect_is_a_request(setting: Setting) -> None:
    async with setting.client() as client:
        response = await client.get("/redirect", follow_redirects=True)
        assert response.json() == {"hello": "world"}
        assert setting.ended.errors == [None, None]


async def test_the_lane_of_a_request(setting: Setting) -> None:
    lanes: dict[str, Any] = {}

    def lane(request: Any) -> Any:
        return lanes[request.url.path]

    async with setting.client() as client, Executor(1) as other:
        transport = LimitedTransport(lane)
        client = setting.library.AsyncClient(transport=transport, base_url=setting.url)
        lanes.update({"/stream": setting.lane, "/hello": other, "/busy": "no lane"})
        async with client.stream("GET", "/stream"):
            assert (setting.lane.statistics().running, other.statistics().running) == (1, 0)
            await client.get("/hello")  # doesn't wait for the first lane's only slot
        with pytest.raises(TypeError, match="lane must return a lane, not 'no lane'"):
            await client.get("/busy")
        with pytest.raises(KeyError):
            await client.get("/redirect")
        await client.aclose()


@pytest.mark.parametrize(("verdict", "pauses"), [(2.5, True), (True, False), (0, False)])
async def test_an_overload_ends_the_slot_with_it(
    setting: Setting, verdict: float, pauses: bool
) -> None:
    def overloaded(response: Any) -> float | None:
        assert response.request.url.path == "/busy"
        return verdict if response.status_code == 429 else None

    async with setting.client(overloaded=overloaded) as client:
        response = await client.get("/busy")
        assert response.status_code == 429
        assert setting.lane.paused is pauses
        (error,) = setting.ended.errors
        assert isinstance(error, Overloaded)
        assert str(error).startswith("the server answered 429")
        assert error.status_code == 429
        assert error.seconds == (None if verdict is True else verdict)


@pytest.mark.parametrize("verdict", [None, False])
async def test_no_overload(setting: Setting, verdict: object) -> None:
    async with setting.client(overloaded=lambda response: verdict) as client:
        await client.get("/busy")
        assert not setting.lane.paused
        assert setting.ended.errors == [None]


async def test_an_overloaded_function_that_fails(setting: Setting) -> None:
    """Its error comes out of the request, and neither slot nor connection is kept."""
    functions = iter([lambda response: "2", lambda response: response.nothing])
    options = {"overloaded": lambda response: next(functions)(response)}
    async with setting.client(**options) as client:
        with pytest.raises(TypeError, match="bool, seconds or None, not '2'"):
            await client.get("/busy")
        with pytest.raises(AttributeError):
            await client.get("/busy")
        assert setting.ended.names == ["TypeError", "AttributeError"]


async def test_errors_of_the_connection(setting: Setting) -> None:
    """The slot ends with the very error that the client raises."""
    async with setting.client() as client:
        with pytest.raises(setting.library.ConnectError) as no_connection:
            await client.get("http://127.0.0.1:1/")
        with pytest.raises(setting.library.RemoteProtocolError):
            await client.get("/broken")
        with pytest.raises(setting.library.ReadTimeout):
            await client.get("/slow?seconds=1", timeout=0.05)
        assert (await client.get("/hello")).status_code == 200
        names = ["ConnectError", "RemoteProtocolError", "ReadTimeout", "NoneType"]
        assert setting.ended.names == names
        assert setting.ended.errors[0] is no_connection.value


@pytest.mark.unmeasured
@pytest.mark.parametrize("path", ["/slow?seconds=1", "/stream"])
@pytest.mark.parametrize("by_lane", [False, True], ids=["cancelled", "by-lane"])
async def test_cancelled_at_each_step(setting: Setting, path: str, by_lane: bool) -> None:
    """A cancelled request leaves nothing behind: neither its slot nor its connection."""

    async def get() -> None:
        with suppress(JobCancelled):
            await client.get(path)

    async with setting.client() as client:
        for steps in [*range(20), *range(20, 200, 15)]:
            async with anyio.create_task_group() as group:
                group.start_soon(get)
                for _ in range(steps):
                    await checkpoint()
                if by_lane:
                    setting.lane.cancel()
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            await setting.until_free()
        assert set(setting.ended.names) <= {"JobCancelled", "NoneType"}
        assert (await client.get("/hello")).status_code == 200


async def test_a_slot_that_is_refused(setting: Setting) -> None:
    """What the lane raises comes out of the request."""

    def cost(request: Any) -> float:
        assert request.url.path == "/hello"
        return 2

    async with setting.client():
        transport = LimitedTransport(setting.lane.lane(rate=Rate(1, cost=cost)))
        async with setting.library.AsyncClient(transport=transport) as client:
            with pytest.raises(ValueError, match="a cost must be from 0 to the limit 1, not 2"):
                await client.get(f"{setting.url}/hello")


class ClosedAt:
    """Awaits a coroutine, and closes it at the first wait at which an event is set."""

    def __init__(self, event: anyio.Event, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.event = event
        self.coroutine = coroutine

    def __await__(self) -> Iterator[Any]:
        sent = None
        while not self.event.is_set():
            wait = self.coroutine.send(sent)
            if not self.event.is_set():
                sent = yield wait
        self.coroutine.close()


async def test_a_request_that_is_dropped(setting: Setting) -> None:
    """Closing its coroutine gives the slot back, as its cancellation does."""
    waiting = anyio.Event()

    class Waiting:
        async def handle_async_request(self, request: Any) -> None:
            waiting.set()
            await anyio.sleep_forever()

    async with Executor(1, instruments=[setting.ended]) as lane:
        transport = LimitedTransport(lane, Waiting())
        request = setting.library.Request("GET", "http://nowhere/")
        await ClosedAt(waiting, transport.handle_async_request(request))
    assert setting.ended.names == ["JobCancelled"]


async def test_cancelled_while_waiting_for_a_slot(setting: Setting) -> None:
    async with setting.client() as client, client.stream("GET", "/stream"):
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, "/hello")
            await until(lambda: setting.lane.statistics().queued == 1)
            group.cancel_scope.cancel()
        await until(lambda: setting.lane.statistics().queued == 0)
        assert setting.lane.statistics().running == 1


async def test_a_timeout_of_the_lane(setting: Setting) -> None:
    async with setting.client(slot_timeout=0.1) as client:
        with pytest.raises(TimeoutError):
            await client.get("/slow?seconds=1")
        assert setting.free()
        assert setting.ended.names == ["TimeoutError"]


async def test_a_timeout_of_the_lane_between_two_reads(setting: Setting) -> None:
    """The code between isn't cancelled; the slot is free, and the next read says why."""
    async with setting.client(slot_timeout=0.5) as client:
        async with client.stream("GET", "/endless") as response:
            parts = response.aiter_bytes()
            await anext(parts)
            await setting.until_free()
            with pytest.raises(TimeoutError):
                [part async for part in parts]
        assert setting.ended.names == ["TimeoutError"]


async def test_cancelled_by_its_lane(setting: Setting) -> None:
    async with setting.client(slots=2) as client:
        cancelled = []

        async def get() -> None:
            with pytest.raises(JobCancelled, match="enough"):
                await client.get("/slow?seconds=1")
            cancelled.append(1)

        async with anyio.create_task_group() as group:
            group.start_soon(get)
            group.start_soon(get)
            await until(lambda: setting.site.running == 2)
            setting.lane.cancel("enough")
        assert cancelled == [1, 1]
        assert setting.free()


async def test_read_and_closed_by_other_tasks(setting: Setting) -> None:
    """As a proxy does, whose server sends the body from another task."""
    async with setting.client() as client:

        async def forward(request: Request) -> Response:
            upstream = client.build_request("GET", "/stream")
            with anyio.fail_after(5):  # left before the body is read
                response = await client.send(upstream, stream=True)
            close = BackgroundTask(response.aclose)
            return StreamingResponse(response.aiter_bytes(), background=close)

        proxy = Starlette(routes=[Route("/", forward)])
        async with serve(proxy) as url, setting.library.AsyncClient() as plain:
            for _ in range(3):
                assert len((await plain.get(url)).content) == 10_000
        await setting.until_free()
        assert setting.ended.errors == [None] * 3


async def test_closing_the_client_closes_its_responses(setting: Setting) -> None:
    async with setting.client() as client:
        await LimitedTransport(setting.lane).aclose()  # one that was never used
        other = setting.library.AsyncClient(
            transport=LimitedTransport(setting.lane), base_url=setting.url
        )
        response = await other.send(other.build_request("GET", "/stream"), stream=True)
        await other.aclose()
        assert setting.free()
        await response.aclose()
        assert (await client.get("/hello")).status_code == 200


async def test_a_response_that_is_never_closed(setting: Setting) -> None:
    """Its slot is given back when it's collected, with a warning."""
    async with setting.client() as client:
        request = client.build_request("GET", "/stream")
        with pytest.warns(ResourceWarning, match="GET 127.0.0.1: response never closed"):  # noqa: PT031
            await client.send(request, stream=True)
            gc.collect()
        await setting.until_free()
        assert setting.ended.names == ["JobCancelled"]
        assert (await client.get("/hello")).status_code == 200


async def test_a_transport_that_makes_responses_up(library: ModuleType) -> None:
    """Those that come with their content are closed from the start."""
    inner = library.MockTransport(lambda request: library.Response(200, json=[1]))
    async with Executor(1) as lane:
        transport = LimitedTransport(lane, inner)
        async with library.AsyncClient(transport=transport) as client:
            for _ in range(2):
                assert (await client.get("http://nowhere/")).json() == [1]
            assert lane.statistics().running == 0


async def test_in_a_job(setting: Setting) -> None:
    """The job's own slot is lent while a response is open, so one suffices."""
    async with setting.client() as client:
        executor = setting.lane

        async def job() -> list[tuple[int, int]]:
            seen = [executor.statistics()]
            async with client.stream("GET", "/stream"):
                seen.append(executor.statistics())
            seen.append(executor.statistics())
            await client.get("/hello")
            seen.append(executor.statistics())
            return [(each.running, each.lent) for each in seen]

        assert await executor.submit(job) == [(1, 0), (1, 1), (1, 0), (1, 0)]
        for future in [executor.submit(job) for _ in range(3)]:  # which are lent at the same time
            assert all(running == 1 for running, _ in await future)


async def test_in_a_job_of_another_executor(setting: Setting) -> None:
    """That one's slot isn't lent: its number limits the jobs, whatever they wait for."""
    async with setting.client() as client, Executor(1) as other:

        async def job() -> tuple[int, int]:
            async with client.stream("GET", "/stream"):
                return other.statistics().running, other.statistics().lent

        assert await other.submit(job) == (1, 0)


async def test_two_responses_of_a_job(setting: Setting) -> None:
    """The job goes on in a slot of its own once that is closed for which it lent its own."""
    async with setting.client(slots=2) as client:
        executor = setting.lane

        async def job() -> list[tuple[int, int]]:
            seen = []
            requests = [client.build_request("GET", "/stream") for _ in range(2)]
            responses = [await client.send(request, stream=True) for request in requests]
            for response in responses:
                seen.append(executor.statistics())
                await response.aclose()
            seen.append(executor.statistics())
            return [(each.running, each.lent) for each in seen]

        assert await executor.submit(job) == [(2, 1), (2, 0), (1, 0)]


async def test_a_response_that_outlives_its_job(setting: Setting) -> None:
    async with setting.client(slots=2) as client:
        executor = setting.lane

        async def job() -> Any:
            return await client.send(client.build_request("GET", "/stream"), stream=True)

        response = await executor.submit(job)
        assert (executor.statistics().running, executor.statistics().lent) == (1, 0)
        async with client.stream("GET", "/stream"):
            assert executor.statistics().running == 2
        await response.aclose()
        assert executor.statistics().running == 0


async def test_a_job_that_is_cancelled_with_a_response_open(setting: Setting) -> None:
    async with setting.client() as client:
        opened = anyio.Event()

        async def job() -> None:
            async with client.stream("GET", "/endless"):
                opened.set()
                await anyio.sleep_forever()

        future = setting.lane.submit(job)
        await opened.wait()
        future.cancel()
        await future.wait()
        await setting.until_free()
        assert (await client.get("/hello")).status_code == 200


async def test_requests_of_a_job_during_shutdown(setting: Setting) -> None:
    """They are the job's own, which the grace is for."""
    async with setting.client() as client:
        started = anyio.Event()

        async def job() -> int:
            started.set()
            await anyio.sleep(0.1)
            response = await client.get("/hello")
            return response.status_code

        future = setting.lane.submit(job)
        await started.wait()
        await setting.lane.shutdown(grace=5)
        assert await future == 200


async def test_limits_of_a_lane(setting: Setting) -> None:
    """Rates count requests, whose cost is theirs; a queue timeout comes out of the request."""
    async with setting.client() as client:
        asked = []

        def cost(request: Any) -> int:
            asked.append(request.url.path)
            return 1

        lane = setting.lane.lane(rate=Rate(1, per=60, cost=cost), queue_timeout=0.05)
        async with setting.library.AsyncClient(
            transport=LimitedTransport(lane), base_url=setting.url
        ) as other:
            assert (await other.get("/hello")).status_code == 200
            with pytest.raises(QueueTimeout):
                await other.get("/redirect")
        assert asked == ["/hello", "/redirect"]
        assert (await client.get("/hello")).status_code == 200


async def test_an_adaptive_lane_learns_of_overloads(setting: Setting) -> None:
    def overloaded(response: Any) -> float | None:
        return 0.1 if response.status_code == 429 else None

    adaptive = Adaptive(8, on=Overloaded)
    async with setting.client(adaptive, overloaded=overloaded) as client:
        start = anyio.current_time()
        await client.get("/busy")
        assert setting.lane.slots == 4
        assert setting.lane.paused
        assert (await client.get("/hello")).status_code == 200
        assert anyio.current_time() - start >= 0.1


@pytest.mark.parametrize("wrong", [{"lane": 3}, {"transport": 3}, {"overloaded": 3}])
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(TypeError, match=f"^{name} must be .*, not 3$"):
        LimitedTransport(**{"lane": lambda request: None, **wrong})


def test_native_cancellation_of_every_task() -> None:
    """As asyncio does at its end: requests are cancelled, and the slot is free again."""

    async def main() -> None:
        setting = Setting(httpx)
        async with setting.client(slots=2) as client:
            mine = asyncio.all_tasks()
            requests = [asyncio.create_task(client.get("/slow?seconds=1")) for _ in range(3)]
            async with client.stream("GET", "/stream") as response:
                await asyncio.sleep(0)
                for task in asyncio.all_tasks() - mine:
                    if "_hold" in repr(task) or task in requests:
                        task.cancel()
                done, _ = await asyncio.wait(requests)
                assert all(task.cancelled() for task in done)
                with pytest.raises(JobCancelled):
                    await response.aread()
            await setting.until_free()

    asyncio.run(main())


IMPORT = """
import sys
for name in sys.argv[2:]:
    sys.modules[name] = None
import anyslots.httpx
"""
USE = (
    IMPORT
    + """
import anyio
from importlib import import_module
from anyslots import Executor

assert not sys.modules.get("httpx") and not sys.modules.get("httpx2")

async def main():
    library = import_module(sys.argv[1])
    inner = library.MockTransport(lambda request: library.Response(200, content=parts()))
    async with Executor(1) as executor:
        transport = anyslots.httpx.LimitedTransport(executor, inner)
        async with library.AsyncClient(transport=transport) as client:
            print((await client.get("http://nowhere/")).text)

async def parts():
    yield b"content"

anyio.run(main)
"""
)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("used", ["httpx", "httpx2"])
def test_either_library_is_enough(used: str) -> None:
    done = run(USE, used, "httpx2" if used == "httpx" else "httpx")
    assert (done.stdout, done.stderr) == ("content\n", "")


def test_without_either_library_the_extra_is_named() -> None:
    done = run(IMPORT, "", "httpx", "httpx2")
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: anyslots.httpx needs httpx or httpx2, neither of which is installed:"
        " pip install 'anyslots[httpx]'"
    )
