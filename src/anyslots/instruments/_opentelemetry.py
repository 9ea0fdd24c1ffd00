"""Spans and metrics for OpenTelemetry."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, final

from opentelemetry import context, metrics, trace

from .. import __version__
from .._errors import QueueTimeout
from .._handles import Future
from ._reading import Clock, error, labels, outcome


class _Open(NamedTuple):
    """What's known of a job that hasn't ended: whose span it's under, and its own once it runs."""

    parent: context.Context
    submitted: tuple[float, int]
    started: float = 0.0
    span: trace.Span | None = None


@final
class OpenTelemetry:
    """A span for each job, and metrics, by way of OpenTelemetry.

    The span ``process NAME`` lasts from a job's start to its end, or for one that never ran from
    its submission to its end. It's a child of the span that was current at the submission, and
    current inside the job, so that spans made there are its children. A job's error is recorded,
    and gives the span the status ERROR; a cancelled job's span has just ``executor.job.outcome``.

    Metrics, in seconds or numbers, with the attributes ``executor.name`` and ``executor.lane.name``
    ("" for the executor's own lane): ``executor.slot.max``, ``executor.slot.count`` (in use),
    ``executor.job.pending``, ``executor.job.wait_time``, ``executor.job.duration`` with the outcome
    and ``error.type``, and ``executor.job.timeouts`` of jobs that have waited too long.

    ``tracer_provider``, ``meter_provider``: the global ones if None.

    ::

        Executor(slots=4, name="crawler", instruments=[OpenTelemetry()])
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._tracer = trace.get_tracer("anyslots", __version__, tracer_provider)
        meter = metrics.get_meter("anyslots", __version__, meter_provider)
        counts, histogram = meter.create_up_down_counter, meter.create_histogram
        self._max = meter.create_gauge("executor.slot.max", "{slot}", "Slots there are.")
        self._used = counts("executor.slot.count", "{slot}", "Slots in use.")
        self._pending = counts("executor.job.pending", "{job}", "Jobs that wait to start.")
        self._wait = histogram("executor.job.wait_time", "s", "From submission to start.")
        self._duration = histogram("executor.job.duration", "s", "From start to end.")
        self._timeouts = meter.create_counter("executor.job.timeouts", "{job}", "Waited too long.")
        self._clock = clock
        self._open: dict[Future[Any], _Open] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        # The job's context is that of its submission; a copy can be entered wherever this is told.
        own = future.context
        parent = context.get_current() if own is None else own.copy().run(context.get_current)
        self._open[future] = _Open(parent, (self._clock(), time.time_ns()))
        self._pending.add(1, attributes(future))
        if future.lane.executor.slots < float("inf"):
            self._max.set(future.lane.executor.slots, {"executor.name": labels(future)[0]})

    def job_started(self, future: Future[Any]) -> None:
        job, now = self._open[future], self._clock()
        wait = now - job.submitted[0]
        span = self._span(future, job, slot=future.slot, wait=wait)
        # For as long as the job's context lasts, so it's never detached.
        context.attach(trace.set_span_in_context(span))
        self._open[future] = job._replace(started=now, span=span)
        self._pending.add(-1, attributes(future))
        self._wait.record(wait, attributes(future))
        self.job_resumed(future)

    def job_lent(self, future: Future[Any]) -> None:
        self._used.add(-1, {**attributes(future), "executor.slot.state": "used"})

    def job_resumed(self, future: Future[Any]) -> None:
        self._used.add(1, {**attributes(future), "executor.slot.state": "used"})

    def job_finished(self, future: Future[Any]) -> None:
        job, exception = self._open.pop(future), error(future)
        became = {"executor.job.outcome": outcome(future)}
        if exception is not None:
            became["error.type"] = type(exception).__qualname__
        if job.span is None:
            span = self._span(future, job, start_time=job.submitted[1])
            self._pending.add(-1, attributes(future))
            if isinstance(exception, QueueTimeout):
                self._timeouts.add(1, attributes(future))
        else:
            span = job.span
            self._duration.record(self._clock() - job.started, {**attributes(future), **became})
            self.job_lent(future)
        span.set_attributes(became)
        if exception is not None:
            span.record_exception(exception)
            span.set_status(trace.StatusCode.ERROR, type(exception).__qualname__)
        span.end()

    def _span(
        self,
        future: Future[Any],
        job: _Open,
        slot: int | None = None,
        wait: float | None = None,
        start_time: int | None = None,
    ) -> trace.Span:
        span = self._tracer.start_span(
            f"process {future.name}",
            job.parent,
            attributes=attributes(future),
            start_time=start_time,
        )
        if slot is not None and wait is not None:
            span.set_attributes({"executor.slot": slot, "executor.job.wait_time": wait})
        return span


def attributes(future: Future[Any]) -> dict[str, str]:
    executor, lane = labels(future)
    return {"executor.name": executor, "executor.lane.name": lane}
