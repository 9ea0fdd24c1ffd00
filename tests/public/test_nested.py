"""Jobs that submit jobs to their own executor and wait for them: slots are lent, and taken back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from jobs import Boom, all_slots_work, check_idle, fail, ticks
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time, virtual

from anyslots import (
    FIRST_COMPLETED,
    Executor,
    Future,
    JobCancelled,
    Lane,
    Rate,
    as_completed,
    first_result,
    gather,
    lend_slot,
    wait,
)

run_anywhere = pytest.mark.anyio


# The ways in which a job may wait for jobs of its own: each gives the results in no special order.


def submitted(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Future[Any]]:
    return [lane.submit(fn, item) for item in items]


async def by_await(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [await future for future in submitted(lane, fn, items)]


async def by_gather(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return await gather(*submitted(lane, fn, items))


async def by_wait(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    done, not_done = await wait(submitted(lane, fn, items))
    assert not not_done
    return [future.result() for future in done]


async def by_wait_first(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    pending, results = set(submitted(lane, fn, items)), []
    while pending:
        done, pending = await wait(pending, return_when=FIRST_COMPLETED)
        results += [future.result() for future in done]
    return results


async def by_as_completed(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [future.result() async for future in as_completed(submitted(lane, fn, items))]


async def by_first_result(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [await first_result(future) for future in submitted(lane, fn, items)]


async def by_future_wait(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    futures = submitted(lane, fn, items)
    for future in futures:
        await future.wait()
    return [future.result() for future in futures]


async def by_map(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return await lane.map(fn, items)


async def by_map_stream(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    async with lane.map(fn, items, buffer=1) as results:
        return [result async for result in results]


async def by_map_unordered(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [result async for result in lane.map(fn, items, ordered=False)]


async def by_enqueue(lane: Lane, fn: Any, items: Iterable[Any]) -> list[Any]:
    return [await (await lane.enqueue(fn, item)) for item in items]


WAYS: dict[str, Callable[[Lane, Any, Iterable[Any]], Awaitable[list[Any]]]] = {
    "await": by_await,
    "gather": by_gather,
    "wait": by_wait,
    "wait for first": by_wait_first,
    "as_completed": by_as_completed,
    "first_result": by_first_result,
    "future.wait": by_future_wait,
    "map": by_map,
    "map, streamed": by_map_stream,
    "map, unordered": by_map_unordered,
    "enqueue": by_enqueue,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# Recursion.


@pytest.mark.unmeasured
@every_way
@pytest.mark.parametrize("slots", [1, 2, 3])
@run_anywhere
async def test_recursive_fibonacci(way: Any, slots: int) -> None:
    active = 0

    def have_slot() -> None:
        nonlocal active
        active += 1
        assert active <= slots
        assert 1 <= executor.statistics().running <= slots

    async def fibonacci(n: int) -> int:
        nonlocal active
        have_slot()
        await checkpoint()
        result = n
        if n >= 2:
            active -= 1
            result = sum(await way(executor, fibonacci, [n - 1, n - 2]))
            have_slot()
        active -= 1
        return result

    async with Executor(slots) as executor:
        assert await executor.submit(fibonacci, 6) == 8
        await all_slots_work(executor)


@every_way
@run_anywhere
async def test_recursion_in_a_bounded_lane_with_one_place(way: Any) -> None:
    """A lane's place is lent with the slot, and neither limit is passed."""

    def check() -> None:
        assert lane.statistics().running == executor.statistics().running == 1

    async def depth_first(depth: int) -> int:
        check()
        await checkpoint()
        if depth == 0:
            return 1
        results = await way(lane, depth_first, [depth - 1] * 2)
        check()
        return sum(results)

    async with Executor(2) as executor:
        lane = executor.lane(slots=1)
        assert await lane.submit(depth_first, 4) == 16
        check_idle(lane)
        await all_slots_work(executor)


