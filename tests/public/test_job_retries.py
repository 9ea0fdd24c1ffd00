"""Retries: the same future, and nothing held between attempts; in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import sys
import tracemalloc
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    Executor,
    JobCancelled,
    QueueTimeout,
    Rate,
    Retry,
    amap,
    charge,
    first_result,
    from_thread,
    gather,
    lend_slot,
)

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


class Flaky:
    """Fails so often, and then returns; notes its starts."""

    def __init__(self, failures: float, error: Any = Boom, seconds: float = 0) -> None:
        self.failures = failures
        self.error = error
        self.seconds = seconds
        self.starts: list[float] = []

    async def __call__(self, *args: object) -> Any:
        self.starts.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        if len(self.starts) <= self.failures:
            raise self.error if isinstance(self.error, BaseException) else self.error()
        return args[0] if args else "done"


def exact(attempts: int = 5, **options: Any) -> Retry:
    return Retry(attempts, **{"wait": 1, "jitter": False, **options})


# The same future.


def test_a_failed_job_runs_again_in_the_same_future(backend) -> None:
    job = Flaky(2)

    async def main() -> None:
        async with Executor(1, retry=exact()) as executor:
            future = executor.submit(job, "result")
            called: list[float] = []
            future.add_done_callback(lambda _: called.append(anyio.current_time()))
            assert await future == "result"
            assert (future.attempts, called) == (3, [3])
            counts = executor.statistics()
            assert (counts.submitted, counts.succeeded, counts.failed) == (1, 1, 0)

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 1, 3]


def test_the_waits_grow_up_to_the_most(backend) -> None:
    job = Flaky(9)

    async def main() -> None:
        async with Executor(1, retry=exact(7, factor=3, most=20)) as executor:
            with pytest.raises(Boom):
                await executor.submit(job)

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 1, 4, 13, 33, 53, 73]


def test_jitter_is_a_part_of_the_wait(backend) -> None:
    jobs = [Flaky(1) for _ in range(200)]

    async def main() -> None:
        async with Executor(math.inf, retry=Retry(2, wait=10)) as executor:
            await gather(*[executor.submit(job) for job in jobs])

    run_in_virtual_time(backend, main)
    waits = sorted(job.starts[1] for job in jobs)
    assert 0 <= waits[0] < 1 < 9 < waits[-1] <= 10
    assert 4 < sum(waits) / 200 < 6


def test_the_last_exception_says_how_often_it_was_tried(backend) -> None:
    class Rigid(Exception):
        def add_note(self, note: str) -> None:
            raise TypeError

    async def main() -> None:
        async with Executor(math.inf, retry=exact(3)) as executor:
            many = [executor.submit(Flaky(9, error)) for error in (Boom, Rigid)]
            results = await gather(*many, return_exceptions=True)
            (note,) = results[0].__notes__
            assert "3 attempts" in note
            assert "3 seconds" in note
            assert not hasattr(results[1], "__notes__")
            lane = executor.lane(retry=exact(1))
            (once,) = await gather(lane.submit(Flaky(9)), return_exceptions=True)
            assert not hasattr(once, "__notes__")
            assert executor.statistics().failed == 3

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_the_note_counts_from_the_first_start(backend, when) -> None:
    async def main() -> str:
        async def job() -> None:
            await anyio.sleep(3)
            raise Boom

        retry = Retry(2, wait=1, jitter=False)
        async with Executor(1, retry=retry if when == "before" else None) as executor:
            executor.submit(anyio.sleep, 2)
            future = executor.submit(job)
            await anyio.sleep(4)
            executor.retry = retry
            await future.wait()
            return future.exception().__notes__[0]

    # If it wasn't known that it would be retried, from the end of the first attempt.
    seconds = 7 if when == "before" else 4
    expected = f"2 attempts were made in {seconds} seconds"
    assert run_in_virtual_time(backend, main) == expected


def test_errors_are_held_once(backend) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with Executor(1, retry=exact(3)) as executor:
                executor.submit(Flaky(9))
                executor.submit(Flaky(1))
        assert [type(each) for each in caught.value.exceptions] == [Boom]

    run_in_virtual_time(backend, main)


def test_with_on_error_cancel_only_the_last_failure_counts(backend) -> None:
    async def main() -> None:
        async with Executor(2, retry=exact(3), on_error="cancel") as executor:
            other = executor.submit(anyio.sleep, 50)
            assert await executor.submit(Flaky(2)) == "done"
        assert await asyncio_free(other) is None

    async def asyncio_free(future: Any) -> Any:
        return future.result()

    run_in_virtual_time(backend, main)


# Between attempts.


def test_between_attempts_it_holds_nothing(backend) -> None:
    async def main() -> None:
        async with Executor(1, retry=exact(wait=10)) as executor:
            future = executor.submit(Flaky(1))
            await anyio.sleep(1)
            counts = executor.statistics()
            assert (counts.queued, counts.running, counts.submitted) == (1, 0, 1)
            assert (future.slot, future.attempts, future.status) == (None, 1, "queued")
            assert not future.running()
            assert not future.done()
            await executor.submit(anyio.sleep, 5)
            assert anyio.current_time() == 6
            await future
            assert anyio.current_time() == 10

    run_in_virtual_time(backend, main)


def test_it_keeps_its_place_by_age(backend) -> None:
    order: list[Any] = []

    async def note(name: str) -> None:
        order.append(name)
        await anyio.sleep(1)

    async def fail_once(name: str) -> None:
        await note(name)
        if order.count(name) == 1:
            raise Boom

    async def main() -> None:
        async with Executor(1, retry=exact(wait=0.5)) as executor:
            for name in "ab":
                executor.submit(fail_once, name)
            for name in "cde":
                executor.submit(note, name)

    run_in_virtual_time(backend, main)
    assert order == ["a", "b", "a", "b", "c", "d", "e"]


def test_a_wait_of_0_goes_to_the_front(backend) -> None:
    order: list[Any] = []

    async def job(name: str) -> None:
        order.append(name)
        if order.count("a") < 3 and name == "a":
            raise Boom

    async def main() -> None:
        async with Executor(1, retry=exact(wait=0)) as executor:
            for name in "abc":
                executor.submit(job, name)

    run_in_virtual_time(backend, main)
    assert order == ["a", "a", "a", "b", "c"]


@pytest.mark.parametrize("how", ["future", "lane", "clear", "executor", "shutdown", "body"])
def test_it_is_cancelled_at_once_between_attempts(backend, how) -> None:
    job = Flaky(9)

    async def main() -> None:
        try:
            async with Executor(1, retry=exact(wait=100)) as executor:
                lane = executor.lane()
                future = lane.submit(job)
                await anyio.sleep(2)
                if how == "future":
                    assert future.cancel()
                elif how == "shutdown":
                    await executor.shutdown(grace=0)
                elif how == "body":
                    raise Boom
                else:
                    {"lane": lane.cancel, "clear": lane.clear, "executor": executor.cancel}[how]()
                assert future.cancelled()
        except Boom:
            assert how == "body"
        assert future.cancelled()
        assert anyio.current_time() == 2
        assert executor.statistics().cancelled == 1
        with pytest.raises(JobCancelled):
            future.result()

    run_in_virtual_time(backend, main)
    assert job.starts == [0]


def test_a_job_that_was_asked_to_cancel_is_not_retried(backend) -> None:
    async def fail_when_cancelled() -> None:
        starts.append(anyio.current_time())
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            raise Boom from None

    starts: list[float] = []

    async def main() -> None:
        async with Executor(2, retry=exact(), on_error="log") as executor:
            futures = [executor.submit(fail_when_cancelled) for _ in range(2)]
            await anyio.sleep(1)
            futures[0].cancel()
            await futures[0].wait()
            executor.cancel()
            await futures[1].wait()
            assert [type(future.exception()) for future in futures] == [Boom, Boom]

    run_in_virtual_time(backend, main)
    assert starts == [0, 0]


def test_the_block_waits_for_retries(backend) -> None:
    async def main() -> float:
        async with Executor(1, retry=exact(wait=3)) as executor:
            executor.submit(Flaky(2))
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 9


@pytest.mark.parametrize("grace", [2, 5, None])
def test_the_grace_of_shutdown_bounds_retries(backend, grace) -> None:
    async def main() -> tuple[float, bool]:
        async with Executor(1, retry=exact(wait=3)) as executor:
            future = executor.submit(Flaky(1))
            await anyio.sleep(0.5)
            await executor.shutdown(grace)
        return anyio.current_time(), future.cancelled()

    expected = (2.5, True) if grace == 2 else (3, False)
    assert run_in_virtual_time(backend, main) == expected


def test_join_waits_for_retries(backend) -> None:
    async def main() -> float:
        async with Executor(1) as executor:
            lane = executor.lane(retry=exact(wait=3))
            lane.submit(Flaky(1))
            await lane.join()
            return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 3


def test_jobs_between_attempts_do_not_count_for_max_pending(backend) -> None:
    async def main() -> None:
        async with Executor(1, max_pending=1, retry=exact(wait=10)) as executor:
            retried = executor.submit(Flaky(1))
            await anyio.sleep(1)
            executor.submit(anyio.sleep, 5)
            await anyio.sleep(0.1)
            executor.submit(anyio.sleep, 5)
            with pytest.raises(anyio.WouldBlock):
                executor.submit(anyio.sleep, 0)
            await retried

    run_in_virtual_time(backend, main)


# Limits hold for each attempt.


def test_each_attempt_is_a_start_of_the_rates(backend) -> None:
    job = Flaky(2)

    async def main() -> None:
        async with Executor(1, rate=Rate(1, per=10), retry=exact()) as executor:
            executor.submit(job)
            executor.submit(anyio.sleep, 0)

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 10, 20]


def test_cost_is_asked_once_and_charged_for_each_attempt(backend) -> None:
    calls: list[int] = []

    def cost(size: int) -> int:
        calls.append(size)
        return size

    tokens = Rate(10, per=10, cost=cost)
    starts: list[float] = []

    async def job(size: int) -> None:
        starts.append(anyio.current_time())
        if len(starts) == 1:
            charge(tokens, 4)
        if len(starts) < 4:
            raise Boom

    async def main() -> None:
        async with Executor(1, rate=tokens, retry=exact(wait=0)) as executor:
            await executor.submit(job, 6)

    run_in_virtual_time(backend, main)
    assert calls == [6]
    assert starts == [0, 0, 10, 20]


def test_pauses_hold(backend) -> None:
    job = Flaky(1)

    async def main() -> None:
        async with Executor(1, retry=exact(wait=2)) as executor:
            executor.submit(job)
            await anyio.sleep(1)
            executor.pause(8)

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 9]


def test_each_attempt_may_take_the_timeout(backend) -> None:
    job = Flaky(0, seconds=5)

    async def main() -> None:
        async with Executor(1, timeout=2, retry=exact(3)) as executor:
            with pytest.raises(TimeoutError) as caught:
                await executor.submit(job)
            assert "3 attempts" in caught.value.__notes__[0]
            assert anyio.current_time() == 9

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 3, 7]


def test_a_timeout_that_does_not_match_ends_it(backend) -> None:
    job = Flaky(0, seconds=5)

    async def main() -> None:
        async with Executor(1, timeout=2, retry=exact(on=Boom)) as executor:
            with pytest.raises(TimeoutError):
                await executor.submit(job)

    run_in_virtual_time(backend, main)
    assert job.starts == [0]


def test_the_queue_timeout_ends_with_the_first_start(backend) -> None:
    job = Flaky(1)

    async def main() -> None:
        async with Executor(1, queue_timeout=2, retry=exact(wait=9)) as executor:
            retried = executor.submit(job)
            with pytest.raises(QueueTimeout):
                executor.submit(anyio.sleep, 8)
                await executor.submit(anyio.sleep, 0)
            await retried

    run_in_virtual_time(backend, main)
    assert job.starts == [0, 9]


# What is retried.


@pytest.mark.parametrize(
    ("on", "error", "expected"),
    [
        (Exception, Boom, True),
        (Boom, Boom, True),
        ((OSError, Boom), Boom, True),
        ([OSError, Boom], Boom, True),
        (OSError, Boom, False),
        ((), Boom, False),
        (OSError, ConnectionResetError, True),
        (Boom, ExceptionGroup("several", [Boom()]), False),
        (ExceptionGroup, ExceptionGroup("several", [Boom()]), True),
        (lambda exc: True, Boom, True),
        (lambda exc: False, Boom, False),
        (lambda exc: None, Boom, False),
        (lambda exc: isinstance(exc, Boom), Boom, True),
    ],
    ids=[str(number) for number in range(13)],
)
def test_on_says_what_is_retried(backend, on, error, expected) -> None:
    job = Flaky(1, error)

    async def main() -> None:
        async with Executor(1, retry=exact(on=on), on_error="log") as executor:
            await executor.submit(job).wait()

    run_in_virtual_time(backend, main)
    assert job.starts == ([0, 1] if expected else [0])


@pytest.mark.parametrize("seconds", [0, 0.25, 7, 1000])
def test_on_may_return_seconds_which_nothing_caps(backend, seconds) -> None:
    """As a server's `Retry-After` does."""
    job = Flaky(2)

    async def main() -> None:
        retry = Retry(on=lambda exc: seconds, wait=1, most=5)
        async with Executor(1, retry=retry) as executor:
            await executor.submit(job)

    run_in_virtual_time(backend, main)
    assert job.starts == [0, seconds, 2 * seconds]


