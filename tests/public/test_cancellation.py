"""Cancelling one job, all jobs, and those who wait for jobs.

Cancellations that only asyncio knows (`Task.cancel`) are in test_native_cancellation.py, what a job
meets once under asyncio in test_cancel_once.py.
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
from jobs import Boom, all_slots_work, fail, in_turn, ticks
from suspensions import asyncio_task

from anyslots import Executor, ExecutorClosed, Future, JobCancelled, gather

pytestmark = pytest.mark.anyio


# Jobs, named for where they wait.


class Waiting:
    """A job that waits to be released, and says when it began and that it unwound."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.release = anyio.Event()
        self.unwound = False

    async def __call__(self) -> object:
        self.begun.set()
        try:
            await self.release.wait()
        finally:
            self.unwound = True
        return "released"


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
    if (task := asyncio_task()) is not None:
        assert task.cancelling() == 0
    assert anyio.current_effective_deadline() == float("inf")
    return "unharmed"


async def begin(executor: Executor, job: Any) -> Future[Any]:
    future = executor.submit(job)
    await job.begun.wait()
    return future


async def cancelled_by(future: Future[Any]) -> str:
    """The message of the `JobCancelled` that awaiting a future raises."""
    with pytest.raises(JobCancelled) as info:
        await future
    return str(info.value)


# A queued job.


async def test_a_queued_job_is_cancelled_in_the_call_and_never_runs():
    """Those who wait for it, in whichever way, are woken then, not later."""
    calls, woken = [], []

    async def never():
        calls.append("ran")

    def never_called():
        calls.append("called")
        return never()

    async with Executor(1) as executor, anyio.create_task_group() as group:
        blocker = Waiting()
        first = await begin(executor, blocker)
        queued = [executor.submit(fn) for fn in (never, never_called)]

        async def waits(name: str, wait: Callable[[], Awaitable[Any]]):
            try:
                await wait()
            except JobCancelled:
                name += " raised"
            woken.append(name)

        group.start_soon(waits, "await", partial(cancelled_by, queued[0]))
        group.start_soon(waits, "wait", queued[0].wait)
        group.start_soon(waits, "gather", partial(gather, *queued))
        queued[0].add_done_callback(lambda future: woken.append(future.cancelled()))
        await ticks(3)
        for future in queued:
            assert future.cancel() is True
            assert future.cancelled()
            assert not future.running()
            assert woken == [True]
        counts = executor.statistics()
        assert (counts.queued, counts.cancelled) == (0, 2)
        await ticks(5)
        assert sorted(map(str, woken)) == ["True", "await", "gather raised", "wait"]
        blocker.release.set()
        assert await first == "released"
        assert await executor.submit(unharmed) == "unharmed"
    assert calls == []
    assert all(future.slot is None for future in queued)


async def test_a_job_cancelled_before_its_first_step_passes_its_slot_on():
    async with Executor(1) as executor:
        for delay in [*range(6)] * 3:
            witness = Witness()
            await ticks(delay)
            permitted = executor.submit(witness.job, "permitted")
            behind = executor.submit(witness.job, "behind")
            assert permitted.cancel()
            await behind
            # The permit is taken back now, nobody being behind; the next job needs another.
            assert executor.submit(witness.job, "permitted").cancel()
            later = executor.submit(witness.job, "later")
            await ticks(delay)
            permitted = executor.submit(witness.job, "permitted")
            await ticks(delay)
            if not permitted.running():
                permitted.cancel()
            await later
            await permitted.wait()
            assert witness.order[:2] == ["behind", "later"]
            assert witness.most == 1
        await all_slots_work(executor)


async def test_cancelling_the_head_as_the_running_job_ends_starts_the_second():
    async with Executor(1) as executor:
        for delay in range(-1, 5):
            blocker = Waiting()
            running = await begin(executor, blocker)
            head, second = executor.submit(unharmed), executor.submit(unharmed)
            await in_turn(delay, blocker.release.set, head.cancel)
            assert await second == "unharmed"
            assert await running == "released"
            await head.wait()
        await all_slots_work(executor)