@pytest.mark.parametrize("max_pending", [0, 1, 3])
@pytest.mark.parametrize("whose", ["the executor's", "the lane's"])
@run_anywhere
async def test_jobs_that_feed_their_own_bounded_queue(max_pending: int, whose: str) -> None:
    """A job that waits for room in the queue that it's from lends its slot meanwhile."""
    seen = []

    async def crawl(number: int) -> None:
        assert executor.statistics().running == 1
        seen.append(number)
        await checkpoint()
        for child in (2 * number, 2 * number + 1):
            if child < 64:
                await target.enqueue(crawl, child)
                assert executor.statistics().running == 1

    async with Executor(1) as executor:
        target = executor if whose == "the executor's" else executor.lane()
        target.max_pending = max_pending
        await target.enqueue(crawl, 1)
    assert sorted(seen) == [*range(1, 64)]
    check_idle(executor)


@pytest.mark.unmeasured
@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@pytest.mark.parametrize("way", [by_await, by_map], ids=["await", "map"])
def test_chain_of_2000_jobs_that_wait_for_each_other(backend: str, way: Any) -> None:
    """As many jobs as the chain has lend the one slot at once."""

    async def main() -> int:
        async def nest(depth: int) -> int:
            nonlocal deepest
            deepest = max(deepest, executor.statistics().lent)
            if depth == 0:
                return 0
            (below,) = await way(executor, nest, [depth - 1])
            return 1 + below

        deepest = 0
        async with Executor(1) as executor:
            assert await executor.submit(nest, 2000) == 2000
            await all_slots_work(executor)
        return deepest

    # In debug mode, asyncio takes ten times as long.
    options = {"debug": False} if backend == "asyncio" else {}
    assert anyio.run(main, backend=backend, backend_options=options) == 2000


# What's lent, when, and to whom.


@run_anywhere
async def test_a_job_that_waits_for_itself_is_told_so() -> None:
    """It would wait for ever; a task that it has started may wait for it."""

    async def job() -> str:
        future = futures[0]
        with pytest.raises(RuntimeError, match="cannot wait for itself"):
            await future
        with pytest.raises(RuntimeError, match="cannot wait for itself"):
            await future.wait()
        group.start_soon(child, future)
        await checkpoint()
        return "done"

    async def child(future: Future[str]) -> None:
        assert await future == "done"

    futures: list[Future[str]] = []
    async with anyio.create_task_group() as group, Executor(1) as executor:
        futures.append(executor.submit(job))


@run_anywhere
async def test_lender_is_counted_as_lent_until_it_runs_again() -> None:
    counts = []

    def note() -> None:
        now = executor.statistics()
        counts.append((now.running, now.lent, now.queued))

    async def child() -> None:
        note()
        await checkpoint()

    async def parent() -> None:
        note()
        future = executor.submit(child)
        note()
        await future
        note()

    async with Executor(1) as executor:
        future = executor.submit(parent)
        await future
        assert future.slot == 0
    assert counts == [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 0, 0)]
    assert not future.running()


@every_way
@run_anywhere
async def test_lender_goes_on_ahead_of_the_queue(way: Any) -> None:
    log = []

    async def note(what: str) -> None:
        log.append(what)
        await checkpoint()

    async def child(_: object) -> None:
        log.append("child")
        submitted(executor, note, ["later"] * 5)
        await checkpoint()

    async def parent() -> None:
        await way(executor, child, [None])
        log.append("parent goes on")

    async with Executor(1) as executor:
        executor.submit(parent)
    assert log == ["child", "parent goes on", *["later"] * 5]


@every_way
@run_anywhere
async def test_waiting_for_another_executor_lends_nothing(way: Any) -> None:
    lent = []

    async def leaf(_: object) -> None:
        await checkpoint()
        lent.append(executor.statistics().lent)

    async def job() -> None:
        for each in (other, executor, other):
            await way(each, leaf, [None])

    async with Executor(1) as other, Executor(1) as executor:
        await executor.submit(job)
        await all_slots_work(executor)
        await all_slots_work(other)
    assert lent == [0, 1, 0]


