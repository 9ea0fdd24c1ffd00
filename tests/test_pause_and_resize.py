"""Pausing, and changing the number of slots, while jobs are queued and running."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, JobCancelled, Lane

pytestmark = pytest.mark.anyio

either = pytest.mark.parametrize("where", ["executor", "lane"])
virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def all_blocked() -> None:
    """Wait until every other task waits for something."""
    # On asyncio `wait_all_tasks_blocked` looks ten times a second: help it to be right at once.
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Crew:
    """Jobs that note when they begin, and run until they're released."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.running = 0
        self._released = anyio.Event()

    async def job(self, name: object = None) -> object:
        self.begun.append(name)
        self.running += 1
        try:
            await self._released.wait()
        finally:
            self.running -= 1
        return name

    def release(self) -> None:
        """Let the jobs that run now end."""
        self._released.set()
        self._released = anyio.Event()


@asynccontextmanager
async def limited(where: str, slots: float) -> AsyncIterator[tuple[Lane, Crew]]:
    """An executor, or a lane of one that has slots to spare; at the end its jobs are cancelled."""
    async with Executor(slots if where == "executor" else 99) as executor:
        yield executor if where == "executor" else executor.lane(slots=slots), Crew()
        executor.cancel()


async def give(value: object = None) -> object:
    return value


# Pausing.


@either
async def test_a_paused_lane_starts_nothing_new(where) -> None:
    """Running jobs go on and end, jobs are taken, and none starts until the pause ends."""
    async with limited(where, 2) as (lane, crew):
        assert not lane.paused
        first = [lane.submit(crew.job, number) for number in range(2)]
        await all_blocked()
        lane.pause()
        assert lane.paused
        for number in range(2, 5):
            lane.submit(crew.job, number)
        await lane.enqueue(crew.job, 5)
        crew.release()
        assert [await future for future in first] == [0, 1]
        await all_blocked()
        assert crew.begun == [0, 1]
        assert (lane.statistics().queued, lane.statistics().running) == (4, 0)
        lane.resume()
        assert not lane.paused
        await all_blocked()
        assert crew.begun == [0, 1, 2, 3]


@either
async def test_the_end_of_a_pause_fills_the_free_slots(where) -> None:
    """`resume` starts as many jobs as there are free slots, at once, and in order."""
    async with limited(where, 3) as (lane, crew):
        lane.submit(crew.job, "running")
        await all_blocked()
        lane.pause()
        for number in range(5):
            lane.submit(crew.job, number)
        lane.resume()
        await all_blocked()
        assert crew.begun == ["running", 0, 1]
        assert lane.statistics().queued == 3


@either
async def test_pausing_and_resuming_twice_is_doing_it_once(where) -> None:
    """Pauses aren't counted: one `resume` ends two, and without a pause it does nothing."""
    async with limited(where, 1) as (lane, crew):
        lane.resume()
        assert await lane.submit(give, 1) == 1
        lane.pause()
        lane.pause()
        lane.submit(crew.job, 2)
        await all_blocked()
        assert crew.begun == []
        lane.resume()
        lane.resume()
        await all_blocked()
        assert crew.begun == [2]


@either
async def test_a_pause_reaches_jobs_that_have_a_slot_and_not_begun(where) -> None:
    """What was submitted just before `pause` doesn't begin, and begins once when it's over."""
    async with limited(where, 2) as (lane, crew):
        for _ in range(3):
            lane.submit(crew.job, "early")
        lane.pause()
        await all_blocked()
        assert crew.begun == []
        assert lane.statistics().queued == 3
        for _ in range(3):
            lane.resume()
            lane.pause()
        lane.resume()
        await all_blocked()
        assert crew.begun == ["early", "early"]


async def test_jobs_that_lost_their_turn_to_a_pause_keep_their_order() -> None:
    """A job that had a slot and not begun when its lane was paused is still that lane's first."""
    async with Executor(slots=1) as executor:
        crew, order = Crew(), []
        executor.submit(crew.job)
        await all_blocked()
        for number in range(4):
            executor.submit(note, order, number)
        for _ in range(3):
            crew.release()
            await checkpoint()
            executor.pause()
            await checkpoint()
            executor.resume()
        await executor.join()
        assert order == [0, 1, 2, 3]


async def note(order: list[object], name: object) -> None:
    order.append(name)
    await checkpoint()