# A running job.


async def test_a_running_job_holds_its_slot_until_it_has_unwound():
    """Cancelling it says True at once, and again; its first reason is told, once it has ended."""
    async with Executor(2) as executor:
        job, other = Unwinding(), Waiting()
        future, beside = await begin(executor, job), await begin(executor, other)
        following = executor.submit(unharmed)
        assert future.cancel("first") is True
        assert future.cancel("second") is True
        assert not job.unwinding.is_set()
        await job.unwinding.wait()
        await ticks(5)
        assert future.cancel("third") is True
        assert future.running()
        assert not future.done()
        assert not future.cancelled()
        counts = executor.statistics()
        assert (counts.running, counts.queued, counts.cancelled) == (2, 1, 0)
        job.release.set()
        assert "first" in await cancelled_by(future)
        assert job.unwound
        assert future.cancelled()
        assert not future.running()
        assert future.cancel("fourth") is False
        assert executor.statistics().cancelled == 1
        assert await following == "unharmed"
        assert beside.running()
        other.release.set()
        await beside
        await all_slots_work(executor)


async def test_a_thread_that_cannot_be_abandoned_holds_its_slot_until_it_ends():
    async with Executor(1) as executor:
        released, begun = threading.Event(), anyio.Event()

        def in_thread():
            anyio.from_thread.run_sync(begun.set)
            released.wait()

        future = executor.submit(anyio.to_thread.run_sync, in_thread)
        following = executor.submit(unharmed)
        await begun.wait()
        future.cancel()
        await ticks(10)
        counts = executor.statistics()
        assert (counts.running, counts.queued) == (1, 1)
        released.set()
        assert await following == "unharmed"
        await all_slots_work(executor)


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_cancellation_shows_at_a_checkpoint_and_nowhere_else(suspends: bool, goes_on: bool):
    """A job that cancels itself and meets no other checkpoint has succeeded."""

    async def job() -> str:
        if suspends:
            await checkpoint()
        assert own[0].cancel() is True
        steps.append("after cancelling")
        if goes_on:
            await checkpoint()
            steps.append("after the checkpoint")
        return "done all the same"

    own: list[Future[Any]] = []
    steps: list[str] = []
    async with Executor(1) as executor:
        own.append(executor.submit(job))
        following = [executor.submit(unharmed) for _ in range(3)]
        assert await gather(*following) == ["unharmed"] * 3
        assert steps == ["after cancelling"]
        assert own[0].cancelled() == goes_on
        if not goes_on:
            assert own[0].result() == "done all the same"
        await all_slots_work(executor)


@pytest.mark.parametrize("error", [None, ValueError("in cleanup")], ids=repr)
async def test_what_a_job_makes_of_its_cancellation_is_its_outcome(error: Exception | None):
    """It has succeeded if it catches it and returns, and failed if it raises something else."""
    begun = anyio.Event()

    async def job() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if error is not None:
                raise error from None
            return "caught"

    async with Executor(1) as executor:
        future = executor.submit(job)
        following = executor.submit(unharmed)
        await begun.wait()
        assert future.cancel() is True
        assert await following == "unharmed"
        assert not future.cancelled()
        assert future.exception() is error
        if error is None:
            assert future.result() == "caught"
        counts = executor.statistics()
        assert (counts.succeeded, counts.failed) == ((2, 0) if error is None else (1, 1))
        await all_slots_work(executor)


async def test_a_job_may_swallow_its_cancellation(loop_name: str):
    """trio cancels at every checkpoint; under asyncio each `cancel` is met once."""

    async def stubborn() -> list[str]:
        own[0].cancel()
        met = []
        for step in range(6):
            try:
                await anyio.sleep(0.001) if step % 2 else await checkpoint()
                met.append("went on")
            except anyio.get_cancelled_exc_class():
                met.append("cancelled")
        return met

    own: list[Future[Any]] = []
    async with Executor(1) as executor:
        own.append(executor.submit(stubborn))
        following = executor.submit(unharmed)
        assert await own[0] == [
            "cancelled",
            *["cancelled" if loop_name == "trio" else "went on"] * 5,
        ]
        assert await following == "unharmed"
        await all_slots_work(executor)


