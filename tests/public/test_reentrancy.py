"""Code of users may do anything at any point: it never runs in the middle of a change of state.

Done callbacks, instruments, ``cost``, ``__del__`` and signal handlers that submit, cancel, pause,
resize, close and raise; chains of callbacks of any length.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import all_slots_work
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    Executor,
    ExecutorClosed,
    Future,
    JobCancelled,
    Lane,
    QueueTimeout,
    Rate,
    Retry,
    gather,
    wait,
)

pytestmark = pytest.mark.anyio

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def one(x: int = 1) -> int:
    await checkpoint()
    return x


async def instant() -> int:
    return 1


def check_counts(executor: Executor) -> None:
    counts = executor.statistics()
    ended = counts.succeeded + counts.failed + counts.cancelled
    assert counts.submitted == counts.queued + counts.running + counts.lent + ended
    assert min(counts.running, counts.queued, counts.lent) >= 0


# Callbacks that submit while others wait for capacity.


@virtual
@pytest.mark.parametrize(
    "how", ["future", "lane", "clear", "queue timeout", "ends", "executor", "instrument"]
)
def test_callbacks_do_not_barge_past_waiting_submitters(backend: str, how: str) -> None:
    """The capacity of a job that ends is theirs first: the callback gets `WouldBlock`."""

    async def main() -> None:
        refused: list[bool] = []
        order: list[str] = []

        def submit(_: object) -> None:
            try:
                lane.submit(note, "callback")
            except anyio.WouldBlock:
                refused.append(True)
            else:
                refused.append(False)

        async def note(name: str) -> None:
            order.append(name)

        class Instrument:
            def job_finished(self, future: Future[Any]) -> None:
                if how == "instrument" and future.name == "one" and future.cancelled():
                    submit(future)

        async with Executor(1, max_pending=1, instruments=[Instrument()]) as executor:
            lane = executor.lane(queue_timeout=1 if how == "queue timeout" else None)
            other = executor.lane()
            release = anyio.Event()
            running = executor.submit(release.wait)
            await anyio.wait_all_tasks_blocked() if backend == "trio" else await anyio.sleep(0.1)
            queued = lane.submit(one)
            if how != "instrument":
                queued.add_done_callback(submit)
            async with anyio.create_task_group() as group:
                for lane_of, name in ((other, "M"), (lane, "L")):
                    group.start_soon(lane_of.enqueue, note, name)
                    await anyio.sleep(0.1)
                if how in ("future", "instrument"):
                    queued.cancel()
                elif how == "lane":
                    lane.cancel()
                elif how == "clear":
                    lane.clear()
                elif how == "executor":
                    running.add_done_callback(submit)
                    executor.cancel()
                elif how == "queue timeout":
                    await anyio.sleep(0.9)
                    assert isinstance(queued.exception(), QueueTimeout)
                release.set()
            await executor.join()
            check_counts(executor)
            assert sorted(order[:2]) == ["L", "M"]
            if how != "ends":
                assert refused[0] is True
            await all_slots_work(executor)

    run_in_virtual_time(backend, main)


# Callbacks and instruments that do anything.


class Meddler:
    """Does something at random to an executor, its lanes and futures; any error must be known."""

    def __init__(self, seed: int, depth: int) -> None:
        self.random = random.Random(seed)
        self.calls = 0
        self.budget = depth
        self.executor: Executor
        self.lanes: list[Lane] = []
        self.futures: list[Future[Any]] = []

    def submit(self) -> None:
        lane = self.random.choice([self.executor, *self.lanes])
        job = self.random.choice([one, instant, self.fail, self.meddling_job])
        future = lane.submit(job)
        self.futures.append(future)
        if self.random.random() < 0.7:
            future.add_done_callback(self)

    def cancel(self) -> None:
        if self.futures:
            self.random.choice(self.futures).cancel()

    def cancel_lane(self) -> None:
        self.random.choice(self.lanes).cancel()

    def clear_lane(self) -> None:
        self.random.choice([self.executor, *self.lanes]).clear()

    def pause(self) -> None:
        self.random.choice(self.lanes).pause(self.random.choice([0.001, 0.002]))

    def resume(self) -> None:
        self.random.choice([self.executor, *self.lanes]).resume()

    def resize(self) -> None:
        self.random.choice([self.executor, *self.lanes]).slots = self.random.randint(1, 3)

    def bound(self) -> None:
        self.random.choice(self.lanes).max_pending = self.random.choice([0, 2, float("inf")])

    def rate(self) -> None:
        rate = self.random.choice([None, Rate(2, per=0.001)])
        self.random.choice(self.lanes).rate = rate

    def prioritise(self) -> None:
        self.random.choice(self.lanes).priority = self.random.randint(0, 2)

    def add_lane(self) -> None:
        if len(self.lanes) < 8:
            parent = self.random.choice([self.executor, *self.lanes])
            self.lanes.append(parent.lane(slots=self.random.randint(1, 3)))

    def close(self) -> None:
        if len(self.lanes) > 3:
            self.lanes.pop().close()

    def collect(self) -> None:
        if self.random.random() < 0.05:
            gc.collect(0)

    def fail_here(self) -> None:
        raise ZeroDivisionError

    def read(self) -> None:
        check_counts(self.executor)
        repr(self.executor)
        for lane in self.lanes:
            repr(lane)

    async def fail(self) -> None:
        raise ValueError

    async def meddling_job(self) -> None:
        self()
        await checkpoint()
        self()

    def __call__(self, *_: object) -> None:
        if self.budget <= 0:
            return
        self.budget -= 1
        self.calls += 1
        actions: list[Callable[[], None]] = [
            self.submit,
            self.submit,
            self.submit,
            self.cancel,
            self.cancel_lane,
            self.clear_lane,
            self.pause,
            self.resume,
            self.resize,
            self.bound,
            self.rate,
            self.prioritise,
            self.add_lane,
            self.close,
            self.collect,
            self.read,
        ]
        for _ in range(self.random.randint(1, 3)):
            try:
                self.random.choice(actions)()
            except (anyio.WouldBlock, ExecutorClosed):
                pass


class MeddlingInstrument:
    def __init__(self, meddler: Meddler) -> None:
        self.job_submitted = self.job_started = self.job_finished = meddler
        self.job_lent = self.job_resumed = self.job_retried = meddler


@virtual
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("where", ["callbacks", "instruments", "both"])
def test_callbacks_and_instruments_that_do_anything(
    backend: str, where: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All futures are done in the end, the counts are right, and all slots work."""

    async def main() -> None:
        meddler = Meddler(seed, 300)
        instruments = [] if where == "callbacks" else [MeddlingInstrument(meddler)]
        with anyio.fail_after(1000):
            async with Executor(2, on_error="log", instruments=instruments) as executor:
                meddler.executor = executor
                meddler.lanes = [executor.lane(retry=Retry(2, wait=0)), executor.lane(slots=1)]
                meddler.lanes.append(meddler.lanes[0].lane())
                for _ in range(30):
                    try:
                        meddler.submit()
                    except anyio.WouldBlock:
                        await checkpoint()
                    if where != "instruments" and meddler.futures:
                        meddler.futures[-1].add_done_callback(meddler)
                await wait(meddler.futures)
                meddler.budget = 0
                executor.slots = 2
                executor.resume()
                await executor.join()
                await all_slots_work(executor)
                assert meddler.calls > 10
                for future in meddler.futures:
                    if not future.cancelled():
                        future.exception()
        assert all(future.done() for future in meddler.futures)

    run_in_virtual_time(backend, main)
    assert not [each for each in caplog.records if "raised" in each.getMessage()]


