"""A web service with one executor for all its requests, and a lane for each tenant.

    uvicorn --app-dir examples service:app
    hypercorn --worker-class trio examples/service:app

    curl -X POST localhost:8000/acme/render?seconds=2      # waits for the job
    curl -X POST localhost:8000/acme/mail?seconds=2        # doesn't
    curl localhost:8000/                                   # or look at localhost:8000/live/

The executor lives as long as the service: an error that nobody looks at is logged, and never ends
it. On SIGTERM the server stops, and the jobs that are left have GRACE seconds to finish.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
import live_view
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from anyslots import Executor, Future, KeyedLanes

SLOTS = int(os.environ.get("SLOTS", "8"))
SLOTS_OF_A_TENANT = int(os.environ.get("SLOTS_OF_A_TENANT", "2"))
GRACE = float(os.environ.get("GRACE", "10"))


async def work(seconds: float) -> str:
    """Stands for what the service does."""
    if seconds < 0:
        raise ValueError(f"can't work for {seconds} seconds")
    await anyio.sleep(seconds)
    return f"worked for {seconds} seconds"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with Executor(SLOTS, on_error="log", name="service") as executor:
        tenants = executor.keyed(slots=SLOTS_OF_A_TENANT, max_pending=1000)
        yield {"executor": executor, "tenants": tenants}
        await executor.shutdown(grace=GRACE)
    print(executor.statistics(), flush=True)


def submit(request: Request) -> Future[str]:
    seconds = float(request.query_params.get("seconds", "0"))
    tenants: KeyedLanes[str] = request.state.tenants
    return tenants[request.path_params["tenant"]].submit(work, seconds)


async def render(request: Request) -> Response:
    """A job whose result the client waits for: if the client leaves, the job is cancelled."""
    future = submit(request)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        future.cancel("the client has gone")

    async with anyio.create_task_group() as tg:
        tg.start_soon(watch)
        await future.wait()
        tg.cancel_scope.cancel()
    if future.cancelled():
        return Response(status_code=499)
    if future.exception() is not None:
        return JSONResponse({"error": str(future.exception())}, status_code=400)
    return JSONResponse({"result": future.result()})


async def mail(request: Request) -> Response:
    """A job that goes on without the client: if it fails, that's logged."""
    submit(request)
    return Response(status_code=202)


async def index(request: Request) -> Response:
    return JSONResponse(asdict(request.state.executor.statistics()))


async def too_many(request: Request, error: Exception) -> Response:
    return Response("try again later", status_code=503)


app = Starlette(
    routes=[
        Route("/", index),
        Mount("/live", live_view.app),
        Route("/{tenant}/render", render, methods=["POST"]),
        Route("/{tenant}/mail", mail, methods=["POST"]),
    ],
    exception_handlers={anyio.WouldBlock: too_many},
    lifespan=lifespan,
)
