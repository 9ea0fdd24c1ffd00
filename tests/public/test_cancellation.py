"""Cancelling one job, all jobs, and those who wait for jobs.

Cancellations that only asyncio knows (`Task.cancel`) are in test_native_cancellation.py.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint
from jobs import all_slots_work, ticks

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio


# Jobs, named for where they wait.


class Waiting:
    """A job that waits to be released, and says when it began and that it unwound."""

    def __init__(self, result: object = "released") -> None:
        self.begun = anyio.Event()
        self.release = anyio.Event()
        self.unwound = False
        self.result = result

    async def __call__(self) -> object:
        self.begun.set()
        try:
            await self.release.wait()
        finally:
            self.unwound = True
        return self.result


class Unwinding(Waiting):
    """A job that, once cancelled, takes its time: it unwinds in a shield until it's released."""

    def __init__(self) -> None:
        super().__init__()
        self.unwinding = anyio.Event()

    async def __call__(self) -> object:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.unwinding.set()
            with anyio.CancelScope(shield=True):
                await self.release.wait()
                await checkpoint()
            self.unwound = True


class Catching(Waiting):
    """A job that catches its cancellation, and returns ``result`` or raises it."""

    async def __call__(self) -> object:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if isinstance(self.result, Exception):
                raise self.result from None
            return self.result


class Witness:
    """Counts how many of its jobs run at once, and notes their order."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.order: list[object] = []

    async def job(self, name: object, steps: int = 3) -> object:
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(name)
        try:
            await ticks(steps)
        finally:
            self.running -= 1
        return name


async def unharmed() -> str:
    """A job that would notice a cancellation that was meant for another."""
    await ticks(4)
    if (task := native_task()) is not None:
        assert task.cancelling() == 0
    assert anyio.current_effective_deadline() == float("inf")
    return "unharmed"


def native_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def cancelled_by(future: Future[Any]) -> str:
    """The message of the `JobCancelled` that awaiting a future raises."""
    with pytest.raises(JobCancelled) as info:
        await future
    return str(info.value)


# A queued job.


async def test_a_queued_job_is_cancelled_at_once_and_never_runs():
    """Cancelling a queued job settles its future in the call, and not a line of it ever runs."""
    calls = []

    async def never():
        calls.append("ran")

    def never_called():
        calls.append("called")
        return never()

    async with Executor(1) as executor:
        blocker = Waiting()
        first = executor.submit(blocker)
        await blocker.begun.wait()
        queued = [executor.submit(fn) for fn in (never, never_called)]
        for future in queued:
            assert future.cancel() is True
            assert future.done()
            assert future.cancelled()
            assert not future.running()
        assert executor.statistics().queued == 0
        assert executor.statistics().cancelled == 2
        blocker.release.set()
        assert await first == "released"
        assert await executor.submit(unharmed) == "unharmed"
    assert calls == []
    assert all(future.slot is None for future in queued)


async def test_a_cancelled_queued_job_tells_its_waiters_at_once():
    """Who waits for a queued job, in whichever way, is woken when it's cancelled, not later."""
    async with Executor(1) as executor, anyio.create_task_group() as group:
        blocker = Waiting()
        executor.submit(blocker)
        queued = executor.submit(unharmed)
        woken = []

        async def awaiting():
            with pytest.raises(JobCancelled):
                await queued
            woken.append("await")

        async def waiting():
            await queued.wait()
            woken.append("wait")

        async def gathering():
            with pytest.raises(JobCancelled):
                await gather(queued)
            woken.append("gather")

        for waiter in (awaiting, waiting, gathering):
            group.start_soon(waiter)
        queued.add_done_callback(lambda future: woken.append(future.cancelled()))
        await ticks(3)
        queued.cancel()
        assert woken == [True]
        await ticks(5)
        assert sorted(map(str, woken)) == ["True", "await", "gather", "wait"]
        blocker.release.set()


@pytest.mark.parametrize("delay", range(6))
async def test_a_job_cancelled_before_its_first_step_passes_its_slot_on(delay: int):
    async with Executor(1) as executor:
        for _ in range(5):
            witness = Witness()
            await ticks(delay)
            granted = executor.submit(witness.job, "granted")
            behind = executor.submit(witness.job, "behind")
            assert granted.cancel()
            await behind
            # The grant is taken back now, nobody being behind; the next job needs another.
            granted = executor.submit(witness.job, "granted")
            assert granted.cancel()
            later = executor.submit(witness.job, "later")
            await ticks(delay)
            granted = executor.submit(witness.job, "granted")
            await ticks(delay)
            if not granted.running():
                granted.cancel()
            await later
            await granted.wait()
            assert witness.order[:2] == ["behind", "later"]
            assert witness.most == 1
        await all_slots_work(executor)


async def test_cancelling_the_head_as_the_running_job_ends_starts_the_second():
    async with Executor(1) as executor:
        for delay in range(-1, 5):
            blocker = Waiting()
            running = executor.submit(blocker)
            await blocker.begun.wait()
            head = executor.submit(unharmed)
            second = executor.submit(unharmed)
            if delay < 0:
                head.cancel()
                blocker.release.set()
            else:
                blocker.release.set()
                await ticks(delay)
                head.cancel()
            assert await second == "unharmed"
            assert await running == "released"
            await head.wait()
        await all_slots_work(executor)


# A running job.


async def test_a_running_job_is_done_once_it_has_unwound():
    """Cancelling a running job says True at once; its future is done when its code has ended."""
    async with Executor(1) as executor:
        job = Waiting()
        future = executor.submit(job)
        await job.begun.wait()
        assert future.cancel() is True
        assert future.running()
        assert not future.done()
        assert not future.cancelled()
        assert not job.unwound
        await future.wait()
        assert job.unwound
        assert future.cancelled()
        assert not future.running()
        assert executor.statistics().cancelled == 1
        await all_slots_work(executor)


async def test_a_job_cancelled_inside_a_step_goes_on_to_its_next_checkpoint():
    """A cancellation shows at a checkpoint and nowhere else."""
    steps = []

    async def job(own: list[Future[Any]]):
        await checkpoint()
        assert own[0].cancel() is True
        steps.append("after cancelling")
        await checkpoint()
        steps.append("after the checkpoint")

    async with Executor(1) as executor:
        own: list[Future[Any]] = []
        own.append(executor.submit(job, own))
        await own[0].wait()
        assert own[0].cancelled()
        assert steps == ["after cancelling"]
        assert await executor.submit(unharmed) == "unharmed"


