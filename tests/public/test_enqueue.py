"""Bounded queues: `submit` when one is full, and `enqueue`, which waits for room."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import weakref
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import coroutine
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from jobs import all_blocked
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, ExecutorClosed, Future, Lane, Rate, gather

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable")


async def give(value: object = None) -> object:
    return value


async def note(order: list[object], name: object) -> None:
    order.append(name)


@coroutine
def count_steps(coro: Coroutine[Any, Any, Any], steps: list[int]) -> Generator[Any, Any, Any]:
    """Await ``coro``, and count how often it's resumed."""
    resume, value = coro.send, None
    while True:
        steps[0] += 1
        try:
            wanted = resume(value)
        except StopIteration as stop:
            return stop.value
        try:
            resume, value = coro.send, (yield wanted)
        except BaseException as exc:
            resume, value = coro.throw, exc


class Full:
    """A full queue: a busy slot, a job in each place of the queue, and tasks that wait."""

    def __init__(self, executor: Executor, lane: Lane, room: int, tasks: TaskGroup) -> None:
        self.executor = executor
        self.lane = lane
        self._tasks = tasks
        self._released = anyio.Event()
        executor.submit(self._released.wait)
        self.queued = [lane.submit(give) for _ in range(room)]
        # The futures of those who were let in, in order; the names of others, and of begun jobs.
        self.let_in: dict[object, Future[None]] = {}
        self.refused: list[object] = []
        self.begun: list[object] = []

    async def enqueue(self, name: object, lane: Lane | None = None) -> None:
        """Wait for room for a job that notes its name when it begins."""
        try:
            self.let_in[name] = await (lane or self.lane).enqueue(note, self.begun, name)
        except ExecutorClosed:
            self.refused.append(name)

    async def wait(self, name: object, lane: Lane | None = None) -> anyio.CancelScope:
        """Have a task wait for room; return the scope that it's in."""
        scope = anyio.CancelScope()

        async def enqueue() -> None:
            with scope:
                await self.enqueue(name, lane)

        self._tasks.start_soon(enqueue)
        await all_blocked()
        return scope

    def release(self) -> None:
        """Let the job end that has the slot."""
        self._released.set()


@asynccontextmanager
async def full(where: str = "lane", room: int = 1) -> AsyncIterator[Full]:
    """A full queue, bounded by its lane or by its executor; at the end all jobs may run."""
    bounds = {"executor": math.inf, "lane": math.inf, where: room}
    async with (
        anyio.create_task_group() as tasks,
        Executor(slots=1, max_pending=bounds["executor"]) as executor,
    ):
        queue = Full(executor, executor.lane(max_pending=bounds["lane"]), room, tasks)
        await all_blocked()
        yield queue
        queue.release()


either = pytest.mark.parametrize("where", ["executor", "lane"])


# A full queue.


@either
@pytest.mark.parametrize("room", [0, 1, 3])
async def test_submitting_to_a_full_queue_would_block(where, room) -> None:
    """`submit` raises `anyio.WouldBlock` when the queue is full, and nothing has happened then."""
    async with full(where, room) as queue:
        before = queue.executor.statistics(), queue.lane.statistics()
        assert queue.executor.statistics().queued == room
        with pytest.raises(anyio.WouldBlock):
            queue.lane.submit(note, queue.begun, "refused")
        assert (queue.executor.statistics(), queue.lane.statistics()) == before
    assert queue.begun == []


async def test_the_executors_own_queue_is_bounded() -> None:
    """The executor's bound counts jobs that were submitted to the executor itself, too."""
    async with full("executor") as queue:
        with pytest.raises(anyio.WouldBlock):
            queue.executor.submit(give)
        await queue.wait("own", queue.executor)
        assert not queue.let_in


async def test_both_bounds_hold() -> None:
    """There's room for a job if there's room in its lane and among all lanes' jobs."""
    async with full("executor", room=3) as queue:
        for future in queue.queued:
            future.cancel()
        lanes = [queue.executor.lane(max_pending=1) for _ in range(4)]
        futures = []
        for lane in lanes[:3]:
            futures.append(lane.submit(give))
            with pytest.raises(anyio.WouldBlock):
                lane.submit(give)
        with pytest.raises(anyio.WouldBlock):
            lanes[3].submit(give)
        await queue.wait("same lane", lanes[0])
        await queue.wait("other lane", lanes[3])
        futures[1].cancel()
        await all_blocked()
        assert list(queue.let_in) == ["other lane"]
        futures[0].cancel()
        await all_blocked()
        assert list(queue.let_in) == ["other lane", "same lane"]


