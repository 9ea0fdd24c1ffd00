"""The ways to run a coroutine on asyncio's event loops, where they exist."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

HAS_UVLOOP = sys.platform != "win32"
needs_uvloop = pytest.mark.skipif(not HAS_UVLOOP, reason="there's no uvloop for Windows")

RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"asyncio.run": asyncio.run}
if HAS_UVLOOP:
    import uvloop

    RUNNERS["uvloop.run"] = uvloop.run