@pytest.mark.parametrize("suspends", [False, True])
async def test_a_job_that_cancels_itself_and_returns_has_succeeded(suspends: bool):
    """A job that meets no more checkpoint isn't cancelled, and neither is the next one."""

    async def job(own: list[Future[Any]]):
        if suspends:
            await checkpoint()
        own[0].cancel()
        return "done all the same"

    async with Executor(1) as executor:
        own: list[Future[Any]] = []
        own.append(executor.submit(job, own))
        following = [executor.submit(unharmed) for _ in range(3)]
        assert await own[0] == "done all the same"
        assert await gather(*following) == ["unharmed"] * 3
        await all_slots_work(executor)


async def test_cleanup_in_a_shield_runs_to_its_end():
    """A cancelled job may await in its cleanup if it shields it, and is done only then."""
    async with Executor(1) as executor:
        job = Unwinding()
        future = executor.submit(job)
        await job.begun.wait()
        future.cancel()
        await job.unwinding.wait()
        await ticks(5)
        assert future.running()
        job.release.set()
        await future.wait()
        assert job.unwound
        assert future.cancelled()


async def test_a_job_that_catches_its_cancellation_and_returns_has_succeeded():
    """What a job returns counts, though it was asked to stop; the next job isn't cancelled."""
    async with Executor(1) as executor:
        job = Catching("caught")
        future = executor.submit(job)
        following = executor.submit(unharmed)
        await job.begun.wait()
        assert future.cancel() is True
        assert await future == "caught"
        assert not future.cancelled()
        assert await following == "unharmed"
        assert executor.statistics().succeeded == 2
        assert executor.statistics().cancelled == 0


async def test_a_job_that_fails_while_it_unwinds_has_failed():
    """An error raised in the place of a cancellation is the job's outcome, the same object."""
    error = ValueError("in cleanup")
    async with Executor(1) as executor:
        job = Catching(error)
        future = executor.submit(job)
        following = executor.submit(unharmed)
        await job.begun.wait()
        assert future.cancel() is True
        await future.wait()
        assert not future.cancelled()
        assert future.exception() is error
        assert await following == "unharmed"
        await all_slots_work(executor)


async def test_a_job_may_swallow_its_cancellation(loop_name: str):
    """trio cancels at every checkpoint; under asyncio each `cancel` is met once."""

    async def stubborn(begun: anyio.Event, patience: float) -> list[str]:
        met = []
        for step in range(6):
            begun.set()
            try:
                await anyio.sleep(patience) if step % 2 else await checkpoint()
                met.append("went on")
            except anyio.get_cancelled_exc_class():
                met.append("cancelled")
        return met

    async def cancelled_at_once(own: list[Future[Any]]) -> list[str]:
        own[0].cancel()
        return await stubborn(anyio.Event(), 0.001)

    at_once = ["cancelled"] + (["cancelled"] if loop_name == "trio" else ["went on"]) * 5
    async with Executor(1) as executor:
        own: list[Future[Any]] = []
        own.append(executor.submit(cancelled_at_once, own))
        following = executor.submit(unharmed)
        assert await own[0] == at_once
        assert await following == "unharmed"
        await all_slots_work(executor)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_each_cancellation_is_met_by_a_job_that_swallows_them(times: int):
    """A job that catches as many as there come succeeds."""

    async def waits(steps: list[int]) -> int:
        for step in range(times):
            steps.append(step)
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
        return times

    async with Executor(1) as executor:
        steps: list[int] = []
        future = executor.submit(waits, steps)
        following = executor.submit(unharmed)
        for step in range(times):
            while not future.done() and step not in steps:
                await checkpoint()
            future.cancel()
        assert await future == times
        assert await following == "unharmed"
        await all_slots_work(executor)


async def test_a_job_cancelled_twice_says_true_while_it_lasts():
    async with Executor(1) as executor:
        job = Unwinding()
        future = executor.submit(job)
        following = executor.submit(unharmed)
        await job.begun.wait()
        assert future.cancel("first") is True
        assert future.cancel("second") is True
        await job.unwinding.wait()
        assert future.cancel("third") is True
        job.release.set()
        assert await following == "unharmed"
        assert "first" in await cancelled_by(future)
        assert future.cancel("fourth") is False
        await all_slots_work(executor)


async def test_cancelling_what_is_done_says_false_and_changes_nothing():
    """Succeeded, failed, cancelled while queued, cancelled while running: each stays what it is."""

    async def fails():
        raise ValueError("mine")

    async with Executor(1) as executor:
        job = Waiting()
        succeeded = executor.submit(unharmed)
        failed = executor.submit(fails)
        running = executor.submit(job)
        queued = executor.submit(unharmed)
        await job.begun.wait()
        queued.cancel("queued")
        running.cancel("running")
        await running.wait()
        before = executor.statistics()
        for future in (succeeded, failed, queued, running):
            assert future.cancel("too late") is False
        assert executor.statistics() == before
        assert succeeded.result() == "unharmed"
        with pytest.raises(ValueError, match="mine"):
            await failed
        assert await cancelled_by(queued) == "job unharmed was cancelled: queued"
        assert "too late" not in await cancelled_by(running)
        assert "running" in await cancelled_by(running)


@pytest.mark.parametrize("reason", [None, "enough", ""])
async def test_the_reason_is_in_the_exception(reason: str | None):
    """The reason of a cancellation is told by await, result and exception, each time anew."""
    async with Executor(1) as executor:
        job = Waiting()
        running, queued = executor.submit(job), executor.submit(unharmed)
        await job.begun.wait()
        running.cancel(reason)
        queued.cancel(reason)
        for future in (running, queued):
            await future.wait()
            messages = [await cancelled_by(future)]
            for ask in (future.result, future.exception):
                with pytest.raises(JobCancelled) as info:
                    ask()
                messages.append(str(info.value))
            assert len(set(messages)) == 1
            assert future.name in messages[0]
            assert (reason or "cancelled") in messages[0]
            assert "None" not in messages[0]


