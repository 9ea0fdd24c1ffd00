"""Lanes in lanes: their tree, what counts for whole subtrees, and `clear`."""

from __future__ import annotations

import gc
import math
from itertools import chain
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, JobCancelled, Lane, Rate, Retry, Statistics, gather

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


class Starts(list[Any]):
    async def __call__(self, name: object = None, seconds: float = 0) -> None:
        self.append((name, anyio.current_time()))
        await anyio.sleep(seconds)


def counts(lane: Lane) -> tuple[int, ...]:
    s: Statistics = lane.statistics()
    assert s.submitted == s.queued + s.running + s.lent + s.succeeded + s.failed + s.cancelled
    return s.queued, s.running, s.lent, s.succeeded, s.failed, s.cancelled


# The tree.


def test_parent_executor_and_children() -> None:
    executor = Executor(4)
    outer, beside = executor.lane("outer"), executor.lane("beside")
    inner = outer.lane("inner")
    assert executor.parent is None
    assert outer.parent is beside.parent is executor
    assert inner.parent is outer
    for lane in (executor, outer, beside, inner):
        assert lane.executor is executor
    assert executor.children == (outer, beside)
    assert outer.children == (inner,)
    assert inner.children == ()
    del inner, lane
    gc.collect()
    assert outer.children == ()


def test_a_lane_inside_keeps_those_around_it() -> None:
    executor = Executor(4)
    inner = executor.lane("outer").lane("middle").lane("inner")
    gc.collect()
    (outer,) = executor.children
    assert outer.name == "outer"
    assert inner.parent.parent is outer  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_children_are_those_with_jobs_or_held() -> None:
    release = anyio.Event()
    async with Executor(4) as executor:
        executor.lane("with a job").submit(release.wait)
        executor.lane("of a job inside").lane("inside").submit(release.wait)
        executor.lane("dropped")
        held = executor.lane("held")
        gc.collect()
        names = [lane.name for lane in executor.children]
        assert names == ["with a job", "of a job inside", "held"]
        assert executor.children[1].children[0].name == "inside"
        release.set()
        await executor.join()
        gc.collect()
        assert executor.children == (held,)


@virtual
def test_a_dropped_lane_is_found_again_with_its_limits(backend) -> None:
    async def main() -> None:
        async with Executor(4) as executor:
            future = executor.lane("lane", slots=1, rate=Rate(5)).submit(anyio.sleep, 1)
            gc.collect()
            lane = future.lane
            assert (lane.name, lane.slots, lane.rate) == ("lane", 1, (Rate(5),))
            assert executor.children == (lane,)
            await future
            assert future.lane is lane

    run_in_virtual_time(backend, main)


def test_lanes_are_made_before_the_block_and_used_in_it() -> None:
    executor = Executor(4)
    inner = executor.lane(slots=2).lane(timeout=3)
    with pytest.raises(RuntimeError, match="async with"):
        inner.submit(checkpoint)

    async def main() -> None:
        async with executor:
            await inner.submit(checkpoint)

    anyio.run(main)
    assert counts(executor) == counts(inner) == (0, 0, 0, 1, 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"priority": math.nan},
        {"max_pending": -1},
        {"rate": 3},
        {"gate": 3},
        {"timeout": 0},
        {"retry": True},
        {"name": 3},
        {"speed": 3},
    ],
)
def test_bad_options_make_no_lane(options: dict[str, Any]) -> None:
    lane = Executor(4).lane()
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        lane.lane(**options)
    assert lane.children == ()


# Limits on the way.


@virtual
def test_a_job_takes_a_slot_of_each_lane_around_it(backend) -> None:
    async def main() -> list[int]:
        most = [0, 0, 0, 0]

        async def job() -> None:
            for number, lane in enumerate((executor, model, *tenants)):
                most[number] = max(most[number], lane.statistics().running)
            await anyio.sleep(1)

        async with Executor(5) as executor:
            model = executor.lane(slots=3)
            tenants = [model.lane(slots=2), model.lane(slots=2)]
            for lane in (tenants[0], tenants[1], model, executor):
                for _ in range(8):
                    lane.submit(job)
                await executor.join()
        return most

    assert run_in_virtual_time(backend, main) == [5, 3, 2, 2]


