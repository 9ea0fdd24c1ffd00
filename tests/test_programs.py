"""Random programs, as data, run by the real executor in virtual time."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, Future, JobCancelled

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

SECONDS = st.integers(0, 4)


# When jobs start, beside an independent model.


def greedy_list_scheduling(slots: int, jobs: list[tuple[int, int]]) -> list[int]:
    """When each job starts: in turn, as soon as it's submitted and a slot is free.

    ``jobs``: how long after the one before each is submitted, and how long it runs.
    """
    free_at = [0] * slots
    now, starts = 0, []
    for delay, duration in jobs:
        now += delay
        start = max(now, heapq.heappop(free_at))
        starts.append(start)
        heapq.heappush(free_at, start + duration)
    return starts


@given(
    slots=st.integers(1, 4),
    jobs=st.lists(st.tuples(SECONDS, SECONDS), max_size=20),
)
def test_jobs_start_when_greedy_list_scheduling_says(backend, slots, jobs) -> None:
    """Each job starts as soon as it may, to the second, and the block lasts as long as its jobs."""
    starts: dict[int, float] = {}

    async def job(number: int, duration: int) -> None:
        starts[number] = anyio.current_time() - origin
        await anyio.sleep(duration)

    async def main() -> float:
        nonlocal origin
        origin = anyio.current_time()
        async with Executor(slots) as executor:
            for number, (delay, duration) in enumerate(jobs):
                await anyio.sleep(delay)
                executor.submit(job, number, duration)
        return anyio.current_time() - origin

    origin = 0.0
    makespan = run_in_virtual_time(backend, main)
    expected = greedy_list_scheduling(slots, jobs)
    assert [starts[number] for number in range(len(jobs))] == expected
    ends = [start + duration for start, (_, duration) in zip(expected, jobs, strict=True)]
    assert makespan == max([*ends, sum(delay for delay, _ in jobs)])


# What always holds, whatever happens.


@dataclass(frozen=True)
class Behaviour:
    """What one job does."""

    before: int = 0
    """Seconds that it sleeps; 0: no checkpoint at all."""
    fails: bool = False
    shielded: int = 0
    """Seconds that it goes on for when it's cancelled."""
    swallows: bool = False
    """Whether it returns a value when it's cancelled."""
    submits: tuple[Behaviour, ...] = ()


behaviours = st.recursive(
    st.builds(
        Behaviour,
        before=SECONDS,
        fails=st.booleans(),
        shielded=st.sampled_from([0, 0, 1, 3]),
        swallows=st.booleans(),
    ),
    lambda inner: st.builds(
        Behaviour, before=SECONDS, submits=st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=4,
)

operations = st.one_of(
    st.tuples(st.just("submit"), behaviours),
    st.tuples(st.just("submit in a callback"), behaviours),
    st.tuples(st.just("sleep"), SECONDS),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("cancel twice"), st.integers(0, 30)),
    st.tuples(st.just("look"), st.integers(0, 30)),
    st.tuples(st.just("await for a second"), st.integers(0, 30)),
    st.tuples(st.just("cancel all"), st.none()),
    st.tuples(st.just("join"), st.none()),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("shutdown"), SECONDS),
    st.tuples(st.just("raise"), st.none()),
)


class JobError(Exception):
    pass


class BodyError(Exception):
    pass


