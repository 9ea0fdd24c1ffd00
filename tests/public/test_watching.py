"""What instruments are told: each job's way, in order, and once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Future, JobCancelled, QueueTimeout, Rate, lend_slot

run_anywhere = pytest.mark.anyio


@dataclass
class Record:
    """An instrument that keeps what it's told of each job."""

    events: defaultdict[Future[Any], list[str]] = field(default_factory=lambda: defaultdict(list))

    def job_submitted(self, future: Future[Any]) -> None:
        self.events[future].append("submitted")

    def job_started(self, future: Future[Any]) -> None:
        assert future.running()
        assert future.slot is not None
        self.events[future].append("started")

    def job_lent(self, future: Future[Any]) -> None:
        assert future.running()
        self.events[future].append("lent")

    def job_resumed(self, future: Future[Any]) -> None:
        assert future.running()
        self.events[future].append("resumed")

    def job_finished(self, future: Future[Any]) -> None:
        assert future.done()
        self.events[future].append("finished")

    def check(self, executor: Executor) -> None:
        """Each job that counts as submitted has gone its way, and no other job has any."""
        assert len(self.events) == executor.statistics().submitted
        for future, events in self.events.items():
            lent = events.count("lent")
            ran = [] if future.slot is None else ["started", *["lent", "resumed"] * lent]
            assert events == ["submitted", *ran, "finished"]


async def fail() -> None:
    raise ValueError("no luck")


# Each job's way.


SECONDS = st.integers(0, 3)

