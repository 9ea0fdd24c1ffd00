"""The event loops' own ways to run a coroutine, where they exist."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

# Without it, what another thread has let go of is freed later, or by the collector.
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
HAS_UVLOOP = sys.platform != "win32"
needs_uvloop = pytest.mark.skipif(not HAS_UVLOOP, reason="there's no uvloop for Windows")

RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"asyncio.run": asyncio.run}
if HAS_UVLOOP:
    import uvloop

    RUNNERS["uvloop.run"] = uvloop.run


def run(loop_name: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``main`` as the event loop's own users do, asyncio's with debugging."""
    if loop_name == "trio":
        return trio.run(main)
    if loop_name == "uvloop":
        return uvloop.run(main())
    return asyncio.run(main(), debug=True)
