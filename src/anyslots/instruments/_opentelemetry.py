"""Spans and metrics for OpenTelemetry."""

from __future__ import annotations

import math
import time
from typing import Any, final

from opentelemetry import context, metrics, trace

from .. import Future, Lane, QueueTimeout, __version__
from ._reading import Clock, PerLane, names_of


class _Lane:
    """The attributes of one lane's jobs and measurements, made once."""

    __slots__ = ("attributes", "ended", "limits", "used")

    def __init__(self, lane: Lane) -> None:
        executor, name = names_of(lane)
        self.attributes = {"executor.name": executor, "executor.lane.name": name}
        self.used = {**self.attributes, "executor.slot.state": "used"}
        # By outcome and type of error, for durations.
        self.ended: dict[tuple[str, str], dict[str, str]] = {}
        # The slots of the executor and of the lane, as they were measured last.
        self.limits: tuple[float, float] = (math.inf, math.inf)

    def attributes_of(self, outcome: str, error: str) -> dict[str, str]:
        found = self.ended.get((outcome, error))
        if found is None:
            found = {**self.attributes, "executor.job.outcome": outcome}
            found |= {"error.type": error} if error else {}
            self.ended[outcome, error] = found
        return found


class _Job:
    """What's known of a job that hasn't ended."""

    __slots__ = ("attempts", "inside", "lane", "parent", "since", "span")

    def __init__(self, lane: _Lane, parent: context.Context, since: float) -> None:
        self.lane = lane
        # What its spans are under: the submitter's context.
        self.parent = parent
        # When it entered the queue or, while it runs, when it started.
        self.since = since
        self.attempts = 0
        # While it runs: its span, and the context in which that is current.
        self.span: trace.Span | None = None
        self.inside: context.Context | None = None


@final
class OpenTelemetry:
    """Make a span for each job, and metrics, with OpenTelemetry.

    The span ``process NAME`` lasts from a job's start to its end, or for one that never ran from
    its submission to its end. It's a child of the span that was current at the submission, and
    current inside the job, so that spans made there are its children. A job's error is recorded,
    and gives the span the status ERROR; a cancelled job's span has just ``executor.job.outcome``.
    A job with retries has a span for each attempt, with the attribute ``executor.job.attempt`` from
    the second on; the outcome of all but the last is ``retried``.

    Metrics, in seconds or numbers, with the attributes ``executor.name`` and ``executor.lane.name``
    ("" for the executor's own lane): ``executor.slot.max``, ``executor.lane.slot.max``,
    ``executor.slot.count`` (in use), ``executor.job.pending``, ``executor.job.wait_time``,
    ``executor.job.duration`` of each attempt with its outcome and ``error.type``,
    ``executor.job.retries``, and ``executor.job.timeouts`` of jobs that timed out in the queue.

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
        changes, counts, histogram, gauge = (
            meter.create_up_down_counter,
            meter.create_counter,
            meter.create_histogram,
            meter.create_gauge,
        )
        self._max = gauge("executor.slot.max", "{slot}", "Slots of the executor.")
        self._lane_max = gauge("executor.lane.slot.max", "{slot}", "Slots of the lane.")
        self._used = changes("executor.slot.count", "{slot}", "Slots in use.")
        self._pending = changes("executor.job.pending", "{job}", "Jobs that wait to start.")
        self._wait = histogram("executor.job.wait_time", "s", "From submission to start.")
        self._duration = histogram("executor.job.duration", "s", "From start to end.")
        self._retries = counts("executor.job.retries", "{job}", "Failed attempts that are retried.")
        self._timeouts = counts("executor.job.timeouts", "{job}", "Timed out in the queue.")
        self._clock = clock
        self._lanes = PerLane(_Lane)
        self._open: dict[Future[Any], _Job] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        lane = self._lanes[future.lane]
        # The submitter's context, unless `enqueue` had to wait; then `job_started` corrects it.
        self._open[future] = _Job(lane, context.get_current(), self._clock())
        self._pending.add(1, lane.attributes)

    def job_started(self, future: Future[Any]) -> None:
        job, now = self._open[future], self._clock()
        lane = job.lane
        job.attempts += 1
        attributes: dict[str, Any] = {**lane.attributes, "executor.slot": future.slot}
        if job.attempts == 1:
            wait = now - job.since
            attributes["executor.job.wait_time"] = wait
            self._wait.record(wait, lane.attributes)
        else:
            attributes["executor.job.attempt"] = job.attempts
        # This is called in the job's context, a copy of its submitter's.
        parent = job.parent = context.get_current()
        span = self._tracer.start_span(f"process {future.name}", parent, attributes=attributes)
        inside = trace.set_span_in_context(span, parent)
        context.attach(inside)
        job.since, job.span, job.inside = now, span, inside
        self._pending.add(-1, lane.attributes)
        self._used.add(1, lane.used)
        executor = future.lane.executor
        if (executor.slots, future.lane.slots) != lane.limits:
            self._measure_limits(future.lane, lane)

    def job_lent(self, future: Future[Any]) -> None:
        self._used.add(-1, self._open[future].lane.used)

    def job_resumed(self, future: Future[Any]) -> None:
        self._used.add(1, self._open[future].lane.used)

    def job_retried(self, future: Future[Any], exception: BaseException, delay: float) -> None:
        job = self._open[future]
        self._end_attempt(job, "retried", exception)
        self._retries.add(1, job.lane.attributes)
        self._pending.add(1, job.lane.attributes)
        job.since = self._clock()

    def job_finished(self, future: Future[Any]) -> None:
        job, exception = self._open.pop(future), future.error
        if job.span is None:
            since = time.time_ns() - int((self._clock() - job.since) * 1e9)
            job.span = self._tracer.start_span(
                f"process {future.name}",
                job.parent,
                attributes=job.lane.attributes,
                start_time=since,
            )
            self._end_span(job.span, future.status.value, exception)
            self._pending.add(-1, job.lane.attributes)
            if isinstance(exception, QueueTimeout):
                self._timeouts.add(1, job.lane.attributes)
        else:
            self._end_attempt(job, future.status.value, exception)

    def _end_attempt(self, job: _Job, outcome: str, exception: BaseException | None) -> None:
        """A job that ran has ended, or does so for now."""
        assert job.span is not None
        error = "" if exception is None else type(exception).__qualname__
        took = self._clock() - job.since
        self._duration.record(took, job.lane.attributes_of(outcome, error))
        self._used.add(-1, job.lane.used)
        self._end_span(job.span, outcome, exception)
        # A context that isn't a job's own, such as that of a block in a slot, goes on after it.
        if context.get_current() is job.inside:
            context.attach(job.parent)
        job.span = job.inside = None

    def _end_span(self, span: trace.Span, outcome: str, exception: BaseException | None) -> None:
        span.set_attribute("executor.job.outcome", outcome)
        if exception is not None:
            error = type(exception).__qualname__
            span.set_attribute("error.type", error)
            try:
                span.record_exception(exception)
            except Exception:  # it has no message: `str` of the user's class raised
                span.add_event("exception", {"exception.type": error})
            span.set_status(trace.StatusCode.ERROR, error)
        span.end()

    def _measure_limits(self, lane: Lane, known: _Lane) -> None:
        executor = lane.executor
        known.limits = executor.slots, lane.slots
        if executor.slots < math.inf:
            self._max.set(executor.slots, {"executor.name": known.attributes["executor.name"]})
        if lane is not executor and lane.slots < math.inf:
            self._lane_max.set(lane.slots, known.attributes)
