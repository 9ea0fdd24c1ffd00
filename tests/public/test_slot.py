"""`slot()`: the current task itself occupies a slot."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from jobs import Boom, Starts, all_slots_work, counts
from suspensions import Steps
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    Adaptive,
    Executor,
    ExecutorClosed,
    JobCancelled,
    QueueTimeout,
    Rate,
    Retry,
    gather,
    lend_slot,
)

run_anywhere = pytest.mark.anyio
virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


# Queueing and counting like a job.


@virtual
def test_blocks_and_jobs_start_in_fifo_order(backend) -> None:
    async def main() -> Starts:
        log = Starts()
        async with Executor(1) as executor, anyio.create_task_group() as group:
            executor.submit(log, 0, 1)
            for number in range(1, 7):
                if number % 2:
                    group.start_soon(log.hold, executor, number, 1)
                else:
                    executor.submit(log, number, 1)
                await anyio.sleep(0.01)
        return log

    assert run_in_virtual_time(backend, main) == [(number, number) for number in range(7)]


@run_anywhere
async def test_it_counts_and_is_named_like_a_job() -> None:
    release = anyio.Event()

    async def hold() -> None:
        async with lane.slot() as future:
            futures.append(future)
            await release.wait()

    futures: list[Any] = []
    async with Executor(1) as executor:
        lane = executor.lane("streams")
        async with anyio.create_task_group() as group:
            group.start_soon(hold, name="the first stream")
            await wait_all_tasks_blocked()
            group.start_soon(hold)
            await wait_all_tasks_blocked()
            for each in (executor, lane):
                assert counts(each) == (1, 1, 0, 0, 0, 0)
            (future,) = futures
            assert future.running()
            assert (future.slot, future.lane, future.attempts) == (0, lane, 1)
            assert "the first stream" in future.name
            release.set()
        assert counts(lane) == (0, 0, 0, 2, 0, 0)
        assert [future.result() for future in futures] == [None, None]
        await all_slots_work(executor)


@run_anywhere
async def test_instruments_see_it_like_a_job() -> None:
    class Record:
        def __init__(self) -> None:
            self.events: list[tuple[str, str]] = []

        def __getattr__(self, name: str) -> Callable[..., None]:
            if not name.startswith("job_"):
                raise AttributeError(name)
            return lambda future, *rest: self.events.append((name[4:], future.status.value))

    record = Record()
    async with Executor(1, instruments=[record]) as executor:
        async with executor.slot(), lend_slot():
            await checkpoint()
        with pytest.raises(Boom):
            async with executor.slot():
                raise Boom
        with anyio.CancelScope() as scope:
            async with executor.slot():
                scope.cancel()
                await anyio.sleep_forever()
    ways = {"succeeded": [("lent", "running"), ("resumed", "running")], "failed": []}
    expected: list[tuple[str, str]] = []
    for end in ("succeeded", "failed", "cancelled"):
        events = [("submitted", "queued"), ("started", "running"), *ways.get(end, [])]
        expected += [event[0] for event in [*events, ("finished", end)]]  # type: ignore[misc]
    assert [event[0] for event in record.events] == expected
    assert [status for name, status in record.events if name == "finished"] == [
        "succeeded",
        "failed",
        "cancelled",
    ]


@virtual
def test_a_full_queue_makes_it_wait(backend) -> None:
    async def main() -> Starts:
        log = Starts()
        async with Executor(1, max_pending=1) as executor, anyio.create_task_group() as group:
            executor.submit(log, "running", 1)
            await checkpoint()
            executor.submit(log, "queued", 1)
            group.start_soon(log.hold, executor, "block", 1)
            await anyio.sleep(0.5)
            assert counts(executor) == (1, 1, 0, 0, 0, 0)
            await anyio.sleep(1)
            assert counts(executor) == (1, 1, 0, 1, 0, 0)
        return log

    expected = [("running", 0), ("queued", 1), ("block", 2)]
    assert run_in_virtual_time(backend, main) == expected


@virtual
def test_it_works_without_a_queue(backend) -> None:
    async def main() -> Starts:
        log = Starts()
        async with Executor(1, max_pending=0) as executor, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(log.hold, executor, number, 1)
                await anyio.sleep(0.01)
        return log

    assert run_in_virtual_time(backend, main) == [(0, 0), (1, 1), (2, 2)]


@virtual
def test_rates_gates_and_pauses_hold(backend) -> None:
    async def gate() -> None:
        await anyio.sleep(1)

    async def main() -> Starts:
        log = Starts()
        async with Executor(math.inf) as executor:
            rated = executor.lane(rate=Rate(10, per=4, cost=lambda size, *, more=0: size + more))
            async with rated.slot(6, more=1):
                log.append(anyio.current_time())
            async with rated.slot(4):
                log.append(anyio.current_time())
            gated = executor.lane(gate=gate)
            async with gated.slot():
                log.append(anyio.current_time())
            gated.gate = None
            gated.pause(2)
            async with gated.slot():
                log.append(anyio.current_time())
            with pytest.raises(ValueError, match="cost"):
                async with rated.slot(11):
                    raise AssertionError
            with pytest.raises(TypeError):
                async with rated.slot():
                    raise AssertionError
        return log

    assert run_in_virtual_time(backend, main) == [0, 4, 5, 7]


@virtual
def test_priorities_and_limits_of_lanes_hold(backend) -> None:
    async def main() -> Starts:
        log = Starts()
        async with Executor(2) as executor, anyio.create_task_group() as group:
            lane = executor.lane(slots=1)
            urgent = executor.lane(priority=1)
            for number in range(2):
                group.start_soon(log.hold, lane, f"lane {number}", 4)
                await checkpoint()
            await anyio.sleep(0.1)
            executor.submit(log, "plain", 1)
            await anyio.sleep(0.1)
            executor.submit(log, "later", 0)
            group.start_soon(log.hold, urgent, "urgent", 0)
            await executor.join()
        return [name for name, _ in log]

    found = run_in_virtual_time(backend, main)
    assert found[0] in ("lane 0", "lane 1")
    assert found[1:4] == ["plain", "urgent", "later"]
    assert len(found) == 5


@virtual
def test_more_slots_start_it_at_once(backend) -> None:
    async def main() -> Starts:
        log = Starts()
        async with Executor(1) as executor, anyio.create_task_group() as group:
            executor.submit(log, "job", 10)
            group.start_soon(log.hold, executor, "block")
            await anyio.sleep(3)
            executor.slots = 2
        return log

    assert run_in_virtual_time(backend, main) == [("job", 0), ("block", 3)]


# Inside jobs.


@run_anywhere
@pytest.mark.parametrize("inside", ["executor", "lane", "inner"])
async def test_inside_a_job_one_slot_suffices(inside: str) -> None:
    async def job() -> int:
        async with lanes[inside].slot():
            assert counts(executor) == (0, 1, 1, 0, 0, 0)
            await checkpoint()
            child = await executor.submit(give, 3)
            async with executor.slot():
                assert executor.statistics().lent == 2
        assert counts(executor) == (0, 1, 0, 3, 0, 0)
        return child

    async def give(value: int) -> int:
        await checkpoint()
        return value

    async with Executor(1) as executor:
        lane = executor.lane(slots=1)
        lanes = {"executor": executor, "lane": lane, "inner": lane.lane()}
        assert await executor.submit(job) == 3
        await all_slots_work(executor)


@run_anywhere
async def test_the_job_goes_on_before_what_is_queued() -> None:
    order: list[str] = []

    async def job() -> None:
        async with executor.slot():
            executor.submit(note, "queued")
            await checkpoint()
        order.append("job")

    async def note(name: str) -> None:
        order.append(name)

    async with Executor(1) as executor:
        await executor.submit(job)
        await executor.join()
    assert order == ["job", "queued"]


@run_anywhere
async def test_blocks_in_blocks_lend_and_take_back() -> None:
    async with Executor(1) as executor:
        async with executor.slot() as outer:
            async with executor.lane(slots=1).slot() as inner:
                assert counts(executor) == (0, 1, 1, 0, 0, 0)
            assert inner.done()
            assert counts(executor) == (0, 1, 0, 1, 0, 0)
            assert not outer.done()
        await all_slots_work(executor)


@run_anywhere
async def test_waiting_for_the_executor_in_it_lends_its_slot() -> None:
    async def give(value: int) -> int:
        await checkpoint()
        return value

    async with Executor(1, max_pending=1) as executor:
        async with executor.slot():
            assert await executor.submit(give, 1) == 1
            assert await gather(executor.submit(give, 2)) == [2]
            assert await executor.map(give, range(5)) == list(range(5))
            futures = [await executor.enqueue(give, number) for number in range(4)]
            assert await gather(*futures) == list(range(4))
            async with lend_slot():
                await executor.lane().join()
            assert counts(executor)[:3] == (0, 1, 0)
        await all_slots_work_unbounded(executor)


async def all_slots_work_unbounded(executor: Executor) -> None:
    executor.max_pending = math.inf
    await all_slots_work(executor)


@run_anywhere
async def test_what_would_wait_for_itself_is_an_error() -> None:
    async with Executor(1) as executor:
        lane = executor.lane()
        async with lane.slot() as future:
            for call in (lane.join, executor.join, executor.shutdown):
                with pytest.raises(RuntimeError):
                    await call()
            with pytest.raises(RuntimeError, match="itself"):
                await future
            with pytest.raises(RuntimeError):
                await future.wait()
            await executor.lane().join()
        assert await future is None
        await all_slots_work(executor)


@run_anywhere
async def test_one_object_is_for_one_block() -> None:
    async with Executor(1) as executor:
        block = executor.slot()
        async with block:
            with pytest.raises(RuntimeError):
                async with block:
                    raise AssertionError
        with pytest.raises(RuntimeError):
            async with block:
                raise AssertionError
        assert counts(executor) == (0, 0, 0, 1, 0, 0)
        await all_slots_work(executor)


# Ends.


@run_anywhere
@pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
async def test_an_exception_goes_on_as_it_is(on_error: Any, caplog) -> None:
    error = Boom()
    async with Executor(1, on_error=on_error) as executor:
        with pytest.raises(Boom) as caught:
            async with executor.slot() as future:
                await checkpoint()
                raise error
        assert caught.value is error
        assert future.exception() is error
        assert future.error is error
        with pytest.raises(Boom):
            await future
        assert counts(executor) == (0, 0, 0, 0, 1, 0)
        await all_slots_work(executor)
    assert not caplog.records


@run_anywhere
async def test_an_unretrieved_failure_of_it_is_not_held_or_logged(caplog) -> None:
    for on_error in ("hold", "cancel", "log"):
        async with Executor(1, on_error=on_error) as executor:  # type: ignore[arg-type]
            with pytest.raises(Boom):
                async with executor.slot():
                    raise Boom
    assert not caplog.records


@run_anywhere
async def test_groups_stay_flat() -> None:
    async with Executor(1) as executor:
        with pytest.raises(ExceptionGroup) as caught:
            async with executor.slot():
                raise ExceptionGroup("several", [Boom(), ValueError()])
        assert [type(each) for each in caught.value.exceptions] == [Boom, ValueError]


@virtual
@pytest.mark.parametrize("how", ["future", "lane", "executor", "timeout", "shutdown", "queued"])
def test_what_ends_the_block(backend, how) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            lane = executor.lane(timeout=2 if how == "timeout" else None)
            futures: list[Any] = []
            ended: list[tuple[type[BaseException], float, str]] = []

            async def hold() -> None:
                try:
                    async with lane.slot() as future:
                        futures.append(future)
                        await anyio.sleep(50)
                except Exception as exc:
                    ended.append((type(exc), anyio.current_time(), str(exc)))

            async with anyio.create_task_group() as group:
                if how == "queued":
                    executor.submit(anyio.sleep, 5)
                group.start_soon(hold)
                await anyio.sleep(2)
                if how == "future":
                    assert futures[0].cancel("not wanted")
                elif how == "lane":
                    lane.cancel("not wanted")
                elif how == "executor":
                    executor.cancel("not wanted")
                elif how == "shutdown":
                    await executor.shutdown(grace=0)
                elif how == "queued":
                    lane.cancel("not wanted")
            expected = TimeoutError if how == "timeout" else JobCancelled
            assert [each[:2] for each in ended] == [(expected, 2)]
            if how in ("future", "lane", "executor", "queued"):
                assert "not wanted" in ended[0][2]
            if how == "timeout":
                assert isinstance(futures[0].exception(), TimeoutError)
                assert counts(executor) == (0, 0, 0, 0, 1, 0)
            else:
                assert executor.statistics().cancelled == 1
            if how != "shutdown":
                executor.clear()
                await executor.join()
                await all_slots_work(executor)

    run_in_virtual_time(backend, main)


@virtual
def test_a_timeout_error_of_its_own_passes(backend) -> None:
    async def main() -> None:
        own = TimeoutError("my own")
        async with Executor(1, timeout=5) as executor:
            with pytest.raises(TimeoutError) as caught:
                async with executor.slot():
                    raise own
            assert caught.value is own
            with anyio.move_on_after(2) as scope:
                async with executor.slot() as future:
                    await anyio.sleep(50)
            assert scope.cancelled_caught
            assert future.cancelled()
            await all_slots_work(executor)

    run_in_virtual_time(backend, main)


@virtual
def test_a_timeout_ends_with_the_block(backend) -> None:
    async def main() -> float:
        async with Executor(1, timeout=2) as executor:
            for _ in range(3):
                async with executor.slot():
                    await anyio.sleep(1)
            await anyio.sleep(5)
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 8


@virtual
def test_it_may_be_queued_for_too_long(backend) -> None:
    async def main() -> None:
        async with Executor(1, queue_timeout=3) as executor:
            executor.submit(anyio.sleep, 10)
            with pytest.raises(QueueTimeout):
                async with executor.slot():
                    raise AssertionError
            assert anyio.current_time() == 3
            assert counts(executor) == (0, 1, 0, 0, 1, 0)

    run_in_virtual_time(backend, main)


@run_anywhere
async def test_retries_do_not_apply() -> None:
    async with Executor(1, retry=Retry(5, wait=0)) as executor:
        with pytest.raises(Boom):
            async with executor.slot() as future:
                raise Boom
        assert future.attempts == 1
        assert not hasattr(future.exception(), "__notes__")


@run_anywhere
async def test_its_overloads_count_for_adaptive_slots() -> None:
    async with Executor(10) as executor:
        lane = executor.lane(slots=Adaptive(4, on=Boom))
        with pytest.raises(Boom):
            async with lane.slot():
                raise Boom
        assert lane.slots == 2


@run_anywhere
async def test_before_and_after_the_block_of_the_executor() -> None:
    executor = Executor(1)
    with pytest.raises(RuntimeError):
        async with executor.slot():
            raise AssertionError
    async with executor:
        lane = executor.lane()
        lane.close()
        with pytest.raises(ExecutorClosed):
            async with lane.slot():
                raise AssertionError
    with pytest.raises(ExecutorClosed):
        async with executor.slot():
            raise AssertionError


@run_anywhere
async def test_closing_turns_away_what_waits_for_capacity() -> None:
    ended: list[type[BaseException]] = []

    async def wait() -> None:
        try:
            async with lane.slot():
                raise AssertionError
        except ExecutorClosed as exc:
            ended.append(type(exc))

    async with Executor(1) as executor:
        lane = executor.lane(max_pending=0)
        async with executor.slot(), anyio.create_task_group() as group:
            group.start_soon(wait)
            await wait_all_tasks_blocked()
            lane.close()
    assert ended == [ExecutorClosed]


@virtual
def test_the_executors_block_waits_for_it(backend) -> None:
    """A task that isn't the executor's own occupies a slot while the block is being left."""

    async def hold(seconds: float) -> None:
        async with executor.slot():
            await anyio.sleep(seconds)

    async def main() -> tuple[float, float]:
        nonlocal executor
        async with anyio.create_task_group() as group:
            async with Executor(1) as executor:
                group.start_soon(hold, 4)
                group.start_soon(hold, 3)
                await anyio.sleep(1)
            left = anyio.current_time()
        return left, anyio.current_time()

    executor: Any = None
    assert run_in_virtual_time(backend, main) == (7, 7)


@virtual
@pytest.mark.parametrize("how", ["raise", "cancel"])
def test_a_slot_in_a_foreign_task_ends_with_the_executor(backend, how) -> None:
    """Its task is cancelled as a job is, and the executor's block ends once it has unwound."""
    log: list[Any] = []

    async def hold() -> None:
        try:
            async with executor.slot():
                try:
                    await anyio.sleep(100)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(2)
        except JobCancelled:
            log.append(("unwound", anyio.current_time()))
        await checkpoint()
        log.append("goes on")

    async def main() -> None:
        nonlocal executor
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                try:
                    async with Executor(1) as executor:
                        group.start_soon(hold)
                        await anyio.sleep(1)
                        if how == "raise":
                            raise Boom
                        scope.cancel()
                        await anyio.sleep_forever()
                except Boom:
                    pass
                finally:
                    log.append(("left", anyio.current_time()))

    executor: Any = None
    run_in_virtual_time(backend, main)
    assert sorted(log, key=str) == [("left", 3), ("unwound", 3), "goes on"]