async def test_a_job_that_was_cancelled_leaves_no_reason_to_the_next():
    async with Executor(1) as executor:
        reasons = ["first", None, "third"]
        for reason in reasons:
            job = Waiting()
            future = executor.submit(job)
            await job.begun.wait()
            future.cancel(reason)
            message = await cancelled_by(future)
            assert [r for r in reasons if r and r in message] == ([reason] if reason else [])


# Cancelling from callbacks and from other jobs.


async def test_a_callback_cancels_other_jobs():
    """A done callback may cancel the next job of its slot, a running one, and its own."""
    async with Executor(2) as executor:
        other, trigger = Waiting(), Waiting()
        running = executor.submit(other)
        first = executor.submit(trigger)
        next_one = executor.submit(unharmed)
        following = executor.submit(unharmed)
        said = []

        def cancel_them(future: Future[Any]) -> None:
            said.extend([future.cancel(), next_one.cancel(), running.cancel()])

        first.add_done_callback(cancel_them)
        await trigger.begun.wait()
        trigger.release.set()
        assert await following == "unharmed"
        assert said == [False, True, True]
        assert first.result() == "released"
        assert next_one.cancelled()
        await running.wait()
        assert running.cancelled()
        await all_slots_work(executor)


@pytest.mark.parametrize("waiters", [1, 3])
async def test_a_callback_cancels_the_tasks_that_wait_for_the_same_future(waiters: int):
    """A waiter that's cancelled by a callback of the very future it awaits ends just once."""
    async with Executor(1) as executor:
        job = Waiting()
        future = executor.submit(job)
        await job.begun.wait()
        scope = anyio.CancelScope()
        # Added first, so called before the waiters are told.
        future.add_done_callback(lambda _: scope.cancel())
        ended = []

        async def wait():
            try:
                await future
            finally:
                ended.append("ended")

        async with anyio.create_task_group() as group:
            with scope:
                async with anyio.create_task_group() as inner:
                    for _ in range(waiters):
                        inner.start_soon(wait)
                    await ticks(3)
                    job.release.set()
            assert len(ended) == waiters
            group.cancel_scope.cancel()
        assert future.result() == "released"
        await all_slots_work(executor)


async def test_a_job_cancels_another_that_awaits_it():
    """A job cancels one that waits for it; that one ends at once, this one isn't disturbed."""
    async with Executor(2) as executor:
        release = anyio.Event()

        async def first():
            await release.wait()
            waiter.cancel()
            await ticks(3)
            return waiter.cancelled()

        target = executor.submit(first)

        async def await_it():
            return await target

        waiter = executor.submit(await_it)
        await ticks(5)
        release.set()
        assert await target is True
        await all_slots_work(executor)


async def test_a_job_that_awaits_a_cancelled_job_fails_with_its_exception():
    """The cancellation of one job is an ordinary error in another, not its own cancellation."""
    async with Executor(2) as executor:
        job = Waiting()
        target = executor.submit(job)

        async def await_it():
            return await target

        waiter = executor.submit(await_it)
        await job.begun.wait()
        await ticks(3)
        target.cancel("gone")
        await waiter.wait()
        assert not waiter.cancelled()
        assert isinstance(waiter.exception(), JobCancelled)
        with pytest.raises(JobCancelled, match="gone"):
            await waiter


# A cancellation in the very tick in which the job ends.


async def returns_when(gate: anyio.Event) -> str:
    await gate.wait()
    return "done"


async def returns_after(gate: anyio.Event) -> str:
    await gate.wait()
    await checkpoint()
    return "done"


async def fails_when(gate: anyio.Event) -> str:
    await gate.wait()
    raise ValueError("failed")


async def leaves_a_shield_when(gate: anyio.Event) -> str:
    with anyio.CancelScope(shield=True):
        await gate.wait()
    return "done"


async def leaves_a_group_when(gate: anyio.Event) -> str:
    async with anyio.create_task_group() as group:
        group.start_soon(gate.wait)
    return "done"


async def leaves_a_scope_when(gate: anyio.Event) -> str:
    with anyio.CancelScope():
        await gate.wait()
    return "done"


async def leaves_a_thread_when(gate: anyio.Event) -> str:
    await gate.wait()
    await anyio.to_thread.run_sync(int)
    return "done"


async def polls(gate: anyio.Event) -> str:
    while not gate.is_set():
        await checkpoint()
    return "done"


ENDINGS = [
    returns_when,
    returns_after,
    fails_when,
    leaves_a_shield_when,
    leaves_a_group_when,
    leaves_a_scope_when,
    leaves_a_thread_when,
    polls,
]


@pytest.mark.parametrize("job", ENDINGS)
async def test_a_cancel_as_the_job_ends_never_reaches_the_next_one(
    job: Callable[[anyio.Event], Awaitable[str]],
):
    outcomes = set()
    async with Executor(1) as executor:
        for delay in [*range(-4, 8)] * 2:
            gate = anyio.Event()
            future = executor.submit(job, gate)
            following = [executor.submit(unharmed) for _ in range(2)]
            await ticks(3)
            if delay < 0:
                future.cancel()
                await ticks(-1 - delay)
                gate.set()
            else:
                gate.set()
                await ticks(delay)
                future.cancel()
            assert await gather(*following) == ["unharmed"] * 2
            assert future.done()
            if future.cancelled():
                outcomes.add("cancelled")
            else:
                outcomes.add("ended")
                future.exception()
        await all_slots_work(executor)
    assert outcomes == ({"ended"} if job is leaves_a_shield_when else {"cancelled", "ended"})


# Slots.


async def test_a_job_that_goes_on_after_its_cancellation_holds_its_slot():
    """A shielded job is counted as running until it really ends, and then frees one slot."""
    async with Executor(2) as executor:
        job, other = Unwinding(), Waiting()
        future, beside = executor.submit(job), executor.submit(other)
        queued = [executor.submit(Waiting()) for _ in range(3)]
        await job.begun.wait()
        future.cancel()
        await job.unwinding.wait()
        await ticks(5)
        counts = executor.statistics()
        assert (counts.running, counts.queued, counts.cancelled) == (2, 3, 0)
        job.release.set()
        await future.wait()
        await ticks(5)
        counts = executor.statistics()
        assert (counts.running, counts.queued, counts.cancelled) == (2, 2, 1)
        assert beside.running()
        executor.cancel()
        await executor.join()
        assert all(future.cancelled() for future in queued)
        await all_slots_work(executor)