async def test_cancelling_what_is_done_says_false_and_changes_nothing():
    async with Executor(1) as executor:
        job, error = Waiting(), ValueError("mine")
        succeeded, failed = executor.submit(unharmed), executor.submit(fail, error)
        running = await begin(executor, job)
        queued = executor.submit(unharmed)
        queued.cancel("queued")
        running.cancel("running")
        await running.wait()
        before = executor.statistics()
        for future in (succeeded, failed, queued, running):
            assert future.cancel("too late") is False
        assert executor.statistics() == before
        assert succeeded.result() == "unharmed"
        assert failed.exception() is error
        assert await cancelled_by(queued) == "job unharmed was cancelled: queued"
        assert "too late" not in await cancelled_by(running)
        assert "running" in await cancelled_by(running)


async def test_each_job_tells_the_reason_of_its_own_cancellation():
    """By await, result and exception, each time anew; a slot's next job knows nothing of it."""
    async with Executor(1) as executor:
        for reason in ["first", None, "third", ""]:
            running, queued = await begin(executor, Waiting()), executor.submit(unharmed)
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
                for other in ("first", "third"):
                    assert (other in messages[0]) == (other == reason)


# Cancelling from callbacks and from other jobs.


async def test_a_callback_cancels_other_jobs():
    """A done callback may cancel the next job of its slot, a running one, and its own."""
    async with Executor(2) as executor:
        trigger = Waiting()
        running, first = await begin(executor, Waiting()), await begin(executor, trigger)
        next_one, following = executor.submit(unharmed), executor.submit(unharmed)
        said = []

        def cancel_them(future: Future[Any]) -> None:
            said.extend([future.cancel(), next_one.cancel(), running.cancel()])

        first.add_done_callback(cancel_them)
        trigger.release.set()
        assert await following == "unharmed"
        assert said == [False, True, True]
        assert first.result() == "released"
        assert next_one.cancelled()
        await running.wait()
        assert running.cancelled()
        await all_slots_work(executor)


async def test_a_callback_cancels_the_tasks_that_wait_for_the_same_future():
    """A waiter that's cancelled by a callback of the very future it awaits ends just once."""
    ended = []

    async def wait():
        try:
            await future
        finally:
            ended.append("ended")

    async with Executor(1) as executor:
        job = Waiting()
        future = await begin(executor, job)
        async with anyio.create_task_group() as group:
            # Added first, so called before the waiters are notified.
            future.add_done_callback(lambda _: group.cancel_scope.cancel())
            for _ in range(3):
                group.start_soon(wait)
            await ticks(3)
            job.release.set()
        assert len(ended) == 3
        assert future.result() == "released"
        await all_slots_work(executor)


async def test_a_job_cancels_another_that_awaits_it():
    """That one ends at once, this one isn't disturbed."""
    async with Executor(2) as executor:
        release = anyio.Event()

        async def first():
            await release.wait()
            waiter.cancel()
            await ticks(3)
            return waiter.cancelled()

        async def await_it():
            return await target

        target = executor.submit(first)
        waiter = executor.submit(await_it)
        await ticks(5)
        release.set()
        assert await target is True
        await all_slots_work(executor)