async def test_with_no_room_jobs_are_handed_over_directly() -> None:
    """With ``max_pending=0`` a job is taken if there's a free slot for it, and not otherwise."""
    released = anyio.Event()
    async with Executor(slots=2, max_pending=0) as executor:
        executor.submit(released.wait)
        await executor.enqueue(released.wait)
        with pytest.raises(anyio.WouldBlock):
            executor.submit(give)
        assert executor.statistics().submitted == 2
        released.set()
        assert await (await executor.enqueue(give, 1)) == 1
        await executor.join()
        assert await executor.submit(give, 2) == 2


@pytest.mark.parametrize("obstacle", ["limit", "pause", "rate"])
async def test_a_free_slot_is_no_room_for_a_lane_that_cannot_use_it(obstacle) -> None:
    """With ``max_pending=0`` a lane at its limit, paused or waiting for its rate takes no job."""
    released = anyio.Event()
    async with Executor(slots=3) as executor:
        lane = executor.lane(
            slots=1 if obstacle == "limit" else math.inf,
            rate=Rate(1, per=1000) if obstacle == "rate" else None,
            max_pending=0,
        )
        if obstacle == "pause":
            lane.pause()
        else:
            lane.submit(released.wait)
            await all_blocked()
        with pytest.raises(anyio.WouldBlock):
            lane.submit(give)
        before = lane.statistics()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lane.enqueue, give)
            await all_blocked()
            tasks.cancel_scope.cancel()
        assert lane.statistics() == before
        released.set()


# Waiting for room.


@either
@pytest.mark.parametrize("room", [0, 1, 2])
async def test_enqueue_waits_for_room(where, room) -> None:
    """`enqueue` returns once the job is queued; until then it isn't counted, and isn't begun."""
    async with full(where, room) as queue:
        before = queue.lane.statistics()
        await queue.wait("waiting")
        assert not queue.let_in
        assert queue.lane.statistics() == before
        queue.release()
        await all_blocked()
        assert list(queue.let_in) == queue.begun == ["waiting"]
        assert queue.lane.statistics().succeeded == room + 1


async def test_enqueue_is_a_checkpoint_when_there_is_room() -> None:
    """Though it needn't wait, `enqueue` lets other tasks run, and notices a cancellation."""
    ran: list[object] = []
    async with Executor(slots=1) as executor:
        steps = [0]
        future = await count_steps(executor.enqueue(give, 1), steps)
        assert steps[0] > 1
        with anyio.CancelScope() as scope:
            scope.cancel()
            await executor.enqueue(note, ran, "never")
        assert scope.cancelled_caught
        assert await future == 1
        assert executor.statistics().submitted == 1
    assert ran == []


@either
@pytest.mark.parametrize("room", [0, 1, 2])
async def test_who_waits_longest_is_let_in_first(where, room) -> None:
    """Those who wait for room are let in, and their jobs begin, in the order in which they came."""
    async with full(where, room) as queue:
        for name in range(6):
            await queue.wait(name)
    assert queue.begun == list(range(6))


@pytest.mark.parametrize("given_up", [[], ["a1"], ["b2"], ["a1", "a3"]])
async def test_room_among_all_jobs_goes_to_who_waits_longest(given_up) -> None:
    """Room under the executor's bound is given in order of waiting, whichever lane it's for."""
    async with full("executor") as queue:
        lanes = {"a": queue.executor.lane(), "b": queue.executor.lane(), "x": queue.executor}
        names = ["a1", "b2", "a3", "x4", "b5"]
        scopes = {name: await queue.wait(name, lanes[name[0]]) for name in names}
        for name in given_up:
            scopes[name].cancel()
        await all_blocked()
        expected = [name for name in names if name not in given_up]
        queue.queued[0].cancel()
        for name in expected:
            await all_blocked()
            assert list(queue.let_in)[-1] == name
            queue.let_in[name].cancel()
        assert list(queue.let_in) == expected


async def test_submit_does_not_pass_those_who_wait() -> None:
    """Room that was made for one who waits is taken, also in the tick in which it was made."""
    async with full() as queue:
        await queue.wait("first")
        await queue.wait("second")
        queue.queued[0].cancel()
        with pytest.raises(anyio.WouldBlock):
            queue.lane.submit(note, queue.begun, "passing")
        await all_blocked()
        assert list(queue.let_in) == ["first"]
        with pytest.raises(anyio.WouldBlock):
            queue.lane.submit(note, queue.begun, "passing")
    assert queue.begun == ["first", "second"]