async def test_a_paused_lane_leaves_its_slots_to_others() -> None:
    """Whatever a paused lane's rank, jobs of other lanes run in the free slots."""
    async with Executor(slots=1) as executor:
        lane = executor.lane(priority=9)
        lane.pause()
        future = lane.submit(give, 1)
        assert not executor.paused
        assert await executor.submit(give, 2) == 2
        assert not future.done()
        lane.resume()
        assert await future == 1


async def test_a_lane_and_its_executor_are_paused_independently() -> None:
    """A lane's job starts when neither its lane nor its executor is paused."""
    async with Executor(slots=2) as executor:
        lane = executor.lane()
        executor.pause()
        lane.pause()
        ours, others = lane.submit(give, 1), executor.submit(give, 2)
        lane.resume()
        await all_blocked()
        assert not ours.done()
        lane.pause()
        executor.resume()
        assert await others == 2
        assert lane.paused
        assert not ours.done()
        lane.resume()
        assert await ours == 1


@either
async def test_a_running_job_may_pause_and_resume(where) -> None:
    """Jobs may pause what they run in; they go on, and what's behind them waits."""
    order: list[str] = []

    async def take_a_break() -> None:
        lane.pause()
        await all_blocked()
        order.append("break is over")
        lane.resume()

    async with limited(where, 2) as (lane, _):
        lane.submit(take_a_break)
        lane.submit(note, order, "behind")
        await lane.join()
    assert order == ["break is over", "behind"]


@either
async def test_jobs_of_a_paused_lane_can_be_cancelled(where) -> None:
    """Cancelling empties a paused queue at once, and lets go whoever joins it; it stays paused."""
    async with limited(where, 1) as (lane, crew):
        lane.pause()
        futures = [lane.submit(crew.job) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.join)
            await all_blocked()
            futures[0].cancel()
            lane.cancel()
            assert all(future.cancelled() for future in futures)
        assert lane.paused
        lane.submit(crew.job)
        await all_blocked()
        assert crew.begun == []


# Pauses at the end.


@virtual
@either
@pytest.mark.parametrize("end", ["leave", "shutdown", "shutdown with grace"])
def test_a_pause_does_not_outlast_what_could_end_it(backend, where, end) -> None:
    """At its end an executor keeps a pause while jobs run, and then starts what's queued."""

    async def main() -> list[tuple[object, float]]:
        begun: list[tuple[object, float]] = []

        async def job(name: object, seconds: float) -> None:
            begun.append((name, anyio.current_time()))
            await anyio.sleep(seconds)

        async with Executor(slots=2) as executor:
            lane = executor if where == "executor" else executor.lane()
            executor.submit(job, "other", 5)
            lane.submit(job, "running", 3)
            await anyio.sleep(1)
            lane.pause()
            for name in ("a", "b", "c"):
                lane.submit(job, name, 1)
            if end != "leave":
                await executor.shutdown(grace=100 if end == "shutdown with grace" else None)
        begun.append(("end", anyio.current_time()))
        return begun

    assert run_in_virtual_time(backend, main) == [
        ("other", 0),
        ("running", 0),
        ("a", 5),
        ("b", 5),
        ("c", 6),
        ("end", 7),
    ]


@virtual
@either
def test_a_running_job_may_end_a_pause_at_the_end(backend, where) -> None:
    """While the block waits for its jobs, one that pauses and resumes is obeyed."""

    async def main() -> list[tuple[str, float]]:
        begun: list[tuple[str, float]] = []

        async def note_time(name: str) -> None:
            begun.append((name, anyio.current_time()))

        async def take_a_break() -> None:
            await anyio.sleep(1)
            lane.pause()
            await anyio.sleep(2)
            lane.resume()
            await anyio.sleep(3)

        async def submit_later() -> None:
            await anyio.sleep(2)
            lane.submit(note_time, "paused")

        async with Executor(slots=3) as executor:
            lane = executor if where == "executor" else executor.lane()
            for fn in (take_a_break, submit_later):
                executor.submit(fn)
        return [*begun, ("end", anyio.current_time())]

    assert run_in_virtual_time(backend, main) == [("paused", 3), ("end", 6)]


