"""The submitter's context, wherever a job is submitted from and wherever it runs.

OpenTelemetry's current span and structlog's bound values live in context variables.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from anyslots import BlockingExecutor, Executor, from_thread, to_pool

otel_context = pytest.importorskip("opentelemetry.context", reason="OpenTelemetry isn't installed")
trace = pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry isn't installed")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry isn't installed")
structlog = pytest.importorskip("structlog", reason="structlog isn't installed")

pytestmark = pytest.mark.anyio

Seen = tuple[str | None, dict[str, Any]]

tracer = sdk.TracerProvider().get_tracer("test")


def look() -> Seen:
    """Whose child a span is that begins here, and what's bound for the log."""
    structlog.contextvars.bind_contextvars(extra="a job's own")
    with tracer.start_as_current_span("job") as span:
        bound = structlog.contextvars.get_contextvars()
        return None if span.parent is None else format(span.parent.span_id, "x"), bound


async def look_async() -> Seen:
    await checkpoint()
    seen = look()
    await checkpoint()
    return seen


async def submit(executor: Executor) -> Seen:
    return await executor.submit(look_async)


async def enqueue_in_lane(executor: Executor) -> Seen:
    return await (await executor.lane().enqueue(look_async))


async def map_(executor: Executor) -> Seen:
    async def job(_: int) -> Seen:
        return await look_async()

    return (await executor.map(job, [1]))[0]


async def job_to_thread(executor: Executor) -> Seen:
    return await executor.submit(to_thread.run_sync, look)


async def job_to_pool(executor: Executor) -> Seen:
    with ThreadPoolExecutor(1) as pool:
        return await executor.submit(to_pool.run_sync, look, pool=pool)


async def from_other_thread(executor: Executor) -> Seen:
    return await to_thread.run_sync(lambda: from_thread.submit(executor, look_async).result(10))


async def from_other_thread_to_pool(executor: Executor) -> Seen:
    with ThreadPoolExecutor(1) as pool:

        def work() -> Seen:
            return from_thread.submit(executor, to_pool.run_sync, look, pool=pool).result(10)

        return await to_thread.run_sync(work)


async def blocking_async(_: Executor) -> Seen:
    with BlockingExecutor(1) as pool:
        return pool.submit(look_async).result(10)


async def blocking_plain(_: Executor) -> Seen:
    with BlockingExecutor(1, backend="trio") as pool:
        return pool.submit(look).result(10)


async def blocking_as_a_pool(executor: Executor) -> Seen:
    with BlockingExecutor(1) as pool:
        return await executor.submit(to_pool.run_sync, look, pool=pool)


PLACES = [
    submit,
    enqueue_in_lane,
    map_,
    job_to_thread,
    job_to_pool,
    from_other_thread,
    from_other_thread_to_pool,
    blocking_async,
    blocking_plain,
    blocking_as_a_pool,
]


@pytest.mark.parametrize("place", PLACES)
async def test_spans_and_bound_values_are_the_submitters(
    place: Callable[[Executor], Awaitable[Seen]],
) -> None:
    """A job's span is a child of its submitter's, and logs with its submitter's values."""
    otel_context.attach(otel_context.Context())  # whatever other tests have left in this one
    async with Executor(1) as executor:
        for number in range(2):
            with (
                structlog.contextvars.bound_contextvars(request=number),
                tracer.start_as_current_span("request") as span,
            ):
                parent, bound = await place(executor)
                assert parent == format(span.get_span_context().span_id, "x")
                assert bound == {"request": number, "extra": "a job's own"}
                assert structlog.contextvars.get_contextvars() == {"request": number}
        parent, bound = await place(executor)
        assert (parent, bound) == (None, {"extra": "a job's own"})
