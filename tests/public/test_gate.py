"""Gates: admissions by any other limiter, in virtual time."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, Starts
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, JobCancelled, Lane, QueueTimeout, Rate, Retry, gather

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


class Gate:
    """Admits a job after some seconds; notes when it was called, and how each call ended."""

    def __init__(self, seconds: float = 1, errors: dict[int, BaseException] | None = None) -> None:
        self.seconds = seconds
        self.errors = errors or {}
        self.calls: list[float] = []
        self.ends: list[tuple[str, float]] = []
        self.running = 0

    async def __call__(self) -> None:
        self.calls.append(anyio.current_time())
        number = len(self.calls)
        assert not self.running, "one call at a time"
        self.running += 1
        try:
            await anyio.sleep(self.seconds)
            if number in self.errors:
                raise self.errors[number]
        except anyio.get_cancelled_exc_class():
            self.ends.append(("cancelled", anyio.current_time()))
            raise
        except BaseException as exc:
            self.ends.append((type(exc).__name__, anyio.current_time()))
            raise
        else:
            self.ends.append(("returned", anyio.current_time()))
        finally:
            self.running -= 1


def lane_of(executor: Executor, owner: str, **options: Any) -> Lane:
    lane = executor if owner == "executor" else executor.lane()
    for name, value in options.items():
        setattr(lane, name, value)
    return lane


@pytest.mark.parametrize("owner", ["executor", "lane"])
def test_each_start_is_admitted_by_one_return(backend, owner) -> None:
    gate = Gate(2)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf) as executor:
            lane = lane_of(executor, owner, gate=gate)
            for name in "abc":
                lane.submit(starts, name, 5)
        return starts

    assert run_in_virtual_time(backend, main) == [("a", 2), ("b", 4), ("c", 6)]
    assert gate.calls == [0, 2, 4]


def test_it_is_called_only_when_the_head_could_start_otherwise(backend) -> None:
    gate = Gate(0.5)

    async def main() -> None:
        async with Executor(1, gate=gate) as executor:
            lane = executor.lane(rate=Rate(1, per=10))
            await anyio.sleep(1)
            assert gate.calls == []
            lane.submit(anyio.sleep, 3)
            await anyio.sleep(1)
            lane.submit(anyio.sleep, 0)  # no slot, then no start
            paused = executor.lane()
            paused.pause(20)
            paused.submit(anyio.sleep, 0)

    run_in_virtual_time(backend, main)
    assert gate.calls == [1, 11.5, 22]


def test_what_waits_for_a_gate_holds_nothing(backend) -> None:
    """No slot, and no start of a rate: other lanes have them meanwhile."""

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1, rate=Rate(2, per=50)) as executor:
            gated = executor.lane(gate=Gate(5), priority=1)
            gated.submit(starts, "gated")
            executor.submit(starts, "plain", 1)
            await anyio.sleep(2)
            assert executor.statistics().running == 0
            assert executor.statistics().queued == 1
        return starts

    assert run_in_virtual_time(backend, main) == [("plain", 0), ("gated", 5)]


def test_an_admission_is_kept_until_it_is_used(backend) -> None:
    gate = Gate(1)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            lane = executor.lane(gate=gate)
            first = lane.submit(starts, "first")
            await anyio.sleep(0.5)
            executor.submit(starts, "blocks", 5)
            await anyio.sleep(1)
            assert not first.done()
            first.cancel()
            lane.submit(starts, "second")
            lane.submit(starts, "third")
        return starts

    expected = [("blocks", 0.5), ("second", 5.5), ("third", 6.5)]
    assert run_in_virtual_time(backend, main) == expected
    assert gate.calls == [0, 5.5]


def test_an_admission_outlives_an_empty_queue(backend) -> None:
    gate = Gate(1)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            lane = executor.lane(gate=gate)
            future = lane.submit(starts, "cancelled")
            await anyio.sleep(0.5)
            future.cancel()
            await anyio.sleep(5)
            lane.submit(starts, "next")
        return starts

    assert run_in_virtual_time(backend, main) == [("next", 5.5)]
    assert gate.calls == [0]


def test_gates_of_all_lanes_on_the_way(backend) -> None:
    """All of them have to admit it; lanes beside don't wait for an inner gate."""

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4, gate=Gate(1)) as executor:
            outer = executor.lane(gate=Gate(2))
            inner = outer.lane(gate=Gate(4))
            inner.submit(starts, "inner")
            executor.submit(starts, "plain")
        return starts

    found = dict(run_in_virtual_time(backend, main))
    assert found["plain"] == 1
    assert 4 <= found["inner"] <= 8