@pytest.mark.parametrize("answer", [-1, math.nan, math.inf, "1", [], 1j])
def test_a_nonsensical_answer_fails_the_job(backend, answer) -> None:
    job = Flaky(1)

    async def main() -> None:
        async with Executor(1, retry=Retry(on=lambda exc: answer)) as executor:
            with pytest.raises((TypeError, ValueError), match="on must return") as caught:
                await executor.submit(job)
            assert isinstance(caught.value.__context__, Boom)
            await executor.submit(checkpoint)

    run_in_virtual_time(backend, main)
    assert job.starts == [0]


def test_an_on_that_raises_fails_the_job_with_that(backend) -> None:
    def on(exc: Exception) -> bool:
        raise LookupError("on")

    async def main() -> None:
        async with Executor(1, retry=Retry(on=on)) as executor:
            with pytest.raises(LookupError) as caught:
                await executor.submit(Flaky(1))
            assert isinstance(caught.value.__context__, Boom)

    run_in_virtual_time(backend, main)


def test_an_on_that_does_things(backend) -> None:
    """It's code of users: it may submit, cancel, pause and resize."""

    def on(exc: Exception) -> bool:
        executor.submit(checkpoint)
        executor.slots = 3
        executor.pause(2)
        queued.cancel()
        return True

    async def main() -> None:
        nonlocal executor, queued
        async with Executor(1, retry=exact(on=on)) as executor:
            job = Flaky(1)
            executor.submit(job)
            queued = executor.submit(checkpoint)
        assert job.starts == [0, 2]
        assert queued.cancelled()
        assert executor.statistics().succeeded == 2

    executor: Any = None
    queued: Any = None
    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_not_retried(backend, error) -> None:
    job = Flaky(1, error)

    async def main() -> None:
        with pytest.raises(error):
            async with Executor(1, retry=exact()) as executor:
                executor.submit(job)

    run_in_virtual_time(backend, main)
    assert job.starts == [0]