@dataclass
class Run:
    """Runs one program, and keeps what's to be checked."""

    slots: int
    on_error: Any
    executor: Executor = field(init=False)
    futures: list[Future[Any]] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    settled: Counter[int] = field(default_factory=Counter)
    looked_at: set[int] = field(default_factory=set)
    running: int = 0

    def check(self) -> None:
        counts = self.executor.statistics()
        assert counts.running <= self.slots
        assert self.running <= self.slots
        assert counts.submitted == len(self.futures)
        assert counts.submitted == (
            counts.queued
            + counts.running
            + counts.lent
            + counts.succeeded
            + counts.failed
            + counts.cancelled
        )

    def submit(self, behaviour: Behaviour) -> None:
        number = len(self.futures)
        try:
            future = self.executor.submit(self.job, number, behaviour)
        except ExecutorClosed:
            return
        self.futures.append(future)
        future.add_done_callback(lambda _: self.settled.update([number]))
        self.check()

    async def job(self, number: int, behaviour: Behaviour) -> int:
        self.started.append(number)
        self.running += 1
        try:
            self.check()
            for inner in behaviour.submits:
                self.submit(inner)
            if behaviour.before:
                await anyio.sleep(behaviour.before)
            if behaviour.fails:
                raise JobError(number)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(behaviour.shielded)
            if not behaviour.swallows:
                raise
        finally:
            self.running -= 1
        return number

    async def operate(self, name: str, argument: Any) -> None:
        count = len(self.futures)
        chosen = argument % count if count and isinstance(argument, int) else None
        match name:
            case "submit":
                self.submit(argument)
            case "submit in a callback":
                if self.futures and not self.futures[-1].done():
                    self.futures[-1].add_done_callback(lambda _: self.submit(argument))
            case "sleep":
                await anyio.sleep(argument)
            case "cancel" | "cancel twice" if chosen is not None:
                future = self.futures[chosen]
                was_open = not future.done()
                assert future.cancel("no need") is was_open
                if name == "cancel twice":
                    future.cancel()
            case "look" if chosen is not None and self.futures[chosen].done():
                self.looked_at.add(chosen)
                try:
                    self.futures[chosen].exception()
                except JobCancelled:
                    pass
            case "await for a second" if chosen is not None:
                with anyio.move_on_after(1):
                    try:
                        assert await self.futures[chosen] == chosen
                    except (JobError, JobCancelled):
                        self.looked_at.add(chosen)
            case "cancel all":
                self.executor.cancel("no need of any")
            case "join":
                await self.executor.join()
                assert all(future.done() for future in self.futures)
            case "close":
                self.executor.close()
            case "shutdown":
                await self.executor.shutdown(grace=argument)
                assert all(future.done() for future in self.futures)
            case "raise":
                raise BodyError

    async def program(self, operations: list[tuple[str, Any]], deadline: float) -> None:
        raised: BaseException | None = None
        with anyio.move_on_after(deadline) as scope:
            try:
                async with Executor(self.slots, on_error=self.on_error) as self.executor:
                    for name, argument in operations:
                        await self.operate(name, argument)
                        self.check()
            except (BodyError, BaseExceptionGroup) as exc:
                raised = exc
        self.check_end(raised, scope.cancelled_caught)

    def check_end(self, raised: BaseException | None, cancelled: bool) -> None:
        self.check()
        assert self.running == 0
        assert all(future.done() for future in self.futures)
        assert self.settled == Counter(range(len(self.futures)))
        assert self.started == sorted(self.started)
        failed = [n for n, f in enumerate(self.futures) if not f.cancelled() and f.exception()]
        if isinstance(raised, BaseExceptionGroup):
            numbers = sorted(exc.args[0] for exc in raised.exceptions)
            if self.on_error == "hold":
                assert numbers == sorted(set(failed) - self.looked_at)
            else:
                assert self.on_error == "cancel"
                assert numbers == failed
        elif raised is None and self.on_error == "hold":
            assert set(failed) <= self.looked_at
        elif raised is None and self.on_error == "cancel":
            assert not failed


@given(
    slots=st.integers(1, 3),
    on_error=st.sampled_from(["hold", "cancel", "log"]),
    operations=st.lists(operations, max_size=15),
    deadline=st.sampled_from([1, 3, 7, 1000, 1000]),
)
def test_nothing_is_lost_whatever_happens(backend, slots, on_error, operations, deadline) -> None:
    """Every job settles once, in time and in order; every error comes out; the limit holds."""
    run = Run(slots, on_error)
    run_in_virtual_time(backend, run.program, operations, deadline)