class Misbehaving:
    """Awaitables and functions that go wrong in every place where a job is set up."""

    class Raises:
        def __await__(self):
            raise ValueError("in __await__")

    class ReturnsNoIterator:
        def __await__(self):
            return 42


async def fails_at_once():
    raise ValueError("at once")


async def fails_later():
    await ticks(2)
    raise ValueError("later")


async def fails_badly():
    await checkpoint()

    class Worse(BaseException):
        pass

    raise Worse


async def stops_iteration():
    raise StopAsyncIteration


def raises_synchronously():
    raise ValueError("no coroutine")


FAILING: dict[str, Callable[..., Any]] = {
    "the function raises": raises_synchronously,
    "it takes other arguments": lambda argument: None,
    "it returns nothing to await": lambda: 42,
    "its awaitable raises": Misbehaving.Raises,
    "its awaitable gives no iterator": Misbehaving.ReturnsNoIterator,
    "at its first step": fails_at_once,
    "at a later step": fails_later,
    "a BaseException": fails_badly,
    "StopAsyncIteration": stops_iteration,
}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
async def test_a_failure_at_any_step_frees_the_slot(failing: Callable[..., Any]):
    """However a job fails, its slot is free again, as many times as it's done."""
    async with Executor(3) as executor:
        for _ in range(3):
            futures = [executor.submit(failing) for _ in range(7)]
            for future in futures:
                await future.wait()
                assert future.exception() is not None
            await executor.join()
            assert executor.statistics().running == 0
            await all_slots_work(executor)
        assert executor.statistics().failed == 21


@pytest.mark.parametrize("outcome", ["succeeds", "fails", "cancelled queued", "cancelled running"])
async def test_a_job_whose_function_has_no_repr_ends_like_any_other(outcome: str):
    """A callable whose `repr` raises is awkward to name; that harms neither job nor executor."""
    begun = anyio.Event()

    class Nameless:
        def __repr__(self) -> str:
            raise ValueError("in __repr__")

        async def __call__(self) -> int:
            begun.set()
            if outcome == "fails":
                raise KeyError("mine")
            if outcome == "cancelled running":
                await anyio.sleep_forever()
            return 42

    async with Executor(1) as executor:
        future = executor.submit(Nameless())
        if outcome.startswith("cancelled"):
            if outcome == "cancelled running":
                await begun.wait()
            assert future.cancel()
        await future.wait()
        if outcome == "succeeds":
            assert future.result() == 42
        elif outcome == "fails":
            assert isinstance(future.exception(), KeyError)
        else:
            with pytest.raises(JobCancelled):
                future.result()
        assert future.name
        assert repr(future)
        await all_slots_work(executor)


def test_a_job_that_raises_generator_exit_fails_like_any_other(
    anyio_backend: tuple[str, dict[str, Any]],
):
    """`GeneratorExit` in a job ends that job alone: the event loop is alive and well."""

    async def exits():
        await checkpoint()
        raise GeneratorExit

    async def main():
        async with Executor(2, on_error="log") as executor:
            future = executor.submit(exits)
            await future.wait()
            assert not future.cancelled()
            assert isinstance(future.exception(), GeneratorExit)
            await all_slots_work(executor)
        return "left"

    name, options = anyio_backend
    assert anyio.run(main, backend=name, backend_options=options) == "left"


async def test_failures_cancellations_and_raising_callbacks_together_leave_all_slots_free(caplog):
    """Every way of ending, mixed: afterwards as many slots are free as there were."""
    rng = random.Random(3)

    def raising_callback(_: Future[Any]) -> None:
        raise ValueError("callback")

    async with Executor(4) as executor:
        for _ in range(5):
            futures = []
            for _ in range(60):
                fn = rng.choice([*FAILING.values(), unharmed, Waiting(), Catching("caught")])
                future = executor.submit(fn)
                if rng.random() < 0.3:
                    future.add_done_callback(raising_callback)
                futures.append(future)
            while not all(future.done() for future in futures):
                for future in rng.sample(futures, 10):
                    future.cancel()
                await checkpoint()
            for future in futures:
                if not future.cancelled():
                    future.exception()
            await executor.join()
            await all_slots_work(executor)
    assert caplog.records


@pytest.mark.parametrize("slots", [1, 3])
async def test_jobs_start_in_the_order_of_submission_across_cancellations(slots: int):
    """Cancelling queued and running jobs never lets a later job overtake an earlier one."""
    witness = Witness()
    rng = random.Random(11)
    async with Executor(slots) as executor:
        futures = [executor.submit(witness.job, n, rng.randrange(5)) for n in range(300)]
        for number in range(0, 300, 3):
            futures[number].cancel()
        while not all(future.done() for future in futures):
            await checkpoint()
            running = [future for future in futures if future.running()]
            if running and rng.random() < 0.5:
                rng.choice(running).cancel()
            if rng.random() < 0.2:
                rng.choice(futures).cancel()
        assert witness.order == sorted(witness.order)
        assert len(witness.order) > 100
        assert witness.most == slots
        await all_slots_work(executor)


# Those who wait.


def waits_for(executor: Executor, future: Future[Any]) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def await_it() -> Any:
        return await future

    return {
        "await": await_it,
        "wait": future.wait,
        "gather": partial(gather, future),
        "gather, exceptions too": partial(gather, future, return_exceptions=True),
        "join": executor.join,
    }


WAITS = ["await", "wait", "gather", "gather, exceptions too", "join"]


