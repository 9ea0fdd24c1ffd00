"""Retries: the same future, and nothing held between attempts."""

from __future__ import annotations

import contextvars
import gc
import math
import sys
import tracemalloc
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, Starts
from virtual_time import virtual

from anyslots import (
    Executor,
    JobCancelled,
    Rate,
    Retry,
    amap,
    charge,
    first_result,
    from_thread,
    gather,
    lend_slot,
)


class Flaky:
    """Fails so often, and then returns; notes its starts."""

    def __init__(
        self, failures: float, error: type[BaseException] = Boom, seconds: float = 0
    ) -> None:
        self.failures = failures
        self.error = error
        self.seconds = seconds
        self.starts: list[float] = []

    async def __call__(self, result: object = None) -> Any:
        self.starts.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        if len(self.starts) <= self.failures:
            raise self.error
        return result


def exact(attempts: int = 5, **options: Any) -> Retry:
    return Retry(attempts, **{"wait": 1, "jitter": False, **options})


# Options of the executor, how the job fails, when it starts, and what it fails with.

SLOW = (0, Boom, 5)
COURSES: dict[str, tuple[dict[str, Any], tuple[Any, ...], list[float], Any]] = {
    "it succeeds at last": ({"retry": exact()}, (2,), [0, 1, 3], None),
    "growing waits": ({"retry": exact(6, factor=3, most=9)}, (9,), [0, 1, 4, 13, 22, 31], Boom),
    "no retries": ({}, (1,), [0], Boom),
    "one attempt": ({"retry": exact(1)}, (1,), [0], Boom),
    "another exception": ({"retry": exact(on=OSError)}, (1,), [0], Boom),
    "a function says no": ({"retry": exact(on=lambda exc: None)}, (1,), [0], Boom),
    "seconds of a function": ({"retry": Retry(on=lambda exc: 7, most=5)}, (2,), [0, 7, 14], None),
    "attempts use up a rate": ({"retry": exact(), "rate": Rate(1, 10)}, (2,), [0, 10, 20], None),
    "attempts may take a timeout": (
        {"retry": exact(3), "timeout": 2},
        SLOW,
        [0, 3, 7],
        TimeoutError,
    ),
    "a timeout doesn't match": ({"retry": exact(on=Boom), "timeout": 2}, SLOW, [0], TimeoutError),
    "a queue timeout is over": ({"retry": exact(wait=9), "queue_timeout": 2}, (1,), [0, 9], None),
}


@pytest.mark.parametrize(("options", "flaky", "starts", "error"), COURSES.values(), ids=COURSES)
@virtual
async def test_a_failed_job_runs_again_in_the_same_future(options, flaky, starts, error):
    job = Flaky(*flaky)
    called: list[float] = []
    async with Executor(1, **options) as executor:
        future = executor.submit(job)
        future.add_done_callback(lambda _: called.append(anyio.current_time()))
        executor.submit(checkpoint)
        await future.wait()
        end = anyio.current_time()
        exception = future.exception()
        assert (future.attempts, called) == (len(starts), [end])
    counts = executor.statistics()
    assert (counts.submitted, counts.failed, counts.succeeded) == (2, bool(error), 2 - bool(error))
    assert job.starts == starts
    assert type(exception) is (error or type(None))
    tried_again = error and len(starts) > 1
    notes = [f"{len(starts)} attempts were made in {end:g} seconds"] if tried_again else []
    assert getattr(exception, "__notes__", []) == notes


@virtual
async def test_jitter_is_a_part_of_the_wait():
    jobs = [Flaky(1) for _ in range(200)]
    async with Executor(math.inf, retry=Retry(2, wait=10)) as executor:
        await gather(*[executor.submit(job) for job in jobs])
    waits = sorted(job.starts[1] for job in jobs)
    assert 0 <= waits[0] < 1 < 9 < waits[-1] <= 10
    assert 4 < sum(waits) / 200 < 6


@pytest.mark.parametrize(("when", "seconds"), [("before", 7), ("while it runs", 4)])
@virtual
async def test_the_note_counts_from_the_first_start(when, seconds):
    """From the end of the first attempt, if it wasn't known that it would be retried."""
    retry = exact(2)
    async with Executor(1, retry=retry if when == "before" else None) as executor:
        executor.submit(anyio.sleep, 2)
        future = executor.submit(Flaky(9, seconds=3))
        await anyio.sleep(4)
        executor.retry = retry
        await future.wait()
        (note,) = future.exception().__notes__
    assert note == f"2 attempts were made in {seconds} seconds"


@pytest.mark.parametrize("on_error", ["hold", "cancel"])
@virtual
async def test_only_the_last_failure_counts(on_error):
    with pytest.raises(ExceptionGroup) as caught:
        async with Executor(2, retry=exact(3), on_error=on_error) as executor:
            other = executor.submit(anyio.sleep, 50)
            await executor.submit(Flaky(2))
            executor.submit(Flaky(9))
    assert [type(each) for each in caught.value.exceptions] == [Boom]
    end = (6, True) if on_error == "cancel" else (50, False)
    assert (anyio.current_time(), other.cancelled()) == end


