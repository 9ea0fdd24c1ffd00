"""What ran in which slot when: kept, drawn in a terminal, and saved."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from .._validation import check_count
from .._handles import Future
from ._reading import Clock, error, labels, outcome

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c959f")
"""For the lanes with the most jobs, and the last one for all others: told apart by any eye."""

STROKES = {"failed": "x", "cancelled": "~"}


class Job:
    """What's known of one job; times are the clock's."""

    __slots__ = ("ended", "error", "lane", "name", "number", "outcome", "pieces", "submitted")

    def __init__(self, number: int, name: str, lane: tuple[int, str], submitted: float) -> None:
        self.number = number
        self.name = name
        # The number of its executor, and the name of its lane.
        self.lane = lane
        self.submitted = submitted
        # Slot, begin and end of each part of its run: more than one if it lent its slot.
        self.pieces: list[tuple[int, float, float]] = []
        self.ended = math.inf
        self.outcome = ""
        self.error = ""

    @property
    def left_queue(self) -> float:
        return self.pieces[0][1] if self.pieces else self.ended


class Piece(NamedTuple):
    """A part of a job's run, in one slot without a break."""

    begin: float
    end: float
    job: Job


class Snapshot:
    """The jobs of a timeline at some moment, arranged for drawing. Times count from its begin."""

    def __init__(self, jobs: list[Job], names: dict[int, str], now: float, origin: float) -> None:
        self.jobs, self.origin = jobs, origin
        ends = [job.ended for job in jobs if job.ended < math.inf]
        unfinished = len(ends) < len(jobs)
        self.length = max(max([*ends, *[now] * unfinished], default=origin) - origin, 1e-9)
        rows: dict[tuple[int, int], list[Piece]] = {}
        for job in jobs:
            for slot, begin, end in job.pieces:
                piece = Piece(self.at(begin), self.at(end), job)
                rows.setdefault((job.lane[0], slot), []).append(piece)
        # What ran in each slot, in order.
        self.rows = {row: sorted(rows[row], key=lambda piece: piece[:2]) for row in sorted(rows)}
        several = len({executor for executor, _ in rows}) > 1
        self.executors = {n: name or f"executor {n}" for n, name in names.items()}
        prefix = {n: f"{name} " if several else "" for n, name in self.executors.items()}
        self.labels = [f"{prefix[executor]}slot {slot}" for executor, slot in self.rows]
        self.lanes = Counter(job.lane for job in jobs).most_common()
        places = {lane: n for n, (lane, _) in enumerate(self.lanes)}
        self.colours = {lane: min(n, len(PALETTE) - 1) for lane, n in places.items()}
        self.lane_names = [prefix[n] + (name or "no lane") for (n, name), _ in self.lanes]
        counted = f"{plural(len(self.rows), 'slot')}, {plural(len(jobs), 'job')}"
        outcomes = Counter(job.outcome or "unfinished" for job in jobs).most_common()
        told = ", ".join(f"{count:,} {what}" for what, count in outcomes)
        self.title = f"{counted} in {seconds(self.length)}: {told}" if jobs else "no jobs"
        self.queue = list(self._queue_lengths())
        self.longest = max((count for _, count in self.queue), default=0)

    def at(self, time: float) -> float:
        return min(max(time - self.origin, 0.0), self.length)

    def _queue_lengths(self) -> Iterator[tuple[float, int]]:
        """How long the queue is from which time on."""
        changes: Counter[float] = Counter()
        for job in self.jobs:
            changes[self.at(job.submitted)] += 1
            if job.left_queue < math.inf:
                changes[self.at(job.left_queue)] -= 1
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