async def test_a_callback_that_closes_the_executor() -> None:
    """What is queued still runs; its other callbacks are refused."""
    refused: list[type[Exception]] = []

    def close(_: object) -> None:
        executor.close()
        try:
            executor.submit(one)
        except RuntimeError as exc:
            refused.append(type(exc))

    async with Executor(1) as executor:
        first = executor.submit(instant)
        first.add_done_callback(close)
        following = [executor.submit(one, n) for n in range(3)]
        assert await gather(*following) == [0, 1, 2]
    assert refused == [ExecutorClosed]


async def test_an_instrument_that_raises_in_the_middle_of_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It's logged once and removed; neither jobs nor other instruments are harmed."""

    class Raising:
        def job_started(self, future: Future[Any]) -> None:
            raise ZeroDivisionError

        job_submitted = job_finished = job_started

    class Counting:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def job_submitted(self, future: Future[Any]) -> None:
            self.seen.append("submitted")

        def job_started(self, future: Future[Any]) -> None:
            self.seen.append("started")

        def job_finished(self, future: Future[Any]) -> None:
            self.seen.append("finished")

    counting = Counting()
    async with Executor(1, instruments=[Raising(), counting]) as executor:
        assert await gather(*[executor.submit(one, n) for n in range(3)]) == [0, 1, 2]
    assert sorted(counting.seen) == ["finished"] * 3 + ["started"] * 3 + ["submitted"] * 3
    assert len(caplog.records) == 1