@virtual
@either
def test_a_pause_at_the_end_is_none(backend, where) -> None:
    """A pause by the last running job, or its callback, doesn't keep the block from ending."""

    async def main() -> list[object]:
        order: list[object] = []

        async def pause() -> None:
            lane.pause()

        async with Executor(slots=1) as executor:
            lane = executor if where == "executor" else executor.lane()
            future = lane.submit(pause)
            future.add_done_callback(lambda _: lane.pause())
            for number in range(3):
                lane.submit(note, order, number)
        return order

    assert run_in_virtual_time(backend, main) == [0, 1, 2]


async def test_a_paused_executor_that_is_left_by_an_exception_ends() -> None:
    """An exception cancels what a pause held back, as it does everything."""
    crew = Crew()
    with pytest.raises(KeyError):
        async with Executor(slots=1) as executor:
            executor.pause()
            future = executor.submit(crew.job)
            raise KeyError
    assert future.cancelled()
    assert crew.begun == []


@virtual
def test_the_grace_of_a_shutdown_holds_for_paused_jobs(backend) -> None:
    """What a pause holds back until the grace is over is cancelled then."""

    async def main() -> tuple[bool, float]:
        async with Executor(slots=2) as executor:
            executor.submit(anyio.sleep, 10)
            await anyio.sleep(1)
            executor.pause()
            future = executor.submit(anyio.sleep, 1)
            await executor.shutdown(grace=2)
            with pytest.raises(JobCancelled, match="shut down"):
                future.result()
        return future.slot is None, anyio.current_time()

    assert run_in_virtual_time(backend, main) == (True, 3)


# Resizing.


@either
async def test_more_slots_start_jobs_at_once(where) -> None:
    """Raising `slots` starts just as many queued jobs as there are free slots then."""
    async with limited(where, 2) as (lane, crew):
        for number in range(10):
            lane.submit(crew.job, number)
        await all_blocked()
        for slots, running in [(3, 3), (7, 7), (math.inf, 10)]:
            lane.slots = slots
            assert lane.slots == lane.statistics().slots == slots
            await all_blocked()
            assert crew.begun == list(range(running))


@either
async def test_fewer_slots_let_running_jobs_finish(where) -> None:
    """Lowering `slots` ends no job; the next starts when fewer run than there are slots."""
    async with limited(where, 3) as (lane, crew):
        running = [lane.submit(crew.job, number) for number in range(3)]
        for number in range(3, 6):
            lane.submit(crew.job, number)
        await all_blocked()
        lane.slots = 2
        await all_blocked()
        assert crew.running == lane.statistics().running == 3
        running[0].cancel()
        await all_blocked()
        assert crew.begun == [0, 1, 2]
        running[1].cancel()
        await all_blocked()
        assert crew.begun == [0, 1, 2, 3]
        assert crew.running == 2


@either
async def test_fewer_slots_reach_jobs_that_have_one_and_not_begun(where) -> None:
    """What would begin in a slot that is taken away in the same tick stays queued."""
    async with limited(where, 4) as (lane, crew):
        for number in range(6):
            lane.submit(crew.job, number)
        lane.slots = 1
        assert lane.statistics().queued == 6
        await all_blocked()
        assert crew.begun == [0]
        lane.slots = 3
        lane.slots = 2
        await all_blocked()
        assert crew.begun == [0, 1]


@either
async def test_shrinking_and_growing_in_one_step_changes_nothing(where) -> None:
    """Slots that were taken away and given back before anything happened are all there."""
    async with limited(where, 3) as (lane, crew):
        for number in range(8):
            lane.submit(crew.job, number)
        await all_blocked()
        lane.slots = 1
        lane.slots = 3
        await all_blocked()
        assert crew.begun == [0, 1, 2]
        crew.release()
        await all_blocked()
        assert crew.begun == [0, 1, 2, 3, 4, 5]


@either
async def test_slots_that_change_in_a_pause_count_after_it(where) -> None:
    """A paused lane may be resized; the number of slots holds when the pause ends."""
    async with limited(where, 1) as (lane, crew):
        lane.pause()
        for number in range(5):
            lane.submit(crew.job, number)
        lane.slots = 3
        await all_blocked()
        assert crew.begun == []
        lane.resume()
        await all_blocked()
        assert crew.begun == [0, 1, 2]


