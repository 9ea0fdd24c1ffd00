"""Cancelling small programs at each of their suspensions in turn, until they complete.

Each program runs in virtual time, again and again: at the k-th suspension something is cancelled,
for k = 1, 2, 3 and so on, until the program is done before its k-th suspension. Whatever is
cancelled, and wherever it happens, what `Trial.check` says must hold.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import check_idle, counts
from suspensions import Steps, asyncio_task, living_tasks
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    ExecutorClosed,
    Future,
    JobCancelled,
    amap,
    as_completed,
    first_result,
    gather,
    lend_slot,
    to_pool,
    wait,
)

pytestmark = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

Job = Callable[..., Awaitable[Any]]


class Failure(Exception):
    pass


class Trial:
    """One run: makes executors and jobs, and knows what must be true of them in the end."""

    def __init__(self) -> None:
        self.executors: list[Executor] = []
        self.futures: list[Future[Any]] = []
        self.running: Counter[Executor] = Counter()
        self.broken_limits = 0
        # Whether jobs are submitted whose futures nobody sees.
        self.unseen_jobs = False
        self.tasks = living_tasks()

    def executor(self, slots: int, **options: Any) -> Executor:
        self.executors.append(Executor(slots, **options))
        return self.executors[-1]

    def submit(self, executor: Executor, job: Job, *args: Any) -> Future[Any]:
        self.futures.append(executor.submit(self.counted, executor, job, *args))
        return self.futures[-1]

    async def counted(self, executor: Executor, job: Job, *args: Any) -> Any:
        self.running[executor] += 1
        lent = executor.statistics().lent
        self.broken_limits += self.running[executor] - lent > executor.slots
        try:
            return await job(*args)
        finally:
            self.running[executor] -= 1

    def jobs(self, executor: Executor) -> list[Future[Any]]:
        """Some jobs of every kind."""
        return [self.submit(executor, job) for job in (instant, sleeping, shielding, failing)]

    def check(self) -> None:
        assert self.broken_limits == 0
        assert not any(self.running.values())
        for future in self.futures:
            assert future.done(), future
        total: Counter[str] = Counter()
        for executor in self.executors:
            queued, running, lent, *ended = counts(executor)
            assert queued == running == lent == 0
            total += Counter(dict(zip(("succeeded", "failed", "cancelled"), ended, strict=True)))
            assert "ended" in repr(executor) or "not entered" in repr(executor)
            with pytest.raises(RuntimeError):
                executor.submit(instant)
        if not self.unseen_jobs:
            assert total == Counter(
                "cancelled" if f.cancelled() else "failed" if f.exception() else "succeeded"
                for f in self.futures
            )

    async def check_all(self) -> None:
        """The same, and that no task is left."""
        self.check()
        await checkpoint()
        assert living_tasks() == self.tasks


# Jobs.


async def instant() -> str:
    return "instant"


async def sleeping() -> str:
    await checkpoint()
    await anyio.sleep(1)
    return "slept"


async def shielding() -> str:
    try:
        await anyio.sleep(1)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
            await checkpoint()
    return "shielded"


async def failing() -> str:
    await anyio.sleep(0.5)
    raise Failure("job")


async def failing_at_once() -> str:
    raise Failure("at once")


async def catching() -> str:
    try:
        await anyio.sleep(1)
    except anyio.get_cancelled_exc_class():
        return "caught"
    return "slept"


async def failing_in_cleanup() -> str:
    try:
        await anyio.sleep(1)
    except anyio.get_cancelled_exc_class():
        raise Failure("cleanup") from None
    return "slept"


async def grouping() -> str:
    async with anyio.create_task_group() as group:
        group.start_soon(sleeping)
        group.start_soon(shielding)
        await anyio.sleep(0.5)
    return "grouped"


async def pooled() -> object:
    """One call runs, for a millisecond of real time, and one waits for it in the pool's queue."""
    with ThreadPoolExecutor(1) as pool:
        occupied = pool.submit(time.sleep, 0.001)
        await to_pool.run_sync(time.sleep, 0.001, pool=pool)
        assert occupied.done()
        return await to_pool.run_sync(pow, 2, 3, pool=pool, abandon_on_cancel=True)


async def nesting(trial: Trial) -> str:
    async with trial.executor(1) as inner:
        futures = [trial.submit(inner, job) for job in (sleeping, shielding)]
        return await futures[0]


