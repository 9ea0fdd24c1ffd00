"""A wait with a lent slot that is cancelled ends at once, whatever cancels it; nothing is lost.

The job goes on beyond the limit if it must, and no queued job starts until that is made up for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    Executor,
    Future,
    JobCancelled,
    as_completed,
    first_result,
    gather,
    lend_slot,
    wait,
)

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
NEVER = 3600.0


# What a job may wait for with its slot lent, in vain.


async def awaits(executor: Executor) -> None:
    await executor.submit(anyio.sleep, NEVER)


async def waits_for_future(executor: Executor) -> None:
    await executor.submit(anyio.sleep, NEVER).wait()


async def gathers(executor: Executor) -> None:
    await gather(*[executor.submit(anyio.sleep, NEVER) for _ in range(3)])


async def waits(executor: Executor) -> None:
    await wait([executor.submit(anyio.sleep, NEVER) for _ in range(3)])


async def collects(executor: Executor) -> None:
    async for _ in as_completed([executor.submit(anyio.sleep, NEVER) for _ in range(3)]):
        pass


async def maps(executor: Executor) -> None:
    async for _ in executor.map(anyio.sleep, [NEVER] * 3):
        pass


async def maps_unordered(executor: Executor) -> None:
    await executor.map(anyio.sleep, [NEVER] * 3, ordered=False)


async def enqueues(executor: Executor) -> None:
    lane = executor.lane(max_pending=1, slots=1)
    lane.pause()
    lane.submit(anyio.sleep, NEVER)
    await lane.enqueue(anyio.sleep, NEVER)


async def joins_lane(executor: Executor) -> None:
    lane = executor.lane()
    lane.submit(anyio.sleep, NEVER)
    await lane.join()


async def lends_by_hand(executor: Executor) -> None:
    executor.submit(anyio.sleep, NEVER)
    async with lend_slot():
        await anyio.sleep(NEVER)


async def lends_twice(executor: Executor) -> None:
    async with lend_slot(), lend_slot():
        await executor.submit(anyio.sleep, NEVER)


async def occupies(executor: Executor) -> None:
    lane = executor.lane(slots=1)
    lane.submit(anyio.sleep, NEVER)
    async with lane.slot():
        raise AssertionError


async def comes_back_in_vain(executor: Executor) -> None:
    """What it waits for is over; the slot that it waits for then isn't free for an hour."""
    executor.submit(anyio.sleep, NEVER)
    async with lend_slot():
        await anyio.sleep(0.5)


LENDING: list[Callable[[Executor], Awaitable[None]]] = [
    awaits,
    waits_for_future,
    gathers,
    waits,
    collects,
    maps,
    maps_unordered,
    enqueues,
    joins_lane,
    lends_by_hand,
    lends_twice,
    occupies,
    comes_back_in_vain,
]


# What may cancel that, inside the job, after one second.


