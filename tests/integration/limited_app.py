"""A web application whose jobs keep to the limit that `examples/shared_limit.py` shares."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import coredis
from shared_limit import SharedLimit, work
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from anyslots import Executor


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    limit, per = int(os.environ["LIMIT"]), float(os.environ["PER"])
    async with coredis.Redis.from_url(os.environ["URL"], decode_responses=True) as redis:
        shared = SharedLimit(redis, "anyslots-example", limit, per)
        async with Executor(slots=10, gate=shared.admit) as executor:
            yield {"executor": executor}


async def run_job(request: Request) -> PlainTextResponse:
    result = await request.state.executor.submit(work, request.path_params["number"])
    return PlainTextResponse(f"{result} of process {os.getpid()}")


app = Starlette(routes=[Route("/{number:int}", run_job, methods=["POST"])], lifespan=lifespan)