@pytest.mark.parametrize("how", ["await", "by hand"])
@pytest.mark.parametrize("where", ["the body", "a child task", "an eager task"])
@run_anywhere
async def test_only_the_jobs_own_task_lends(where: str, how: str, loop_name: str) -> None:
    """An eager task is another one too, though its first step runs at once, inside the job's."""
    if where == "an eager task" and (loop_name == "trio" or sys.version_info < (3, 12)):
        pytest.skip("asyncio has eager tasks from 3.12 on")
    lent = []

    async def note() -> None:
        lent.append(executor.statistics().lent)

    async def in_task() -> None:
        if how == "await":
            await executor.submit(note)
        else:
            async with lend_slot():
                await note()
                await checkpoint()

    async def job() -> None:
        if where == "a child task":
            async with anyio.create_task_group() as group:
                group.start_soon(in_task)
        else:
            task = asyncio.Task(in_task(), loop=asyncio.get_running_loop(), eager_start=True)
            await ticks(10)
            assert executor.statistics().lent == 0
            await asyncio.wait([task])

    async with lend_slot():
        await checkpoint()
    async with Executor(2) as executor:
        await (in_task() if where == "the body" else executor.submit(job))
        await all_slots_work(executor)
    assert lent == [0]


@run_anywhere
async def test_awaiting_a_future_that_is_done_lends_nothing() -> None:
    log = []

    async def note(what: str) -> None:
        log.append(what)

    async def job() -> None:
        child = executor.submit(note, "child")
        await child
        executor.submit(note, "queued")
        await child
        await gather(child)
        await wait([child])
        log.append("job")

    async with Executor(1) as executor:
        executor.submit(job)
    assert log == ["child", "job", "queued"]


# Lending with everything else.


@pytest.mark.parametrize("whose", ["executor", "lane"])
@virtual
async def test_pause_does_not_hold_up_a_lender(whose: str):
    async def parent() -> float:
        await lane.submit(anyio.sleep, 2)
        return anyio.current_time()

    async with Executor(1) as executor:
        lane = executor.lane()
        future = lane.submit(parent)
        await anyio.sleep(1)
        paused = executor if whose == "executor" else lane
        paused.pause()
        queued = lane.submit(anyio.sleep, 0)
        assert await future == 2
        await anyio.sleep(5)
        assert not queued.done()
        paused.resume()
        await queued
        await all_slots_work(executor)


@virtual
async def test_leaving_the_block_ends_a_pause_that_lenders_wait_in():
    async def parent() -> None:
        await executor.submit(checkpoint)

    async with Executor(1) as executor:
        future = executor.submit(parent)
        await checkpoint()
        executor.pause()
    assert await future is None


@virtual
async def test_going_on_uses_up_no_start_of_a_rate():
    async def leaf() -> None:
        starts.append(anyio.current_time())

    async def parent() -> None:
        await leaf()
        for _ in range(3):
            await executor.submit(leaf)

    starts: list[float] = []
    async with Executor(1, rate=Rate(1, 2)) as executor:
        executor.submit(parent)
    assert starts == [0, 2, 4, 6]


@every_way
@virtual
async def test_jobs_of_jobs_are_taken_during_a_shutdown(way: Any):
    async def leaf(number: int) -> int:
        await anyio.sleep(1)
        return number

    async def parent() -> list[int]:
        await anyio.sleep(1)
        return sorted(await way(executor, leaf, [1, 2, 3]))

    async with Executor(1) as executor:
        future = executor.submit(parent)
        await anyio.sleep(0.5)
        await executor.shutdown()
        assert await future == [1, 2, 3]


# Cancellation.