@virtual
def test_shutdown_cancels_a_slot_after_the_grace(backend) -> None:
    async def main() -> list[float]:
        ends: list[float] = []

        async def hold() -> None:
            try:
                async with executor.slot():
                    await anyio.sleep(100)
            except JobCancelled:
                ends.append(anyio.current_time())

        async with anyio.create_task_group() as group, Executor(1) as executor:
            group.start_soon(hold)
            group.start_soon(hold)
            await anyio.sleep(1)
            await executor.shutdown(grace=4)
            ends.append(anyio.current_time())
        return ends

    assert run_in_virtual_time(backend, main) == [5, 5, 5]


# Cancelled anywhere.


async def plain(executor: Executor) -> None:
    async with executor.slot():
        await checkpoint()


async def queued(executor: Executor) -> None:
    executor.submit(anyio.sleep, 1)
    executor.submit(anyio.sleep, 1)
    async with executor.slot():
        await anyio.sleep(1)


async def bounded(executor: Executor) -> None:
    lane = executor.lane(max_pending=0, slots=1)
    await lane.enqueue(anyio.sleep, 1)
    async with lane.slot():
        await anyio.sleep(1)


async def in_a_block(executor: Executor) -> None:
    async with executor.slot():
        executor.submit(anyio.sleep, 1)
        async with executor.slot():
            await anyio.sleep(1)
        await checkpoint()