@either
@pytest.mark.parametrize("how", ["future", "lane", "executor"])
async def test_cancelled_queued_jobs_make_room(where, how) -> None:
    async with full(where, room=2) as queue:
        for name in range(3):
            await queue.wait(name)
        if how == "future":
            queue.queued[1].cancel()
        elif how == "lane":
            queue.lane.cancel()
        else:
            queue.executor.cancel()
        await all_blocked()
        if how == "executor":
            # The slot is free, too.
            assert queue.begun == [0, 1, 2]
        else:
            assert sorted(queue.let_in) == ([0] if how == "future" else [0, 1])
            assert queue.lane.statistics().queued == 2


@pytest.mark.parametrize("how", ["slots", "resume"])
@either
async def test_slots_that_become_free_let_in_just_as_many(where, how) -> None:
    """With ``max_pending=0``, more slots or a pause's end hand over as many jobs as may start."""
    bounds = {"executor": math.inf, "lane": math.inf, where: 0}
    async with (
        anyio.create_task_group() as tasks,
        Executor(slots=9, max_pending=bounds["executor"]) as executor,
    ):
        lane = executor.lane(max_pending=bounds["lane"])
        limited = executor if where == "executor" else lane
        limited.slots = 2
        if how == "resume":
            limited.pause()
        for _ in range(9):
            tasks.start_soon(lane.enqueue, anyio.sleep_forever)
        await all_blocked()
        assert lane.statistics().submitted == (0 if how == "resume" else 2)
        if how == "resume":
            limited.resume()
        else:
            limited.slots = 5
        await all_blocked()
        counts = lane.statistics()
        assert counts.submitted == counts.running == (2 if how == "resume" else 5)
        tasks.cancel_scope.cancel()


async def test_the_job_sees_the_context_of_the_enqueue_call() -> None:
    async def get() -> str:
        return variable.get()

    async def enqueue(value: str) -> None:
        variable.set(value)
        seen.append(await (await queue.lane.enqueue(get)))

    seen: list[str] = []
    async with full() as queue, anyio.create_task_group() as tasks:
        for value in ("a", "b", "c"):
            tasks.start_soon(enqueue, value)
        await all_blocked()
        variable.set("released by")
        queue.release()
    assert sorted(seen) == ["a", "b", "c"]


# Giving up.


@either
@pytest.mark.parametrize("room", [0, 1])
async def test_a_job_whose_submitter_gave_up_never_runs(where, room) -> None:
    """Cancelled while it waits, `enqueue` leaves no trace; those behind it move up."""
    async with full(where, room) as queue:
        scopes = [await queue.wait(name) for name in range(4)]
        for name in (0, 2):
            scopes[name].cancel()
        await all_blocked()
        assert queue.lane.statistics().submitted == room
        assert not queue.let_in
    assert queue.begun == [1, 3]
    assert queue.lane.statistics().submitted == room + 2
    assert queue.lane.statistics().cancelled == 0


@either
@pytest.mark.parametrize("room", [0, 1])
@pytest.mark.parametrize("order", ["let in first", "cancelled first"])
async def test_giving_up_in_the_tick_of_being_let_in(where, room, order) -> None:
    """`enqueue` that's cancelled when there's room at last has submitted its job, or never will."""
    for _ in range(10):  # trio runs the tasks of a tick in random order
        async with full(where, room) as queue:
            scope = await queue.wait("torn")
            await queue.wait("behind")
            if order == "cancelled first":
                scope.cancel()
            queue.release()
            scope.cancel()
        assert queue.begun == [*(["torn"] if "torn" in queue.let_in else []), "behind"]
        assert queue.lane.statistics().submitted == room + len(queue.begun)


@pytest.mark.parametrize("behind", [0, 1])
async def test_giving_up_before_the_last_job_of_a_queue_ends(behind) -> None:
    """Nor does it submit its job if the slot comes from a job of the same, otherwise empty lane."""
    for _ in range(10):
        begun: list[object] = []
        async with anyio.create_task_group() as tasks, Executor(1, max_pending=0) as executor:
            released = anyio.Event()
            executor.submit(released.wait)
            scope = anyio.CancelScope()

            async def tear(
                executor: Executor, scope: anyio.CancelScope, begun: list[object]
            ) -> None:
                with scope:
                    await executor.enqueue(note, begun, "torn")
                    begun.append("let in")

            tasks.start_soon(tear, executor, scope, begun)
            await all_blocked()
            for name in range(behind):
                tasks.start_soon(executor.enqueue, note, begun, name)
                await all_blocked()
            released.set()
            scope.cancel()
        assert begun == [*range(behind)]
        counts = executor.statistics()
        assert (counts.submitted, counts.cancelled) == (1 + behind, 0)