@pytest.mark.parametrize("how", ["future", "executor", "timeout", "around", "body"])
@pytest.mark.parametrize("waits_for", ["its child", "a slot", "a time, by hand"])
@virtual
async def test_cancelled_lender_unwinds_at_once(how: str, waits_for: str):
    """It doesn't wait for a slot, which is taken for 10 seconds; nor does the block around it."""

    async def keeper() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_until(10)

    async def parent() -> None:
        try:
            if waits_for == "a time, by hand":
                async with lend_slot():
                    await anyio.sleep(100)
            children.append((executor if waits_for == "its child" else held_up).submit(keeper))
            with suppress(JobCancelled):
                await children[0]
            # Its own cancellation may come right after that.
            await checkpoint()
        finally:
            unwound.append(anyio.current_time())

    unwound: list[float] = []
    children: list[Future[None]] = []
    scope = anyio.CancelScope(deadline=2 if how == "around" else float("inf"))
    with scope, pytest.raises(Boom) if how == "body" else nullcontext():
        async with Executor(1) as executor:
            held_up = executor.lane()
            held_up.pause()
            future = executor.lane(timeout=2 if how == "timeout" else None).submit(parent)
            if waits_for != "its child":
                executor.submit(keeper)
            await anyio.sleep(1)
            if waits_for == "a slot":
                children[0].cancel()
            await anyio.sleep(0.5)
            assert executor.statistics().lent == 1
            await anyio.sleep(0.5)
            if how == "future":
                future.cancel()
            elif how == "executor":
                executor.cancel()
            elif how == "body":
                raise Boom
            with pytest.raises(TimeoutError if how == "timeout" else JobCancelled):
                await future
            assert anyio.current_time() == 2
            held_up.resume()
            await executor.join()
            assert anyio.current_time() == 10
            await all_slots_work(executor)
    assert unwound == [2]
    check_idle(executor)
    with pytest.raises(TimeoutError if how == "timeout" else JobCancelled):
        await future


@every_way
@pytest.mark.parametrize("how", ["future", "executor", "lane", "shutdown"])
@virtual
async def test_cancelling_jobs_that_wait_for_others_is_no_failure(way: Any, how: str):
    """If the parent alone is cancelled, the others go on alone, unless a `map` is closed."""

    async def parent() -> None:
        await way(lane, anyio.sleep, [5] * 3)

    async with Executor(1) as executor:
        lane = executor.lane()
        future = lane.submit(parent)
        await anyio.sleep(1)
        assert lane.statistics().lent == 1
        if how == "future":
            future.cancel()
        elif how == "executor":
            executor.cancel()
        elif how == "lane":
            lane.cancel()
        else:
            await executor.shutdown(grace=0)
        await future.wait()
        assert future.cancelled()
        assert anyio.current_time() == 1
        await executor.join()
        counts = executor.statistics()
        assert (counts.failed, counts.lent) == (0, 0)
        alone = {by_map: 0, by_map_stream: 0, by_map_unordered: 2, by_enqueue: 1}
        assert counts.succeeded == (alone.get(way, 3) if how == "future" else 0)
        if how != "shutdown":
            await all_slots_work(executor)


@virtual
async def test_job_that_survives_its_cancellation_lends_again():
    async def parent() -> str:
        try:
            await executor.submit(anyio.sleep, 5)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await executor.submit(anyio.sleep, 1)
        return "survived"

    async with Executor(1) as executor:
        future = executor.submit(parent)
        await anyio.sleep(1)
        future.cancel()
        assert await future == "survived"
        assert anyio.current_time() == 6
        await all_slots_work(executor)


@pytest.mark.parametrize("way", [WAYS[name] for name in WAYS if name != "first_result"])
@run_anywhere
async def test_failure_of_a_child_comes_out_in_the_parent(way: Any) -> None:
    async def parent() -> None:
        with pytest.raises(Boom):
            await way(executor, fail, [None])
        assert executor.statistics().running == 1

    async with Executor(1) as executor:
        await executor.submit(parent)
        await all_slots_work(executor)


# By hand.


