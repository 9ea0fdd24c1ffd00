"""The example service, with a count of what runs in it, and of its memory."""

from __future__ import annotations

import gc
import resource

import service
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

running = 0
peak = 0
done = 0
work = service.work


async def counted(seconds: float) -> str:
    global running, peak, done
    running += 1
    peak = max(peak, running)
    try:
        return await work(seconds)
    finally:
        running -= 1
        done += 1


async def counts(request: Request) -> JSONResponse:
    gc.collect()
    objects = sum("anyslots" in str(type(each).__module__) for each in gc.get_objects())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return JSONResponse({"peak": peak, "done": done, "objects": objects, "kilobytes": kilobytes})


service.work = counted
app = service.app
app.router.routes.append(Route("/counts", counts))