# Between attempts.


@virtual
async def test_between_attempts_it_holds_neither_a_slot_nor_room_in_the_queue():
    async with Executor(1, max_pending=1, retry=exact(wait=10)) as executor:
        future = executor.submit(Flaky(1))
        await anyio.sleep(1)
        counts = executor.statistics()
        assert (counts.queued, counts.running, counts.submitted) == (1, 0, 1)
        assert (future.slot, future.attempts, future.status) == (None, 1, "queued")
        assert not future.running()
        assert not future.done()
        executor.submit(anyio.sleep, 5)
        await anyio.sleep(0.5)
        queued = executor.submit(anyio.sleep, 1)
        with pytest.raises(anyio.WouldBlock):
            executor.submit(anyio.sleep, 0)
        await queued
        assert anyio.current_time() == 7
        await future
        assert anyio.current_time() == 10


@pytest.mark.parametrize(
    ("wait", "failing", "expected"), [(0.5, "ab", "ababcde"), (0, "aa", "aaabcde")]
)
@virtual
async def test_it_keeps_its_place_by_age(wait, failing, expected):
    starts = Starts()

    async def job(name: str) -> None:
        await starts(name, 1)
        if starts.names.count(name) <= failing.count(name):
            raise Boom

    async with Executor(1, retry=exact(wait=wait)) as executor:
        for name in "abcde":
            executor.submit(job, name)
    assert starts.names == [*expected]


@pytest.mark.parametrize("how", ["future", "lane", "clear", "executor", "shutdown", "body"])
@virtual
async def test_it_is_cancelled_at_once_between_attempts(how):
    job = Flaky(9)
    try:
        async with Executor(1, retry=exact(wait=100)) as executor:
            lane = executor.lane()
            future = lane.submit(job)
            await anyio.sleep(2)
            if how == "shutdown":
                await executor.shutdown(grace=0)
            elif how == "body":
                raise Boom
            elif how == "clear":
                lane.clear()
            else:
                {"future": future, "lane": lane, "executor": executor}[how].cancel()
            assert future.cancelled()
    except Boom:
        assert how == "body"
    with pytest.raises(JobCancelled):
        future.result()
    assert (job.starts, anyio.current_time()) == ([0], 2)
    assert executor.statistics().cancelled == 1


@virtual
async def test_a_job_that_was_asked_to_cancel_is_not_retried():
    starts = Starts()

    async def fail_when_cancelled() -> None:
        try:
            await starts(None, 10)
        except anyio.get_cancelled_exc_class():
            raise Boom from None

    async with Executor(2, retry=exact(), on_error="log") as executor:
        futures = [executor.submit(fail_when_cancelled) for _ in range(2)]
        await anyio.sleep(1)
        futures[0].cancel()
        await futures[0].wait()
        executor.cancel()
        await futures[1].wait()
        assert [type(future.exception()) for future in futures] == [Boom, Boom]
    assert starts.times == [0, 0]


@pytest.mark.parametrize(
    ("how", "end"), [("block", 3), ("join", 3), (2, 2.5), (5, 3), (None, 3)], ids=str
)
@virtual
async def test_waits_for_jobs_are_for_their_retries_too(how, end):
    """Those of the block, of `join`, and of `shutdown` for as long as its grace."""
    async with Executor(1) as executor:
        lane = executor.lane(retry=exact(wait=3))
        future = lane.submit(Flaky(1))
        await anyio.sleep(0.5)
        if how == "join":
            await lane.join()
            assert anyio.current_time() == end
        elif how != "block":
            await executor.shutdown(how)
    assert (anyio.current_time(), future.cancelled()) == (end, how == 2)


@virtual
async def test_cost_is_asked_once_and_charged_for_each_attempt():
    calls: list[int] = []

    def cost(size: int) -> int:
        calls.append(size)
        return size

    tokens, starts = Rate(10, per=10, cost=cost), Starts()

    async def job(size: int) -> None:
        await starts()
        if len(starts) == 1:
            charge(tokens, 4)
        if len(starts) < 4:
            raise Boom

    async with Executor(1, rate=tokens, retry=exact(wait=0)) as executor:
        await executor.submit(job, 6)
    assert calls == [6]
    assert starts.times == [0, 0, 10, 20]


@virtual
async def test_pauses_hold():
    job = Flaky(1)
    async with Executor(1, retry=exact(wait=2)) as executor:
        executor.submit(job)
        await anyio.sleep(1)
        executor.pause(8)
    assert job.starts == [0, 9]


# What the function does that's asked whether to retry.


