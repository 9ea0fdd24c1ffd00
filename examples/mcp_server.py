"""An MCP server whose tools share an executor: together, their requests keep to its limits.

    python examples/mcp_server.py [--backend trio]

It speaks to its client by stdin and stdout. A tool whose call is cancelled stops its requests.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

import anyio
import httpx
from mcp.server.mcpserver import Context, MCPServer

from anyslots import Executor, Rate
from anyslots.httpx import LimitedTransport

LINK = re.compile(r"""<a\s[^>]*href=["'](http[^"'#]+|/[^"'#]*)""", re.IGNORECASE)


@dataclass
class Web:
    executor: Executor
    client: httpx.AsyncClient

    async def get(self, url: str) -> httpx.Response:
        return await self.client.get(url, follow_redirects=True)


@asynccontextmanager
async def lifespan(server: MCPServer[Web]) -> AsyncIterator[Web]:
    async with Executor(slots=8, timeout=60, on_error="log", name="requests") as executor:
        hosts = executor.keyed(slots=2, rate=Rate(10, per=1))
        transport = LimitedTransport(lambda request: hosts[request.url.host])
        async with httpx.AsyncClient(transport=transport) as client:
            yield Web(executor, client)


server = MCPServer("web", lifespan=lifespan)


@server.tool()
async def read_page(url: str, context: Context[Web]) -> str:
    """Return a web page."""
    return (await context.request_context.lifespan_context.get(url)).text


@server.tool()
async def find_dead_links(url: str, context: Context[Web]) -> dict[str, str]:
    """Return what leads nowhere of the links on a web page, and why."""
    web = context.request_context.lifespan_context
    page = await web.get(url)
    links = {urljoin(url, link) for link in LINK.findall(page.text)}
    dead = {}
    results = web.executor.map(web.get, sorted(links), return_exceptions=True)
    async with results.items() as responses:  # a call that's cancelled leaves it
        async for link, response in responses:
            if isinstance(response, Exception):
                dead[link] = type(response).__name__
            elif response.is_error:
                dead[link] = str(response.status_code)
    return dead


@server.tool()
async def show_load(context: Context[Web]) -> dict[str, int]:
    """Return how many requests run and wait."""
    statistics = context.request_context.lifespan_context.executor.statistics()
    return {"running": statistics.running, "queued": statistics.queued}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look at web pages.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    anyio.run(server.run_stdio_async, backend=parser.parse_args().backend)