@pytest.mark.parametrize("wait", WAITS)
async def test_a_cancelled_wait_ends_cancelled_and_leaves_the_job_alone(wait: str):
    async with Executor(1) as executor:
        job = Waiting()
        future = executor.submit(job)
        waiting = waits_for(executor, future)[wait]
        ended = []

        async def other():
            ended.append(await future)

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await job.begun.wait()
            scope = anyio.CancelScope()

            async def cancel_soon():
                await ticks(3)
                scope.cancel()

            group.start_soon(cancel_soon)
            with scope:
                await waiting()
                ended.append("not cancelled")
            assert scope.cancelled_caught
            assert ended == []
            assert future.running()
            job.release.set()
        assert ended == ["released"]
        await waiting()


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_inside_a_cancelled_scope_ends_cancelled_even_for_a_job_that_is_done(
    wait: str,
):
    async with Executor(1) as executor:
        future = executor.submit(unharmed)
        await future
        with anyio.CancelScope() as scope:
            scope.cancel()
            await waits_for(executor, future)[wait]()
            pytest.fail("not cancelled")
        assert scope.cancelled_caught


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_cancelled_as_the_job_ends_is_cancelled_or_has_the_result(wait: str):
    """In the tick of the job's end: the wait ends in one of both ways; the scope knows which."""
    outcomes = set()
    async with Executor(1) as executor:
        for delay in range(-1, 7):
            job = Waiting()
            future = executor.submit(job)
            await job.begun.wait()
            got = []

            async def waiting(future: Future[Any] = future, got: list[Any] = got):
                got.append(await waits_for(executor, future)[wait]())

            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(waiting)
                    await ticks(3)
                    if delay < 0:
                        scope.cancel()
                        job.release.set()
                    else:
                        job.release.set()
                        await ticks(delay)
                        scope.cancel()
            assert scope.cancelled_caught or got
            outcomes.add(bool(got))
            assert await future == "released"
        await all_slots_work(executor)
    assert outcomes == {True, False}


async def test_awaiting_a_cancelled_job_cancels_nobody():
    """`JobCancelled` is an error: a task group reports it, and no scope takes it for its own."""
    async with Executor(1) as executor:
        job = Waiting()
        future = executor.submit(job)
        await job.begun.wait()

        async def awaiting():
            await future

        with anyio.CancelScope() as scope, pytest.raises(ExceptionGroup) as info:
            async with anyio.create_task_group() as group:
                group.start_soon(awaiting)
                await ticks(2)
                future.cancel()
        assert [type(error) for error in info.value.exceptions] == [JobCancelled]
        assert not scope.cancelled_caught


# Everything at once.


@pytest.mark.parametrize("delay", range(6))
async def test_cancelling_all_jobs_in_the_tick_of_their_submission(delay: int):
    """`Executor.cancel` takes what's there, begun or not, and leaves what comes after it alone."""
    witness = Witness()
    async with Executor(3) as executor:
        doomed = [executor.submit(witness.job, n, 100) for n in range(10)]
        await ticks(delay)
        executor.cancel("swept")
        kept = [executor.submit(witness.job, n) for n in range(100, 110)]
        assert not any(future.done() for future in kept)
        assert all(future.done() or future.running() for future in doomed)
        assert await gather(*kept) == list(range(100, 110))
        for future in doomed:
            assert "swept" in await cancelled_by(future)
        assert witness.order == sorted(witness.order)
        assert witness.most <= 3
        await all_slots_work(executor)


async def test_a_job_cancels_all_jobs_and_itself():
    """Called by a job, `Executor.cancel` cancels that one, too, at its next checkpoint."""
    async with Executor(2) as executor:

        async def job():
            await checkpoint()
            executor.cancel("by a job")
            steps.append("after")
            await checkpoint()
            steps.append("not here")

        steps: list[str] = []
        other = Waiting()
        futures = [executor.submit(other), executor.submit(job), executor.submit(unharmed)]
        for future in futures:
            assert "by a job" in await cancelled_by(future)
        assert steps == ["after"]
        await all_slots_work(executor)


async def test_jobs_submitted_in_answer_to_a_cancellation_run():
    """What callbacks and unwinding jobs submit while everything is cancelled isn't cancelled."""
    async with Executor(2) as executor:
        added: list[Future[str]] = []

        async def submits_as_it_unwinds(begun: anyio.Event):
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                added.append(executor.submit(unharmed))

        begun = [anyio.Event() for _ in range(2)]
        for event in begun:
            executor.submit(submits_as_it_unwinds, event)
        queued = [executor.submit(unharmed) for _ in range(3)]
        for future in queued:
            future.add_done_callback(lambda _: added.append(executor.submit(unharmed)))
        for event in begun:
            await event.wait()
        executor.cancel()
        await executor.join()
        assert len(added) == 5
        assert await gather(*added) == ["unharmed"] * 5
        await all_slots_work(executor)


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("count", "order"),
    [(100_000, "all"), (100_000, "forwards"), (20_000, "shuffled")],
)
async def test_cancelling_a_hundred_thousand_queued_jobs_is_quick(count: int, order: str):
    """Mass cancellation takes linear time and no recursion, and settles every future at once."""
    told = []
    async with Executor(1) as executor:
        blocker = Waiting()
        first = executor.submit(blocker)
        await blocker.begun.wait()
        futures = [executor.submit(unharmed) for _ in range(count)]
        for future in futures[:: count // 1000]:
            future.add_done_callback(told.append)
        ordered = futures
        if order == "shuffled":
            ordered = random.Random(5).sample(futures, count)
        began = time.process_time()
        if order == "all":
            executor.cancel("all")
        else:
            for future in ordered:
                future.cancel("one")
        assert time.process_time() - began < 15
        assert all(future.cancelled() for future in futures)
        assert len(told) == 1000
        assert executor.statistics().queued == 0
        blocker.release.set()
        await first.wait()
        assert executor.statistics().cancelled == count + (order == "all")
        await all_slots_work(executor)


@pytest.mark.unmeasured
async def test_gathering_thousands_of_jobs_that_are_cancelled_ends_at_once():
    """Whoever gathers a long queue that's cancelled is told of the first, without recursion."""
    async with Executor(1) as executor, anyio.create_task_group() as group:
        blocker = Waiting()
        executor.submit(blocker)
        futures = [executor.submit(unharmed) for _ in range(20_000)]
        ended = []

        async def gathering():
            with pytest.raises(JobCancelled):
                await gather(*futures)
            ended.append("gather")

        async def gathering_all():
            exceptions = await gather(*futures, return_exceptions=True)
            assert {type(exception) for exception in exceptions} == {JobCancelled}
            ended.append("all")

        group.start_soon(gathering)
        group.start_soon(gathering_all)
        await ticks(3)
        executor.cancel()
        await ticks(5)
        assert sorted(ended) == ["all", "gather"]


# Leaving the block.


class Stop(Exception):
    pass


async def cancel_each(executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]) -> None:
    """Every future is cancelled."""
    async with executor:
        for future in await body():
            assert future.cancel() is True