@pytest.mark.parametrize("answer", [-1, "1", LookupError("on must return")], ids=repr)
@virtual
async def test_a_function_that_gives_no_answer_fails_the_job(answer):
    def on(exc: Exception) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    job = Flaky(1)
    async with Executor(1, retry=Retry(on=on)) as executor:
        refused = (TypeError, ValueError, LookupError)
        with pytest.raises(refused, match="on must return") as caught:
            await executor.submit(job)
        assert isinstance(caught.value.__context__, Boom)
        await executor.submit(checkpoint)
    assert job.starts == [0]


@virtual
async def test_the_function_may_submit_cancel_pause_and_resize():
    def on(exc: Exception) -> bool:
        executor.submit(checkpoint)
        executor.slots = 3
        executor.pause(2)
        queued.cancel()
        return True

    job = Flaky(1)
    async with Executor(1, retry=exact(on=on)) as executor:
        executor.submit(job)
        queued = executor.submit(checkpoint)
    assert job.starts == [0, 2]
    assert queued.cancelled()
    assert executor.statistics().succeeded == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@virtual
async def test_what_ends_the_program_is_not_retried(error):
    job = Flaky(1, error)
    with pytest.raises(error):
        async with Executor(1, retry=exact()) as executor:
            executor.submit(job)
    assert job.starts == [0]


# With other parts.


@virtual
async def test_each_attempt_has_a_fresh_copy_of_the_context():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []

    async def job() -> None:
        seen.append(variable.get())
        variable.set("changed")
        await checkpoint()
        if len(seen) < 3:
            raise Boom

    async with Executor(1, retry=exact()) as executor:
        variable.set("submitter's")
        future = executor.submit(job)
        variable.set("later")
        await future
    assert seen == ["submitter's"] * 3


@virtual
async def test_instruments_are_notified_of_each_attempt():
    events: list[Any] = []

    class Instrument:
        def job_submitted(self, future: Any) -> None:
            events.append("submitted")

        def job_started(self, future: Any) -> None:
            events.append(("started", future.attempts))

        def job_retried(self, future: Any, exception: BaseException, delay: float) -> None:
            events.append(("retried", type(exception), delay, future.attempts, future.slot))

        def job_finished(self, future: Any) -> None:
            events.append(("finished", future.attempts))

    async with Executor(1, retry=exact(), instruments=[Instrument()]) as executor:
        await executor.submit(Flaky(2))
    assert events == [
        "submitted",
        ("started", 1),
        ("retried", Boom, 1, 1, None),
        ("started", 2),
        ("retried", Boom, 2, 2, None),
        ("started", 3),
        ("finished", 3),
    ]


@virtual
async def test_a_job_that_lends_its_slot_is_retried():
    starts = Starts()

    async def parent() -> None:
        await starts()
        await executor.submit(anyio.sleep, 1)
        async with lend_slot():
            await checkpoint()
            if len(starts) < 3:
                raise Boom

    async with Executor(1, retry=exact()) as executor:
        await executor.submit(parent)
        assert executor.statistics().lent == 0
        await gather(executor.submit(checkpoint), executor.submit(checkpoint))
    assert starts.times == [0, 2, 5]


@virtual
async def test_map_amap_and_first_result_wait_for_retries():
    calls: list[int] = []

    async def odd_ones_fail_first(number: int) -> int:
        calls.append(number)
        await checkpoint()
        if number % 2 and calls.count(number) < 2:
            raise Boom
        return number

    async with Executor(2, retry=exact()) as executor:
        assert await executor.map(odd_ones_fail_first, range(6)) == [*range(6)]
        futures = [executor.submit(Flaky(1), "slow"), executor.submit(Flaky(9, seconds=20))]
        assert await first_result(*futures) == "slow"
    calls.clear()
    assert await amap(odd_ones_fail_first, range(6), slots=2, retry=exact()) == [*range(6)]
    assert len(calls) == 9


@virtual
async def test_a_job_of_another_thread_is_retried():
    job = Flaky(2)
    async with Executor(1, retry=exact(wait=0)) as executor:
        future = await anyio.to_thread.run_sync(from_thread.submit, executor, job, 5)
        assert await anyio.to_thread.run_sync(future.result, 20) == 5
    assert len(job.starts) == 3


@pytest.mark.unmeasured
@virtual
async def test_many_jobs_that_back_off_hold_no_tasks_and_little_memory():
    async def fail() -> None:
        if anyio.current_time() < 100:
            raise Boom

    def tasks() -> int:
        return sum(type(each).__name__ == "Task" for each in gc.get_objects())

    async with Executor(10, retry=exact(2, wait=100, most=100)) as executor:
        count = 10_000
        futures = [executor.submit(fail) for _ in range(100)]
        await anyio.sleep(1)
        few = tasks()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        futures += [executor.submit(fail) for _ in range(count)]
        await anyio.sleep(1)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert executor.statistics().queued == count + 100
        assert tasks() <= few + 2
        await gather(*futures)
    # Debugging adds to what asyncio keeps, and versions differ in what an object takes.
    assert 0 < grown / count < (900 if sys.flags.dev_mode else 700)
