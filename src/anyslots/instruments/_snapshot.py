"""A timeline at some moment, arranged for drawing."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ._record import Job, LaneRecord

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c959f")
"""For the lanes with the most jobs, and the last for all others; safe for color blindness."""

MOST_EXPLAINED = 20
"""How many lanes, those with the most jobs, are asked why slots are idle."""


class Span(NamedTuple):
    """A part of a job's run, in one slot without a break."""

    begin: float
    end: float
    job: Job
    attempt: int

    @property
    def outcome(self) -> str:
        """What became of the attempt."""
        return "failed" if self.attempt <= len(self.job.retries) else self.job.outcome

    @property
    def error(self) -> str:
        retries = self.job.retries
        return retries[self.attempt - 1].error if self.attempt <= len(retries) else self.job.error


class Idle(NamedTuple):
    """A time during which a slot was free although jobs were queued, and why."""

    row: tuple[int, int]
    begin: float
    end: float
    reason: str


class Limit(NamedTuple):
    """How many slots an executor or lane had, from which time on."""

    executor: int
    label: str
    # The number of its color; -1 for an executor.
    color: int
    steps: list[tuple[float, float]]


class Snapshot:
    """The jobs of a timeline at some moment, arranged for drawing. Times count from its begin."""

    def __init__(self, jobs: list[Job], names: dict[int, str], now: float, origin: float) -> None:
        self.jobs: list[Job] = jobs
        self.origin: float = origin
        ends = [job.ended for job in jobs if job.ended < math.inf]
        unfinished = len(ends) < len(jobs)
        self.length: float = max(max([*ends, *[now] * unfinished], default=origin) - origin, 1e-9)
        rows: dict[tuple[int, int], list[Span]] = {}
        for job in jobs:
            for slot, begin, end, attempt in job.runs:
                span = Span(self.at(begin), self.at(end), job, attempt)
                rows.setdefault((job.lane.executor, slot), []).append(span)
        # What ran in each slot, in order.
        self.rows: dict[tuple[int, int], list[Span]] = {
            row: sorted(rows[row], key=lambda span: span[:2]) for row in sorted(rows)
        }
        several = len({executor for executor, _ in rows}) > 1
        self.executors: dict[int, str] = {n: name or f"executor {n}" for n, name in names.items()}
        self._prefix = {n: f"{name} " if several else "" for n, name in self.executors.items()}
        self.labels: list[str] = [
            f"{self._prefix[executor]}slot {slot}" for executor, slot in self.rows
        ]
        self.lanes: list[tuple[tuple[int, str], int]] = Counter(
            job.lane.key for job in jobs
        ).most_common()
        places = {lane: n for n, (lane, _) in enumerate(self.lanes)}
        self.colors: dict[tuple[int, str], int] = {
            lane: min(n, len(PALETTE) - 1) for lane, n in places.items()
        }
        self.lane_names: list[str] = [
            self._prefix[n] + (name or "no lane") for (n, name), _ in self.lanes
        ]
        self.shades: dict[int, int] = self._shades()
        counted = f"{plural(len(self.rows), 'slot')}, {plural(len(jobs), 'job')}"
        outcomes = Counter(job.outcome or "unfinished" for job in jobs).most_common()
        retries = sum(len(job.retries) for job in jobs)
        listed = [f"{count:,} {what}" for what, count in outcomes]
        listed += [plural(retries, "retry")] * bool(retries)
        self.title: str = f"{counted} in {seconds(self.length)}: {', '.join(listed)}"
        self.title = self.title if jobs else "no jobs"
        self.queue: list[tuple[float, int]] = list(self._queue_lengths())
        self.longest: int = max((count for _, count in self.queue), default=0)
        spans = [span for row in self.rows.values() for span in row]
        # What there are bars of, for legends.
        self.drawn_outcomes: set[str] = {span.outcome for span in spans} | {
            job.outcome for job in jobs
        }

    def at(self, time: float) -> float:
        return min(max(time - self.origin, 0.0), self.length)

    def lane_name(self, job: Job) -> str:
        return self._prefix[job.lane.executor] + (job.lane.name or "no lane")

    def _shades(self) -> dict[int, int]:
        """Count the jobs of each lane up to three, by number: neighbors have different shades."""
        counts: Counter[tuple[int, str]] = Counter()
        shades = {}
        for job in self.jobs:
            shades[job.number] = counts[job.lane.key] % 3
            counts[job.lane.key] += 1
        return shades

    def _queue_lengths(self) -> Iterator[tuple[float, int]]:
        """How long the queue is from which time on."""
        changes: Counter[float] = Counter()
        for job in self.jobs:
            for begin, end in job.waits():
                changes[self.at(begin)] += 1
                if end < math.inf:
                    changes[self.at(end)] -= 1
        count = 0
        for when in sorted(changes):
            count += changes[when]
            yield when, count

    def queue_in(self, columns: int) -> list[float]:
        """How long the queue is on average in each column of a picture."""
        lengths = [0.0] * columns
        scale = columns / self.length
        for (begin, count), (end, _) in pairwise([*self.queue, (self.length, 0)]):
            first, last = int(begin * scale), min(int(end * scale), columns - 1)
            for column in range(first, last + 1):
                part = min(end * scale, column + 1) - max(begin * scale, column)
                lengths[column] += count * part
        return lengths

    def retried(self) -> list[tuple[int, Span, int, Span]]:
        """Each attempt and the next, with the numbers of the rows that they end and begin in."""
        spans = [
            (span.job.number, span.begin, row, span)
            for row, spans in enumerate(self.rows.values())
            for span in spans
            if span.job.retries
        ]
        spans.sort(key=lambda place: place[:2])
        return [
            (row, span, next_row, following)
            for (_, _, row, span), (_, _, next_row, following) in pairwise(spans)
            if span.job is following.job and span.attempt < following.attempt
        ]

    def never_ran(self) -> list[Job]:
        return [job for job in self.jobs if job.ended < math.inf and not job.runs]

    def limits(self) -> list[Limit]:
        """The limits that changed: of executors, and of the lanes with colors of their own."""
        found: dict[tuple[int, int, str], Limit] = {}
        for record in self.records():
            is_executor = record.parent is None
            color = -1 if is_executor else self.colors.get(record.key, len(PALETTE) - 1)
            if len(record.limits) > 1 and color < len(PALETTE) - 1:
                before, after = self.origin, self.origin + self.length
                first = (0.0, record.limit_at(before))
                changes = [(self.at(when), n) for when, n in record.limits if before < when < after]
                name = self.executors[record.executor] if is_executor else record.name or "no lane"
                found[record.executor, color, name] = Limit(
                    record.executor, name, color, [first, *changes]
                )
        return list(found.values())

    def records(self) -> list[LaneRecord]:
        """The lanes that jobs were submitted to, those with the most first, and those around."""
        counts = Counter(job.lane for job in self.jobs)
        ordered = (record for lane, _ in counts.most_common() for record in lane.path)
        return list(dict.fromkeys(ordered))

    def idle(self, columns: int) -> list[Idle]:
        """Find where slots were free while jobs were queued, and why, as far as that's known."""
        explain = _Reasons(self)
        found = []
        for executor in {executor for executor, _ in self.rows}:
            segments: list[tuple[float, float, str]] = []
            for column in range(columns):
                begin, end = (n * self.length / columns for n in (column, column + 1))
                reason = explain(executor, self.origin + (begin + end) / 2)
                if segments and segments[-1][2] == reason:
                    segments[-1] = (segments[-1][0], end, reason)
                else:
                    segments.append((begin, end, reason))
            for row, spans in self.rows.items():
                if row[0] == executor:
                    found += list(self._idle_in(row, spans, segments))
        return found

    def _idle_in(
        self, row: tuple[int, int], spans: list[Span], segments: list[tuple[float, float, str]]
    ) -> Iterator[Idle]:
        ends, begins = [0.0, *[s.end for s in spans]], [*[s.begin for s in spans], self.length]
        for gap_begin, gap_end in zip(ends, begins, strict=True):
            for begin, end, reason in segments:
                first, last = max(begin, gap_begin), min(end, gap_end)
                if reason and last > first:
                    yield Idle(row, first, last, reason)