operations = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("submit"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("enqueue"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("enqueue"), st.just(0), SECONDS),
    st.tuples(st.just("nest"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("fail"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("cancel"), st.integers(0, 9), SECONDS),
    st.tuples(st.just("give up"), st.integers(0, 9), SECONDS),
    st.tuples(st.just("sleep"), SECONDS, SECONDS),
    st.tuples(st.just("pause"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("resume"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("cancel all"), st.integers(0, 1), SECONDS),
    st.tuples(st.just("interrupt"), st.integers(0, 1), SECONDS),
)

# What an instrument does when it's told: to which executor or job, and at which call of how many.
meddling = st.dictionaries(st.integers(0, 20), st.sampled_from(["submit", "cancel", "raise"]))


class Meddler:
    """An instrument that submits, cancels, and may break."""

    def __init__(self, deeds: dict[int, str]) -> None:
        self.deeds = deeds
        self.calls = 0

    def job_submitted(self, future: Future[Any]) -> None:
        deed = self.deeds.get(self.calls)
        self.calls += 1
        if deed == "submit":
            future.lane.submit(checkpoint)  # or it's refused: then this raises
        elif deed == "cancel":
            future.cancel()
        elif deed == "raise":
            raise ValueError

    job_started = job_finished = job_submitted


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@given(
    slots=st.integers(1, 2),
    max_pending=st.sampled_from([0, 1, 2]),
    queue_timeout=st.sampled_from([None, 2]),
    program=st.lists(operations, min_size=8, max_size=25),
    deeds=meddling,
    deadline=st.sampled_from([2, 5, 1000, 1000]),
)
def test_each_job_is_told_in_order_and_once(
    backend, slots, max_pending, queue_timeout, program, deeds, deadline
) -> None:
    """Whatever becomes of a job: submitted, started if it ran, finished; and so to everybody."""
    first, last, scopes = Record(), Record(), []
    logging.getLogger("anyslots").disabled = True

    async def job(seconds: int) -> None:
        await anyio.sleep(seconds)

    async def nest(lane: Any, seconds: int) -> None:
        await lane.submit(job, seconds)

    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def enqueue(lane: Any, seconds: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await lane.enqueue(job, seconds)

    async def operate(group: Any, lanes: Any, name: str, number: int, seconds: int) -> None:
        lane = lanes[number % 2]
        match name:
            case "submit":
                lane.submit(job, seconds)
            case "enqueue":
                group.start_soon(enqueue, lane, seconds)
            case "nest":
                lane.submit(nest, lanes[1 - number], seconds)
            case "fail":
                lane.submit(fail)
            case "cancel" if number < len(first.events):
                list(first.events)[number].cancel()
            case "give up" if number < len(scopes):
                scopes[number].cancel()
            case "sleep":
                await anyio.sleep(number)
            case "pause":
                lane.pause()
            case "resume":
                lane.resume()
            case "cancel all":
                lane.cancel()
            case "interrupt":
                lane.submit(interrupt)

    async def main() -> Executor:
        instruments = (first, Meddler(deeds), last)
        executor = Executor(slots, instruments=instruments, on_error="log")
        lanes = (
            executor.lane(max_pending=max_pending, queue_timeout=queue_timeout, timeout=3),
            executor.lane(),
        )
        try:
            with anyio.move_on_after(deadline):
                async with executor, anyio.create_task_group() as group:
                    for operation in program:
                        try:
                            await operate(group, lanes, *operation)
                        except (anyio.WouldBlock, RuntimeError):
                            pass
        except (KeyboardInterrupt, BaseExceptionGroup):
            pass
        return executor

    try:
        executor = run_in_virtual_time(backend, main)
    finally:
        logging.getLogger("anyslots").disabled = False
    first.check(executor)
    assert last.events == first.events


@run_anywhere
async def test_a_job_cancelled_in_the_queue_never_starts(anyio_backend) -> None:
    """It's submitted and finished; so are those that are drained and those that wait too long."""
    record = Record()
    async with Executor(1, instruments=[record]) as executor:
        release = anyio.Event()
        executor.submit(release.wait)
        cancelled = executor.submit(checkpoint)
        late = executor.lane(queue_timeout=0.01).submit(checkpoint)
        await wait_all_tasks_blocked()
        cancelled.cancel()
        assert record.events[cancelled] == ["submitted", "finished"]
        with pytest.raises(QueueTimeout):
            await late
        drained = executor.submit(checkpoint)
        executor.cancel()
        assert record.events[drained] == ["submitted", "finished"]
    assert record.events[late] == ["submitted", "finished"]
    record.check(executor)


@run_anywhere
async def test_who_waits_for_room_is_told_when_let_in(anyio_backend) -> None:
    """A job that `enqueue` holds back isn't submitted yet; if its caller gives up, it never is."""
    record = Record()
    async with Executor(1, max_pending=1, instruments=[record]) as executor:
        release = anyio.Event()
        running = executor.submit(release.wait)
        await running_in(executor)
        queued = executor.submit(checkpoint)
        async with anyio.create_task_group() as group:
            gives_up = anyio.CancelScope()

            async def give_up() -> None:
                with gives_up:
                    await executor.enqueue(checkpoint)

            group.start_soon(give_up)
            await wait_all_tasks_blocked()
            group.start_soon(executor.enqueue, checkpoint)
            await wait_all_tasks_blocked()
            assert set(record.events) == {running, queued}
            gives_up.cancel()
            await wait_all_tasks_blocked()
            assert set(record.events) == {running, queued}
            queued.cancel()
            await wait_all_tasks_blocked()
            assert list(record.events.values())[2:] == [["submitted"]]
            release.set()
    record.check(executor)


async def running_in(executor: Executor) -> None:
    """Wait until a job runs."""
    while not executor.statistics().running:
        await checkpoint()


@run_anywhere
async def test_a_lent_slot_is_told(anyio_backend) -> None:
    """A job that waits for another is lent and resumed, and says where it goes on."""
    record = Record()
    async with Executor(1, instruments=[record]) as executor:

        async def outer() -> None:
            await executor.submit(checkpoint)
            async with lend_slot():
                pass

        future = executor.submit(outer)
    ways = list(record.events.values())
    assert ways[0] == ["submitted", "started", *["lent", "resumed"] * 2, "finished"]
    assert ways[1] == ["submitted", "started", "finished"]
    assert future.slot == 0
    record.check(executor)


@pytest.mark.filterwarnings("ignore:.*was never left:ResourceWarning")
def test_a_lost_event_loop_is_told() -> None:
    """Jobs whose event loop is thrown away are finished, those that ran and those that didn't."""
    record = Record()

    async def leave_open() -> Executor:
        executor = Executor(1, instruments=[record])
        await executor.__aenter__()
        executor.submit(anyio.sleep_forever)
        executor.submit(checkpoint)
        await running_in(executor)
        return executor

    with asyncio.Runner() as runner:
        executor = runner.run(leave_open())
    record.check(executor)
    assert all(future.cancelled() for future in record.events)
    assert sorted(len(way) for way in record.events.values()) == [2, 3]
    del executor
    gc.collect()


@run_anywhere
async def test_rates_and_functions_of_all_kinds_are_told(anyio_backend) -> None:
    """A job's name, arguments and result are as without instruments."""
    record = Record()

    class Fetch:
        async def __call__(self, page: int, *, self_: int = 0) -> int:
            return page + self_

    async def named(self: int, fn: int) -> int:
        return self + fn

    async with Executor(2, rate=Rate(1000), instruments=[record]) as executor:
        callable_ = executor.submit(Fetch(), 1, self_=1)
        bound = executor.submit(partial(partial(named, 1), fn=2))
        odd = executor.submit(named, self=1, fn=1)
        assert [bound.name, callable_.name] == [named.__qualname__, Fetch.__qualname__]
        assert [await callable_, await bound, await odd] == [2, 3, 2]
        assert [bound.name, callable_.name] == [named.__qualname__, Fetch.__qualname__]
    record.check(executor)


@run_anywhere
async def test_a_watched_jobs_traceback_begins_in_the_job(anyio_backend) -> None:
    """Nothing of the telling shows in what a job raised, by a plain function either."""

    def plain() -> Any:
        raise ValueError

    async with Executor(1, instruments=[Record()]) as executor:
        for fn in (plain, fail):
            exception = await wait_for(executor.submit(fn))
            assert exception is not None
            assert exception.__traceback__ is not None
            assert exception.__traceback__.tb_frame.f_code is fn.__code__


async def wait_for(future: Future[Any]) -> BaseException | None:
    await future.wait()
    return future.exception()


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@run_anywhere
async def test_a_job_sees_what_an_instrument_sets_as_it_starts(anyio_backend) -> None:
    """`job_started` is called in the job's own context, and in no other's."""

    class Setting:
        def job_started(self, future: Future[Any]) -> None:
            variable.set(f"{variable.get()} and {future.slot}")

    async def get() -> str:
        await checkpoint()
        return variable.get()

    async with Executor(1, instruments=[Setting()]) as executor:
        variable.set("the submitter's")
        futures = [executor.submit(get) for _ in range(2)]
        assert [await future for future in futures] == ["the submitter's and 0"] * 2
    assert variable.get() == "the submitter's"


@run_anywhere
async def test_the_end_is_told_before_anybody_hears_of_it(anyio_backend) -> None:
    """An instrument knows of a job's end before its callbacks and awaiters do."""
    record, seen = Record(), []
    async with Executor(1, instruments=[record]) as executor:
        future = executor.submit(checkpoint)
        future.add_done_callback(lambda future: seen.extend(record.events[future]))
        await future
    assert seen == ["submitted", "started", "finished"]


# What an instrument may do, and what it may be.


@run_anywhere
@pytest.mark.parametrize("hook", ["job_submitted", "job_started", "job_finished"])
async def test_a_broken_instrument_is_logged_once_and_dropped(anyio_backend, hook, caplog) -> None:
    """Neither jobs nor the other instruments notice; the log says which one it was."""
    calls, record = [], Record()

    class Broken:
        def __repr__(self) -> str:
            return "the broken one"

    def breaks(self: Broken, future: Future[Any]) -> None:
        calls.append(future)
        raise asyncio.CancelledError if hook == "job_started" else ValueError("broken")

    setattr(Broken, hook, breaks)
    async with Executor(1, instruments=[Broken(), record]) as executor:
        futures = [executor.submit(checkpoint) for _ in range(3)]
    assert all(future.exception() is None for future in futures)
    assert len(calls) == 1
    [entry] = caplog.records
    assert (entry.name, entry.levelname) == ("anyslots", "ERROR")
    assert "the broken one" in entry.getMessage()
    record.check(executor)


@run_anywhere
async def test_an_interrupt_in_an_instrument_ends_the_executor(anyio_backend) -> None:
    """A Ctrl-C that strikes in an instrument isn't lost, and every job is told to its end."""
    record = Record()

    class Interrupted:
        def job_submitted(self, future: Future[Any]) -> None:
            raise KeyboardInterrupt

    executor = Executor(1, instruments=[Interrupted(), record])
    with pytest.raises(KeyboardInterrupt):
        async with executor:
            future = executor.submit(checkpoint)
    with pytest.raises(JobCancelled):
        future.result()
    record.check(executor)


@run_anywhere
async def test_an_instrument_may_submit_and_cancel(anyio_backend) -> None:
    """What it brings about is told after what it was being told of, to all in the same order."""
    told: list[tuple[str, str, bool]] = []

    class Listening:
        def __init__(self, name: str) -> None:
            self.name = name

        def job_submitted(self, future: Future[Any]) -> None:
            told.append((self.name, "submitted", future is told_of[0]))

        def job_finished(self, future: Future[Any]) -> None:
            told.append((self.name, "finished", future is told_of[0]))

    told_of: list[Future[Any]] = []

    class Meddling(Listening):
        def job_submitted(self, future: Future[Any]) -> None:
            told_of.append(future)
            super().job_submitted(future)
            if len(told_of) == 1:
                future.lane.submit(checkpoint)
                assert future.cancel()

    instruments = [Meddling("a"), Listening("b")]
    async with Executor(1, instruments=iter(instruments)) as executor:
        assert executor.submit(checkpoint).cancelled()
    events = [("submitted", True), ("submitted", False), ("finished", True), ("finished", False)]
    assert told == [(name, *event) for event in events for name in "ab"]


@pytest.mark.parametrize(
    ("instruments", "message"),
    [
        (None, "instruments must be several objects in a list, not None"),
        ("loud", "instruments must be several objects in a list, not 'loud'"),
        (b"loud", "instruments must be several objects in a list, not b'loud'"),
        (Record, "instruments must be several objects in a list, not <class"),
        ([3], "instruments must have one of job_submitted, job_started, job_finished; 3 has none"),
        ([Record(), "loud"], "'loud' has none"),
    ],
)
def test_what_is_no_instrument_is_refused(instruments: Any, message: str) -> None:
    """`TypeError` names the argument, what is accepted, and what came."""
    with pytest.raises(TypeError) as error:
        Executor(1, instruments=instruments)
    assert message in str(error.value)
