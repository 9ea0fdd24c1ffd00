"""Random programs, as data, run by the real executor in virtual time."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time, tally

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, Lane, wait

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
@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
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
    tasks: int = 0
    """How many tasks of a group of its own sleep meanwhile."""
    shielded: int = 0
    """Seconds that it goes on for when it's cancelled."""
    swallows: bool = False
    """Whether it returns a value when it's cancelled."""
    lane: int = 0
    submits: tuple[Behaviour, ...] = ()
    waits: bool = False
    """Whether it waits for the jobs that it has submitted, lending its slot."""


behaviours = st.recursive(
    st.builds(
        Behaviour,
        before=SECONDS,
        fails=st.booleans(),
        tasks=st.sampled_from([0, 0, 2]),
        shielded=st.sampled_from([0, 0, 1, 3]),
        swallows=st.booleans(),
        lane=st.integers(0, 1),
    ),
    lambda inner: st.builds(
        Behaviour,
        before=SECONDS,
        fails=st.booleans(),
        lane=st.integers(0, 1),
        submits=st.lists(inner, max_size=3).map(tuple),
        waits=st.booleans(),
    ),
    max_leaves=4,
)

NUMBERS = st.integers(0, 30)

operations = st.one_of(
    st.tuples(st.just("submit"), behaviours),
    st.tuples(st.just("submit in a callback"), behaviours),
    st.tuples(st.just("sleep"), SECONDS),
    st.tuples(st.just("cancel"), NUMBERS),
    st.tuples(st.just("cancel twice"), NUMBERS),
    st.tuples(st.just("look"), NUMBERS),
    st.tuples(st.just("await for a second"), NUMBERS),
    st.tuples(st.just("pause or resume"), st.integers(0, 1)),
    st.tuples(st.just("resize"), st.integers(1, 4)),
    st.tuples(st.just("cancel all"), st.none()),
    st.tuples(st.just("join"), st.none()),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("shutdown"), SECONDS),
    st.tuples(st.just("raise"), st.none()),
)

programs = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 3),
        "on_error": st.sampled_from(["hold", "cancel", "log"]),
        "operations": st.lists(operations, max_size=15),
        "deadline": st.sampled_from([1, 3, 7, 1000, 1000]),
    }
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
    operations: list[tuple[str, Any]]
    deadline: float
    second: float = 1
    executor: Executor = field(init=False)
    lanes: list[Lane] = field(init=False)
    futures: list[Future[Any]] = field(default_factory=list)
    started: dict[Lane, list[int]] = field(default_factory=lambda: defaultdict(list))
    settled: Counter[int] = field(default_factory=Counter)
    looked_at: set[int] = field(default_factory=set)
    running: int = 0
    # Jobs that were cancelled while their slot was lent, and unwind without one.
    unwinding: int = 0
    # More than there are slots while jobs run that began before some were taken away.
    limit: int = 0

    def check(self) -> None:
        counts = self.executor.statistics()
        self.limit = max(self.slots, min(self.limit, counts.running))
        assert counts.running <= self.limit + self.unwinding
        assert self.running <= self.limit + self.unwinding
        assert counts.submitted == len(self.futures)
        assert counts.submitted == (
            counts.queued
            + counts.running
            + counts.lent
            + counts.succeeded
            + counts.failed
            + counts.cancelled
        )

    def submit(self, behaviour: Behaviour) -> Future[Any] | None:
        number = len(self.futures)
        try:
            future = self.lanes[behaviour.lane].submit(self.job, number, behaviour)
        except ExecutorClosed:
            return None
        self.futures.append(future)
        future.add_done_callback(lambda _: self.settled.update([number]))
        self.check()
        return future

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds * self.second)

    async def job(self, number: int, behaviour: Behaviour) -> int:
        self.started[self.lanes[behaviour.lane]].append(number)
        self.running += 1
        lent = False
        try:
            self.check()
            inner = [self.submit(each) for each in behaviour.submits]
            if behaviour.before:
                await self.sleep(behaviour.before)
            if behaviour.waits:
                lent = True
                self.running -= 1
                await wait([future for future in inner if future is not None])
                self.running += 1
                lent = False
                self.check()
            async with anyio.create_task_group() as group:
                for _ in range(behaviour.tasks):
                    group.start_soon(self.sleep, 1)
            if behaviour.fails:
                raise JobError(number)
        except anyio.get_cancelled_exc_class():
            self.running += lent
            self.unwinding += lent
            try:
                with anyio.CancelScope(shield=True):
                    await self.sleep(behaviour.shielded)
            finally:
                self.unwinding -= lent
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
                await self.sleep(argument)
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
                with anyio.move_on_after(self.second):
                    try:
                        assert await self.futures[chosen] == chosen
                    except (JobError, JobCancelled):
                        self.looked_at.add(chosen)
            case "pause or resume":
                lane = (self.executor, self.lanes[1])[argument]
                (lane.resume if lane.paused else lane.pause)()
            case "resize":
                self.limit = max(self.limit, self.slots)
                self.executor.slots = self.slots = argument
            case "cancel all":
                self.executor.cancel("no need of any")
            case "join":
                self.executor.resume()
                self.lanes[1].resume()
                await self.executor.join()
                assert all(future.done() for future in self.futures)
            case "close":
                self.executor.close()
            case "shutdown":
                await self.executor.shutdown(grace=argument * self.second)
                assert all(future.done() for future in self.futures)
            case "raise":
                raise BodyError

    async def main(self) -> None:
        tally["programs"] += 1
        tally["operations"] += len(self.operations)
        raised: BaseException | None = None
        with anyio.move_on_after(self.deadline * self.second):
            try:
                async with Executor(self.slots, on_error=self.on_error) as self.executor:
                    self.lanes = [self.executor, self.executor.lane(slots=1, priority=1)]
                    for name, argument in self.operations:
                        await self.operate(name, argument)
                        self.check()
            except (BodyError, BaseExceptionGroup) as exc:
                raised = exc
        self.check_end(raised)

    def check_end(self, raised: BaseException | None) -> None:
        self.check()
        assert self.running == 0
        assert all(future.done() for future in self.futures)
        assert self.settled == Counter(range(len(self.futures)))
        for numbers in self.started.values():
            assert numbers == sorted(numbers)
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


@given(program=programs)
@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_nothing_is_lost_whatever_happens(backend, program) -> None:
    """Every job settles once, in time and in order; every error comes out; the limit holds."""
    run_in_virtual_time(backend, Run(**program).main)


@given(program=programs)
@settings(max_examples=settings().max_examples // 5)
def test_nothing_is_lost_in_real_time(program) -> None:
    """The same, where nothing is in order but by the loop's own clock: on uvloop."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Run(**program, second=0.001).main())
