"""Bars in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Self, final

import rich.progress
from rich.console import Console, RenderableType
from rich.markup import escape

from .._handles import Future
from ._reading import Clock, labels, outcome

MOST_LANES = 20
"""How many have bars of their own: a crawler may have a lane for each of a million hosts."""


class _Counts:
    """What has become of the jobs of one lane, since the first of them was submitted."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        # When the last job ended, and when a line was printed last.
        self.began = self.ended = self.told = now
        self.total = self.done = self.running = self.failed = self.cancelled = 0

    @property
    def rate(self) -> str:
        """How many jobs have ended in a second, on average."""
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

    def __init__(self, counts: dict[str, _Counts], console: Console) -> None:
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
        known = {task.fields["name"]: task.id for task in self.tasks}
        for name, count in list(self._counts.items()):
            if name not in known:
                known[name] = self.add_task(escape(name), total=count.total, name=name)
            self.update(
                known[name],
                total=count.total,
                completed=count.done,
                running=count.running,
                rate=count.rate,
                others=count.others,
            )
        return super().get_renderables()


@final
class Progress:
    """Live bars in a terminal: one for each executor and lane.

    Each shows how many jobs have ended of those submitted so far, how many run, how many have
    failed or been cancelled, and how many have ended in a second, on average. A context manager: it
    shows while its block lasts, and counts before and after, too. If the output isn't a terminal,
    it prints a plain line for each lane at the end, and now and then before. After the first twenty
    lanes, all others are shown as one.

    ``console``: where to; standard error if None. ``interval``: how many seconds there are at least
    between two plain lines of one lane.

    ::

        with Progress() as progress:
            async with Executor(slots=4, instruments=[progress]) as executor:
                ...
    """

    def __init__(
        self,
        *,
        console: Console | None = None,
        interval: float = 10.0,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._interval = interval
        self._clock = clock
        # By name: lanes of one name, those without one for instance, are one bar.
        self._counts: dict[str, _Counts] = {}
        self._shows = False
        self._bars = _Bars(self._counts, self._console)

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
            for count in self._counts.values():
                self._say(count)

    def __rich__(self) -> RenderableType:
        """The bars as they are now, for a display of one's own."""
        return self._bars.get_renderable()

    def job_submitted(self, future: Future[Any]) -> None:
        self._count(future).total += 1

    def job_started(self, future: Future[Any]) -> None:
        self._count(future).running += 1

    job_resumed = job_started

    def job_lent(self, future: Future[Any]) -> None:
        self._count(future).running -= 1

    def job_finished(self, future: Future[Any]) -> None:
        count = self._count(future)
        count.done += 1
        count.failed += outcome(future) == "failed"
        count.cancelled += outcome(future) == "cancelled"
        count.running -= future.slot is not None
        count.ended = self._clock()
        shows_lines = self._shows and not self._console.is_terminal
        if shows_lines and count.ended - count.told >= self._interval:
            count.told = count.ended
            self._say(count)

    def _count(self, future: Future[Any]) -> _Counts:
        name = " / ".join(filter(None, labels(future))) or "jobs"
        if name not in self._counts and len(self._counts) >= MOST_LANES:
            name = "other lanes"
        if name not in self._counts:
            self._counts[name] = _Counts(name, self._clock())
        return self._counts[name]

    def _say(self, count: _Counts) -> None:
        self._console.print(count, markup=False, highlight=False, soft_wrap=True)