async def waiting_in_it(executor: Executor) -> None:
    async with executor.slot():
        futures = [executor.submit(anyio.sleep, 1) for _ in range(3)]
        await gather(*futures)
        async with lend_slot():
            await anyio.sleep(1)
        await checkpoint()


async def limited(executor: Executor) -> None:
    lane = executor.lane(slots=1, rate=Rate(1, per=1, cost=lambda *args: 1), timeout=9)
    async with lane.slot():
        await checkpoint()
    async with lane.slot():
        await checkpoint()


async def failing(executor: Executor) -> None:
    try:
        async with executor.slot():
            await checkpoint()
            raise Boom
    except Boom:
        await checkpoint()


PROGRAMS = [plain, queued, bounded, in_a_block, waiting_in_it, limited, failing]


@virtual
@pytest.mark.parametrize("when", ["suspends", "waits", "resumes"])
@pytest.mark.parametrize("how", ["scope", "native", "lane"])
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("in_job", [False, True])
def test_cancelled_at_each_point_it_leaves_nothing(
    backend, program, slots, how, when, in_job
) -> None:
    if backend == "trio" and (how == "native" or when == "suspends"):
        how = "scope"  # others have no meaning there, or aren't allowed at that point

    async def run(k: int) -> bool:
        acts: list[Callable[[], object]] = []
        steps = Steps(k, lambda: acts[0](), when)

        async def body() -> None:
            with anyio.CancelScope() as scope:
                act: Callable[[], object] = scope.cancel
                if how == "native":
                    task: Any = asyncio.current_task()
                    act = task.cancel
                elif how == "lane":
                    act = executor.cancel
                acts.append(act)
                try:
                    await steps.drive(program(executor))
                except JobCancelled:
                    if how != "lane":
                        raise
                except asyncio.CancelledError:
                    if how != "native" or in_job:
                        raise
                    task.uncancel()

        async with Executor(slots, on_error="log") as executor:
            async with anyio.create_task_group() as group:
                if in_job:
                    future = executor.submit(body)
                    await future.wait()
                else:
                    group.start_soon(body)
            executor.clear()
            await executor.join()
            assert sum(counts(executor)[:3]) == 0
            await all_slots_work(executor)
        return steps.reached

    k = 1
    while run_in_virtual_time(backend, run, k):
        k += 1
        assert k < 100
    assert k > 1


