"""Every option of a lane can be read and set at any time, with effect at once."""

from __future__ import annotations

import math
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Adaptive, Executor, ExecutorClosed, Lane, QueueTimeout, Rate, Retry, gather

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

TENTH = Rate(1, per=0.1)
RETRY = Retry(3, wait=0)


async def gate() -> None:
    await checkpoint()


class Starts(list[Any]):
    async def __call__(self, name: object = None, seconds: float = 0) -> None:
        self.append((name, anyio.current_time()))
        await anyio.sleep(seconds)


# Of each option: its default as it's read, and what can be set and how that reads.

OPTIONS: dict[str, tuple[Any, list[tuple[Any, Any]]]] = {
    "slots": (math.inf, [(3, 3), (math.inf, math.inf), (Adaptive(5, on=OSError), 5), (1, 1)]),
    "priority": (0, [(3, 3), (-2.5, -2.5), (math.inf, math.inf), (0, 0)]),
    "max_pending": (math.inf, [(0, 0), (7, 7), (math.inf, math.inf)]),
    "rate": (
        (),
        [(TENTH, (TENTH,)), ([TENTH, Rate(9)], (TENTH, Rate(9))), (None, ())],
    ),
    "gate": (None, [(gate, gate), (None, None)]),
    "timeout": (None, [(3, 3), (0.5, 0.5), (math.inf, math.inf), (None, None)]),
    "queue_timeout": (None, [(3, 3), (0.5, 0.5), (math.inf, math.inf), (None, None)]),
    "retry": (None, [(RETRY, RETRY), (False, False), (None, None)]),
}

NONSENSE: dict[str, list[Any]] = {
    "slots": [0, -1, 2.5, math.nan, -math.inf, True, "4", None, [], Rate(1)],
    "priority": [math.nan, "1", None, True, 1j],
    "max_pending": [-1, 2.5, math.nan, True, "4", None],
    "rate": [0, 1, "1", True, [], [3], [TENTH, None], {}],
    "gate": [3, "gate", True, [gate]],
    "timeout": [0, -1, math.nan, -math.inf, True, "1", [], 1j],
    "queue_timeout": [0, -1, math.nan, -math.inf, True, "1", [], 1j],
    "retry": [3, True, "3", [RETRY], ValueError],
}


def owner_of(owner: str, **options: Any) -> tuple[Executor, Lane]:
    if owner == "executor":
        executor = Executor(**{"slots": math.inf, **options})
        return executor, executor
    executor = Executor(math.inf)
    return executor, executor.lane(**options)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_it_is_read_and_set_before_the_block(owner, name) -> None:
    default, settings = OPTIONS[name]
    _, lane = owner_of(owner)
    assert getattr(lane, name) == default
    for value, reads in settings:
        setattr(lane, name, value)
        assert getattr(lane, name) == reads
        if owner == "lane" or name != "priority":
            assert getattr(owner_of(owner, **{name: value})[1], name) == reads


@virtual
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_it_is_read_and_set_at_run_time(backend, owner, name) -> None:
    async def main() -> None:
        executor, lane = owner_of(owner)
        async with executor:
            for value, reads in OPTIONS[name][1]:
                setattr(lane, name, value)
                assert getattr(lane, name) == reads
                await lane.submit(checkpoint)
            assert executor.statistics().succeeded == executor.statistics().submitted

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_nonsense_is_refused_and_the_old_value_stays(backend, owner, name) -> None:
    value = OPTIONS[name][1][0][0]

    async def main() -> None:
        executor, lane = owner_of(owner)
        setattr(lane, name, value)
        before = getattr(lane, name)
        for nonsense in NONSENSE[name]:
            with pytest.raises((TypeError, ValueError), match=name):
                setattr(lane, name, nonsense)
        async with executor:
            for nonsense in NONSENSE[name]:
                with pytest.raises((TypeError, ValueError), match=name):
                    setattr(lane, name, nonsense)
            assert getattr(lane, name) == before
        if name != "priority" or owner == "lane":
            for nonsense in NONSENSE[name]:
                with pytest.raises((TypeError, ValueError), match=name):
                    owner_of(owner, **{name: nonsense})

    run_in_virtual_time(backend, main)