async def cancel_all(executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]) -> None:
    """The executor's jobs are cancelled."""
    async with executor:
        await body()
        executor.cancel()


async def raise_in_body(
    executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]
) -> None:
    """The body raises."""
    with pytest.raises(Stop):
        async with executor:
            await body()
            raise Stop


async def cancel_around(
    executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]
) -> None:
    """The scope around the block is cancelled."""
    with anyio.CancelScope() as scope:
        async with executor:
            await body()
            scope.cancel()
    assert scope.cancelled_caught


async def cancel_while_leaving(
    executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]
) -> None:
    """The scope around is cancelled while the block waits for its jobs."""
    async with anyio.create_task_group() as group:

        async def later(scope: anyio.CancelScope):
            await ticks(3)
            scope.cancel()

        with anyio.CancelScope() as scope:
            async with executor:
                await body()
                group.start_soon(later, scope)
        assert scope.cancelled_caught


async def shut_down(executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]) -> None:
    """The executor is shut down with no grace."""
    async with executor:
        await body()
        await executor.shutdown(grace=0)


async def fail_another(
    executor: Executor, body: Callable[[], Awaitable[list[Future[Any]]]]
) -> None:
    """Another job fails in an executor that cancels on errors."""
    with pytest.raises(ExceptionGroup) as info:
        async with executor:
            await body()
            executor.submit(fails_at_once)
    errors, _ = info.value.split(ValueError)
    assert errors is not None
    assert [str(error) for error in errors.exceptions] == ["at once"]


ENDS = [
    cancel_each,
    cancel_all,
    raise_in_body,
    cancel_around,
    cancel_while_leaving,
    shut_down,
    fail_another,
]


class Inside:
    """Code to wait inside some structure: counts how often it was entered and unwound."""

    def __init__(self) -> None:
        self.entered = self.unwound = 0
        self.inner: list[Future[Any]] = []
        self.begun = anyio.Event()

    async def __call__(self) -> None:
        self.entered += 1
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.unwound += 1


async def in_plain_code(inside: Inside) -> None:
    await inside()


async def in_a_task_group(inside: Inside) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside)
        group.start_soon(inside)
        await inside()


async def in_leaving_a_task_group(inside: Inside) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside)


async def in_nested_task_groups(inside: Inside) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside)
        async with anyio.create_task_group() as inner:
            inner.start_soon(in_a_task_group, inside)


async def in_a_cancel_scope(inside: Inside) -> None:
    with anyio.CancelScope():
        await inside()


async def in_a_timeout(inside: Inside) -> None:
    with anyio.fail_after(3600), anyio.move_on_after(1800):
        await inside()


async def in_an_async_generator(inside: Inside) -> None:
    async def generator():
        try:
            yield 1
            await inside()
            yield 2
        finally:
            await cancel_shielded_checkpoint()

    async with aclosing(generator()) as numbers:
        async for _ in numbers:
            pass


async def in_an_executor(inside: Inside) -> None:
    async with Executor(1) as executor:
        futures = [executor.submit(inside) for _ in range(3)]
        try:
            await futures[0]
        finally:
            inside.inner.extend(futures)


async def in_leaving_an_executor(inside: Inside) -> None:
    async with Executor(2) as executor:
        inside.inner.extend(executor.submit(inside) for _ in range(3))


async def in_a_job_of_an_executor_of_a_job(inside: Inside) -> None:
    async with Executor(1) as executor:
        future = executor.submit(in_an_executor, inside)
        inside.inner.append(future)
        await future


async def in_an_abandoned_thread(inside: Inside) -> None:
    released = threading.Event()
    inside.entered += 1
    inside.begun.set()
    try:
        await anyio.to_thread.run_sync(released.wait, abandon_on_cancel=True)
    finally:
        released.set()
        inside.unwound += 1


async def in_a_future(inside: Inside) -> None:
    async with Executor(1) as executor:
        future = executor.submit(inside)
        await gather(future)


async def in_asyncio_timeout(inside: Inside) -> None:
    async with asyncio.timeout(3600), asyncio.timeout(1800):
        await inside()


async def in_asyncio_task_group(inside: Inside) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(inside())
        await inside()


async def in_leaving_asyncio_task_group(inside: Inside) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(inside())


async def in_asyncio_gather(inside: Inside) -> None:
    await asyncio.gather(inside(), inside())


async def in_asyncio_wait_for(inside: Inside) -> None:
    await asyncio.wait_for(inside(), 3600)


async def in_an_asyncio_task(inside: Inside) -> None:
    await asyncio.create_task(inside())


def as_an_asyncio_task(inside: Inside) -> asyncio.Task[None]:
    return asyncio.create_task(inside())


async def in_a_nursery(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)
        nursery.start_soon(inside)
        await inside()


async def in_leaving_a_nursery(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)


async def in_nested_nurseries(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_a_nursery, inside)
        with trio.move_on_after(3600):
            await in_a_nursery(inside)


STRUCTURES = [
    in_plain_code,
    in_a_task_group,
    in_leaving_a_task_group,
    in_nested_task_groups,
    in_a_cancel_scope,
    in_a_timeout,
    in_an_async_generator,
    in_an_executor,
    in_leaving_an_executor,
    in_a_job_of_an_executor_of_a_job,
    in_an_abandoned_thread,
    in_a_future,
    in_asyncio_timeout,
    in_asyncio_task_group,
    in_leaving_asyncio_task_group,
    in_asyncio_gather,
    in_asyncio_wait_for,
    in_an_asyncio_task,
    as_an_asyncio_task,
    in_a_nursery,
    in_leaving_a_nursery,
    in_nested_nurseries,
]


def skip_unless_native(structure: Callable[..., Any], loop_name: str) -> None:
    if "nurser" in structure.__name__ and loop_name != "trio":
        pytest.skip("a nursery is trio's")
    if "asyncio" in structure.__name__ and loop_name == "trio":
        pytest.skip("asyncio's own")


