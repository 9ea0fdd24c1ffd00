"""Metrics for Prometheus."""

from __future__ import annotations

import os
import time
from typing import Any, final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .. import Future, Lane
from ._reading import Clock, PerLane, names_of


class _Metrics:
    """The metrics of all lanes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        where: Any = {
            "labelnames": ("executor", "lane"),
            "namespace": "anyslots",
            "registry": registry,
        }
        self.slots = Gauge("slots_limit", "Jobs that may run at once.", **where)
        self.queued = Gauge("jobs_queued", "Jobs that wait to start.", **where)
        self.running = Gauge("jobs_running", "Jobs that hold a slot.", **where)
        self.wait = Histogram("job_queue_wait_seconds", "From submission to start.", **where)
        self.run = Histogram("job_run_seconds", "From start to end.", **where)
        self.retries = Counter("job_retries", "Failed attempts that are retried.", **where)
        where["labelnames"] += ("outcome",)
        self.ended = Counter("jobs", "Jobs that have ended.", **where)
        # Then values are written to files, and those that functions return aren't.
        self.several_processes = "PROMETHEUS_MULTIPROC_DIR" in os.environ


class _Series:
    """The time series of one executor's lane: `labels` looks them up far slower than this does."""

    __slots__ = ("_gauges", "jobs", "limit", "queued", "retries", "run", "running", "slots", "wait")

    def __init__(self, metrics: _Metrics, names: tuple[str, str]) -> None:
        self.slots = metrics.slots.labels(*names)
        # What `slots` was set to last.
        self.limit = 0.0
        # Read when they are scraped, which costs a job least; or else written to gauges.
        self.queued = self.running = 0
        self._gauges: tuple[Gauge, Gauge] | None = None
        queued, running = metrics.queued.labels(*names), metrics.running.labels(*names)
        if metrics.several_processes:
            self._gauges = queued, running
        else:
            queued.set_function(lambda: self.queued)
            running.set_function(lambda: self.running)
        self.wait = metrics.wait.labels(*names)
        self.run = metrics.run.labels(*names)
        self.retries = metrics.retries.labels(*names)
        # By outcome: each is made by the first job that ends so.
        self.jobs: dict[str, Counter] = {}

    def move(self, queued: int, running: int) -> None:
        """Count jobs that enter or leave the queue or slots."""
        self.queued += queued
        self.running += running
        if self._gauges is not None:
            self._gauges[0].set(self.queued)
            self._gauges[1].set(self.running)


class _Job:
    """What's known of a job that hasn't ended."""

    __slots__ = ("attempted", "series", "since", "started")

    def __init__(self, series: _Series, since: float) -> None:
        self.series = series
        # When it entered the queue or, while it runs, when it started.
        self.since = since
        self.started = False
        self.attempted = False


@final
class Prometheus:
    """Measure jobs for Prometheus, by the names of ``executor`` and ``lane``.

    - ``anyslots_slots_limit``: how many jobs of the lane may run at once, as of its last job;
    - ``anyslots_jobs_queued``, ``anyslots_jobs_running``: now; one that has lent its slot is in
      neither, one that waits for another attempt is queued;
    - ``anyslots_jobs_total``: ended so far, by ``outcome``: succeeded, failed, cancelled;
    - ``anyslots_job_retries_total``: attempts that failed and were followed by a retry;
    - ``anyslots_job_queue_wait_seconds``: from submission to first start, of jobs that started;
    - ``anyslots_job_run_seconds``: from start to end of each attempt, lent time included.

    The executor's own lane is ``""``; name executors and lanes to tell them apart. Each lane name
    makes time series of its own, so leave the lanes of an executor unnamed if there may be a
    million of them.

    ``registry``: where the metrics are registered, the default one if None. One registry takes one
    `Prometheus`, which may serve any number of executors; `ValueError` for a second.

    ::

        Executor(slots=4, name="crawler", instruments=[Prometheus()])
    """

    def __init__(
        self, *, registry: CollectorRegistry | None = None, clock: Clock = time.perf_counter
    ) -> None:
        self._metrics = _Metrics(REGISTRY if registry is None else registry)
        self._clock = clock
        # Lanes of one name share their series.
        self._by_name: dict[tuple[str, str], _Series] = {}
        self._series = PerLane(self._series_of)
        self._open: dict[Future[Any], _Job] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        lane = future.lane
        series = self._series[lane]
        limit = lane.slots
        if limit != series.limit:
            series.limit = limit
            series.slots.set(limit)
        series.move(1, 0)
        self._open[future] = _Job(series, self._clock())

    def job_started(self, future: Future[Any]) -> None:
        job, now = self._open[future], self._clock()
        series = job.series
        if not job.attempted:
            job.attempted = True
            series.wait.observe(now - job.since)
        job.since = now
        job.started = True
        series.move(-1, 1)

    def job_lent(self, future: Future[Any]) -> None:
        self._open[future].series.move(0, -1)

    def job_resumed(self, future: Future[Any]) -> None:
        self._open[future].series.move(0, 1)

    def job_retried(self, future: Future[Any], exception: BaseException, delay: float) -> None:
        job, now = self._open[future], self._clock()
        series = job.series
        series.run.observe(now - job.since)
        series.retries.inc()
        series.move(1, -1)
        job.since = now
        job.started = False

    def job_finished(self, future: Future[Any]) -> None:
        job = self._open.pop(future)
        series = job.series
        if job.started:
            series.run.observe(self._clock() - job.since)
            series.move(0, -1)
        else:
            series.move(-1, 0)
        outcome = future.status.value
        ended = series.jobs.get(outcome)
        if ended is None:
            names = names_of(future.lane)
            ended = series.jobs[outcome] = self._metrics.ended.labels(*names, outcome)
        ended.inc()

    def _series_of(self, lane: Lane) -> _Series:
        names = names_of(lane)
        if names not in self._by_name:
            self._by_name[names] = _Series(self._metrics, names)
        return self._by_name[names]