@pytest.mark.unmeasured
@either
async def test_giving_up_often_keeps_nothing(where) -> None:
    """However many gave up waiting for room that never came, nothing is kept of their jobs."""

    class Argument:
        pass

    gc.collect()
    before = sum(isinstance(thing, Future) for thing in gc.get_objects())
    async with full(where, room=0) as queue:
        arguments: weakref.WeakSet[Argument] = weakref.WeakSet()
        for _ in range(100):
            async with anyio.create_task_group() as tasks:
                argument = Argument()
                arguments.add(argument)
                tasks.start_soon(queue.lane.enqueue, give, argument)
                del argument
                await checkpoint()
                await checkpoint()
                tasks.cancel_scope.cancel()
        gc.collect()
        assert not arguments
        # What's left of the jobs is tidied up now and then.
        assert sum(isinstance(thing, Future) for thing in gc.get_objects()) - before < 50


# Being refused.


@pytest.mark.parametrize("closed", ["lane", "executor"])
@either
@pytest.mark.parametrize("room", [0, 1])
async def test_closing_refuses_those_who_wait(where, closed, room) -> None:
    """Who waits for room in what is closed gets `ExecutorClosed`; queued jobs still run."""
    async with full(where, room) as queue:
        for name in range(3):
            await queue.wait(name)
        (queue.lane if closed == "lane" else queue.executor).close()
        await all_blocked()
        assert sorted(map(str, queue.refused)) == ["0", "1", "2"]
        with pytest.raises(ExecutorClosed):
            await queue.lane.enqueue(give)
    assert queue.begun == list(queue.let_in) == []
    assert queue.lane.statistics().succeeded == queue.lane.statistics().submitted == room


@either
@pytest.mark.parametrize("room", [0, 1])
async def test_shutting_down_refuses_those_who_wait_outside(where, room, loop_name) -> None:
    """Once a shutdown has begun, only the executor's own jobs, with all their tasks, wait on."""
    begun: list[object] = []
    refused: list[object] = []
    full = anyio.Event()

    async def enqueue(name: str) -> None:
        try:
            await lane.enqueue(note, begun, name)
        except ExecutorClosed:
            refused.append(name)

    async def own() -> None:
        await full.wait()
        await enqueue("own")

    async def in_task_group() -> None:
        await full.wait()
        async with anyio.create_task_group() as children:
            children.start_soon(enqueue, "child")

    async def in_eager_task() -> None:
        await full.wait()
        await asyncio.Task(enqueue("eager"), loop=asyncio.get_running_loop(), eager_start=True)

    jobs = {"own": own, "child": in_task_group}
    if loop_name != "trio" and sys.version_info >= (3, 12):
        jobs["eager"] = in_eager_task
    bounds = {"executor": math.inf, "lane": math.inf, where: room}
    async with (
        anyio.create_task_group() as tasks,
        Executor(slots=len(jobs), max_pending=bounds["executor"]) as executor,
    ):
        lane = executor.lane(max_pending=bounds["lane"])
        lane.pause()
        for job in jobs.values():
            executor.submit(job)
            await all_blocked()
        for _ in range(room):
            lane.submit(give)
        tasks.start_soon(enqueue, "outside")
        await all_blocked()
        full.set()
        await all_blocked()
        tasks.start_soon(enqueue, "outside, too")
        await all_blocked()
        tasks.start_soon(executor.shutdown)
        await all_blocked()
        assert sorted(map(str, refused)) == ["outside", "outside, too"]
        assert begun == []
        assert lane.statistics().queued == room
        lane.resume()
        await executor.join()
        assert sorted(map(str, begun)) == sorted(jobs)
    assert len(refused) == 2


async def test_closing_one_lane_refuses_nobody_elsewhere() -> None:
    """Those who wait for room in other lanes, or among all lanes' jobs, go on waiting."""
    async with full("executor") as queue:
        other = queue.executor.lane()
        await queue.wait("refused")
        await queue.wait("let in", other)
        queue.lane.close()
        await all_blocked()
        assert queue.refused == ["refused"]
        assert not queue.let_in
    assert queue.begun == ["let in"]


@pytest.mark.parametrize("order", ["refused first", "cancelled first"])
@either
async def test_giving_up_in_the_tick_of_being_refused(where, order) -> None:
    """`enqueue` that is cancelled and refused at once leaves no trace, whichever came first."""
    async with full(where) as queue:
        scope = await queue.wait("torn")
        await queue.wait("refused")
        if order == "cancelled first":
            scope.cancel()
        queue.lane.close()
        scope.cancel()
        await all_blocked()
        other = queue.executor.lane()
        await queue.wait("let in", other)
    assert queue.begun == ["let in"]
    counts = queue.executor.statistics()
    assert (counts.submitted, counts.succeeded, counts.queued, counts.running) == (3, 3, 0, 0)
    assert queue.lane.statistics().queued == queue.lane.statistics().running == 0