@virtual
async def test_slot_lent_by_hand():
    async def lender() -> None:
        async with lend_slot():
            assert executor.statistics().lent == 1
            await anyio.sleep(1)
        counts = executor.statistics()
        assert (counts.running, counts.lent) == (1, 0)
        log.append(("lender", anyio.current_time()))

    async def job() -> None:
        await anyio.sleep(2)
        log.append(("job", anyio.current_time()))

    log: list[tuple[str, float]] = []
    async with Executor(1) as executor:
        for each in (lender, job, job):
            executor.submit(each)
        await executor.join()
        await all_slots_work(executor)
    assert log == [("job", 2), ("lender", 2), ("job", 4)]


@run_anywhere
async def test_lending_by_hand_may_be_nested_and_repeated_and_raise() -> None:
    lent = []

    async def note() -> None:
        lent.append(executor.statistics().lent)

    async def job() -> None:
        for _ in range(2):
            with pytest.raises(Boom):
                async with lend_slot():
                    await note()
                    async with lend_slot():
                        await checkpoint()
                        await executor.submit(note)
                        await note()
                    await note()
                    assert await gather(executor.submit(note)) == [None]
                    await note()
                    raise Boom
            await note()
            assert executor.statistics().running == 1

    async with Executor(1) as executor:
        await executor.submit(job)
        await all_slots_work(executor)
    assert lent == [1, 1, 1, 1, 1, 1, 0] * 2


# Random trees of jobs.


@dataclass(frozen=True)
class Node:
    """What one job does: it sleeps, submits a job for each child, and waits for them in a way."""

    sleeps: int = 0
    way: str = "await"
    lane: int = 0
    patience: int | None = None
    """After how many seconds it gives up waiting."""
    cancels: int | None = None
    """Which of its children it cancels right after having submitted them."""
    children: tuple[Node, ...] = ()


TREE_WAYS = ["await", "gather", "wait", "as_completed", "first_result", "map", "unordered", "hand"]

