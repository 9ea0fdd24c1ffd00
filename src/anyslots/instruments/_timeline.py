"""What ran in which slot when: kept, drawn in a terminal, and saved."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from .. import Future, Lane
from ._reading import Clock, PerLane
from ._record import Job, LaneRecord, Retry
from ._snapshot import Snapshot
from ._text import colored_lines, plain_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


@final
class Timeline:
    """Keep which job ran in which slot when, and draw it.

    `print` draws a row for each slot in 80 columns of ASCII, and the length of the queue below;
    rich, in color, as wide as the terminal. `save_svg`, `save_html` and `save_trace` write files. A
    job that lends its slot is shown where it really ran: in one slot until it lent it, and from
    when it went on in the slot that it was given then; lent time isn't shown as running. Each
    attempt of a job with retries has a bar, and between attempts the job counts as queued.

    Limits and pauses are read at job events, so they are as precise as the times of these.

    ``limit``: how many ended jobs are kept, the last ones; an int from 1, or `math.inf`, which
    takes some 600 bytes a job. Raises `TypeError` or `ValueError` for anything else.

    ::

        timeline = Timeline()
        async with Executor(slots=4, instruments=[timeline]) as executor:
            ...
        print(timeline)
        timeline.save_svg("timeline.svg")
    """

    def __init__(self, *, limit: float = math.inf, clock: Clock = time.perf_counter) -> None:
        most = check_limit(limit)
        self._clock = clock
        self._ended: deque[Job] = deque(maxlen=most)
        self._open: dict[Future[Any], Job] = {}
        self._count = 0
        self._dropped = False
        self._lanes = PerLane(self._make_record)
        # Whether a pause was ever seen.
        self._paused = False
        # Of executors, by number.
        self._names: dict[int, str] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        now, lane = self._clock(), future.lane
        record = self._lanes[lane]
        self._count += 1
        self._open[future] = Job(self._count, record, now)
        self._sample(lane, record, now)

    def job_started(self, future: Future[Any]) -> None:
        now, job, slot = self._clock(), self._open[future], future.slot
        assert slot is not None
        job.runs.append((slot, now, math.inf, len(job.retries) + 1))
        if self._paused:  # or else a limit can wait until a job is submitted or ends
            self._sample(future.lane, job.lane, now)

    job_resumed = job_started

    def job_lent(self, future: Future[Any]) -> None:
        end_run(self._open[future], self._clock())

    def job_retried(self, future: Future[Any], exception: BaseException, delay: float) -> None:
        now, job = self._clock(), self._open[future]
        end_run(job, now)
        job.retries += (Retry(now, delay, type(exception).__qualname__),)
        self._sample(future.lane, job.lane, now)

    def job_finished(self, future: Future[Any]) -> None:
        now, job = self._clock(), self._open.pop(future)
        if job.runs:
            end_run(job, now)
        job.name, job.ended = future.name, now
        outcome = job.outcome = future.status.value
        if outcome == "failed":
            job.error = type(future.error).__qualname__
        self._dropped = self._dropped or len(self._ended) == self._ended.maxlen
        self._ended.append(job)
        self._sample(future.lane, job.lane, now)

    def _sample(self, lane: Lane, record: LaneRecord, now: float) -> None:
        """Note what has changed in a lane and those around it."""
        while True:
            if lane.slots != record.slots or lane.paused is not record.paused:
                self._paused |= lane.paused
                record.note(lane, now)
            if record.parent is None:
                return
            assert lane.parent is not None
            lane, record = lane.parent, record.parent

    def _make_record(self, lane: Lane) -> LaneRecord:
        parent = None if lane.parent is None else self._lanes[lane.parent]
        number = len(self._names) + 1 if parent is None else parent.executor
        if parent is None:
            self._names[number] = lane.name or ""
        self._paused |= lane.paused
        return LaneRecord(lane, number, parent, self._clock(), self._ended.maxlen)

    def snapshot(self) -> Snapshot:
        """Return everything that's kept, as it is now."""
        for future, job in self._open.items():
            job.name = future.name
        jobs = sorted([*self._ended, *self._open.values()], key=lambda job: job.number)
        # The waits of those that are left may go back far before what is left of the runs.
        times = [job.left_queue if self._dropped else job.submitted for job in jobs]
        now = self._clock() if self._open else 0.0
        return Snapshot(jobs, self._names, now, min(times, default=now))

    def save_svg(self, path: str | os.PathLike[str]) -> None:
        """Write a picture: a row of bars for each slot, the queue's length below.

        It's complete in itself, light or dark as its reader likes. Pointing at a bar shows the
        job's name, lane, wait and run; pointing at an idle slot's hatching, what held back the jobs
        that were queued then, where that's known. Bars too narrow to see are drawn as one. If
        ``slots`` of an executor or a lane changed, there's a line of that, too. Raises `OSError` if
        the file can't be written.
        """
        from ._svg import draw

        Path(path).write_text(draw(self.snapshot()), encoding="utf-8")

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the same picture, to zoom into.

        It's complete in itself: one file, that loads nothing. Raises `OSError` if the file can't be
        written.
        """
        from ._html import page

        Path(path).write_text(page(self.snapshot()), encoding="utf-8")

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a trace for Perfetto or ``chrome://tracing``: Chrome's trace-event JSON.

        A process for each executor, a thread for each slot; waits in the queue are asynchronous
        events. Raises `OSError` if the file can't be written.
        """
        from ._trace import events

        Path(path).write_text(events(self.snapshot()), encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join(plain_lines(self.snapshot()))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        return colored_lines(self.snapshot(), console, options)


def end_run(job: Job, now: float) -> None:
    """End the run that's under way, if one is."""
    slot, begin, end, attempt = job.runs[-1]
    if end == math.inf:
        job.runs[-1] = (slot, begin, now, attempt)


def check_limit(limit: object) -> int | None:
    """Return how many jobs are kept, or None for all."""
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"limit must be an int from 1 or math.inf, not {limit!r}")
    if limit == math.inf:
        return None
    if isinstance(limit, float) or limit < 1:
        raise ValueError(f"limit must be an int from 1 or math.inf, not {limit!r}")
    return limit