@pytest.mark.parametrize(
    "end", [end for end in ENDS if end not in (cancel_all, cancel_while_leaving)]
)
@pytest.mark.parametrize("structure", STRUCTURES)
async def test_jobs_inside_any_structure_unwind_however_they_are_cancelled(
    structure: Callable[[Inside], Awaitable[None]],
    end: Callable[..., Awaitable[None]],
    loop_name: str,
):
    """What a job has opened is closed when its future is done; the future is cancelled."""
    skip_unless_native(structure, loop_name)
    insides = [Inside(), Inside()]
    executor = Executor(3, on_error="cancel" if end is fail_another else "hold")
    futures: list[Future[Any]] = []
    checked = []

    async def body() -> list[Future[Any]]:
        for inside in insides:
            future = executor.submit(structure, inside)
            future.add_done_callback(lambda _, i=inside: checked.append((i.entered, i.unwound)))
            futures.append(future)
        for inside in insides:
            await inside.begun.wait()
        await ticks(4)
        return futures

    await end(executor, body)
    for future in futures + insides[0].inner + insides[1].inner:
        assert future.done()
        assert future.cancelled(), future.exception()
    assert [entered for entered, _ in checked] == [unwound for _, unwound in checked]
    assert all(entered for entered, _ in checked)
    counts = executor.statistics()
    assert (counts.queued, counts.running, counts.cancelled) == (0, 0, 2)


@pytest.mark.parametrize("structure", STRUCTURES)
async def test_the_next_job_of_the_slot_is_unharmed_by_what_the_cancelled_one_had_open(
    structure: Callable[[Inside], Awaitable[None]], loop_name: str
):
    """After a cancelled job of any structure, its slot runs the next one like new."""
    skip_unless_native(structure, loop_name)
    async with Executor(1) as executor:
        for _ in range(2):
            inside = Inside()
            future = executor.submit(structure, inside)
            following = [executor.submit(unharmed) for _ in range(2)]
            await inside.begun.wait()
            future.cancel()
            assert await gather(*following) == ["unharmed"] * 2
            assert future.cancelled()
        await all_slots_work(executor)


class Messy(Inside):
    """Raises an error of its own while it's unwound."""

    async def __call__(self) -> None:
        try:
            await super().__call__()
        finally:
            raise KeyError("while unwinding")


async def in_a_task_group_beside_others(inside: Inside) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside)
        group.start_soon(anyio.sleep_forever)
        await anyio.sleep_forever()


async def in_an_asyncio_group_beside_others(inside: Inside) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(inside())
        group.create_task(asyncio.sleep(3600))
        await anyio.sleep_forever()


async def in_a_nursery_beside_others(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "structure",
    [
        in_plain_code,
        in_a_task_group,
        in_a_task_group_beside_others,
        in_asyncio_task_group,
        in_an_asyncio_group_beside_others,
        in_a_nursery,
        in_a_nursery_beside_others,
    ],
)
async def test_an_error_raised_inside_a_structure_while_it_unwinds_is_the_jobs_outcome(
    structure: Callable[[Inside], Awaitable[None]],
    end: Callable[..., Awaitable[None]],
    loop_name: str,
):
    skip_unless_native(structure, loop_name)
    inside = Messy()
    executor = Executor(3, on_error="cancel" if end is fail_another else "hold")
    futures: list[Future[Any]] = []

    async def body() -> list[Future[Any]]:
        futures.append(executor.submit(structure, inside))
        futures[0].add_done_callback(lambda future: seen.append(future.exception()))
        await inside.begun.wait()
        await ticks(4)
        return futures

    seen: list[BaseException | None] = []
    cancelled = anyio.get_cancelled_exc_class()
    await end(executor, body)
    assert futures[0].done()
    assert not futures[0].cancelled()
    [error] = seen
    assert isinstance(error, KeyError | ExceptionGroup)
    if isinstance(error, BaseExceptionGroup):
        assert error.subgroup(cancelled) is None
        assert error.subgroup(KeyError) is not None


async def test_with_cancel_an_error_while_unwinding_is_raised_with_the_first_and_nothing_else():
    """``on_error="cancel"``: the block's group holds errors alone, not the rest's cancellation."""
    executor = Executor(3, on_error="cancel")
    inside = Messy()
    with pytest.raises(ExceptionGroup) as info:
        async with executor:
            executor.submit(in_a_task_group, inside)
            executor.submit(in_a_task_group, Inside())
            await inside.begun.wait()
            executor.submit(fails_at_once)
            await anyio.sleep_forever()
    values, rest = info.value.split(ValueError)
    assert [str(error) for error in values.exceptions] == ["at once"]
    assert rest.subgroup(KeyError) is not None
    assert rest.split(KeyError)[1] is None


async def test_a_thread_that_cannot_be_abandoned_holds_its_slot_until_it_ends():
    """A cancelled job waits for its thread; statistics show it as running, and it ends once."""
    async with Executor(1) as executor:
        released, begun = threading.Event(), anyio.Event()

        def in_thread():
            anyio.from_thread.run_sync(begun.set)
            released.wait()

        async def job():
            await anyio.to_thread.run_sync(in_thread)

        future = executor.submit(job)
        following = executor.submit(unharmed)
        await begun.wait()
        future.cancel()
        await ticks(10)
        counts = executor.statistics()
        assert (counts.running, counts.queued) == (1, 1)
        released.set()
        assert await following == "unharmed"
        await all_slots_work(executor)


@pytest.mark.parametrize("end", ENDS)
async def test_the_block_ends_only_when_cancelled_jobs_have_unwound(
    end: Callable[..., Awaitable[None]],
):
    executor = Executor(3, on_error="cancel" if end is fail_another else "hold")
    jobs = [Unwinding(), Unwinding()]
    futures: list[Future[Any]] = []
    ended = []

    async def body() -> list[Future[Any]]:
        futures.extend(executor.submit(job) for job in jobs)
        for job in jobs:
            await job.begun.wait()
        return futures

    async def run() -> None:
        await end(executor, body)
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for job in jobs:
            await job.unwinding.wait()
        for job in jobs:
            await ticks(10)
            assert not ended
            job.release.set()
    assert ended
    assert all(job.unwound for job in jobs)
    assert all(future.cancelled() for future in futures)