# Contexts and notifications.

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_each_attempt_has_a_fresh_copy_of_the_context(backend) -> None:
    seen: list[str] = []

    async def job() -> None:
        seen.append(variable.get())
        variable.set("changed")
        await checkpoint()
        if len(seen) < 3:
            raise Boom

    async def main() -> None:
        async with Executor(1, retry=exact()) as executor:
            variable.set("submitter's")
            future = executor.submit(job)
            variable.set("later")
            await future

    run_in_virtual_time(backend, main)
    assert seen == ["submitter's"] * 3


def test_instruments_are_notified_of_each_attempt(backend) -> None:
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

    async def main() -> None:
        async with Executor(1, retry=exact(), instruments=[Instrument()]) as executor:
            await executor.submit(Flaky(2))

    run_in_virtual_time(backend, main)
    assert events == [
        "submitted",
        ("started", 1),
        ("retried", Boom, 1, 1, None),
        ("started", 2),
        ("retried", Boom, 2, 2, None),
        ("started", 3),
        ("finished", 3),
    ]


# With other parts.


def test_a_job_that_lends_its_slot_is_retried(backend) -> None:
    starts: list[float] = []

    async def parent() -> None:
        starts.append(anyio.current_time())
        await executor.submit(anyio.sleep, 1)
        async with lend_slot():
            await checkpoint()
            if len(starts) < 3:
                raise Boom

    async def main() -> None:
        nonlocal executor
        async with Executor(1, retry=exact()) as executor:
            await executor.submit(parent)
            assert executor.statistics().lent == 0
            await gather(executor.submit(checkpoint), executor.submit(checkpoint))

    executor: Any = None
    run_in_virtual_time(backend, main)
    assert starts == [0, 2, 5]