async def test_a_cost_that_submits_cancels_and_closes() -> None:
    """``cost`` is called by `submit`, before anything is queued."""
    calls: list[object] = []

    def cost(*args: object, **kwargs: object) -> int:
        if len(calls) < 5:
            calls.append(args)
            executor.submit(one)
            for future in futures:
                future.cancel()
            lane.pause()
            lane.resume()
        elif len(calls) == 5:
            calls.append(args)
            lane.close()
        return 1

    futures: list[Future[int]] = []
    async with Executor(1) as executor:
        lane = executor.lane(rate=Rate(1000, per=0.01, cost=cost))
        for n in range(5):
            futures.append(lane.submit(one, n))
        with pytest.raises(ExecutorClosed):
            lane.submit(one, 5)
        await wait(futures)
        await executor.join()
        await all_slots_work(executor)


# `__del__` that submits and cancels, wherever the collector runs.


@pytest.fixture
def eager_collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("eager_collector")
async def test_finalizers_that_submit_and_cancel() -> None:
    """With a collection at nearly every allocation, in the middle of whatever is under way."""

    class Cycle:
        def __init__(self, n: int) -> None:
            self.me = self
            self.n = n

        def __del__(self) -> None:
            nonlocal finalized
            finalized += 1
            if self.n % 2:
                try:
                    futures.append(lanes[self.n % 3].submit(one, self.n))
                except (anyio.WouldBlock, RuntimeError):
                    pass
            elif futures:
                futures[self.n % len(futures)].cancel()

    finalized = 0
    futures: list[Future[int]] = []
    async with Executor(2, max_pending=100) as executor:
        lanes = [executor.lane(priority=n, slots=2) for n in range(3)]
        for n in range(150):
            Cycle(n)
            try:
                futures.append(lanes[n % 3].submit(one, n))
            except anyio.WouldBlock:
                pass
            if n % 5 == 0:
                await checkpoint()
        await executor.join()
        gc.collect()
        await executor.join()
        assert all(future.done() for future in futures)
        check_counts(executor)
        await all_slots_work(executor)
    assert finalized == 150


async def test_a_finalizer_of_an_argument_runs_after_the_transition() -> None:
    """The last reference to an argument may go as a job ends: what it does then is fine."""

    class Argument:
        def __del__(self) -> None:
            following.append(executor.submit(one))

    following: list[Future[int]] = []

    async def take(argument: object) -> None:
        del argument

    async with Executor(1) as executor:
        for _ in range(20):
            executor.submit(take, Argument())
        cancelled = [executor.submit(take, Argument()) for _ in range(20)]
        for future in cancelled:
            future.cancel()
        await executor.join()
        assert len(following) == 40
        assert await gather(*following) == [1] * 40
        check_counts(executor)


# Chains.

LENGTH = 20_000


async def test_a_chain_of_callbacks_that_cancel_the_next() -> None:
    """20,000 queued jobs, each cancelled by the one before."""
    async with Executor(1) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        futures = [executor.submit(one) for _ in range(LENGTH)]
        for future, following in itertools.pairwise(futures):
            future.add_done_callback(lambda _, following=following: following.cancel())
        futures[0].cancel()
        assert all(future.cancelled() for future in futures)
        assert executor.statistics().queued <= 1
        release.set()
        check_counts(executor)


async def test_a_chain_of_callbacks_that_cancel_the_one_before() -> None:
    """The other way round: from the queue's end to its front."""
    async with Executor(1) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        futures = [executor.submit(one) for _ in range(LENGTH)]
        for future, following in zip(futures[1:], futures, strict=False):
            future.add_done_callback(lambda _, following=following: following.cancel())
        futures[-1].cancel()
        assert all(future.cancelled() for future in futures)
        release.set()