# Bad input.


@run_anywhere
async def test_it_is_for_async_with_alone() -> None:
    async with Executor(1) as executor:
        with pytest.raises(TypeError), executor.slot():  # type: ignore[attr-defined]
            pass


@run_anywhere
async def test_from_another_thread_it_is_refused() -> None:
    async def use() -> None:
        async with executor.slot():
            raise AssertionError

    async with Executor(1) as executor:
        with pytest.raises(RuntimeError, match="thread"):
            await anyio.to_thread.run_sync(lambda: anyio.run(use))
        assert executor.statistics().submitted == 0
        await all_slots_work(executor)


@run_anywhere
async def test_what_a_cancelled_block_raises_besides_goes_on() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom

    async with Executor(1) as executor:
        with pytest.raises(ExceptionGroup) as caught:
            async with executor.slot() as future, anyio.create_task_group() as group:
                group.start_soon(fail_when_cancelled)
                await wait_all_tasks_blocked()
                future.cancel()
                await anyio.sleep_forever()
        assert [type(each) for each in caught.value.exceptions] == [Boom]
        assert future.exception() is caught.value
        await all_slots_work(executor)


@pytest.mark.anyio
async def test_a_job_whose_wait_for_a_slot_is_cancelled_has_its_own_back() -> None:
    async def job() -> tuple[int, int]:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with lane.slot():
                raise AssertionError
        with anyio.move_on_after(0.01):
            async with lane.slot():
                raise AssertionError
        counts = executor.statistics()
        return counts.running, counts.lent

    async with Executor(2) as executor:
        lane = executor.lane(slots=1)
        lane.submit(anyio.sleep_forever)
        future = executor.submit(job)
        assert await future == (2, 0)
        executor.cancel()