async def test_an_abrupt_end_refuses_those_who_wait_outside() -> None:
    """When the block is left by an exception, who waits in a task outside gets `ExecutorClosed`."""
    async with full() as queue:
        with pytest.raises(KeyError):
            async with Executor(slots=1, max_pending=0) as executor:
                executor.submit(anyio.sleep_forever)
                await queue.wait("outside", executor)
                raise KeyError
        await all_blocked()
        assert queue.refused == ["outside"]
    assert queue.begun == []


async def test_a_cancelled_block_leaves_nobody_waiting() -> None:
    async with full() as queue:
        with anyio.CancelScope() as scope:
            async with Executor(slots=1, max_pending=0) as executor:
                executor.submit(anyio.sleep_forever)
                await queue.wait("outside", executor)
                scope.cancel()
                await checkpoint()
        await all_blocked()
        assert queue.refused == ["outside"] or queue.let_in["outside"].cancelled()
    assert queue.begun == []


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
def test_the_end_of_the_block_refuses_who_still_waits(backend) -> None:
    """The block waits for jobs that are queued, not for those that no room was found for."""

    async def main() -> tuple[str, float]:
        async def enqueue() -> None:
            nonlocal outcome
            try:
                await executor.enqueue(give)
            except ExecutorClosed:
                outcome = "refused"

        outcome = "none"
        async with (
            anyio.create_task_group() as tasks,
            Executor(slots=2, max_pending=0, rate=Rate(1, per=10)) as executor,
        ):
            executor.submit(anyio.sleep, 3)
            tasks.start_soon(enqueue)
            await anyio.sleep(1)
        return outcome, anyio.current_time()

    assert run_in_virtual_time(backend, main) == ("refused", 3)


@either
async def test_leaving_the_block_lets_in_who_finds_room(where) -> None:
    """While the block waits for its jobs, those who wait for room are let in as it comes."""
    async with full(where) as queue:
        for name in range(5):
            await queue.wait(name)
    assert queue.begun == list(range(5))
    assert queue.refused == []


async def test_what_cannot_be_called_is_refused_at_once() -> None:
    """`enqueue` of something that isn't callable is a `TypeError`, though the queue is full."""
    async with full() as queue:
        with pytest.raises(TypeError, match="fn must be callable, not 3"):
            await queue.lane.enqueue(3)


# Many.


async def test_many_producers_all_finish() -> None:
    """Of 200 producers at once, for 10 slots and 100 places, nobody is left out."""
    running = most = 0

    async def job(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await checkpoint()
        assert executor.statistics().running <= 10
        running -= 1
        return number

    async def produce(number: int) -> None:
        results.append(await (await executor.enqueue(job, number)))

    results: list[int] = []
    async with Executor(slots=10, max_pending=100) as executor:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(produce, number)
        assert sorted(results) == list(range(200))
        assert most == 10


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("backend", "options"), [("asyncio", {"debug": False}), ("trio", {})], ids=["asyncio", "trio"]
)
def test_one_free_place_wakes_one_who_waits(backend, options) -> None:
    steps = [0]

    async def enqueue(queue: Full, number: int) -> None:
        await count_steps(queue.enqueue(number), steps)

    async def main() -> None:
        async with full(room=3) as queue, anyio.create_task_group() as tasks:
            for number in range(10_000):
                tasks.start_soon(enqueue, queue, number)
            await all_blocked()
            for future in queue.queued:
                steps[0] = 0
                future.cancel()
                await all_blocked()
                assert steps == [1]
            assert len(queue.let_in) == 3
            queue.lane.close()
            await all_blocked()
            assert steps == [1 + 10_000 - 3]
        assert len(queue.refused) == 10_000 - 3

    anyio.run(main, backend=backend, backend_options=options)


async def test_jobs_feed_a_bounded_lane_of_their_own_executor() -> None:
    """A job that puts its finds into a full lane waits for room while the other slots work."""
    visited: list[int] = []

    async def visit(page: int) -> None:
        visited.append(page)
        await checkpoint()

    async def list_pages() -> None:
        for page in range(50):
            await pages.enqueue(visit, page)

    async with Executor(slots=3, max_pending=2) as executor:
        pages = executor.lane(slots=2, max_pending=1)
        await executor.submit(list_pages)
        await executor.join()
        assert visited == list(range(50))
        assert await gather(await pages.enqueue(give, 1)) == [1]
