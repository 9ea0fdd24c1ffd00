"""Metrics for Prometheus."""

from __future__ import annotations

import time
from typing import Any, final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .._handles import Future
from ._reading import Clock, labels, outcome


@final
class Prometheus:
    """Metrics of jobs, labelled by the names of ``executor`` and ``lane``, for Prometheus.

    - ``anyslots_slots_limit``: how many jobs of the lane may run at once, as of its last job;
    - ``anyslots_jobs_queued``, ``anyslots_jobs_running``: now; one that has lent its slot is in
      neither;
    - ``anyslots_jobs_total``: ended so far, by ``outcome``: succeeded, failed, cancelled;
    - ``anyslots_job_queue_wait_seconds``: from submission to start, of jobs that started;
    - ``anyslots_job_run_seconds``: from start to end, lent time included.

    The executor's own lane is ``""``; name executors and lanes to tell them apart. Each lane's
    name makes series of its own, so an executor with a lane for each of a million hosts had better
    go without.

    ``registry``: where the metrics are registered, the default one if None. One registry takes one
    `Prometheus`, which may serve any number of executors; `ValueError` for a second.

    ::

        Executor(slots=4, name="crawler", instruments=[Prometheus()])
    """

    def __init__(
        self, *, registry: CollectorRegistry | None = None, clock: Clock = time.perf_counter
    ) -> None:
        where: Any = {
            "labelnames": ("executor", "lane"),
            "namespace": "anyslots",
            "registry": REGISTRY if registry is None else registry,
        }
        self._slots = Gauge("slots_limit", "Jobs that may run at once.", **where)
        self._queued = Gauge("jobs_queued", "Jobs that wait to start.", **where)
        self._running = Gauge("jobs_running", "Jobs that hold a slot.", **where)
        self._wait = Histogram("job_queue_wait_seconds", "From submission to start.", **where)
        self._run = Histogram("job_run_seconds", "From start to end.", **where)
        where["labelnames"] += ("outcome",)
        self._jobs = Counter("jobs", "Jobs that have ended.", **where)
        self._clock = clock
        # When each unfinished job was submitted or, if it runs, when it started.
        self._since: dict[Future[Any], float] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        self._since[future] = self._clock()
        self._slots.labels(*labels(future)).set(future.lane.slots)
        self._queued.labels(*labels(future)).inc()

    def job_started(self, future: Future[Any]) -> None:
        now = self._clock()
        self._wait.labels(*labels(future)).observe(now - self._since[future])
        self._since[future] = now
        self._queued.labels(*labels(future)).dec()
        self.job_resumed(future)

    def job_lent(self, future: Future[Any]) -> None:
        self._running.labels(*labels(future)).dec()

    def job_resumed(self, future: Future[Any]) -> None:
        self._running.labels(*labels(future)).inc()

    def job_finished(self, future: Future[Any]) -> None:
        since = self._since.pop(future)
        if future.slot is None:
            self._queued.labels(*labels(future)).dec()
        else:
            self._run.labels(*labels(future)).observe(self._clock() - since)
            self.job_lent(future)
        self._jobs.labels(*labels(future), outcome(future)).inc()
