"""How long jobs may run, and how long they may wait: `timeout` and `queue_timeout`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Future, JobCancelled, QueueTimeout, Rate

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def give(value: object = None) -> object:
    return value


class Watched:
    """A job that sleeps, and tells how it was left."""

    def __init__(self) -> None:
        self.log: list[tuple[str, float]] = []

    async def __call__(
        self,
        seconds: float,
        *,
        shielded: float = 0,
        then: Callable[[], object] | None = None,
    ) -> object:
        """Sleep; if cancelled, go on for the ``shielded`` seconds, and call ``then``."""
        self.note("begun")
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            self.note("cancelled")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(shielded)
            if then is None:
                raise
            return then()
        self.note("slept")
        return "slept"

    def note(self, what: str) -> None:
        self.log.append((what, anyio.current_time()))


def how(future: Future[Any]) -> object:
    """What became of a job: its result, the type of its exception, or "cancelled"."""
    if future.cancelled():
        return "cancelled"
    exception = future.exception()
    return future.result() if exception is None else type(exception)


async def outcome(future: Future[Any]) -> tuple[object, float]:
    """What becomes of a job, and when we know."""
    await future.wait()
    return how(future), anyio.current_time()


class Outcomes(dict[str, tuple[object, float]]):
    """What became of jobs, and when."""

    def watch(self, name: str, future: Future[Any]) -> Future[Any]:
        def note(future: Future[Any]) -> None:
            self[name] = how(future), anyio.current_time()

        future.add_done_callback(note)
        return future


def spend(seconds: float) -> None:
    """Let time pass without a checkpoint."""
    try:
        asyncio.get_running_loop()._jumping.now += seconds
    except RuntimeError:
        trio.lowlevel.current_clock().jump(seconds)


# How long jobs may run.


def test_a_job_that_runs_too_long_fails(backend) -> None:
    """When its time is up the job is cancelled, and its future fails with `TimeoutError`."""

    async def main() -> tuple[Future[object], Any, Any]:
        job = Watched()
        async with Executor(slots=1, timeout=4) as executor:
            future = executor.submit(job, 60)
            return future, await outcome(future), job.log

    future, how, log = run_in_virtual_time(backend, main)
    assert how == (TimeoutError, 4)
    assert log == [("begun", 0), ("cancelled", 4)]
    assert "Watched" in str(future.exception())
    assert not future.cancelled()


def test_time_counts_from_the_start_of_the_job(backend) -> None:
    """Jobs that waited for longer than they may run have all their time from when they begin."""

    async def main() -> list[Any]:
        async with Executor(slots=1, timeout=4) as executor:
            futures = [executor.submit(Watched(), seconds) for seconds in (3, 3, 5, 3)]
            return [await outcome(future) for future in futures]

    assert run_in_virtual_time(backend, main) == [
        ("slept", 3),
        ("slept", 6),
        (TimeoutError, 10),
        ("slept", 13),
    ]


def test_a_job_holds_its_slot_until_it_has_unwound(backend) -> None:
    """While a job whose time is up unwinds, it's running, and the next one waits."""

    async def main() -> tuple[list[Any], Any]:
        job = Watched()
        async with Executor(slots=1, timeout=4) as executor:
            slow, following = executor.submit(job, 60, shielded=2), executor.submit(job, 1)
            await anyio.sleep(5)
            counts = executor.statistics()
            assert (counts.running, counts.queued, counts.failed) == (1, 1, 0)
            outcomes = [await outcome(slow), await outcome(following)]
            assert executor.statistics().failed == 1
        return outcomes, job.log

    outcomes, log = run_in_virtual_time(backend, main)
    assert outcomes == [(TimeoutError, 6), ("slept", 7)]
    assert log == [("begun", 0), ("cancelled", 4), ("begun", 6), ("slept", 7)]