def test_an_exception_fails_the_job_at_the_head(backend) -> None:
    error = Boom()
    gate = Gate(1, {2: error})

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4) as executor:
            lane = executor.lane(gate=gate)
            futures = [lane.submit(starts, number) for number in range(3)]
            results = await gather(*futures, return_exceptions=True)
            assert results == [None, error, None]
            assert futures[1].slot is None
            assert futures[1].attempts == 0
            assert executor.statistics().failed == 1
        return starts

    assert run_in_virtual_time(backend, main) == [(0, 1), (2, 3)]


def test_an_unretrieved_exception_of_a_gate_is_held(backend) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with Executor(4, gate=Gate(1, {1: Boom()})) as executor:
                executor.submit(anyio.sleep, 0)
        assert [type(each) for each in caught.value.exceptions] == [Boom]

    run_in_virtual_time(backend, main)


def test_an_exception_without_a_head_is_logged(backend, caplog) -> None:
    async def main() -> None:
        async with Executor(4) as executor:
            lane = executor.lane("api", gate=Gate(1, {1: Boom()}))
            future = lane.submit(anyio.sleep, 0)
            await checkpoint()
            future.cancel()
            await anyio.sleep(2)
            await lane.submit(anyio.sleep, 0)

    run_in_virtual_time(backend, main)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "api" in caplog.text


def test_a_gate_that_hangs_ends_with_the_block(backend) -> None:
    gate = Gate(math.inf)

    async def main() -> float:
        async with Executor(4, gate=gate) as executor:
            future = executor.submit(anyio.sleep, 0)
            await anyio.sleep(3)
            await executor.shutdown(grace=2)
            with pytest.raises(JobCancelled):
                await future
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 5
    assert gate.ends == [("cancelled", 5)]


@pytest.mark.parametrize("how", ["raise", "scope", "cancel"])
def test_leaving_the_block_cancels_a_call_under_way(backend, how) -> None:
    gate = Gate(100)

    async def main() -> float:
        with anyio.move_on_after(3 if how == "scope" else math.inf):
            try:
                async with Executor(4, gate=gate) as executor:
                    executor.submit(anyio.sleep, 0)
                    if how == "scope":
                        await anyio.sleep_forever()
                    await anyio.sleep(3)
                    if how == "raise":
                        raise Boom
                    executor.cancel()
            except Boom:
                pass
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 3
    assert gate.ends == [("cancelled", 3)]


def test_a_cancelled_job_gives_its_admission_to_the_next(backend) -> None:
    gate = Gate(2)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4, gate=gate) as executor:
            first = executor.submit(starts, "first")
            executor.submit(starts, "second")
            await anyio.sleep(1)
            first.cancel()
        return starts

    assert run_in_virtual_time(backend, main) == [("second", 2)]
    assert gate.calls == [0]


def test_a_job_that_times_out_in_the_queue_leaves_the_call_to_the_next(backend) -> None:
    gate = Gate(3)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4) as executor:
            lane = executor.lane(gate=gate, queue_timeout=2)
            with pytest.raises(QueueTimeout):
                await lane.submit(starts, "late")
            lane.submit(starts, "next")
        return starts

    assert run_in_virtual_time(backend, main) == [("next", 3)]


@pytest.mark.parametrize("by", ["another", "none"])
def test_a_replaced_gate_is_cancelled(backend, by) -> None:
    old, new = Gate(10), Gate(1)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4, gate=old) as executor:
            executor.submit(starts, "job")
            await anyio.sleep(2)
            executor.gate = new if by == "another" else None
            assert executor.gate is (new if by == "another" else None)
        return starts

    assert run_in_virtual_time(backend, main) == [("job", 3 if by == "another" else 2)]
    assert old.ends == [("cancelled", 2)]


def test_admissions_of_a_replaced_gate_are_gone(backend) -> None:
    old, new = Gate(1), Gate(3)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            lane = executor.lane(gate=old)
            lane.submit(starts, "lane").cancel()
            held = lane.submit(starts, "lane")
            await anyio.sleep(0.5)
            executor.submit(starts, "plain", 5)
            await anyio.sleep(2)
            assert not held.done()
            lane.gate = new
        return starts

    assert run_in_virtual_time(backend, main) == [("plain", 0.5), ("lane", 8.5)]