async def awaiting_another(trial: Trial) -> str:
    other = trial.submit(trial.executors[0], sleeping)
    await gather(other)
    await other.wait()
    return await other


async def numbers(end: int) -> AsyncIterator[int]:
    try:
        for number in range(end):
            await checkpoint()
            yield number
    finally:
        with anyio.CancelScope(shield=True):
            await checkpoint()


async def twice(number: int) -> int:
    await anyio.sleep(number % 2)
    return 2 * number


# Programs. Each ends by itself; its host may be cancelled anywhere.


Program = Callable[[Trial], Coroutine[Any, Any, None]]
PROGRAMS: list[Any] = []


def program(
    slots: int, on_error: Any = "hold", raises: Any = (), **options: Any
) -> Callable[[Callable[[Trial, Executor], Awaitable[None]]], None]:
    """Make a program of what it does in an executor's block, which raises what it says."""

    def decorate(body: Callable[[Trial, Executor], Awaitable[None]]) -> None:
        async def run(trial: Trial) -> None:
            try:
                async with trial.executor(slots, on_error=on_error, **options) as executor:
                    await body(trial, executor)
            except raises:
                return
            assert not raises

        PROGRAMS.append(pytest.param(run, id=body.__name__))

    return decorate


@program(2)
async def awaiting(trial: Trial, executor: Executor) -> None:
    for future in trial.jobs(executor):
        try:
            await future
        except (Failure, JobCancelled):
            pass


@program(2)
async def waiting(trial: Trial, executor: Executor) -> None:
    for future in trial.jobs(executor):
        await future.wait()
    trial.futures[-1].exception()


@program(2)
async def gathering(trial: Trial, executor: Executor) -> None:
    assert await gather() == []
    with pytest.raises(Failure):
        await gather(*trial.jobs(executor))


@program(2)
async def gathering_all(trial: Trial, executor: Executor) -> None:
    results = await gather(*trial.jobs(executor), return_exceptions=True)
    assert results[:3] == ["instant", "slept", "shielded"]


@program(2)
async def completing(trial: Trial, executor: Executor) -> None:
    found = [future async for future in as_completed(trial.jobs(executor))]
    assert len(found) == 4
    with pytest.raises(Failure):
        await trial.futures[3]


@program(2)
async def waiting_for_some(trial: Trial, executor: Executor) -> None:
    futures = trial.jobs(executor)
    for when in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        done, _ = await wait(futures, return_when=when)
        assert done
    futures[3].exception()


@program(4)
async def taking_the_first(trial: Trial, executor: Executor) -> None:
    futures = [trial.submit(executor, job) for job in (failing, shielding, sleeping)]
    assert await first_result(*futures) == "slept"


@program(2, "log")
async def joining(trial: Trial, executor: Executor) -> None:
    await executor.join()
    trial.jobs(executor)
    await executor.join()
    trial.jobs(executor)


@program(2)
async def leaving_at_once(trial: Trial, executor: Executor) -> None:
    pass