def test_a_job_that_returns_a_value_in_spite_of_it_has_succeeded(backend) -> None:
    """A job that catches the cancellation and returns is as good as one that was in time."""

    async def main() -> tuple[Any, Any]:
        async with Executor(slots=1, timeout=4) as executor:
            future = executor.submit(Watched(), 60, shielded=1, then=lambda: "saved")
            following = executor.submit(Watched(), 3)
            return await outcome(future), await outcome(following)

    assert run_in_virtual_time(backend, main) == (("saved", 5), ("slept", 8))


def test_a_job_that_fails_while_it_unwinds_fails_with_that(backend) -> None:
    """The exception that a job raises when its time is up is kept, instead of `TimeoutError`."""

    async def main() -> Any:
        def fail() -> None:
            raise KeyError("while unwinding")

        async with Executor(slots=1, timeout=4) as executor:
            return await outcome(executor.submit(Watched(), 60, then=fail))

    assert run_in_virtual_time(backend, main) == (KeyError, 4)


@pytest.mark.parametrize("own", ["raised", "scope"])
def test_a_timeout_error_of_the_jobs_own_is_passed_on(backend, own) -> None:
    """A `TimeoutError` that the job raised is kept as it is: the same object, at its moment."""

    async def main() -> tuple[bool, float]:
        raised: list[BaseException] = []

        async def job() -> None:
            try:
                if own == "raised":
                    await anyio.sleep(1)
                    raise TimeoutError("the server's")
                with anyio.fail_after(1):
                    await anyio.sleep_forever()
            except TimeoutError as exc:
                raised.append(exc)
                raise

        async with Executor(slots=1, timeout=4) as executor:
            with pytest.raises(TimeoutError) as caught:
                await executor.submit(job)
            return caught.value is raised[0], anyio.current_time()

    assert run_in_virtual_time(backend, main) == (True, 1)


FIRST_JOBS: dict[str, Callable[[Watched], Any]] = {
    "in time": lambda job: job(2),
    "too late": lambda job: job(60),
    "too late, and slow to unwind": lambda job: job(60, shielded=9),
    "too late, with a value": lambda job: job(60, then=dict),
    "cancelled": lambda job: job(60),
    "without a checkpoint": lambda job: give(),
    "too late, without a checkpoint": lambda job: overrun(0),
    "too late, since its last checkpoint": lambda job: overrun(1),
}


async def overrun(seconds: float) -> None:
    if seconds:
        await anyio.sleep(seconds)
    spend(60)


@pytest.mark.parametrize("first", FIRST_JOBS)
@pytest.mark.parametrize("unlimited", [False, True])
def test_the_next_job_in_the_slot_has_all_its_time(backend, first, unlimited) -> None:
    """However a job with a timeout ended, the next in its slot is none the worse for it."""

    async def main() -> list[tuple[str, float]]:
        job = Watched()
        async with Executor(slots=1, timeout=4) as executor:
            future = executor.submit(FIRST_JOBS[first], Watched())
            lane = executor.lane(timeout=math.inf) if unlimited else executor
            for seconds in (3.5, 5):
                lane.submit(job, seconds).add_done_callback(Future.exception)
            await anyio.sleep(1)
            if first == "cancelled":
                future.cancel()
            await executor.join()
            await outcome(future)
        start = job.log[0][1]
        return [(what, time - start) for what, time in job.log]

    end = ("slept", 8.5) if unlimited else ("cancelled", 7.5)
    assert run_in_virtual_time(backend, main) == [("begun", 0), ("slept", 3.5), ("begun", 3.5), end]


def test_a_job_that_overruns_without_a_checkpoint_has_succeeded(backend) -> None:
    """A job that returned can't be cancelled any more, though its time was up before."""

    async def main() -> list[object]:
        async with Executor(slots=1, timeout=4) as executor:
            futures = [executor.submit(overrun, seconds) for seconds in (0, 1, 0)]
            return [(await outcome(future))[0] for future in futures]

    assert run_in_virtual_time(backend, main) == [None, None, None]