def test_map_and_amap_retry(backend) -> None:
    calls: list[int] = []

    async def odd_ones_fail_first(number: int) -> int:
        calls.append(number)
        await checkpoint()
        if number % 2 and calls.count(number) < 2:
            raise Boom
        return number

    async def main() -> None:
        async with Executor(2, retry=exact()) as executor:
            assert await executor.map(odd_ones_fail_first, range(6)) == [*range(6)]
        calls.clear()
        assert await amap(odd_ones_fail_first, range(6), slots=2, retry=exact()) == [*range(6)]
        assert len(calls) == 9

    run_in_virtual_time(backend, main)


def test_first_result_waits_for_retries(backend) -> None:
    async def main() -> None:
        async with Executor(4, retry=exact()) as executor:
            futures = [executor.submit(Flaky(1), "slow"), executor.submit(Flaky(9, seconds=20))]
            assert await first_result(*futures) == "slow"

    run_in_virtual_time(backend, main)


def test_a_job_of_another_thread_is_retried(backend) -> None:
    job = Flaky(2)

    async def main() -> None:
        async with Executor(1, retry=exact(wait=0)) as executor:
            future = await anyio.to_thread.run_sync(from_thread.submit, executor, job, 5)
            assert await anyio.to_thread.run_sync(future.result, 20) == 5

    run_in_virtual_time(backend, main)
    assert len(job.starts) == 3