@pytest.mark.anyio
async def test_in_another_thread_it_can_be_read_only() -> None:
    async with Executor(3, rate=TENTH, timeout=3) as executor:
        lane = executor.lane()

        def use() -> None:
            assert [getattr(lane, name) for name in OPTIONS][4:6] == [None, 3]
            assert executor.rate == (TENTH,)
            for each in (executor, lane):
                for name, (_, settings) in OPTIONS.items():
                    with pytest.raises(RuntimeError, match="thread"):
                        setattr(each, name, settings[0][0])

        await anyio.to_thread.run_sync(use)
        assert (executor.slots, lane.slots, lane.retry) == (3, math.inf, None)


# Inheritance.


@pytest.mark.parametrize("name", ["timeout", "queue_timeout", "retry"])
def test_what_is_unset_is_inherited(name) -> None:
    first, second, none = (RETRY, Retry(9), False) if name == "retry" else (3, 5, math.inf)
    executor = Executor(4)
    outer = executor.lane()
    inner = outer.lane()

    def effective() -> list[Any]:
        return [getattr(lane, name) for lane in (executor, outer, inner)]

    assert effective() == [None, None, None]
    setattr(executor, name, first)
    assert effective() == [first, first, first]
    setattr(outer, name, second)
    assert effective() == [first, second, second]
    setattr(inner, name, none)
    assert effective() == [first, second, none]
    setattr(inner, name, None)
    assert effective() == [first, second, second]
    setattr(outer, name, None)
    assert effective() == [first, first, first]
    setattr(executor, name, None)
    assert effective() == [None, None, None]


@virtual
def test_a_lane_may_have_none_of_what_its_executor_has(backend) -> None:
    calls: list[float] = []

    async def fail() -> None:
        calls.append(anyio.current_time())
        raise ValueError("failed")

    async def main() -> None:
        async with Executor(1, timeout=1, queue_timeout=1, retry=RETRY) as executor:
            lane = executor.lane(timeout=math.inf, queue_timeout=math.inf, retry=False)
            with pytest.raises(TimeoutError):
                await executor.submit(anyio.sleep, 2)
            calls.clear()
            blocking = lane.submit(anyio.sleep, 5)
            queued = lane.submit(anyio.sleep, 0)
            with pytest.raises(QueueTimeout):
                await executor.submit(anyio.sleep, 0)
            await gather(blocking, queued)
            with pytest.raises(ValueError, match="failed"):
                await lane.submit(fail)
            assert len(calls) == 1
            with pytest.raises(ValueError, match="failed"):
                await executor.submit(fail)
            assert len(calls) == 4

    run_in_virtual_time(backend, main)


# Effect at once.


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_slots(backend, owner) -> None:
    async def main() -> Starts:
        starts = Starts()
        executor, lane = owner_of(owner, slots=1)
        async with executor:
            for number in range(5):
                lane.submit(starts, number, 4)
            await anyio.sleep(1)
            lane.slots = 3
            await anyio.sleep(1)
            lane.slots = 1
            assert lane.statistics().running == 3
            assert lane.statistics().slots == 1
        return starts

    assert run_in_virtual_time(backend, main) == [(0, 0), (1, 1), (2, 1), (3, 5), (4, 9)]