async def test_awaiting_a_cancelled_job_cancels_nobody():
    """`JobCancelled` is an error: jobs and groups fail by it, no scope takes it for its own."""

    async def await_it():
        return await target

    async with Executor(2) as executor:
        target = await begin(executor, Waiting())
        waiter = executor.submit(await_it)
        with anyio.CancelScope() as scope, pytest.raises(ExceptionGroup) as info:
            async with anyio.create_task_group() as group:
                group.start_soon(await_it)
                await ticks(3)
                target.cancel("gone")
        assert [type(error) for error in info.value.exceptions] == [JobCancelled]
        assert not scope.cancelled_caught
        await waiter.wait()
        assert not waiter.cancelled()
        assert isinstance(waiter.exception(), JobCancelled)
        assert "gone" in str(waiter.exception())


# A cancellation in the very tick in which the job ends.


async def returns_when(gate: anyio.Event) -> str:
    await gate.wait()
    return "done"


async def fails_when(gate: anyio.Event) -> None:
    await gate.wait()
    raise Boom


async def leaves_a_shield_when(gate: anyio.Event) -> str:
    with anyio.CancelScope(shield=True):
        await gate.wait()
    return "done"


async def leaves_a_group_when(gate: anyio.Event) -> str:
    async with anyio.create_task_group() as group:
        group.start_soon(gate.wait)
    return "done"


async def leaves_a_thread_when(gate: anyio.Event) -> str:
    await gate.wait()
    await anyio.to_thread.run_sync(int)
    return "done"


async def polls(gate: anyio.Event) -> str:
    while not gate.is_set():
        await checkpoint()
    return "done"


@pytest.mark.parametrize(
    "job",
    [
        returns_when,
        fails_when,
        leaves_a_shield_when,
        leaves_a_group_when,
        leaves_a_thread_when,
        polls,
    ],
)
async def test_a_cancel_as_the_job_ends_never_reaches_the_next_one(
    job: Callable[[anyio.Event], Awaitable[object]],
):
    outcomes = set()
    async with Executor(1) as executor:
        for delay in [*range(-4, 8)] * 2:
            gate = anyio.Event()
            future = executor.submit(job, gate)
            following = [executor.submit(unharmed) for _ in range(2)]
            await ticks(3)
            await in_turn(delay, gate.set, future.cancel)
            assert await gather(*following) == ["unharmed"] * 2
            outcomes.add(future.cancelled())
            if not future.cancelled():
                future.exception()
        await all_slots_work(executor)
    assert outcomes == ({False} if job is leaves_a_shield_when else {False, True})


# Slots.


class RaisesInAwait:
    def __await__(self):
        raise ValueError("in __await__")


class HasNoIterator:
    def __await__(self):
        return 42


async def fails_at_once():
    raise ValueError("at once")


async def fails_badly():
    class Worse(BaseException):
        pass

    await fail(Worse())


async def stops_iteration():
    raise StopAsyncIteration


def raises_synchronously():
    raise ValueError("no coroutine")