@virtual
def test_all_bounds_on_the_way_count(backend) -> None:
    async def main() -> None:
        async with Executor(1, max_pending=5) as executor:
            outer = executor.lane(max_pending=3)
            inner, other = outer.lane(max_pending=2), outer.lane()
            executor.submit(anyio.sleep, 9)
            await anyio.sleep(0.1)

            def fill(lane: Lane) -> int:
                number = 0
                while True:
                    try:
                        lane.submit(anyio.sleep, 0)
                    except anyio.WouldBlock:
                        return number
                    number += 1

            assert [fill(lane) for lane in (inner, other, outer, executor)] == [2, 1, 0, 2]
            executor.clear()
            assert [fill(lane) for lane in (executor, inner)] == [5, 0]

    run_in_virtual_time(backend, main)


@virtual
def test_submitters_wait_for_bounds_on_the_way_in_fifo_order(backend) -> None:
    async def main() -> list[str]:
        admitted: list[str] = []

        async def enqueue(lane: Lane, name: str) -> None:
            await lane.enqueue(anyio.sleep, 1)
            admitted.append(name)

        async with Executor(1) as executor, anyio.create_task_group() as group:
            outer = executor.lane(max_pending=1)
            inner = outer.lane()
            outer.submit(anyio.sleep, 1)
            await anyio.sleep(0.1)
            inner.submit(anyio.sleep, 1)
            for lane, name in [(inner, "a"), (outer, "b"), (inner, "c")]:
                group.start_soon(enqueue, lane, name)
                await anyio.sleep(0.1)
            assert admitted == []
            assert counts(outer) == (1, 1, 0, 0, 0, 0)
        return admitted

    assert run_in_virtual_time(backend, main) == ["a", "b", "c"]