def test_a_job_that_ends_when_its_time_is_up(backend) -> None:
    """If both happen at one instant, the job has succeeded or timed out; the next is untouched."""

    async def main() -> list[Any]:
        async with Executor(slots=1, timeout=4) as executor:
            futures = [executor.submit(Watched(), 4), executor.submit(Watched(), 3)]
            return [await outcome(future) for future in futures]

    first, following = run_in_virtual_time(backend, main)
    assert first in (("slept", 4), (TimeoutError, 4))
    assert following == ("slept", 7)


@pytest.mark.parametrize("shielded", [0, 5])
def test_a_job_that_was_cancelled_before_is_cancelled(backend, shielded) -> None:
    async def main() -> Any:
        async with Executor(slots=1, timeout=4) as executor:
            future = executor.submit(Watched(), 60, shielded=shielded)
            await anyio.sleep(3)
            future.cancel("no need")
            result = await outcome(future)
            with pytest.raises(JobCancelled, match="no need"):
                future.result()
        return result

    assert run_in_virtual_time(backend, main) == ("cancelled", 3 + shielded)


def test_who_waits_has_a_deadline_of_its_own(backend) -> None:
    """After a deadline around ``await future`` the job runs on: that's how it's told apart."""

    async def main() -> Any:
        async with Executor(slots=1, timeout=4) as executor:
            future = executor.submit(Watched(), 60)
            with anyio.move_on_after(1) as scope:
                await future
            assert scope.cancelled_caught
            assert future.running()
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(1):
                await future
            assert future.running()
            with pytest.raises(TimeoutError) as in_time, anyio.move_on_after(9) as scope:
                await future
            assert not scope.cancelled_caught
            assert in_time.value is future.exception() is not caught.value
            return await outcome(future)

    assert run_in_virtual_time(backend, main) == (TimeoutError, 4)


def test_jobs_side_by_side_have_their_own_deadlines(backend) -> None:
    """Each job is cancelled at its lane's time after its own start, and nobody else is."""

    async def main() -> Outcomes:
        outcomes = Outcomes()
        async with Executor(slots=9, timeout=4) as executor:
            for name, timeout in {"four": None, "one": 1.5, "none": math.inf}.items():
                lane = executor.lane(timeout=timeout)
                outcomes.watch(name, lane.submit(Watched(), 10))
                await anyio.sleep(1)
        return outcomes

    assert run_in_virtual_time(backend, main) == {
        "four": (TimeoutError, 4),
        "one": (TimeoutError, 2.5),
        "none": ("slept", 12),
    }


# How long jobs may wait.

OBSTACLES = ("busy", "lane limit", "lane paused", "executor paused", "lane rate", "executor rate")


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_job_that_waits_too_long_never_runs(backend, obstacle) -> None:
    """When its time in the queue is up a job fails, at that moment, free slot or not."""

    async def main() -> Any:
        ran: list[object] = []
        rate = Rate(1, per=100)
        async with Executor(
            slots=1 if obstacle == "busy" else 5,
            rate=rate if obstacle == "executor rate" else None,
            queue_timeout=4,
        ) as executor:
            lane = executor.lane(
                slots=1 if obstacle == "lane limit" else math.inf,
                rate=rate if obstacle == "lane rate" else None,
            )
            lane.submit(anyio.sleep, 60)
            await anyio.sleep(1)
            if obstacle.endswith("paused"):
                (lane if obstacle.startswith("lane") else executor).pause()
            future = lane.submit(ran.append, "never")
            await anyio.sleep(1)
            assert not future.done()
            result = await outcome(future)
            counts = lane.statistics()
            assert (counts.failed, counts.queued, counts.running) == (1, 0, 1)
            with pytest.raises(QueueTimeout, match="append was queued for 4 seconds"):
                await future
        assert ran == []
        assert future.slot is None
        return result

    assert issubclass(QueueTimeout, TimeoutError)
    assert run_in_virtual_time(backend, main) == (QueueTimeout, 5)


