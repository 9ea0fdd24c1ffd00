"""A live view of an executor: a page that draws its lanes, and what it draws as JSON.

`service.py` has it at /live/. It's an ASGI application to be mounted in any other whose lifespan
state has an ``executor``. It shows the names of lanes, so it isn't for the public.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from heapq import nlargest
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route

from anyslots import Lane

MOST = 50  # lanes that are shown inside one


def describe(lane: Lane) -> dict[str, Any]:
    """What the page knows of a lane and those inside it: the busiest of them, if there are many."""
    inside = lane.children
    shown = nlargest(MOST, inside, key=lambda each: each.statistics().queued)
    return {
        "name": lane.name,
        "slots": None if lane.slots == math.inf else lane.slots,
        "paused": lane.paused,
        "statistics": asdict(lane.statistics()) | {"slots": None},
        "children": [describe(each) for each in inside if each in shown],
        "hidden": len(inside) - len(shown),
    }


async def data(request: Request) -> JSONResponse:
    return JSONResponse(describe(request.state.executor))


async def page(request: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_suffix(".html"))


app = Starlette(routes=[Route("/", page), Route("/data", data)])