def test_a_gate_set_at_run_time_holds_what_is_queued(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(1) as executor:
            executor.submit(starts, "running", 2)
            executor.submit(starts, "queued")
            await anyio.wait_all_tasks_blocked()
            executor.gate = Gate(5)
        return starts

    assert run_in_virtual_time(backend, main) == [("running", 0), ("queued", 7)]


def test_with_a_rate(backend) -> None:
    gate = Gate(1)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4, gate=gate, rate=Rate(1, per=5)) as executor:
            for name in "abc":
                executor.submit(starts, name)
        return starts

    assert run_in_virtual_time(backend, main) == [("a", 1), ("b", 7), ("c", 13)]
    assert gate.calls == [0, 6, 12]


def test_with_a_pause(backend) -> None:
    """What is admitted during a pause starts when that ends."""
    gate = Gate(2)

    async def main() -> Starts:
        starts = Starts()
        async with Executor(4, gate=gate) as executor:
            executor.submit(starts, "job")
            await anyio.sleep(1)
            executor.pause(5)
        return starts

    assert run_in_virtual_time(backend, main) == [("job", 6)]
    assert gate.calls == [0]


def test_each_attempt_is_admitted(backend) -> None:
    gate = Gate(1)
    starts = Starts()

    async def job() -> None:
        await starts("job")
        if len(starts) < 3:
            raise Boom

    async def main() -> None:
        async with Executor(4, gate=gate, retry=Retry(wait=0, jitter=False)) as executor:
            await executor.submit(job)

    run_in_virtual_time(backend, main)
    assert [time for _, time in starts] == [1, 2, 3]


def test_a_gate_may_use_the_executors_other_lanes(backend) -> None:
    async def gate() -> None:
        await other.submit(anyio.sleep, 1)

    async def main() -> Starts:
        nonlocal other
        starts = Starts()
        async with Executor(1) as executor:
            other = executor.lane()
            gated = executor.lane(gate=gate)
            for name in "ab":
                gated.submit(starts, name)
            await gated.join()
        return starts

    other: Any = None
    assert run_in_virtual_time(backend, main) == [("a", 1), ("b", 2)]


def test_an_instant_gate_starves_nothing(backend) -> None:
    async def gate() -> None:
        pass

    async def main() -> float:
        async with Executor(1, gate=gate) as executor:
            for _ in range(500):
                executor.submit(checkpoint)
            with anyio.fail_after(1):
                await executor.join()
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 0


@pytest.mark.parametrize("gate", [3, "gate", True, anyio.Event])
def test_bad_gates(backend, gate: Any) -> None:
    async def main() -> None:
        if gate is not anyio.Event:
            with pytest.raises(TypeError, match="gate"):
                Executor(1, gate=gate)
            async with Executor(1) as executor:
                lane = executor.lane()
                with pytest.raises(TypeError, match="gate"):
                    executor.lane(gate=gate)
                with pytest.raises(TypeError, match="gate"):
                    lane.gate = gate
                assert lane.gate is None
                await lane.submit(checkpoint)
            return
        # Callable, but nothing that it returns can be awaited: the job fails and says so.
        async with Executor(1, gate=gate) as executor:
            with pytest.raises(TypeError):
                await executor.submit(checkpoint)

    run_in_virtual_time(backend, main)


def test_a_gate_that_exits_ends_the_executor(backend) -> None:
    async def main() -> None:
        with pytest.raises(SystemExit):
            async with Executor(1, gate=Gate(1, {1: SystemExit(3)})) as executor:
                future = executor.submit(checkpoint)
                await future.wait()
        assert future.cancelled()

    run_in_virtual_time(backend, main)


def test_natively_cancelled_the_gate_is_called_again(backend) -> None:
    """A helper task that's cancelled under asyncio loses no job."""
    calls: list[float] = []

    async def gate() -> None:
        calls.append(anyio.current_time())
        if backend == "asyncio" and len(calls) == 1:
            task: Any = asyncio.current_task()
            asyncio.get_running_loop().call_later(1, task.cancel)
        await anyio.sleep(3)

    async def main() -> float:
        async with Executor(1, gate=gate) as executor:
            await executor.submit(checkpoint)
        return anyio.current_time()

    seconds = run_in_virtual_time(backend, main)
    assert (seconds, calls) == ((4, [0, 1]) if backend == "asyncio" else (3, [0]))