async def test_a_chain_of_callbacks_that_submit_the_next() -> None:
    count = 0

    def submit_and_cancel(_: object) -> None:
        nonlocal count
        count += 1
        if count < LENGTH:
            future = executor.submit(one)
            future.add_done_callback(submit_and_cancel)
            future.cancel()

    async with Executor(1) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        await checkpoint()
        submit_and_cancel(None)
        assert count == LENGTH
        release.set()
    assert executor.statistics().cancelled == LENGTH - 1


async def test_a_chain_of_instant_jobs_by_callbacks() -> None:
    """A job is submitted as the one before it has run."""
    count = 0

    def submit(_: object) -> None:
        nonlocal count
        count += 1
        if count < LENGTH // 5:
            executor.submit(instant).add_done_callback(submit)

    async with Executor(1) as executor:
        submit(None)
    assert count == LENGTH // 5


async def test_many_callbacks_of_one_future() -> None:
    """In order, and each of them once."""
    called: list[int] = []
    async with Executor(1) as executor:
        future = executor.submit(one)
        for n in range(LENGTH):
            future.add_done_callback(lambda _, n=n: called.append(n))
        await future
        assert called == list(range(LENGTH))


async def test_a_chain_of_lanes_that_cancel_each_other() -> None:
    async with Executor(1) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        lanes = [executor.lane() for _ in range(2_000)]
        futures = [lane.submit(one) for lane in lanes]
        for future, lane in zip(futures, lanes[1:], strict=False):
            future.add_done_callback(lambda _, lane=lane: lane.cancel())
        lanes[0].cancel()
        assert all(future.cancelled() for future in futures)
        release.set()


# Nothing is kept.


class Result:
    """What can be referred to weakly."""


async def make_result() -> Result:
    return Result()


@pytest.mark.parametrize("slots", [1, 3])
async def test_a_result_just_given_out_is_nobody_elses(slots: int, no_collector: None) -> None:
    """Results of instant jobs are freed as soon as their consumer lets go of them."""
    async with Executor(slots) as executor:
        async for result in executor.map(make_result_of, range(20)):
            reference = weakref.ref(result)
            del result
            assert reference() is None
        for _ in range(20):
            future = executor.submit(make_result)
            reference = weakref.ref(await future)
            del future
            assert reference() is None


async def make_result_of(_: int) -> Result:
    return Result()


async def test_an_instant_jobs_future_is_not_kept(no_collector: None) -> None:
    """Neither is its future, while its worker lets others run."""
    seen: list[bool] = []

    async def look(reference: weakref.ref[Any]) -> None:
        seen.append(reference() is None)

    async with Executor(1) as executor:
        for _ in range(20):
            future = executor.submit(make_result)
            reference = weakref.ref(future)
            del future
            await executor.submit(look, reference)
    assert seen == [True] * 20


async def test_lanes_dropped_after_a_job_are_collectable() -> None:
    """Eight producers that make a lane, enqueue a job and drop it, over and over."""
    references: list[weakref.ref[Any]] = []

    async def produce() -> None:
        for _ in range(200):
            lane = executor.lane()
            references.append(weakref.ref(lane))
            await lane.enqueue(one)
            del lane

    async with Executor(2, max_pending=0) as executor:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(produce)
        await executor.join()
        gc.collect()
        assert sum(reference() is not None for reference in references) <= 8
        assert len(list(executor.children)) <= 8
        assert executor.statistics().succeeded == 1600


# Copies.


@pytest.mark.parametrize(
    "copy_it", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"]
)
async def test_copying_is_refused(copy_it: Callable[[Any], object]) -> None:
    """A copy of a future, a lane or an executor would share the state of one that lives on."""
    async with Executor(1) as executor:
        lane = executor.lane("lane")
        future = executor.submit(one)
        for each in (executor, lane, future):
            with pytest.raises(TypeError):
                copy_it(each)
        assert await future == 1
        with pytest.raises(TypeError):
            copy_it(future)
    with pytest.raises(TypeError):
        copy_it(Executor(1))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
async def test_replacing_is_refused() -> None:
    async with Executor(1) as executor:
        with pytest.raises(TypeError):
            copy.replace(executor)  # type: ignore[attr-defined]


async def test_cancelled_reason_survives_reentrancy() -> None:
    """A job cancelled in another's callback keeps the reason that it was given there."""
    async with Executor(1) as executor:
        first = executor.submit(instant)
        second = executor.submit(one)
        first.add_done_callback(lambda _: second.cancel("by the first"))
        with pytest.raises(JobCancelled, match="by the first"):
            await second
