"""The MCP server example, with the SDK's own client, in memory and as a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from serving import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from mcp_server import server  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.engines, pytest.mark.real_time]


class Site:
    def __init__(self) -> None:
        self.running = self.peak = 0
        self.over = anyio.Event()  # hypercorn doesn't cancel requests whose client has gone
        self.app = Starlette(routes=[Route("/{path:path}", self.serve)])

    async def serve(self, request: Request) -> Response:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            match request.path_params["path"]:
                case "slow":
                    await self.over.wait()
                case "links":
                    links = ["/one", "/lost", "/two", "http://127.0.0.1:1/gone"]
                    return PlainTextResponse(" ".join(f"<a href='{link}'>" for link in links))
                case "lost":
                    return PlainTextResponse("", 404)
            await anyio.sleep(0.05)
            return PlainTextResponse(f"the page {request.url.path}")
        finally:
            self.running -= 1


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


async def test_tools_share_the_limits() -> None:
    site = Site()
    async with serve(site.app) as url, Client(server) as client:
        pages: list[str] = []

        async def read(number: int) -> None:
            pages.append((await call(client, "read_page", url=f"{url}/{number}"))["result"])

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(read, number)
        assert sorted(pages) == [f"the page /{number}" for number in range(6)]
        assert site.peak == 2
        dead = await call(client, "find_dead_links", url=f"{url}/links")
        assert dead == {f"{url}/lost": "404", "http://127.0.0.1:1/gone": "ConnectError"}
        assert site.peak == 2


async def test_a_call_that_is_cancelled_stops_its_request() -> None:
    site = Site()
    async with serve(site.app) as url, Client(server) as client:
        with anyio.move_on_after(0.3):
            await call(client, "read_page", url=f"{url}/slow")
        with anyio.fail_after(5):
            while await call(client, "show_load") != {"running": 0, "queued": 0}:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert await call(client, "read_page", url=f"{url}/0") == {"result": "the page /0"}
        site.over.set()


async def test_as_a_process(loop_name: str) -> None:
    backend = "trio" if loop_name == "trio" else "asyncio"
    command = [str(EXAMPLES / "mcp_server.py"), "--backend", backend]
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    parameters = StdioServerParameters(command=sys.executable, args=command, env=env)
    async with serve(Site().app) as url, Client(stdio_client(parameters)) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools == ["read_page", "find_dead_links", "show_load"]
        assert await call(client, "read_page", url=f"{url}/0") == {"result": "the page /0"}