async def by_move_on(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    with anyio.move_on_after(1) as scope:
        await wait_in_vain()
    assert scope.cancelled_caught


async def by_fail_after(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await wait_in_vain()


async def by_outer_scope(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    with anyio.move_on_after(1), anyio.CancelScope(), anyio.move_on_after(100):
        await wait_in_vain()


async def by_sibling(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await wait_in_vain()


async def by_asyncio_timeout(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await wait_in_vain()


async def by_native_cancel(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(1, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await wait_in_vain()
    task.uncancel()


async def by_asyncio_sibling(wait_in_vain: Callable[[], Awaitable[None]]) -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await wait_in_vain()


INTERRUPTING = [by_move_on, by_fail_after, by_outer_scope, by_sibling]
UNDER_ASYNCIO = [by_asyncio_timeout, by_native_cancel, by_asyncio_sibling]
CASES = [("asyncio", each) for each in [*INTERRUPTING, *UNDER_ASYNCIO]]
CASES += [("trio", each) for each in INTERRUPTING]


@pytest.mark.parametrize("lends", LENDING)
@pytest.mark.parametrize(("backend", "interrupted"), CASES)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_cancelled_wait_ends_at_once(
    backend: str, slots: int, interrupted: Any, lends: Callable[[Executor], Awaitable[None]]
) -> None:
    """The job goes on after a second, not an hour; whatever else runs in its slot meanwhile."""

    async def main() -> None:
        async def job() -> str:
            await interrupted(lambda: lends(executor))
            ends.append(anyio.current_time())
            counts = executor.statistics()
            assert counts.lent == 0
            assert counts.running >= 1
            beyond = counts.running > slots
            late = executor.submit(checkpoint)
            await anyio.sleep(1)
            assert not (beyond and late.done())
            return "went on"

        ends: list[float] = []
        async with Executor(slots) as executor:
            future = executor.submit(job)
            for _ in range(slots):
                executor.submit(anyio.sleep, NEVER)
            assert await future == "went on"
            assert ends == [1]
            executor.cancel()
            await executor.join()
            counts = executor.statistics()
            assert (counts.running, counts.lent, counts.queued) == (0, 0, 0)
            # As many run at once as there are slots, and no more.
            futures = [executor.submit(anyio.sleep, 1) for _ in range(2 * slots)]
            began = anyio.current_time()
            await gather(*futures)
            assert anyio.current_time() == began + 2

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("lends", LENDING)
@pytest.mark.parametrize("how", ["future", "lane", "timeout", "shutdown"])
def test_a_job_cancelled_in_its_wait_ends_at_once(
    backend: str, how: str, lends: Callable[[Executor], Awaitable[None]]
) -> None:
    """Its own cancellation needs no slot either, nor does what it does as it unwinds."""

    async def main() -> None:
        async def job() -> None:
            try:
                await lends(executor)
            finally:
                ends.append(anyio.current_time())

        ends: list[float] = []
        async with Executor(1, on_error="log") as executor:
            lane = executor.lane(timeout=1 if how == "timeout" else None)
            future = lane.submit(job)
            executor.submit(anyio.sleep, NEVER)
            await anyio.sleep(1)
            if how == "future":
                future.cancel()
            elif how == "lane":
                lane.cancel()
            elif how == "shutdown":
                await executor.shutdown(grace=0)
            await future.wait()
            assert ends == [1]
            executor.cancel()

    run_in_virtual_time(backend, main)


@virtual
def test_a_job_that_waits_for_what_comes_after_its_timeout(backend: str) -> None:
    """The child waits for an event that the parent sets once it has stopped waiting."""

    async def main() -> None:
        async def parent() -> None:
            event = anyio.Event()
            child = executor.submit(event.wait)
            with anyio.move_on_after(0.2):
                await child
            event.set()
            await child

        async with Executor(1) as executor:
            await executor.submit(parent)
        assert anyio.current_time() == 0.2

    run_in_virtual_time(backend, main)


@virtual
def test_what_goes_on_beyond_the_limit_is_made_up_for(backend: str) -> None:
    """Three lenders come back at once to one slot: nothing starts until one of four is left."""

    async def main() -> None:
        async def lender() -> None:
            with anyio.move_on_after(1):
                async with lend_slot():
                    await anyio.sleep(NEVER)
            await anyio.sleep(1)

        async def note() -> None:
            assert executor.statistics().running == 1
            starts.append(anyio.current_time())
            await anyio.sleep(1)

        starts: list[float] = []
        async with Executor(1) as executor:
            for _ in range(3):
                executor.submit(lender)
            executor.submit(anyio.sleep, 3)
            for _ in range(2):
                executor.submit(note)
            await anyio.sleep(1.5)
            assert executor.statistics().running == 4
        assert starts == [3, 4]

    run_in_virtual_time(backend, main)


@virtual
def test_permits_that_no_worker_has_claimed_are_taken_back(backend: str) -> None:
    """A job that was to start in the very turn in which a lender goes on stays queued."""

    async def main() -> None:
        scopes: list[anyio.CancelScope] = []
        for turns in range(8):
            running = most = 0

            async def count() -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await checkpoint()
                await checkpoint()
                running -= 1

            async def lender() -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    async with lend_slot():
                        await anyio.sleep(NEVER)
                await count()

            scopes.clear()
            async with Executor(1) as executor:
                executor.submit(lender)
                while not scopes:
                    await checkpoint()
                for _ in range(4):
                    executor.submit(count)
                for _ in range(turns):
                    await checkpoint()
                scopes[0].cancel()
            assert most <= 2

    run_in_virtual_time(backend, main)


# A job that ends with its slot lent.


@virtual
@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled", "times out"])
@pytest.mark.parametrize("with_others", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_job_that_ends_with_its_slot_lent_has_it_back(
    backend: str, end: str, with_others: bool
) -> None:
    """`lend_slot` in an abandoned generator; others run in the slot meanwhile, or none."""

    async def main() -> None:
        async def lends() -> AsyncIterator[None]:
            async with lend_slot():
                yield

        async def job() -> None:
            generator = lends()
            generators.append(generator)
            await anext(generator)
            if with_others:
                await anyio.sleep(1)
            if end == "fails":
                raise ValueError
            if end != "returns":
                await anyio.sleep(NEVER)

        generators: list[Any] = []
        async with Executor(2, on_error="log") as executor:
            lane = executor.lane(timeout=5 if end == "times out" else None)
            for _ in range(3):
                future = lane.submit(job)
                others = [executor.submit(anyio.sleep, 3) for _ in range(3)] if with_others else []
                await anyio.sleep(2)
                if end == "is cancelled":
                    future.cancel()
                await future.wait()
                counts = executor.statistics()
                assert counts.lent == 0
                assert counts.running >= 0
                await wait(others)
            counts = executor.statistics()
            assert (counts.running, counts.lent, counts.queued) == (0, 0, 0)
            began = anyio.current_time()
            await gather(*[executor.submit(anyio.sleep, 1) for _ in range(6)])
            assert anyio.current_time() == began + 3
            for generator in generators:
                with contextlib.suppress(RuntimeError):
                    await generator.aclose()
            assert executor.statistics().lent == 0

    run_in_virtual_time(backend, main)


@virtual
def test_one_lend_slot_serves_one_job(backend: str) -> None:
    """Shared by two jobs at once, the second is refused; one after another, both are served."""

    async def main() -> None:
        async def lends(seconds: float) -> None:
            async with shared:
                await anyio.sleep(seconds)

        shared = lend_slot()
        async with Executor(1) as executor:
            first, second = executor.submit(lends, 2), executor.submit(lends, 1)
            await first
            with pytest.raises(RuntimeError, match="another job"):
                await second
            await gather(executor.submit(lends, 1))
            await gather(executor.submit(lends, 1))
            assert executor.statistics().lent == 0

    run_in_virtual_time(backend, main)


@virtual
def test_one_lend_slot_may_be_nested_in_its_job(backend: str) -> None:
    """Entered twice by the same job, it lends once, and gives back once."""

    async def main() -> None:
        async def lends() -> None:
            shared = lend_slot()
            async with shared:
                async with shared:
                    assert executor.statistics().lent == 1
                    await anyio.sleep(1)
                assert executor.statistics().lent == 1
            assert executor.statistics().lent == 0

        async with Executor(1) as executor:
            await executor.submit(lends)

    run_in_virtual_time(backend, main)


# Random programs.


@dataclass(frozen=True)
class Wait:
    """One wait of a job: how it lends, for how long its children run, and what cuts it short."""

    how: str
    seconds: tuple[int, ...]
    patience: int | None
    means: str


@dataclass(frozen=True)
class Program:
    waits: tuple[Wait, ...]
    nested: tuple[Program, ...] = ()


HOW = ["await", "gather", "wait", "first", "map", "hand", "slot"]
MEANS = ["scope", "native", "timeout", "sibling"]

a_wait = st.builds(
    Wait,
    how=st.sampled_from(HOW),
    seconds=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    patience=st.sampled_from([None, 0, 1, 2, 3]),
    means=st.sampled_from(MEANS),
)
some_waits = st.lists(a_wait, max_size=3).map(tuple)
programs = st.recursive(
    st.builds(Program, waits=some_waits),
    lambda inner: st.builds(
        Program, waits=some_waits, nested=st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=6,
)


async def stop_after(seconds: int, scope: anyio.CancelScope) -> None:
    await anyio.sleep(seconds)
    scope.cancel()


@dataclass
class Trial:
    backend: str
    slots: int
    # For each job that goes on beyond the limit: when its wait was cut short.
    hasty: list[float] = field(default_factory=list)
    cancelled: list[Future[Any]] = field(default_factory=list)

    def excused(self) -> int:
        unwinding = sum(not future.done() for future in self.cancelled)
        return len(self.hasty) + unwinding

    def check(self) -> None:
        counts = self.executor.statistics()
        assert counts.running <= self.slots + self.excused()
        assert min(counts.running, counts.lent, counts.queued) >= 0
        ended = counts.succeeded + counts.failed + counts.cancelled
        assert counts.submitted == counts.queued + counts.running + counts.lent + ended

    def check_start(self) -> None:
        now = anyio.current_time()
        just_now = self.hasty.count(now) + sum(not future.done() for future in self.cancelled)
        assert self.executor.statistics().running <= self.slots + just_now

    async def short(self, seconds: int) -> None:
        self.check_start()
        await anyio.sleep(seconds)
        self.check()

    async def job(self, program: Program) -> None:
        self.check_start()
        mine: list[float] = []
        try:
            for each in program.waits:
                await self.interruptible(each, mine)
                self.check()
            nested = [self.executor.submit(self.job, each) for each in program.nested]
            for future in nested:
                with contextlib.suppress(JobCancelled):
                    await future
            self.check()
        finally:
            for time in mine:
                self.hasty.remove(time)

    async def interruptible(self, each: Wait, mine: list[float]) -> None:
        """Wait; note in ``mine`` when that is cut short."""

        async def waiting() -> None:
            try:
                await self.wait(each)
            except BaseException:
                mine.append(anyio.current_time())
                self.hasty.append(mine[-1])
                raise

        if each.patience is None:
            await waiting()
        elif each.means == "sibling":
            async with anyio.create_task_group() as group:
                group.start_soon(stop_after, each.patience, group.cancel_scope)
                await waiting()
                group.cancel_scope.cancel()
        elif each.means == "scope" or self.backend == "trio":
            with anyio.move_on_after(each.patience):
                await waiting()
        elif each.means == "timeout":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(each.patience):
                    await waiting()
        else:
            await self.natively(each.patience, waiting)

    async def natively(self, seconds: int, waiting: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = task.cancel()

        before = task.cancelling()
        handle = asyncio.get_running_loop().call_later(seconds, cancel)
        try:
            await waiting()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not cancelled or task.uncancel() > before:
                raise
        finally:
            handle.cancel()
            del cancel

    async def wait(self, each: Wait) -> None:
        executor = self.executor
        if each.how == "hand":
            async with lend_slot():
                await anyio.sleep(max(each.seconds))
        elif each.how == "map":
            async for _ in executor.map(self.short, each.seconds, return_exceptions=True):
                pass
        elif each.how == "slot":
            async with executor.slot():
                await anyio.sleep(each.seconds[0])
        else:
            futures = [executor.submit(self.short, seconds) for seconds in each.seconds]
            match each.how:
                case "gather":
                    await gather(*futures, return_exceptions=True)
                case "wait":
                    await wait(futures)
                case "first":
                    self.cancelled += futures
                    await first_result(*futures)
                case _:
                    for future in futures:
                        await future.wait()

    async def main(self, programs: list[Program], cancels: list[tuple[int, int]]) -> None:
        with anyio.fail_after(10_000):
            async with Executor(self.slots, on_error="log") as self.executor:
                futures = [self.executor.submit(self.job, each) for each in programs]
                for delay, which in cancels:
                    await anyio.sleep(delay)
                    self.cancelled.append(futures[which % len(futures)])
                    self.cancelled[-1].cancel()
                await wait(futures)
                await self.executor.join()
                counts = self.executor.statistics()
                assert (counts.running, counts.lent, counts.queued) == (0, 0, 0)
                began = anyio.current_time()
                await gather(*[self.executor.submit(anyio.sleep, 1) for _ in range(2 * self.slots)])
                assert anyio.current_time() == began + 2
        for future in futures:
            if not future.cancelled() and (error := future.exception()) is not None:
                raise error


@virtual
@given(
    slots=st.integers(1, 3),
    some=st.lists(programs, min_size=1, max_size=4),
    cancels=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=2),
)
def test_random_programs_neither_stall_nor_exceed_the_limit(
    backend: str, slots: int, some: list[Program], cancels: list[tuple[int, int]]
) -> None:
    """All programs end, in a time that's bounded; at most ``slots`` jobs run, hasty ones aside."""
    run_in_virtual_time(backend, Trial(backend, slots).main, some, cancels)


@pytest.mark.anyio
@pytest.mark.parametrize("by", ["a job", "the body"])
@pytest.mark.parametrize("how", ["await", "wait", "gather"])
async def test_waits_that_were_cancelled_leave_nothing_with_the_job(how: str, by: str) -> None:
    async def wait_for(future: Future[None]) -> None:
        if how == "await":
            await future
        elif how == "wait":
            await future.wait()
        else:
            await gather(future)

    async def cancelled_waits() -> None:
        for _ in range(3):
            with anyio.move_on_after(0.001):
                await wait_for(never)

    async with Executor(2) as executor:
        never = executor.submit(anyio.sleep_forever)
        if by == "a job":
            await executor.submit(cancelled_waits)
        else:
            await cancelled_waits()
        assert not never.listeners
        executor.cancel()
