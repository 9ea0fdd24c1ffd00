"""Bars in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Self, final

import rich.progress
from rich.console import Console, RenderableType
from rich.markup import escape

from .. import Future, Lane
from ._reading import Clock, PerLane, names_of

MOST_LANES = 20
"""How many have bars of their own: a crawler may have a lane for each of a million hosts."""


class _Counts:
    """What has become of the jobs of one bar, since the first of them was submitted."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        # When the last job was done, and when a line was printed last.
        self.began = self.ended = self.printed = now
        # Those that are done have succeeded or failed.
        self.submitted = self.done = self.running = self.failed = self.cancelled = 0
        # How many jobs there will be, as far as that's known.
        self.expected = 0

    @property
    def total(self) -> int:
        return max(self.submitted, self.expected)

    @property
    def rate(self) -> str:
        """How many jobs are done in a second, on average."""
        took = self.ended - self.began
        return f"{self.done / took:.1f}/s" if took > 0 else ""

    @property
    def others(self) -> str:
        """What hasn't succeeded."""
        counts = {"failed": self.failed, "cancelled": self.cancelled}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def __str__(self) -> str:
        progress = f"{self.done}/{self.total} done", f"{self.running} running"
        return f"{self.name}: " + ", ".join(filter(None, [*progress, self.others, self.rate]))


class _Bars(rich.progress.Progress):
    """Rich's bars, which look up the counts when they're drawn, and not for each job."""

    def __init__(self, counts: Callable[[], list[_Counts]], console: Console) -> None:
        self._counts = counts
        super().__init__(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("[cyan]{task.fields[running]} running"),
            rich.progress.TextColumn("[green]{task.fields[rate]}"),
            rich.progress.TextColumn("[red]{task.fields[others]}"),
            console=console,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        for count in self._counts():
            # Looked for each time: `add_task` refreshes, and so has this add all that's missing.
            found = (task.id for task in self.tasks if task.fields["name"] == count.name)
            task_id = next(found, None)
            if task_id is None:
                task_id = self.add_task(escape(count.name), name=count.name)
            self.update(
                task_id,
                total=count.total,
                completed=count.done,
                running=count.running,
                rate=count.rate,
                others=count.others,
            )
        return super().get_renderables()


@final
class Progress:
    """Show live bars in a terminal: one for each executor and lane.

    Each shows how many jobs are done of those submitted so far, how many run, how many have failed
    or been cancelled, and how many are done in a second, on average. Jobs that failed count as
    done, cancelled ones don't; a job with retries counts once. A context manager: it shows while
    its block lasts, and counts before and after, too. If the output isn't a terminal, it prints a
    plain line for each lane at the end, and now and then before. After the first twenty lanes, all
    others are shown as one.

    ``total``: how many jobs there will be in all, if that's known before they are submitted: what
    the bar counts up to or, where there are several, an additional bar for all of them. An
    attribute that can be set at any time. ``console``: where to; standard error if None.
    ``interval``: how many seconds there are at least between two plain lines of one lane.

    ::

        with Progress(total=len(urls)) as progress:
            async with Executor(slots=4, instruments=[progress]) as executor:
                ...
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        console: Console | None = None,
        interval: float = 10.0,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.total = total
        self._console = Console(stderr=True) if console is None else console
        self._interval = interval
        self._clock = clock
        # By name: lanes of one name, those without one for instance, are one bar.
        self._counts: dict[str, _Counts] = {}
        self._counts_of = PerLane(self._find_counts)
        self._shows = False
        self._bars = _Bars(self._shown, self._console)

    @property
    def total(self) -> int | None:
        """How many jobs there will be in all; None if that's not known."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        if total is not None and (isinstance(total, bool) or not isinstance(total, int)):
            raise TypeError(f"total must be None or an int from 0, not {total!r}")
        if total is not None and total < 0:
            raise ValueError(f"total must be None or an int from 0, not {total!r}")
        self._total = total

    def __enter__(self) -> Self:
        self._shows = True
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._shows = False
        if self._console.is_terminal:
            self._bars.stop()
        else:
            for count in self._shown():
                self._print(count)

    def __rich__(self) -> RenderableType:
        """Return the bars as they are now, to be part of another display."""
        return self._bars.get_renderable()

    def job_submitted(self, future: Future[Any]) -> None:
        self._counts_of[future.lane].submitted += 1

    def job_started(self, future: Future[Any]) -> None:
        self._counts_of[future.lane].running += 1

    job_resumed = job_started

    def job_lent(self, future: Future[Any]) -> None:
        self._counts_of[future.lane].running -= 1

    def job_retried(self, future: Future[Any], exception: BaseException, delay: float) -> None:
        self._counts_of[future.lane].running -= 1

    def job_finished(self, future: Future[Any]) -> None:
        count, outcome = self._counts_of[future.lane], future.status.value
        # None for one that never started, or waited for another attempt.
        count.running -= future.slot is not None
        if outcome == "cancelled":
            count.cancelled += 1
        else:
            count.done += 1
            count.failed += outcome == "failed"
            count.ended = self._clock()
        if self._shows and not self._console.is_terminal:
            now = self._clock()
            if now - count.printed >= self._interval:
                count.printed = now
                self._update_expected()
                self._print(count)

    def _find_counts(self, lane: Lane) -> _Counts:
        name = " / ".join(filter(None, names_of(lane))) or "jobs"
        if name not in self._counts and len(self._counts) >= MOST_LANES:
            name = "other lanes"
        if name not in self._counts:
            self._counts[name] = _Counts(name, self._clock())
        return self._counts[name]

    def _shown(self) -> list[_Counts]:
        """Return what there are bars of."""
        self._update_expected()
        counts = list(self._counts.values())
        if self._total is None or len(counts) < 2:
            return counts
        return [self._sum(counts), *counts]

    def _update_expected(self) -> None:
        alone = len(self._counts) == 1
        for count in list(self._counts.values()):
            count.expected = self._total or 0 if alone else 0

    def _sum(self, counts: list[_Counts]) -> _Counts:
        total = _Counts("all lanes", min(count.began for count in counts))
        total.ended = max(count.ended for count in counts)
        total.expected = self._total or 0
        for what in ("submitted", "done", "running", "failed", "cancelled"):
            setattr(total, what, sum(getattr(count, what) for count in counts))
        return total

    def _print(self, count: _Counts) -> None:
        self._console.print(count, markup=False, highlight=False, soft_wrap=True)