@virtual
def test_a_lane_that_cannot_start_blocks_no_other(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(2) as executor:
            outer = executor.lane(slots=1, priority=5)
            busy, idle = outer.lane(priority=5), outer.lane()
            busy.submit(starts, "busy", 4)
            await anyio.sleep(1)
            busy.submit(starts, "busy")
            idle.submit(starts, "idle")
            executor.submit(starts, "plain", 1)
            executor.lane(priority=-9).submit(starts, "last")
        return starts

    expected = [("busy", 0), ("plain", 1), ("last", 2), ("busy", 4), ("idle", 4)]
    assert run_in_virtual_time(backend, main) == expected


# Priorities and turns.


def order_of(backend: str, submissions: Any) -> list[object]:
    """The order of jobs that are submitted together and run one by one."""

    async def main() -> list[object]:
        starts = Starts()
        async with Executor(1) as executor:
            executor.submit(anyio.sleep, 1)
            for lane, name in submissions(executor):
                lane.submit(starts, name, 1)
        return [name for name, _ in starts]

    return run_in_virtual_time(backend, main)


@virtual
def test_priorities_count_at_each_level(backend) -> None:
    """A high priority inside a low lane competes within that lane only."""

    def submissions(executor: Executor) -> list[tuple[Lane, str]]:
        low, high = executor.lane(priority=1), executor.lane(priority=2)
        return [
            (low.lane(priority=9), "low 9"),
            (low, "low own"),
            (low.lane(priority=-9), "low -9"),
            (high.lane(priority=-9), "high -9"),
            (high, "high own"),
            (executor, "own"),
            (executor.lane(priority=-1), "last"),
        ]

    expected = ["high own", "high -9", "low 9", "low own", "low -9", "own", "last"]
    assert order_of(backend, submissions) == expected


@virtual
def test_equal_priorities_take_turns_at_each_level(backend) -> None:
    """Lane by lane: a lane with two lanes inside has no more turns than one without."""

    def submissions(executor: Executor) -> list[tuple[Lane, str]]:
        a, b = executor.lane(), executor.lane()
        a1, a2 = a.lane(), a.lane()
        return [(lane, name) for lane, name in ((a1, "a1"), (a2, "a2"), (b, "b")) for _ in range(3)]

    order = order_of(backend, submissions)
    assert [str(name)[0] for name in order] == ["a", "b", "a", "b", "a", "b", "a", "a", "a"]
    assert [name for name in order if name != "b"] == ["a1", "a2"] * 3


@virtual
def test_own_jobs_compete_as_a_lane_of_priority_0(backend) -> None:
    def submissions(executor: Executor) -> list[tuple[Lane, str]]:
        lane = executor.lane()
        return [(each, name) for each, name in ((executor, "own"), (lane, "lane")) for _ in "123"]

    assert order_of(backend, submissions) == ["own", "lane"] * 3


# Whole subtrees.


@virtual
def test_statistics_are_those_of_the_subtree(backend) -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        async with Executor(3, on_error="log") as executor:
            outer = executor.lane()
            inner = outer.lane()
            outer.submit(anyio.sleep, 5)
            for _ in range(3):
                inner.submit(anyio.sleep, 5)
            await anyio.sleep(1)
            assert counts(inner) == (1, 2, 0, 0, 0, 0)
            assert counts(outer) == counts(executor) == (1, 3, 0, 0, 0, 0)
            await executor.join()
            await gather(inner.submit(fail), return_exceptions=True)
            inner.submit(checkpoint).cancel()
            assert counts(inner) == (0, 0, 0, 3, 1, 1)
            assert counts(outer) == counts(executor) == (0, 0, 0, 4, 1, 1)
            del inner
            gc.collect()
            outer.lane()
            assert counts(outer) == counts(executor) == (0, 0, 0, 4, 1, 1)

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("what", ["cancel", "clear"])
@pytest.mark.parametrize("whose", ["executor", "outer", "inner"])
def test_cancel_and_clear_reach_the_lanes_inside(backend, whose, what) -> None:
    async def main() -> dict[str, list[str]]:
        async with Executor(6) as executor:
            outer = executor.lane()
            inner = outer.lane()
            lanes = {"executor": executor, "outer": outer, "inner": inner}
            futures = {}
            for name, lane in lanes.items():
                futures[name] = [lane.submit(anyio.sleep, 3), lane.submit(anyio.sleep, 3)]
            await anyio.sleep(1)
            for name, lane in lanes.items():
                futures[name] += [lane.submit(anyio.sleep, 3)]
            getattr(lanes[whose], what)("for a reason")
            assert all(each[2].cancelled() == (each[2].done()) for each in futures.values())
            await executor.join()
            reasons = set()
            for future in chain(*futures.values()):
                if future.cancelled():
                    with pytest.raises(JobCancelled, match="for a reason") as caught:
                        await future
                    reasons.add(str(caught.value))
            assert reasons
            await inner.submit(checkpoint)  # they stay open
            return {name: [str(each.status)[0] for each in some] for name, some in futures.items()}

    running = "c" if what == "cancel" else "s"
    hit, missed = [running, running, "c"], ["s", "s", "s"]
    order = ["executor", "outer", "inner"]
    expected = {n: hit if order.index(n) >= order.index(whose) else missed for n in order}
    assert run_in_virtual_time(backend, main) == expected


@virtual
def test_clear_admits_submitters_and_leaves_them(backend) -> None:
    """Whoever waits for capacity isn't queued yet: its job takes the place of those cleared."""

    async def main() -> None:
        async with Executor(1, max_pending=1) as executor:
            executor.submit(anyio.sleep, 5)
            await anyio.sleep(0.1)
            queued = executor.submit(anyio.sleep, 0)
            admitted: list[Any] = []

            async def enqueue() -> None:
                admitted.append(await executor.enqueue(anyio.sleep, 0))

            async with anyio.create_task_group() as group:
                group.start_soon(enqueue)
                await anyio.sleep(1)
                assert admitted == []
                executor.clear()
                assert queued.cancelled()
            assert not admitted[0].done()
            await admitted[0]
            assert anyio.current_time() == 5

    run_in_virtual_time(backend, main)


@virtual
def test_clear_cancels_jobs_between_attempts(backend) -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> None:
        async with Executor(1, retry=Retry(wait=9, jitter=False)) as executor:
            future = executor.submit(fail)
            await anyio.sleep(1)
            assert counts(executor) == (1, 0, 0, 0, 0, 0)
            executor.clear()
            assert future.cancelled()
            assert anyio.current_time() == 1

    run_in_virtual_time(backend, main)


@virtual
def test_clear_of_an_empty_lane_and_bad_calls(backend) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            executor.lane().clear()
            executor.clear("reason")
            await executor.submit(checkpoint)
        with pytest.raises(RuntimeError, match="async with"):
            Executor(1).clear()

    run_in_virtual_time(backend, main)


@virtual
def test_close_closes_the_lanes_inside(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            outer = executor.lane()
            inner = outer.lane()
            for lane in (outer, inner):
                lane.submit(starts)
            outer.close()
            for lane in (outer, inner, outer.lane(), inner.lane()):
                with pytest.raises(ExecutorClosed):
                    lane.submit(starts)
                with pytest.raises(ExecutorClosed):
                    await lane.enqueue(starts)
                with pytest.raises(ExecutorClosed):
                    await lane.map(starts, [1])
            executor.submit(starts)
            executor.lane().submit(starts)
        return starts

    assert len(run_in_virtual_time(backend, main)) == 4


@virtual
def test_join_waits_for_the_subtree(backend) -> None:
    async def main() -> list[float]:
        times = []
        async with Executor(3) as executor:
            outer = executor.lane()
            inner = outer.lane()
            inner.submit(anyio.sleep, 2)
            outer.submit(anyio.sleep, 1)
            executor.submit(anyio.sleep, 5)
            for lane in (inner, outer, executor, outer):
                await lane.join()
                times.append(anyio.current_time())
        return times

    assert run_in_virtual_time(backend, main) == [2, 2, 5, 5]


@virtual
def test_a_job_may_join_what_it_is_not_in(backend) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            outer = executor.lane()
            inner, beside = outer.lane(), outer.lane()

            async def job() -> float:
                for lane in (inner, outer, executor):
                    with pytest.raises(RuntimeError, match="itself"):
                        await lane.join()
                beside.submit(anyio.sleep, 3)
                await beside.join()
                return anyio.current_time()

            assert await inner.submit(job) == 3

    run_in_virtual_time(backend, main)


@virtual
def test_a_lane_that_is_set_to_fewer_slots_with_lanes_inside(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(9) as executor:
            outer = executor.lane(slots=3)
            lanes = [outer.lane() for _ in range(3)]
            for number in range(6):
                lanes[number % 3].submit(starts, number, 4)
            await anyio.sleep(1)
            outer.slots = 1
            assert counts(outer)[1] == 3
        return starts

    found = run_in_virtual_time(backend, main)
    assert [time for _, time in found] == [0, 0, 0, 4, 8, 12]


@virtual
def test_deep_trees(backend) -> None:
    async def main() -> None:
        async with Executor(2) as executor:
            lane: Lane = executor
            for _ in range(200):
                lane = lane.lane(slots=2, rate=Rate(100))
            futures = [lane.submit(give, number) for number in range(20)]
            assert await gather(*futures) == [*range(20)]
            assert counts(executor) == counts(lane) == (0, 0, 0, 20, 0, 0)
            lane.submit(anyio.sleep, 1)
            executor.cancel()
            await executor.join()

    async def give(value: int) -> int:
        await checkpoint()
        return value

    run_in_virtual_time(backend, main)