async def test_a_second_cancellation_while_the_block_ends_does_not_end_it_early():
    """Cancelled from further and further outside: the block still waits for its jobs."""
    job = Unwinding()
    reached = []
    async with anyio.create_task_group() as group:
        outer, middle = anyio.CancelScope(), anyio.CancelScope()

        async def host():
            with outer:
                with middle:
                    async with Executor(1) as executor:
                        executor.submit(job)
                        await anyio.sleep_forever()
                reached.append("middle")
                await checkpoint()
                reached.append("not cancelled")

        group.start_soon(host)
        await job.begun.wait()
        middle.cancel()
        await job.unwinding.wait()
        await ticks(3)
        outer.cancel()
        await ticks(5)
        assert reached == []
        job.release.set()
    assert reached in ([], ["middle"])
    assert job.unwound
    assert outer.cancelled_caught


async def test_a_shutdown_whose_waiter_is_cancelled_cancels_the_jobs_and_ends_cancelled():
    async with Executor(2) as executor:
        jobs = [Unwinding(), Unwinding()]
        futures = [executor.submit(job) for job in jobs]
        queued = executor.submit(unharmed)
        reached = []

        async def shutting_down(scope: anyio.CancelScope):
            with scope:
                await executor.shutdown(grace=3600)
                reached.append("not cancelled")
            reached.append("ended")

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(shutting_down, scope)
            for job in jobs:
                await job.begun.wait()
            assert not queued.done()
            scope.cancel()
            for job in jobs:
                await job.unwinding.wait()
                await ticks(3)
                assert reached == []
                job.release.set()
        assert reached == ["ended"]
        assert scope.cancelled_caught
        assert all(future.cancelled() for future in [*futures, queued])


async def test_leaving_under_cancellation_refuses_what_unwinding_jobs_submit():
    """While the block unwinds, a job's own submissions are refused and start nothing."""
    said = []

    async def job(executor: Executor, begun: anyio.Event):
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            try:
                executor.submit(unharmed)
            except ExecutorClosed as error:
                said.append(error)

    with pytest.raises(Stop):
        async with Executor(2) as executor:
            for _ in range(2):
                begun = anyio.Event()
                executor.submit(job, executor, begun)
                await begun.wait()
            raise Stop
    assert len(said) == 2
    assert executor.statistics().submitted == 2


@pytest.mark.parametrize("seconds", [0, 0.01])
async def test_a_timeout_around_the_block_ends_it(seconds: float):
    """`move_on_after` and `fail_after` around an executor cancel its jobs and end as always."""
    with anyio.move_on_after(seconds) as scope:
        async with Executor(2) as executor:
            futures = [executor.submit(anyio.sleep, 3600) for _ in range(5)]
    assert scope.cancelled_caught
    assert all(future.cancelled() for future in futures)
    with pytest.raises(TimeoutError), anyio.fail_after(seconds):
        async with Executor(2) as executor:
            futures = [executor.submit(anyio.sleep, 3600) for _ in range(5)]
            await anyio.sleep_forever()
    assert all(future.cancelled() for future in futures)


async def test_entering_inside_a_cancelled_scope_ends_cancelled_and_runs_nothing():
    """An executor in a scope that's cancelled already: all its futures are done, none has run."""
    ran = []

    async def job():
        ran.append("ran")
        await checkpoint()
        ran.append("on")

    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Executor(2) as executor:
            futures = [executor.submit(job) for _ in range(5)]
    assert scope.cancelled_caught
    assert all(future.cancelled() for future in futures)
    assert "on" not in ran


# Executors in executors.


async def test_cancelling_a_job_ends_the_executor_inside_it():
    """An executor in a job of another: its jobs unwind before the outer job is done."""
    job = Unwinding()
    inside: list[Future[Any]] = []

    async def host():
        async with Executor(1) as inner_executor:
            inside.extend([inner_executor.submit(job), inner_executor.submit(unharmed)])

    async with Executor(1) as executor:
        future = executor.submit(host)
        following = executor.submit(unharmed)
        await job.begun.wait()
        future.cancel()
        await job.unwinding.wait()
        await ticks(5)
        assert future.running()
        job.release.set()
        await future.wait()
        assert future.cancelled()
        assert all(f.cancelled() for f in inside)
        assert await following == "unharmed"


async def test_cancelling_a_job_of_the_inner_executor_leaves_the_outer_alone():
    """Blocks inside blocks: cancelling in one doesn't reach the other."""
    async with Executor(1) as outer, Executor(1) as inner_executor:
        jobs = [Waiting(), Waiting()]
        futures = [outer.submit(jobs[0]), inner_executor.submit(jobs[1])]
        for job in jobs:
            await job.begun.wait()
        inner_executor.cancel()
        await inner_executor.join()
        assert futures[1].cancelled()
        assert futures[0].running()
        jobs[0].release.set()
        assert await futures[0] == "released"
        await all_slots_work(inner_executor)
        await all_slots_work(outer)


async def test_a_failure_in_the_inner_executor_unwinds_to_the_outer_job():
    """``on_error="cancel"`` inside a job: the outer job fails with that group, its slot is free."""

    async def host():
        async with Executor(2, on_error="cancel") as inner_executor:
            inner_executor.submit(Waiting())
            inner_executor.submit(fails_later)

    async with Executor(1) as executor:
        future = executor.submit(host)
        following = executor.submit(unharmed)
        assert await following == "unharmed"
        error = future.exception()
        assert isinstance(error, ExceptionGroup)
        assert [str(e) for e in error.exceptions] == ["later"]
        await all_slots_work(executor)


# Time.


@pytest.mark.parametrize("end", [cancel_each, raise_in_body])
@pytest.mark.real_time
async def test_waiting_for_a_cancelled_job_in_a_shield_takes_no_cpu(
    end: Callable[..., Awaitable[None]],
):
    begun = anyio.Event()

    async def job():
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)

    executor = Executor(2)

    async def body() -> list[Future[Any]]:
        future = executor.submit(job)
        await begun.wait()
        return [future]

    wall, cpu = time.perf_counter(), time.process_time()
    await end(executor, body)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert wall >= 0.19
    assert cpu < 0.1