def test_without_retries_nothing_is_retried(backend) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            with pytest.raises(Boom):
                await executor.submit(Flaky(1))
            with pytest.raises(Boom):
                await executor.lane(retry=False).submit(Flaky(1))

    run_in_virtual_time(backend, main)


# Size.


@pytest.mark.unmeasured
def test_many_jobs_that_back_off_hold_no_tasks_and_little_memory(backend) -> None:
    async def fail() -> None:
        if anyio.current_time() < 100:
            raise Boom

    def tasks() -> int:
        return sum(1 for each in gc.get_objects() if type(each).__name__ == "Task")

    async def main() -> float:
        async with Executor(10, retry=exact(2, wait=100, most=100)) as executor:
            count = 10_000
            futures = [executor.submit(fail) for _ in range(100)]
            await anyio.sleep(1)
            few = tasks()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            futures += [executor.submit(fail) for _ in range(count)]
            submitted = tracemalloc.get_traced_memory()[0] - before
            await anyio.sleep(1)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert executor.statistics().queued == count + 100
            assert tasks() <= few + 2
            await gather(*futures)
            assert submitted > 0
        return grown / count

    # Debugging adds to what asyncio keeps, and versions differ in what an object takes.
    assert run_in_virtual_time(backend, main) < (900 if sys.flags.dev_mode else 700)


# Bad input.


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 2.5},
        {"attempts": math.inf},
        {"on": 3},
        {"on": "Exception"},
        {"on": BaseException},
        {"on": [3]},
        {"on": asyncio.sleep},
        {"wait": -1},
        {"wait": math.inf},
        {"wait": "1"},
        {"factor": 0.5},
        {"factor": math.nan},
        {"most": -1},
        {"most": math.inf},
        {"jitter": 1},
    ],
)
def test_bad_options(backend, options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        Retry(**options)


def test_bad_retries(backend) -> None:
    for retry in (3, True, Exception, [Retry()]):
        with pytest.raises(TypeError, match="retry"):
            Executor(1, retry=retry)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="retry"):
            Executor(1).lane(retry=retry)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Retry(3, Exception)  # type: ignore[misc]