@virtual
def test_priority(backend) -> None:
    async def main() -> list[object]:
        starts = Starts()
        async with Executor(1) as executor:
            executor.submit(starts, "running", 2)
            lanes = [executor.lane(priority=number) for number in range(3)]
            for lane in lanes:
                lane.submit(starts, lane.priority, 1)
                lane.submit(starts, lane.priority, 1)
            await anyio.sleep(2.5)
            lanes[0].priority = 5
        return [name for name, _ in starts]

    assert run_in_virtual_time(backend, main) == ["running", 2, 0, 0, 2, 1, 1]


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_max_pending(backend, owner) -> None:
    async def main() -> None:
        executor, lane = owner_of(owner, slots=1, max_pending=1)
        admitted: list[int] = []

        async def enqueue(number: int) -> None:
            await lane.enqueue(anyio.sleep, 0)
            admitted.append(number)

        async with executor, anyio.create_task_group() as group:
            lane.submit(anyio.sleep, 10)
            await anyio.sleep(0.1)
            lane.submit(anyio.sleep, 0)
            for number in range(3):
                group.start_soon(enqueue, number)
                await anyio.sleep(0.1)
            assert admitted == []
            lane.max_pending = 3
            await anyio.sleep(0.1)
            assert sorted(admitted) == [0, 1]
            with pytest.raises(anyio.WouldBlock):
                lane.submit(anyio.sleep, 0)
            lane.max_pending = 0
            assert lane.statistics().queued == 3
            await anyio.sleep(1)
            assert sorted(admitted) == [0, 1]
            lane.max_pending = math.inf
            await anyio.sleep(0.1)
            assert sorted(admitted) == [0, 1, 2]
            lane.submit(anyio.sleep, 0)

    run_in_virtual_time(backend, main)


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_rate(backend, owner) -> None:
    async def main() -> Starts:
        starts = Starts()
        executor, lane = owner_of(owner, rate=Rate(1, per=10))
        async with executor:
            for number in range(6):
                lane.submit(starts, number)
            await anyio.sleep(1)
            lane.rate = Rate(2, per=10)  # one more at once, since one has started
            await anyio.sleep(1)
            lane.rate = [Rate(3, per=10), Rate(1, per=5)]
            await anyio.sleep(6)
            lane.rate = None
        return starts

    expected = [(0, 0), (1, 1), (2, 6), (3, 8), (4, 8), (5, 8)]
    assert run_in_virtual_time(backend, main) == expected


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_timeout_holds_for_later_starts(backend, owner) -> None:
    async def main() -> list[Any]:
        executor, lane = owner_of(owner, slots=1, timeout=2)
        ends: list[Any] = []

        async def watch(future: Any) -> None:
            await future.wait()
            ends.append((type(future.exception()).__name__, anyio.current_time()))

        async with executor, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(watch, lane.submit(anyio.sleep, 5))
            await anyio.sleep(1)
            lane.timeout = 3
            await anyio.sleep(2)
            lane.timeout = math.inf
            await anyio.sleep(3)
            lane.timeout = 1
        return ends

    expected = [("TimeoutError", 2), ("TimeoutError", 5), ("NoneType", 10), ("TimeoutError", 11)]
    assert run_in_virtual_time(backend, main) == expected


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_queue_timeout_holds_for_later_submissions(backend, owner) -> None:
    async def main() -> list[float]:
        executor, lane = owner_of(owner, slots=1)
        async with executor:
            blocking = lane.submit(anyio.sleep, 20)
            patient = lane.submit(anyio.sleep, 0)
            lane.queue_timeout = 3
            times = []
            for seconds in (3, 1):
                lane.queue_timeout = seconds
                with pytest.raises(QueueTimeout):
                    await lane.submit(anyio.sleep, 0)
                times.append(anyio.current_time())
            await gather(blocking, patient)
        return times

    assert run_in_virtual_time(backend, main) == [3, 4]


@virtual
@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_retry_holds_for_later_failures(backend, owner) -> None:
    async def main() -> list[int]:
        executor, lane = owner_of(owner)

        async def fail(seconds: float) -> None:
            await anyio.sleep(seconds)
            raise ValueError

        async with executor:
            futures = [lane.submit(fail, seconds) for seconds in (1, 3, 5)]
            await anyio.sleep(2)
            lane.retry = Retry(2, wait=0)
            await anyio.sleep(2)
            lane.retry = False if owner == "executor" else None
            await gather(*futures, return_exceptions=True)
        return [future.attempts for future in futures]

    assert run_in_virtual_time(backend, main) == [1, 2, 1]


@virtual
def test_an_option_set_outside_holds_for_queued_jobs_of_lanes_inside(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            inner = executor.lane().lane()
            executor.submit(starts, "running", 1)
            for number in range(3):
                inner.submit(starts, number)
            await anyio.sleep(0.5)
            executor.rate = Rate(1, per=4)
        return starts

    found = run_in_virtual_time(backend, main)
    assert [time for _, time in found[1:]] in ([1, 5, 9], [4, 8, 12])


@virtual
def test_an_option_set_from_a_job_or_a_callback(backend) -> None:
    async def main() -> Starts:
        starts = Starts()

        async def widen() -> None:
            executor.slots = 3

        async with Executor(1) as executor:
            executor.submit(widen)
            futures = [executor.submit(starts, number, 5) for number in range(4)]
            futures[0].add_done_callback(lambda _: setattr(executor, "slots", 9))
        return starts

    assert run_in_virtual_time(backend, main) == [(0, 0), (1, 0), (2, 0), (3, 5)]


@pytest.mark.anyio
async def test_of_a_closed_lane_options_can_still_be_set() -> None:
    async with Executor(1) as executor:
        lane = executor.lane()
        lane.close()
        lane.slots, lane.rate, lane.timeout = 4, TENTH, 3
        assert (lane.slots, lane.rate, lane.timeout) == (4, (TENTH,), 3)
        with pytest.raises(ExecutorClosed):
            lane.submit(checkpoint)