def test_a_job_that_began_in_time_may_run_for_long(backend) -> None:
    """Only the time in the queue counts: a job that has begun isn't ended by it."""

    async def main() -> Outcomes:
        outcomes = Outcomes()
        async with Executor(slots=1, queue_timeout=4) as executor:
            for name, seconds in [("in time", 3), ("long", 9), ("late", 1)]:
                outcomes.watch(name, executor.submit(Watched(), seconds))
            await anyio.sleep(9)
            outcomes.watch("in time, too", executor.submit(Watched(), 1))
        return outcomes

    assert run_in_virtual_time(backend, main) == {
        "in time": ("slept", 3),
        "late": (QueueTimeout, 4),
        "long": ("slept", 12),
        "in time, too": ("slept", 13),
    }


def test_each_job_has_its_own_time_in_the_queue(backend) -> None:
    """Jobs time out one by one, in the order in which they came, whoever is cancelled between."""

    async def main() -> Outcomes:
        outcomes = Outcomes()
        async with Executor(slots=1) as executor:
            lanes = {"x": executor.lane(queue_timeout=4), "y": executor.lane(queue_timeout=3)}
            executor.pause()
            futures = {}
            for name in ("x1", "y1", "x2", "x3", "y2", "y3"):
                futures[name] = outcomes.watch(name, lanes[name[0]].submit(give))
                await anyio.sleep(0.5)
            futures["x2"].cancel()
            await executor.join()
        return outcomes

    assert run_in_virtual_time(backend, main) == {
        "x1": (QueueTimeout, 4),
        "y1": (QueueTimeout, 3.5),
        "x2": ("cancelled", 3),
        "x3": (QueueTimeout, 5.5),
        "y2": (QueueTimeout, 5),
        "y3": (QueueTimeout, 5.5),
    }


def test_at_the_instant_at_which_a_slot_is_free(backend) -> None:
    """A job whose time in the queue is up just when it could begin does one or the other."""

    async def main() -> tuple[Any, Any, int]:
        job = Watched()
        async with Executor(slots=1, queue_timeout=4) as executor:
            executor.submit(anyio.sleep, 4)
            future = executor.submit(job, 1)
            await anyio.sleep(2)
            following = executor.submit(Watched(), 1)
            return await outcome(future), await outcome(following), len(job.log)

    result = run_in_virtual_time(backend, main)
    assert result in (
        (("slept", 5), ("slept", 6), 2),
        ((QueueTimeout, 4), ("slept", 5), 0),
    )


def test_jobs_that_time_out_make_room(backend) -> None:
    """Who waits for room is let in when a queued job times out; its own time counts from then."""

    async def main() -> Outcomes:
        outcomes = Outcomes()
        async with Executor(slots=1) as executor:
            lane = executor.lane(max_pending=1, queue_timeout=4)
            lane.pause()
            outcomes.watch("first", lane.submit(give))
            for name in ("second", "third"):
                outcomes.watch(name, await lane.enqueue(give))
            await lane.join()
        return outcomes

    assert run_in_virtual_time(backend, main) == {
        "first": (QueueTimeout, 4),
        "second": (QueueTimeout, 8),
        "third": (QueueTimeout, 12),
    }


def test_waiting_for_jobs_that_time_out_ends_when_they_do(backend) -> None:
    """`join` returns, and callbacks are called, at the moment at which the last has timed out."""

    async def main() -> list[tuple[object, float]]:
        log: list[tuple[object, float]] = []

        def note(future: Future[Any]) -> None:
            log.append((type(future.exception()), anyio.current_time()))
            if len(log) == 1:
                lane.submit(give).add_done_callback(note)

        async with Executor(slots=1) as executor:
            lane = executor.lane(queue_timeout=4)
            lane.pause()
            lane.submit(give).add_done_callback(note)
            await lane.join()
            log.append(("joined", anyio.current_time()))
        return log

    assert run_in_virtual_time(backend, main) == [
        (QueueTimeout, 4),
        (QueueTimeout, 8),
        ("joined", 8),
    ]