FAILING: dict[str, Callable[..., Any]] = {
    "the function raises": raises_synchronously,
    "it takes other arguments": lambda argument: None,
    "it returns nothing to await": lambda: 42,
    "its awaitable raises": RaisesInAwait,
    "its awaitable gives no iterator": HasNoIterator,
    "at its first step": fails_at_once,
    "at a later step": fail,
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
            await all_slots_work(executor)
        assert executor.statistics().failed == 21


async def test_jobs_start_in_order_whatever_ends_those_before_them(caplog):
    """Failures, cancellations of queued and running jobs, raising callbacks: no slot is lost."""
    rng = random.Random(11)

    def raising_callback(_: Future[Any]) -> None:
        raise ValueError("callback")

    for slots in (1, 3):
        witness = Witness()
        async with Executor(slots) as executor:
            futures: list[Future[Any]] = []
            for number in range(300):
                futures.append(executor.submit(witness.job, number, rng.randrange(5)))
                futures.append(executor.submit(rng.choice([*FAILING.values()])))
                rng.choice(futures).add_done_callback(raising_callback)
            for future in futures[::5]:
                future.cancel()
            while not all(future.done() for future in futures):
                await checkpoint()
                running = [future for future in futures if future.running()]
                if running and rng.random() < 0.5:
                    rng.choice(running).cancel()
                if rng.random() < 0.2:
                    rng.choice(futures).cancel()
            for future in futures:
                assert future.cancelled() or future.exception() or future.result() is not None
            assert witness.order == sorted(witness.order)
            assert len(witness.order) > 100
            assert witness.most == slots
            await all_slots_work(executor)
    assert caplog.records


@pytest.mark.parametrize("outcome", ["succeeds", "fails", "cancelled queued", "cancelled running"])
async def test_a_job_whose_function_has_no_repr_ends_like_any_other(outcome: str):
    """A callable whose `repr` raises is awkward to name; that harms neither job nor executor."""

    class Nameless(Waiting):
        def __repr__(self) -> str:
            raise ValueError("in __repr__")

        async def __call__(self) -> object:
            await super().__call__()
            return await fail() if outcome == "fails" else 42

    async with Executor(1) as executor:
        job = Nameless()
        future = executor.submit(job)
        if outcome != "cancelled queued":
            await job.begun.wait()
        if outcome.startswith("cancelled"):
            assert future.cancel()
        job.release.set()
        await future.wait()
        assert future.cancelled() == outcome.startswith("cancelled")
        if outcome == "succeeds":
            assert future.result() == 42
        elif outcome == "fails":
            assert isinstance(future.exception(), Boom)
        assert future.name
        assert repr(future)
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


@pytest.mark.parametrize("wait", ["await", "wait", "gather", "gather, exceptions too", "join"])
async def test_a_wait_that_is_cancelled_leaves_the_job_and_other_waiters_alone(wait: str):
    """As the job ends, the wait ends in one of both ways; the scope knows which."""
    outcomes = set()
    async with Executor(1) as executor:
        for delay in range(-5, 7):
            job = Waiting()
            future = await begin(executor, job)
            got, others = [], []

            async def waiting(
                scope: anyio.CancelScope,
                name: str,
                ended: list[Any],
                future: Future[Any] = future,
            ):
                with scope:
                    ended.append(await waits_for(executor, future)[name]())

            async with anyio.create_task_group() as group:
                scope = anyio.CancelScope()
                group.start_soon(waiting, scope, wait, got)
                group.start_soon(waiting, anyio.CancelScope(), "await", others)
                await ticks(3)
                await in_turn(delay, job.release.set, scope.cancel)
            assert scope.cancelled_caught or got
            if delay < 0:
                assert not got
            outcomes.add(bool(got))
            assert others == ["released"]
            # In a scope that's cancelled already, even a job that is done isn't waited for.
            with anyio.CancelScope() as scope:
                scope.cancel()
                await waits_for(executor, future)[wait]()
                pytest.fail("not cancelled")
            assert scope.cancelled_caught
        await all_slots_work(executor)
    assert outcomes == {True, False}


# Everything at once.


async def test_cancelling_all_jobs_spares_those_that_are_submitted_after_it():
    """`Executor.cancel` takes what's there, begun or not."""
    for delay in range(6):
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
    steps: list[str] = []

    async def job():
        await checkpoint()
        executor.cancel("by a job")
        steps.append("after")
        await checkpoint()
        steps.append("not here")

    async with Executor(2) as executor:
        for future in [executor.submit(fn) for fn in (Waiting(), job, unharmed)]:
            assert "by a job" in await cancelled_by(future)
        assert steps == ["after"]
        await all_slots_work(executor)


async def test_jobs_submitted_in_answer_to_a_cancellation_run():
    """What callbacks and unwinding jobs submit while everything is cancelled isn't cancelled."""
    added: list[Future[str]] = []

    class Submitting(Waiting):
        async def __call__(self) -> None:
            try:
                await super().__call__()
            finally:
                added.append(executor.submit(unharmed))

    async with Executor(2) as executor:
        for _ in range(2):
            await begin(executor, Submitting())
        for _ in range(3):
            future = executor.submit(unharmed)
            future.add_done_callback(lambda _: added.append(executor.submit(unharmed)))
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
    told, ended = [], []
    async with Executor(1) as executor, anyio.create_task_group() as group:
        blocker = Waiting()
        first = await begin(executor, blocker)
        futures = [executor.submit(unharmed) for _ in range(count)]
        for future in futures[:: count // 1000]:
            future.add_done_callback(told.append)

        async def gathering():
            with pytest.raises(JobCancelled):
                await gather(*futures[:20_000])
            ended.append("gather")

        async def gathering_all():
            exceptions = await gather(*futures[:20_000], return_exceptions=True)
            assert {type(exception) for exception in exceptions} == {JobCancelled}
            ended.append("all")

        group.start_soon(gathering)
        group.start_soon(gathering_all)
        await ticks(3)
        ordered = random.Random(5).sample(futures, count) if order == "shuffled" else futures
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
        await ticks(5)
        assert sorted(ended) == ["all", "gather"]
        blocker.release.set()
        await first.wait()
        assert executor.statistics().cancelled == count + (order == "all")
        await all_slots_work(executor)


# Ways to end: each runs a body that submits jobs in the block of an executor.


class Stop(Exception):
    pass


Body = Callable[[], Awaitable[list[Future[Any]]]]
End = Callable[[Executor, Body], Awaitable[None]]


async def cancel_each(executor: Executor, body: Body) -> None:
    """Their slots run other jobs then as if nothing had happened."""
    async with executor:
        for future in await body():
            assert future.cancel() is True
        following = [executor.submit(unharmed) for _ in range(4)]
        assert await gather(*following) == ["unharmed"] * 4
        await executor.join()
        await all_slots_work(executor)


async def cancel_all(executor: Executor, body: Body) -> None:
    async with executor:
        await body()
        executor.cancel()


async def raise_in_body(executor: Executor, body: Body) -> None:
    with pytest.raises(Stop):
        async with executor:
            await body()
            raise Stop


async def cancel_around(executor: Executor, body: Body) -> None:
    with anyio.CancelScope() as scope:
        async with executor:
            await body()
            scope.cancel()
    assert scope.cancelled_caught


async def cancel_while_leaving(executor: Executor, body: Body) -> None:
    async with anyio.create_task_group() as group:

        async def later():
            await ticks(3)
            scope.cancel()

        with anyio.CancelScope() as scope:
            async with executor:
                await body()
                group.start_soon(later)
        assert scope.cancelled_caught


async def shut_down(executor: Executor, body: Body) -> None:
    async with executor:
        await body()
        await executor.shutdown(grace=0)


async def fail_another(executor: Executor, body: Body) -> None:
    """The block raises that error, and not the cancellations of the rest."""
    executor.slots += 1
    with pytest.raises(ExceptionGroup) as info:
        async with executor:
            await body()
            executor.submit(fails_at_once)
    values, rest = info.value.split(ValueError)
    assert [str(error) for error in values.exceptions] == ["at once"]
    assert rest is None or rest.split(KeyError)[1] is None


ENDS = [
    cancel_each,
    cancel_all,
    raise_in_body,
    cancel_around,
    cancel_while_leaving,
    shut_down,
    fail_another,
]


def executor_for(end: End) -> Executor:
    return Executor(2, on_error="cancel" if end is fail_another else "hold")


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
        group.start_soon(anyio.sleep_forever)
        await anyio.sleep_forever()


async def in_nested_task_groups(inside: Inside) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(inside)
        async with anyio.create_task_group() as inner:
            inner.start_soon(in_a_task_group, inside)


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
            await gather(futures[0])
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


async def in_asyncio_task_group(inside: Inside) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(inside())
        group.create_task(asyncio.sleep(3600))
        await anyio.sleep_forever()


def as_an_asyncio_task(inside: Inside) -> asyncio.Task[None]:
    return asyncio.create_task(inside())


async def in_a_nursery(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def in_nested_nurseries(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)
        with trio.move_on_after(3600):
            await in_a_nursery(inside)


def skip_unless_native(structure: Callable[..., Any], loop_name: str) -> None:
    if "nurser" in structure.__name__ and loop_name != "trio":
        pytest.skip("a nursery is trio's")
    if "asyncio" in structure.__name__ and loop_name == "trio":
        pytest.skip("asyncio's own")


@pytest.mark.parametrize(
    "end", [end for end in ENDS if end not in (cancel_all, cancel_while_leaving)]
)
@pytest.mark.parametrize(
    "structure",
    [
        in_plain_code,
        in_nested_task_groups,
        in_a_timeout,
        in_an_async_generator,
        in_an_executor,
        in_leaving_an_executor,
        in_a_job_of_an_executor_of_a_job,
        in_an_abandoned_thread,
        in_asyncio_task_group,
        as_an_asyncio_task,
        in_nested_nurseries,
    ],
)
async def test_jobs_inside_any_structure_unwind_however_they_are_cancelled(
    structure: Callable[[Inside], Awaitable[None]], end: End, loop_name: str
):
    """What a job has opened is closed when its future is done; the future is cancelled.

    test_cancel_once.py has many more structures for asyncio.
    """
    skip_unless_native(structure, loop_name)
    insides = [Inside(), Inside()]
    executor = executor_for(end)
    futures: list[Future[Any]] = []
    counted = []

    async def body() -> list[Future[Any]]:
        for inside in insides:
            future = executor.submit(structure, inside)
            future.add_done_callback(lambda _, i=inside: counted.append((i.entered, i.unwound)))
            futures.append(future)
        for inside in insides:
            await inside.begun.wait()
        await ticks(4)
        return futures

    await end(executor, body)
    for future in futures + insides[0].inner + insides[1].inner:
        assert future.cancelled(), future
    assert len(counted) == 2
    assert all(entered == unwound > 0 for entered, unwound in counted)
    counts = executor.statistics()
    assert (counts.queued, counts.running, counts.cancelled) == (0, 0, 2)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "structure", [in_plain_code, in_a_task_group, in_asyncio_task_group, in_a_nursery]
)
async def test_an_error_raised_inside_a_structure_while_it_unwinds_is_the_jobs_outcome(
    structure: Callable[[Inside], Awaitable[None]], end: End, loop_name: str
):
    skip_unless_native(structure, loop_name)

    class Messy(Inside):
        async def __call__(self) -> None:
            try:
                await super().__call__()
            finally:
                raise KeyError("while unwinding")

    inside = Messy()
    executor = executor_for(end)
    seen: list[BaseException | None] = []

    async def body() -> list[Future[Any]]:
        future = executor.submit(structure, inside)
        future.add_done_callback(lambda future: seen.append(future.exception()))
        await inside.begun.wait()
        await ticks(4)
        return [future]

    await end(executor, body)
    [error] = seen
    assert isinstance(error, KeyError | ExceptionGroup)
    if isinstance(error, BaseExceptionGroup):
        assert error.split(KeyError)[1] is None


@pytest.mark.parametrize("end", ENDS)
async def test_the_block_ends_only_when_cancelled_jobs_have_unwound(end: End):
    executor = executor_for(end)
    jobs = [Unwinding(), Unwinding()]
    futures: list[Future[Any]] = []
    ended = []

    async def body() -> list[Future[Any]]:
        futures.extend([await begin(executor, job) for job in jobs])
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


@pytest.mark.parametrize("end", [cancel_each, raise_in_body])
@pytest.mark.real_time
async def test_waiting_for_a_cancelled_job_in_a_shield_takes_no_cpu(end: End):
    executor = executor_for(end)
    begun = anyio.Event()

    async def job():
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)

    async def body() -> list[Future[Any]]:
        future = executor.submit(job)
        await begun.wait()
        return [future]

    wall, cpu = time.perf_counter(), time.process_time()
    await end(executor, body)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert wall >= 0.19
    assert cpu < 0.1


# Leaving the block.


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
        futures = [await begin(executor, job) for job in jobs]
        futures.append(executor.submit(unharmed))
        reached = []

        async def shutting_down(scope: anyio.CancelScope):
            with scope:
                await executor.shutdown(grace=3600)
                reached.append("not cancelled")
            reached.append("ended")

        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(shutting_down, scope)
            await ticks(3)
            assert not any(future.done() for future in futures)
            scope.cancel()
            for job in jobs:
                await job.unwinding.wait()
                await ticks(3)
                assert reached == []
                job.release.set()
        assert reached == ["ended"]
        assert scope.cancelled_caught
        assert all(future.cancelled() for future in futures)


async def test_leaving_under_cancellation_refuses_what_unwinding_jobs_submit():
    refused = []

    class Submitting(Waiting):
        async def __call__(self) -> None:
            try:
                await super().__call__()
            finally:
                with pytest.raises(ExecutorClosed):
                    executor.submit(unharmed)
                refused.append(True)

    with pytest.raises(Stop):
        async with Executor(2) as executor:
            for _ in range(2):
                await begin(executor, Submitting())
            raise Stop
    assert len(refused) == 2
    assert executor.statistics().submitted == 2


@pytest.mark.parametrize("seconds", [0, 0.01])
async def test_a_timeout_around_the_block_ends_it(seconds: float):
    with anyio.move_on_after(seconds) as scope:
        async with Executor(2) as executor:
            futures = [executor.submit(anyio.sleep, 3600) for _ in range(5)]
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), anyio.fail_after(seconds):
        async with Executor(2) as executor:
            futures += [executor.submit(anyio.sleep, 3600) for _ in range(5)]
            await anyio.sleep_forever()
    assert all(future.cancelled() for future in futures)