async def test_a_lane_resized_to_its_executors_size_and_back() -> None:
    """A lane that loses its limit, and gets one again, keeps to what holds now."""
    async with limited("lane", 1) as (lane, crew):
        for number in range(6):
            lane.submit(crew.job, number)
        for slots in (math.inf, 2, math.inf, 3):
            lane.slots = slots
        await all_blocked()
        assert crew.begun == [0, 1, 2]


@either
async def test_slots_may_be_set_before_the_executor_is_entered(where) -> None:
    """The number of slots may be changed at any time, before the first job, too."""
    crew = Crew()
    executor = Executor(slots=4)
    lane = executor if where == "executor" else executor.lane(slots=3)
    lane.slots = 2
    assert lane.slots == 2
    async with executor:
        for number in range(4):
            lane.submit(crew.job, number)
        await all_blocked()
        assert crew.begun == [0, 1]
        executor.cancel()


@virtual
@either
def test_slots_that_shrink_job_by_job(backend, where) -> None:
    """Jobs that take away a slot each, as they end, leave the others fewer and fewer."""

    async def main() -> float:
        async def job(number: int) -> None:
            nonlocal running
            running += 1
            assert running <= lane.slots
            await anyio.sleep(1)
            running -= 1
            if number % 4 == 3:
                lane.slots -= 1

        running = 0
        async with limited(where, 5) as (lane, _):
            for number in range(16):
                lane.submit(job, number)
            await lane.join()
            assert lane.slots == 1
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 5


# All at once.


class Load:
    """Does one thing after another to an executor, and checks what must hold after each."""

    def __init__(self, executor: Executor, seed: int) -> None:
        self.random = random.Random(seed)
        self.executor = executor
        self.lanes: list[Lane] = [executor, executor.lane(slots=2), executor.lane(max_pending=1)]
        self.running: dict[Lane, int] = dict.fromkeys(self.lanes, 0)

    async def job(self, lane: Lane, seconds: float) -> None:
        self.running[lane] += 1
        assert not lane.paused
        assert not self.executor.paused
        assert self.running[lane] <= lane.slots
        assert sum(self.running.values()) <= self.executor.slots
        try:
            await anyio.sleep(seconds)
        finally:
            self.running[lane] -= 1

    async def enqueue(self, lane: Lane) -> None:
        with anyio.move_on_after(self.random.choice([1, 3, math.inf])):
            await lane.enqueue(self.job, lane, self.random.randint(0, 3))

    def step(self, tasks: Any) -> None:
        lane = self.random.choice(self.lanes)
        match self.random.choice(["submit"] * 4 + ["enqueue"] * 3 + ["resize", "pause", "cancel"]):
            case "submit":
                try:
                    lane.submit(self.job, lane, self.random.randint(0, 3))
                except anyio.WouldBlock:
                    assert lane.statistics().queued >= 1
            case "enqueue":
                tasks.start_soon(self.enqueue, lane)
            case "resize":
                lane.slots = self.random.randint(1, 4)
            case "pause":
                (lane.resume if lane.paused else lane.pause)()
            case "cancel" if self.random.random() < 0.2:
                lane.cancel()

    def check_that_no_slot_is_idle(self) -> None:
        """What could have begun by now has."""
        executor = self.executor
        counts = executor.statistics()
        assert counts.running == sum(self.running.values())
        if counts.running < executor.slots and not executor.paused:
            for lane in self.lanes[1:]:
                if lane.statistics().running < lane.slots and not lane.paused:
                    assert lane.statistics().queued == 0
            own = counts.queued - sum(lane.statistics().queued for lane in self.lanes[1:])
            assert own == 0


@virtual
@pytest.mark.parametrize("seed", range(6))
def test_under_load_limits_hold_and_no_slot_is_idle(backend, seed) -> None:
    """Whatever is submitted, cancelled, paused and resized, no slot is overbooked or left idle."""

    async def main() -> None:
        async with anyio.create_task_group() as tasks, Executor(slots=3) as executor:
            load = Load(executor, seed)
            for _ in range(80):
                for _ in range(load.random.randint(0, 5)):
                    load.step(tasks)
                await anyio.sleep(0.25)
                load.check_that_no_slot_is_idle()
                await anyio.sleep(load.random.choice([0.25, 0.25, 0.75]))
            for lane in load.lanes:
                lane.resume()
            await executor.join()
            counts = executor.statistics()
            assert counts.submitted == counts.succeeded + counts.cancelled

    run_in_virtual_time(backend, main)