@final
class Timeline:
    """Keeps which job ran in which slot when, and draws it.

    `print` draws a row for each slot in 80 columns of ASCII, and the length of the queue below;
    rich, in colour, as wide as the terminal. `save_svg` and `save_trace` write files. A job that
    lends its slot is shown where it really ran: in one slot until it lent it, and from when it went
    on in whichever slot it was given then; lent time isn't shown as running.

    ``limit``: how many ended jobs are kept, the last ones; an int from 1, or `math.inf`, which
    takes some 500 bytes a job. Raises `TypeError` or `ValueError` for anything else.

    ::

        timeline = Timeline()
        async with Executor(slots=4, instruments=[timeline]) as executor:
            ...
        print(timeline)
        timeline.save_svg("timeline.svg")
    """

    def __init__(self, *, limit: float = math.inf, clock: Clock = time.perf_counter) -> None:
        check_count("limit", limit, least=1)
        self._clock = clock
        self._ended: deque[Job] = deque(maxlen=None if limit == math.inf else int(limit))
        self._open: dict[Future[Any], Job] = {}
        self._count = 0
        self._dropped = False
        self._executors: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        self._names: dict[int, str] = {}

    def job_submitted(self, future: Future[Any]) -> None:
        self._count += 1
        executor, lane = labels(future)
        number = self._executors.setdefault(future.lane.executor, len(self._names) + 1)
        self._names[number] = executor
        self._open[future] = Job(self._count, future.name, (number, lane), self._clock())

    def job_started(self, future: Future[Any]) -> None:
        assert future.slot is not None
        self._open[future].pieces.append((future.slot, self._clock(), math.inf))

    job_resumed = job_started

    def job_lent(self, future: Future[Any]) -> None:
        pieces = self._open[future].pieces
        pieces[-1] = (*pieces[-1][:2], self._clock())

    def job_finished(self, future: Future[Any]) -> None:
        if self._open[future].pieces:
            self.job_lent(future)
        job = self._open.pop(future)
        job.ended, job.outcome = self._clock(), outcome(future)
        if (exception := error(future)) is not None:
            job.error = type(exception).__qualname__
        self._dropped = self._dropped or len(self._ended) == self._ended.maxlen
        self._ended.append(job)

    def _snapshot(self) -> Snapshot:
        """Everything that's kept, as it is now."""
        jobs = sorted([*self._ended, *self._open.values()], key=lambda job: job.number)
        # The waits of those that are left may go back far before what is left of the runs.
        times = [job.left_queue if self._dropped else job.submitted for job in jobs]
        now = self._clock() if self._open else 0.0
        return Snapshot(jobs, self._names, now, min(times, default=now))

    def save_svg(self, path: str | os.PathLike[str]) -> None:
        """Write a picture: a row of bars for each slot, the queue's length below.

        It's complete in itself, light or dark as its reader likes. Pointing at a bar shows the
        job's name, lane, wait and run. Bars too narrow to see are drawn as one. Raises `OSError` if
        the file can't be written.
        """
        from ._svg import draw

        Path(path).write_text(draw(self._snapshot()), encoding="utf-8")

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write a trace for Perfetto or ``chrome://tracing``: Chrome's trace-event JSON.

        A process for each executor, a thread for each slot; waits in the queue are asynchronous
        events. Raises `OSError` if the file can't be written.
        """
        from ._trace import events

        Path(path).write_text(events(self._snapshot()), encoding="utf-8")

    def __str__(self) -> str:
        picture = self._snapshot()
        lines = [
            label + "".join(c for c, _ in cells) for label, cells in rows(picture, 80, ".:-=#")
        ]
        return "\n".join(line.rstrip() for line in [*lines, *legend(picture)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        picture = self._snapshot()
        ramp = ".:-=#" if options.ascii_only else "▁▂▃▄▅▆▇█"
        coloured = console.color_system is not None and not console.no_color
        plain = {} if not coloured or options.ascii_only else str.maketrans("[=]", "  ▕")
        for label, cells in rows(picture, options.max_width, ramp):
            line = Text(label, "bold", no_wrap=True)
            for char, job in cells:
                if job is None:
                    line.append(char)
                else:
                    line.append(char.translate(plain), paint(picture.colours[job.lane]))
            yield line
        for words in legend(picture):
            yield Text(words)
        if len(picture.lanes) > 1:
            keys = enumerate(picture.lane_names[: len(PALETTE) - 1])
            yield Text("  ").join(Text.assemble(("  ", paint(n)), f" {name}") for n, name in keys)


def rows(
    picture: Snapshot, width: int, ramp: str
) -> Iterator[tuple[str, list[tuple[str, Job | None]]]]:
    """The lines of a drawing: a label, and for each column a character and whose it is."""
    margin = max(map(len, [*picture.labels, "queue"])) + 2
    columns = max(width - margin, 10)
    scale = columns / picture.length
    for label, pieces in zip(picture.labels, picture.rows.values(), strict=True):
        cells: list[tuple[str, Job | None]] = [(" ", None)] * columns
        for begin, end, job in pieces:
            start = min(int(begin * scale), columns - 1)
            size = max(int(end * scale) - start, 1)
            stroke = STROKES.get(job.outcome, "=")
            # At least one stroke besides the number, unless nothing is said by it.
            bar = f"[{str(job.number) + stroke * (stroke != '=')}".ljust(size - 1, stroke) + "]"
            for place, char in enumerate(bar if len(bar) == size else stroke * size, start):
                # What failed isn't hidden by what follows it in the same column.
                if cells[place][0] not in STROKES.values() or size > 1:
                    cells[place] = (char, job)
        yield label.ljust(margin), cells
    lengths = picture.queue_in(columns)
    most = max(*lengths, 1.0)
    steps = (max(round(n / most * len(ramp)), n > 0.05) for n in lengths)
    yield "queue".ljust(margin), [((" " + ramp)[step], None) for step in steps]
    axis = "0" + seconds(picture.length).rjust(columns - 1)
    yield " " * margin, [(char, None) for char in axis]


def paint(colour: int) -> str:
    """A bar's colours in a terminal."""
    return f"{'#ffffff' if colour == 0 else '#000000'} on {PALETTE[colour]}"


def legend(picture: Snapshot) -> list[str]:
    marks = [f"{stroke}: {what}" for what, stroke in STROKES.items() if f" {what}" in picture.title]
    return [picture.title, "; ".join([*marks, f"longest queue: {plural(picture.longest, 'job')}"])]


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def seconds(time: float) -> str:
    """A duration to read: three digits and a unit."""
    if time < 1:
        return f"{time * 1000:.3g} ms"
    if time < 600:
        return f"{time:.3g} s"
    return f"{time / 60:.0f} min" if time < 36_000 else f"{time / 3600:.3g} h"
