"""Serve ASGI applications over real HTTP on loopback, in the test's own event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import sniffio
from hypercorn.config import Config


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[str]:
    """Serve an application on a free port for as long as the block takes; yield its URL."""
    on_trio = sniffio.current_async_library() == "trio"
    module: Any = hypercorn.trio if on_trio else hypercorn.asyncio
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.graceful_timeout = 0.1
        config.errorlog = None
        port = listener.getsockname()[1]
        listener.detach()  # closed by the server
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: module.serve(app, config, shutdown_trigger=stop.wait))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            stop.set()