async def test_entering_inside_a_cancelled_scope_ends_cancelled_and_runs_nothing():
    """Jobs are cancelled at their first checkpoint at the latest."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Executor(2) as executor:
            futures = [executor.submit(unharmed) for _ in range(5)]
    assert scope.cancelled_caught
    assert all(future.cancelled() for future in futures)


@pytest.mark.parametrize("in_a_group", [False, True])
async def test_a_job_cancelled_together_with_the_block_is_no_error_of_it(in_a_group: bool):
    async def wait_for(future: Future[Any]) -> None:
        await future

    with anyio.CancelScope() as scope:
        async with Executor(1) as executor:
            future = await begin(executor, Waiting())
            scope.cancel()
            # The body learns of it from the job alone.
            with anyio.CancelScope(shield=True):
                if in_a_group:
                    async with anyio.create_task_group() as group:
                        group.start_soon(wait_for, future)
                else:
                    await future
    assert scope.cancelled_caught
    assert future.cancelled()


# Executors in executors.


async def test_cancelling_a_job_of_the_inner_executor_leaves_the_outer_alone():
    async with Executor(1) as outer, Executor(1) as inner_executor:
        job = Waiting()
        futures = [await begin(outer, job), await begin(inner_executor, Waiting())]
        inner_executor.cancel()
        await inner_executor.join()
        assert futures[1].cancelled()
        assert futures[0].running()
        job.release.set()
        assert await futures[0] == "released"
        await all_slots_work(inner_executor)
        await all_slots_work(outer)


async def test_a_failure_in_the_inner_executor_unwinds_to_the_outer_job():
    """``on_error="cancel"`` inside a job: the outer job fails with that group, its slot is free."""

    async def host():
        async with Executor(2, on_error="cancel") as inner_executor:
            await begin(inner_executor, Waiting())
            inner_executor.submit(fail, error)

    error = Boom("inner")
    async with Executor(1) as executor:
        future = executor.submit(host)
        assert await executor.submit(unharmed) == "unharmed"
        group = future.exception()
        assert isinstance(group, ExceptionGroup)
        assert group.exceptions == (error,)
        await all_slots_work(executor)