def test_no_clock_runs_for_jobs_that_have_left_the_queue(backend) -> None:
    """A job that began, or was cancelled, holds nothing up: the block ends with the last job."""

    async def main() -> float:
        async with Executor(slots=1, queue_timeout=100) as executor:
            executor.submit(anyio.sleep, 2)
            executor.submit(anyio.sleep, 3)
            executor.submit(anyio.sleep, 50)
            await anyio.sleep(1)
            executor.pause()
            await anyio.sleep(3)
            executor.cancel()
            executor.resume()
            executor.submit(anyio.sleep, 1)
        return anyio.current_time()

    assert run_in_virtual_time(backend, main) == 5


# Whose limit it is, and what becomes of the errors.


@pytest.mark.parametrize(
    ("default", "own", "limit"),
    [
        (None, None, math.inf),
        (4, None, 4),
        (4, 2, 2),
        (4, 8.5, 8.5),
        (4, math.inf, math.inf),
        (None, 2, 2),
        (math.inf, None, math.inf),
        (math.inf, 2, 2),
        (float("inf"), 10**6, math.inf),
    ],
)
def test_a_lanes_own_limits_override_the_executors(backend, default, own, limit) -> None:
    """A lane that sets none has the executor's limits; `math.inf` is none."""

    async def main() -> list[Any]:
        async with Executor(9, timeout=default, queue_timeout=default) as executor:
            lane = executor.lane(timeout=own, queue_timeout=own)
            running = lane.submit(Watched(), 20)
            while not running.running():
                await checkpoint()
            lane.pause()
            waiting = lane.submit(give)
            first = await outcome(running)
            await anyio.sleep_until(20)
            lane.resume()
            return [first, await outcome(waiting)]

    first, (how, _) = run_in_virtual_time(backend, main)
    assert first == (("slept", 20) if limit == math.inf else (TimeoutError, limit))
    assert how is (None if limit == math.inf else QueueTimeout)


@pytest.mark.parametrize("looked_at", [[], [TimeoutError], [QueueTimeout]])
def test_jobs_that_timed_out_have_failed_for_hold(backend, looked_at) -> None:
    """With ``on_error="hold"`` the block raises those timeouts that nobody has looked at."""

    async def main() -> None:
        async with Executor(1, timeout=4, queue_timeout=3) as executor:
            futures = {
                TimeoutError: executor.submit(Watched(), 60),
                QueueTimeout: executor.submit(give),
            }
            await executor.join()
            for error in looked_at:
                assert type(futures[error].exception()) is error

    with pytest.raises(ExceptionGroup) as caught:
        run_in_virtual_time(backend, main)
    left = {TimeoutError, QueueTimeout} - set(looked_at)
    assert {type(exc) for exc in caught.value.exceptions} == left


@pytest.mark.parametrize("error", [TimeoutError, QueueTimeout])
def test_a_job_that_timed_out_has_failed_for_cancel(backend, error) -> None:
    """With ``on_error="cancel"`` a timeout cancels the body and all other jobs at that moment."""

    async def main() -> tuple[list[type], bool, float]:
        async def body() -> None:
            async with Executor(1, on_error="cancel") as executor:
                nonlocal future
                lane = executor.lane(timeout=4) if error is TimeoutError else executor
                future = lane.submit(Watched(), 60)
                executor.lane(queue_timeout=4 if error is QueueTimeout else None).submit(give)
                await anyio.sleep_forever()

        future: Any = None
        with pytest.raises(ExceptionGroup) as caught:
            await body()
        types = [type(exc) for exc in caught.value.exceptions]
        return types, future.cancelled(), anyio.current_time()

    assert run_in_virtual_time(backend, main) == ([error], error is QueueTimeout, 4)


def test_jobs_that_timed_out_have_failed_for_log(backend, caplog) -> None:
    """With ``on_error="log"`` timeouts that nobody looks at are logged."""

    async def main() -> None:
        async with Executor(1, timeout=4, queue_timeout=3, on_error="log") as executor:
            executor.submit(Watched(), 60)
            executor.submit(give)

    with caplog.at_level(logging.ERROR, "anyslots"):
        run_in_virtual_time(backend, main)
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert sorted(logged, key=str) == sorted([TimeoutError, QueueTimeout], key=str)
