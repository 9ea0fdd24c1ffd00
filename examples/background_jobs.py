"""Background jobs of a FastAPI service: each has an id, to ask how it is and to cancel it.

uvicorn --app-dir examples background_jobs:app
hypercorn --worker-class trio examples/background_jobs:app

curl -X POST localhost:8000/jobs?seconds=5      # {"id": "1", "status": "running", ...}
curl localhost:8000/jobs/1
curl -X DELETE localhost:8000/jobs/1
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, HTTPException, Request

from anyslots import Executor, Future

KEPT = 1000  # jobs that are done, to be asked about


async def work(seconds: float) -> str:
    """Stands for what the service does."""
    await anyio.sleep(seconds)
    return f"worked for {seconds} seconds"


class Jobs:
    """Futures by id; of those that are done, the oldest are forgotten."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.futures: dict[str, Future[Any]] = {}
        self.ids = count(1)

    def submit(self, fn: Any, *args: Any) -> str:
        future, id = self.executor.submit(fn, *args), str(next(self.ids))
        self.futures[id] = future
        done = [id for id, future in self.futures.items() if future.done()]
        for old in done[:-KEPT]:
            del self.futures[old]
        return id

    def __getitem__(self, id: str) -> Future[Any]:
        if id not in self.futures:
            raise HTTPException(404, f"there's no job {id}")
        return self.futures[id]

    def describe(self, id: str) -> dict[str, Any]:
        future = self[id]
        result = future.result() if future.status == "succeeded" else None
        error = None if future.error is None else str(future.error)
        return {"id": id, "status": future.status, "result": result, "error": error}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with Executor(4, max_pending=100, timeout=600, on_error="log") as executor:
        yield {"jobs": Jobs(executor)}
        await executor.shutdown(grace=10)


app = FastAPI(lifespan=lifespan)


# Async functions, as futures belong to the event loop: FastAPI calls others in threads.


async def get_jobs(request: Request) -> Jobs:
    jobs: Jobs = request.state.jobs
    return jobs


JobsOfService = Annotated[Jobs, Depends(get_jobs)]


@app.post("/jobs", status_code=202)
async def start(jobs: JobsOfService, seconds: float = 1) -> dict[str, Any]:
    try:
        return jobs.describe(jobs.submit(work, seconds))
    except anyio.WouldBlock:
        raise HTTPException(503, "too many jobs are queued; try again later") from None


@app.get("/jobs/{id}")
async def describe(jobs: JobsOfService, id: str) -> dict[str, Any]:
    return jobs.describe(id)


@app.delete("/jobs/{id}")
async def cancel(jobs: JobsOfService, id: str) -> dict[str, Any]:
    """Cancel a job, and return how it has ended: it may have been faster."""
    jobs[id].cancel("its client has changed its mind")
    await jobs[id].wait()
    return jobs.describe(id)