class _Counts:
    """How many of some intervals there are at a time."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def sort(self) -> None:
        self.begins.sort()
        self.ends.sort()

    def at(self, time: float) -> int:
        return bisect_right(self.begins, time) - bisect_right(self.ends, time)


class _Reasons:
    """Says why an executor started nothing at a time, by the limits and pauses of its lanes."""

    def __init__(self, picture: Snapshot) -> None:
        # The executors' own jobs count on their own record, all jobs on the way to it.
        self._waiting: dict[LaneRecord, _Counts] = {}
        self._backing_off: dict[LaneRecord, _Counts] = {}
        self._held: dict[LaneRecord, _Counts] = {}
        self._lanes: dict[int, list[LaneRecord]] = {}
        for job in picture.jobs:
            for number, (begin, end) in enumerate(job.waits()):
                self._add(self._waiting, job.lane, begin, end)
                if number:
                    end = min(end, begin + job.retries[number - 1].delay)
                    self._add(self._backing_off, job.lane, begin, end)
            for _, begin, end, _ in job.runs:
                for record in job.lane.path:
                    self._add(self._held, record, begin, end)
        for counts in (self._waiting, self._backing_off, self._held):
            for several in counts.values():
                several.sort()
        for record in picture.records()[:MOST_EXPLAINED]:
            self._lanes.setdefault(record.executor, []).append(record)

    def _add(
        self, where: dict[LaneRecord, _Counts], record: LaneRecord, begin: float, end: float
    ) -> None:
        counts = where.setdefault(record, _Counts())
        counts.begins.append(begin)
        counts.ends.append(end)

    def __call__(self, executor: int, time: float) -> str:
        """Return the reasons, joined; "" if nothing was queued, or nothing is known."""
        reasons: dict[str, None] = {}
        for record in self._lanes.get(executor, ()):
            if self._at(self._waiting, record, time):
                reasons[self._why(record, time)] = None
        reasons.pop("", None)
        shown = list(reasons)[:4]
        return "; ".join(shown) + ("; ..." if len(reasons) > len(shown) else "")

    def _why(self, lane: LaneRecord, time: float) -> str:
        if self._at(self._backing_off, lane, time) == self._at(self._waiting, lane, time):
            return f"{_name(lane)}: waiting to retry"
        for record in lane.path:
            limit = record.limit_at(time)
            if record.paused_at(time):
                return f"{_name(record)}: paused"
            if self._at(self._held, record, time) >= limit:
                return f"{_name(record)}: at its limit of {limit}"
        throttled = next((record for record in lane.path if record.throttled), None)
        return "" if throttled is None else f"{_name(throttled)}: held back by its rate or gate"

    def _at(self, counts: dict[LaneRecord, _Counts], record: LaneRecord, time: float) -> int:
        return counts[record].at(time) if record in counts else 0


def _name(record: LaneRecord) -> str:
    return "executor" if record.parent is None else record.name or "a lane without a name"


def plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"


def seconds(time: float) -> str:
    """A duration to read: three digits and a unit."""
    if time < 1:
        return f"{time * 1000:.3g} ms"
    if time < 600:
        return f"{time:.3g} s"
    return f"{time / 60:.0f} min" if time < 36_000 else f"{time / 3600:.3g} h"