nodes = st.recursive(
    st.builds(Node, sleeps=st.integers(0, 2), lane=st.integers(0, 2)),
    lambda inner: st.builds(
        Node,
        sleeps=st.integers(0, 2),
        way=st.sampled_from(TREE_WAYS),
        lane=st.integers(0, 2),
        patience=st.sampled_from([None, None, None, 1, 3]),
        cancels=st.sampled_from([None, None, None, 0, 1]),
        children=st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=10,
)


@dataclass
class Forest:
    """Runs trees of jobs, and keeps what's to be checked."""

    slots: int
    lane_slots: list[float]
    futures: list[Any] = field(default_factory=list)
    # Those for which more may run than there are slots, since they unwind.
    condemned: list[Any] = field(default_factory=list)
    # When waits have timed out of jobs that may go on beyond the limit, and that haven't ended.
    impatient: list[float] = field(default_factory=list)
    active: int = 0

    def check(self) -> None:
        counts = self.executor.statistics()
        unwinding = sum(not future.done() for future in self.condemned) + len(self.impatient)
        assert counts.running <= self.slots + unwinding
        assert self.active <= self.slots + unwinding
        for lane, slots in zip(self.lanes, self.lane_slots, strict=True):
            assert lane.statistics().running <= slots + unwinding
        finished = counts.succeeded + counts.failed + counts.cancelled
        assert counts.submitted == counts.queued + counts.running + counts.lent + finished

    def check_start(self) -> None:
        """A job starts: what goes on beyond the limit has only just begun to."""
        now = anyio.current_time()
        just_now = sum(not future.done() for future in self.condemned) + self.impatient.count(now)
        assert self.executor.statistics().running <= self.slots + just_now

    def submit(self, node: Node) -> Any:
        future = self.lanes[node.lane].submit(self.job, node)
        self.futures.append(future)
        return future

    def cancel(self, future: Any) -> None:
        self.condemned.append(future)
        future.cancel()

    async def collect(self, node: Node) -> int:
        """The sum of the children's results; those that are cancelled count for nothing."""
        if node.way in ("map", "unordered"):
            lane = self.lanes[node.children[0].lane]
            results = lane.map(self.job, node.children, ordered=node.way == "map")
            return sum([result async for result in results])
        children = [self.submit(child) for child in node.children]
        if node.cancels is not None and node.cancels < len(children):
            self.cancel(children[node.cancels])
        match node.way:
            case "gather":
                both = await gather(*children, return_exceptions=True)
                return sum(result for result in both if isinstance(result, int))
            case "wait":
                await wait(children)
            case "as_completed":
                seen = [future async for future in as_completed(children)]
                assert sorted(map(id, seen)) == sorted(map(id, children))
            case "first_result":
                # It cancels the others, which may then count for nothing.
                self.condemned += children
                try:
                    await first_result(*children)
                except BaseExceptionGroup as group:
                    assert group.subgroup(JobCancelled) is not None  # noqa: PT017
                await wait(children)
            case "await" | "hand":
                for child in children:
                    async with lend_slot() if node.way == "hand" else nullcontext():
                        try:
                            await child
                        except JobCancelled:
                            pass
        return sum(0 if child.cancelled() else child.result() for child in children)

    async def job(self, node: Node) -> int:
        self.active += 1
        counted = True
        timed_out: list[float] = []
        try:
            self.check()
            self.check_start()
            await anyio.sleep(node.sleeps)
            self.check()
            total = 0
            if node.children:
                with anyio.move_on_after(node.patience) as scope:
                    self.active -= 1
                    counted = False
                    total = await self.collect(node)
                if scope.cancelled_caught:
                    timed_out.append(anyio.current_time())
                    self.impatient += timed_out
                # No await since it was given its slot back.
                self.active += 1
                counted = True
                self.check()
            await checkpoint()
            return 1 + total
        except JobCancelled:
            return 1  # one of a map's
        finally:
            self.active -= counted
            for time in timed_out:
                self.impatient.remove(time)

    async def main(self, trees: list[Node], cancels: list[tuple[int, int | None]]) -> None:
        with anyio.fail_after(10_000):
            async with Executor(self.slots) as self.executor:
                self.lanes = [self.executor.lane(slots=slots) for slots in self.lane_slots]
                roots = [self.submit(tree) for tree in trees]
                for delay, which in cancels:
                    await anyio.sleep(delay)
                    self.check()
                    if which is None:
                        self.condemned += self.futures
                        self.executor.cancel()
                    else:
                        self.cancel(self.futures[which % len(self.futures)])
                await wait(roots)
                await self.executor.join()
                check_idle(self.executor)
                assert all(future.done() for future in self.futures)
                await all_slots_work(self.executor)
        assert self.active == 0
        if not cancels:
            for root, tree in zip(roots, trees, strict=True):
                if is_exact(tree):
                    assert root.result() == size(tree)


def is_exact(node: Node) -> bool:
    """Whether nothing in a tree makes its result a matter of time."""
    return (
        (node.patience is None or not node.children)
        and (node.cancels is None or node.way in ("map", "unordered"))
        and (node.way != "first_result" or len(node.children) == 1)
        and all(map(is_exact, node.children))
    )


def size(node: Node) -> int:
    return 1 + sum(map(size, node.children))


@pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)
@given(
    slots=st.integers(1, 3),
    lane_slots=st.lists(st.sampled_from([1, 2, float("inf")]), min_size=3, max_size=3),
    trees=st.lists(nodes, min_size=1, max_size=3),
    cancels=st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 20))), max_size=3
    ),
)
def test_random_trees_of_jobs_end_and_keep_to_the_limits(
    backend: str, slots: int, lane_slots: list[float], trees: list[Node], cancels: Any
) -> None:
    """Whatever waits for whatever in whichever way, it ends; the limits hold; results are right."""
    run_in_virtual_time(backend, Forest(slots, lane_slots).main, trees, cancels)