@program(2, "log")
async def leaving(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    trial.jobs(executor)


@program(2, "hold", ExceptionGroup)
async def holding_errors(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)


@program(2)
async def leaving_while_jobs_submit(trial: Trial, executor: Executor) -> None:
    async def parent(depth: int) -> None:
        await checkpoint()
        for _ in range(2 * (depth > 0)):
            try:
                trial.submit(executor, parent, depth - 1)
            except ExecutorClosed:
                pass
        await anyio.sleep(0.1)

    trial.submit(executor, parent, 2)


@program(2, "cancel", ExceptionGroup)
async def cancelling_on_error(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    await anyio.sleep(5)


@program(2, "cancel", ExceptionGroup)
async def cancelling_on_error_at_once(trial: Trial, executor: Executor) -> None:
    for job in (shielding, failing_at_once, instant):
        trial.submit(executor, job)


@program(2, raises=Failure)
async def raising(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    await anyio.sleep(0.2)
    raise Failure("body")


@program(2, raises=Failure)
async def raising_at_once(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    raise Failure("body")


@program(2, "log")
async def shutting_down(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    await executor.shutdown()
    with pytest.raises(ExecutorClosed):
        executor.submit(instant)


@program(1, "log")
async def shutting_down_with_grace(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    await executor.shutdown(grace=1.5)


@program(2, "log")
async def shutting_down_at_once(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    await checkpoint()
    await executor.shutdown(grace=0)


@program(1, "log")
async def closing(trial: Trial, executor: Executor) -> None:
    trial.jobs(executor)
    executor.close()
    await executor.join()


@program(2)
async def cancelling_jobs(trial: Trial, executor: Executor) -> None:
    for future in trial.jobs(executor):
        await checkpoint()
        future.cancel("one")
    trial.jobs(executor)
    await anyio.sleep(0.1)
    executor.cancel("all")
    await executor.join()
    assert await trial.submit(executor, sleeping) == "slept"


@program(1)
async def two_executors(trial: Trial, outer: Executor) -> None:
    async with trial.executor(1) as inner:
        first = trial.submit(outer, sleeping)
        second = trial.submit(inner, shielding)
        assert await gather(second, first) == ["shielded", "slept"]


@program(1)
async def executor_in_a_job(trial: Trial, outer: Executor) -> None:
    future = trial.submit(outer, nesting, trial)
    trial.submit(outer, instant)
    assert await future == "slept"


@program(3)
async def awkward_jobs(trial: Trial, executor: Executor) -> None:
    futures = [trial.submit(executor, job) for job in (catching, failing_in_cleanup, grouping)]
    await gather(*futures, return_exceptions=True)


@program(1, "log", max_pending=1)
async def enqueuing(trial: Trial, executor: Executor) -> None:
    trial.unseen_jobs = True
    for job in (instant, sleeping, shielding, failing, sleeping):
        trial.futures.append(await executor.enqueue(trial.counted, executor, job))


@program(1, max_pending=0)
async def handing_over(trial: Trial, executor: Executor) -> None:
    trial.unseen_jobs = True
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(executor.enqueue, trial.counted, executor, sleeping)


@program(2)
async def mapping_to_a_list(trial: Trial, executor: Executor) -> None:
    trial.unseen_jobs = True
    assert await executor.map(twice, range(4)) == [0, 2, 4, 6]
    assert await executor.map(twice, numbers(3), buffer=0) == [0, 2, 4]


@program(2)
async def mapping_as_a_stream(trial: Trial, executor: Executor) -> None:
    trial.unseen_jobs = True
    found = [result async for result in executor.map(twice, numbers(4), ordered=False)]
    assert sorted(found) == [0, 2, 4, 6]
    async with executor.map(twice, numbers(100)) as results:
        async for result in results:
            if result == 4:
                break
    failing_map = executor.map(lambda _: failing(), range(1))
    with pytest.raises(Failure):
        await anext(failing_map)


@program(1)
async def lending(trial: Trial, executor: Executor) -> None:
    async def lends() -> object:
        async with lend_slot():
            await anyio.sleep(0.5)
        inner = [trial.submit(executor, job) for job in (sleeping, instant)]
        async with lend_slot():
            await anyio.sleep(0.5)
        return await gather(*inner)

    for job in (lends, lends, sleeping):
        trial.submit(executor, job)


@program(2)
async def calling_a_pool(trial: Trial, executor: Executor) -> None:
    assert await pooled() == 8
    futures = [trial.submit(executor, pooled) for _ in range(3)]
    assert await pooled() == 8
    assert await gather(*futures) == [8, 8, 8]


async def timing_out(trial: Trial) -> None:
    with anyio.move_on_after(0.3):
        async with trial.executor(2) as executor:
            trial.jobs(executor)


async def listing(trial: Trial) -> None:
    assert await amap(twice, range(4), slots=2) == [0, 2, 4, 6]


PROGRAMS += [timing_out, listing]
each_program = pytest.mark.parametrize("program", PROGRAMS)


async def outcome_of(program: Awaitable[None], cancelled: Callable[[], bool]) -> str:
    """A program that was cancelled somewhere raises nothing but what its jobs did."""
    try:
        await program
    except Exception as error:
        assert cancelled()
        _, rest = BaseExceptionGroup("", [error]).split((Failure, JobCancelled, ExecutorClosed))
        assert rest is None
        return "raised"
    return "completed"


@pytest.fixture(autouse=True)
def _quiet_and_clean(caplog: pytest.LogCaptureFixture):
    """The event loop has nothing to complain of."""
    yield
    assert not [record for record in caplog.records if record.name == "asyncio"]


@each_program
def test_cancelling_the_host_at_each_of_its_suspensions(program: Program, backend: str):
    """The scope around a program is cancelled at its k-th suspension: nothing is left or lost."""

    async def one_run(k: int) -> str:
        trial = Trial()
        outcome = "cancelled"
        with anyio.CancelScope() as scope:
            steps = Steps(k, scope.cancel)
            driven = steps.drive(program(trial))
            outcome = await outcome_of(driven, lambda: steps.reached)
            # A cancellation must still be felt here, whatever became of the program.
            await checkpoint()
            assert not steps.reached, "the cancellation was lost"
            return outcome
        assert scope.cancelled_caught
        await trial.check_all()
        return "raised" if outcome == "raised" else "cancelled"

    sweep(backend, one_run)


@each_program
def test_cancelling_the_hosts_task_natively_at_each_of_its_suspensions(
    program: Program, backend: str
):
    """The same with `asyncio.Task.cancel`, which comes just once: it isn't lost either."""
    if backend == "trio":
        pytest.skip("asyncio's own")

    async def one_run(k: int) -> str:
        trial = Trial()
        outcome = "cancelled"
        steps = Steps(k, lambda: task.cancel())

        async def host() -> None:
            nonlocal outcome
            outcome = await outcome_of(steps.drive(program(trial)), lambda: steps.reached)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        task = asyncio.create_task(host())
        await asyncio.wait([task])
        trial.check()
        assert living_tasks() == trial.tasks
        assert task.cancelled() is steps.reached, ("the cancellation was lost", outcome)
        return "cancelled" if steps.reached and outcome == "completed" else outcome

    sweep(backend, one_run)


@each_program
def test_cancelling_a_program_after_each_number_of_ticks(program: Program, backend: str):
    """The same from another task, tick by tick and then in the middle of the sleeps."""

    async def one_run(k: int) -> str:
        trial = Trial()
        outcome = "cancelled"
        scope = anyio.CancelScope()
        async with at_tick(k, scope.cancel) as tick:
            with scope:
                outcome = await outcome_of(program(trial), lambda: scope.cancel_called)
                tick.cancel()
                called = scope.cancel_called
                await checkpoint()
                assert not called, "the cancellation was lost"
        trial.check()
        assert living_tasks() == trial.tasks
        return "cancelled" if outcome == "completed" and scope.cancelled_caught else outcome

    sweep(backend, one_run)


@asynccontextmanager
async def at_tick(k: int, act: Callable[[], object]) -> AsyncIterator[anyio.CancelScope]:
    """Act at the k-th tick, unless the scope that it yields is cancelled by then."""
    tick = anyio.CancelScope()

    async def act_later() -> None:
        with tick:
            for number in range(1, k):
                await (checkpoint() if number < 12 else anyio.sleep(0.3))
            if not tick.cancel_called:
                act()

    async with anyio.create_task_group() as group:
        group.start_soon(act_later)
        yield tick
        tick.cancel()


# Jobs that are cancelled at each of their own suspensions.


JOBS = [instant, sleeping, shielding, failing, catching, failing_in_cleanup, grouping, pooled]

CANCELS: dict[str, Callable[[Future[Any], Executor, Any], object]] = {
    "its future": lambda future, executor, task: future.cancel("swept"),
    "the executor": lambda future, executor, task: executor.cancel("swept"),
    "its task": lambda future, executor, task: task.cancel(),
    "all three": lambda future, executor, task: (executor.cancel(), task.cancel(), future.cancel()),
}


@pytest.mark.parametrize("when", ["waits", "resumes"])
@pytest.mark.parametrize("cancel", CANCELS.values(), ids=CANCELS)
@pytest.mark.parametrize("job", [*JOBS, nesting, awaiting_another])
def test_cancelling_a_job_at_each_of_its_suspensions(
    job: Callable[..., Coroutine[Any, Any, str]],
    cancel: Callable[[Future[Any], Executor, Any], object],
    when: str,
    backend: str,
):
    """A job is cancelled at its k-th suspension: later jobs run, on as many slots as before."""
    native = cancel in (CANCELS["its task"], CANCELS["all three"])
    if native and backend == "trio":
        pytest.skip("asyncio's own")

    async def one_run(k: int) -> str:
        trial = Trial()
        async with trial.executor(2, on_error="log") as executor:
            args = (trial,) if job in (nesting, awaiting_another) else ()
            tasks: list[Any] = []
            steps = Steps(k, lambda: cancel(future, executor, *tasks), when)

            async def stepped() -> str:
                tasks.append(asyncio_task())
                return await steps.drive(job(*args))

            beside = trial.submit(executor, instant)
            future = trial.submit(executor, stepped)
            behind = [trial.submit(executor, unharmed) for _ in range(3)]
            await future.wait()
            await executor.join()
            assert beside.result() == "instant"
            for other in behind:
                # Cancelled with the executor, or not touched at all.
                assert other.cancelled() or other.result() == "unharmed"
                if cancel is CANCELS["its future"] or cancel is CANCELS["its task"]:
                    assert not other.cancelled()
            after = [trial.submit(executor, unharmed) for _ in range(4)]
            assert await gather(*after) == ["unharmed"] * 4
            check_idle(executor)
        await trial.check_all()
        if not steps.reached:
            assert not future.cancelled()
            return "completed"
        if future.cancelled():
            return "cancelled"
        return "raised" if future.exception() else "caught"

    outcomes = sweep(backend, one_run, at_least={"completed"})
    if when == "waits":
        expected = {
            instant: {"completed"},
            catching: {"caught", "completed"},
            failing_in_cleanup: {"raised", "completed"},
        }
        assert outcomes >= expected.get(job, {"cancelled", "completed"})


async def unharmed() -> str:
    """A job that would notice the cancellation of another."""
    await checkpoint()
    if (task := asyncio_task()) is not None:
        assert task.cancelling() == 0
    await anyio.sleep(0.1)
    return "unharmed"


# Whatever else may be called at any tick of a busy executor.


ACTS: dict[str, Callable[[Trial, Executor], object]] = {
    **{
        f"cancel job {n}": lambda trial, executor, n=n: trial.futures[n].cancel("swept")
        for n in (0, 1, 3, 6)
    },
    "cancel all": lambda trial, executor: executor.cancel("swept"),
    "cancel all twice": lambda trial, executor: (executor.cancel(), executor.cancel()),
    "cancel all and submit": lambda trial, executor: (
        executor.cancel(),
        trial.submit(executor, unharmed),
    ),
    "cancel from the back": lambda trial, executor: [f.cancel() for f in trial.futures[::-1]],
    "close": lambda trial, executor: executor.close(),
    "cancel and close": lambda trial, executor: (executor.cancel(), executor.close()),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_calling_anything_at_any_tick_of_a_busy_executor(
    act: Callable[[Trial, Executor], object], backend: str
):
    """`cancel` and `close`, at each tick: every job that wasn't cancelled has run, once."""

    async def one_run(k: int) -> str:
        trial = Trial()
        acted = False

        def act_now() -> None:
            nonlocal acted
            acted = True
            act(trial, executor)

        async with at_tick(k, act_now) as tick, trial.executor(2, on_error="log") as executor:
            trial.jobs(executor)
            for job in (instant, instant, catching, grouping, failing_at_once):
                trial.submit(executor, job)
            await executor.join()
            tick.cancel()
        await trial.check_all()
        if not acted:
            assert not any(future.cancelled() for future in trial.futures)
            return "completed"
        return "cancelled" if any(future.cancelled() for future in trial.futures) else "raised"

    at_least = {"completed", "cancelled"}
    if act in (ACTS["close"], ACTS["cancel job 0"]):  # the first job is done before all else
        at_least.remove("cancelled")
    sweep(backend, one_run, at_least=at_least)


def sweep(
    backend: str,
    one_run: Callable[[int], Awaitable[str]],
    at_least: Set[str] = frozenset({"completed", "cancelled"}),
) -> set[str]:
    """Run for k = 1, 2, ... until nothing was cancelled any more; return the outcomes."""
    outcomes = set()

    async def runs() -> None:
        for k in range(1, 1000):
            outcomes.add(outcome := await one_run(k))
            if outcome == "completed":
                return
        pytest.fail("never completed")

    run_in_virtual_time(backend, runs)
    assert outcomes >= at_least
    return outcomes
