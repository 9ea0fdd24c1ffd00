"""Cancelling small programs at each of their suspensions in turn, until they complete.

Each program runs in virtual time, again and again: at the k-th suspension something is cancelled,
for k = 1, 2, 3 and so on, until the program is done before its k-th suspension. Whatever is
cancelled, and wherever it happens, what `Trial.check` says must hold.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
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

pytestmark = [
    pytest.mark.parametrize("backend", VIRTUAL_BACKENDS),
]


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
        self.ended_blocks = 0

    def executor(self, slots: int, **options: Any) -> Executor:
        executor = Executor(slots, **options)
        self.executors.append(executor)
        return executor

    def submit(
        self, executor: Executor, job: Callable[..., Awaitable[Any]], *args: Any
    ) -> Future[Any]:
        future = executor.submit(self._counted, executor, job, *args)
        self.futures.append(future)
        return future

    async def _counted(
        self, executor: Executor, job: Callable[..., Awaitable[Any]], *args: Any
    ) -> Any:
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
        for executor in self.executors:
            counts = executor.statistics()
            ended = counts.succeeded + counts.failed + counts.cancelled
            assert counts.submitted == ended, counts
            assert counts.running == counts.queued == counts.lent == 0
            assert "ended" in repr(executor) or "not entered" in repr(executor)
            with pytest.raises(RuntimeError):
                executor.submit(instant)
        outcomes = Counter(
            "cancelled" if f.cancelled() else "failed" if f.exception() else "succeeded"
            for f in self.futures
        )
        if self.executors and not self.unseen_jobs:
            total: Counter[str] = Counter()
            for executor in self.executors:
                counts = executor.statistics()
                total += Counter(
                    cancelled=counts.cancelled, failed=counts.failed, succeeded=counts.succeeded
                )
            assert total == outcomes


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


# Programs. Each ends by itself; its host may be cancelled anywhere.


async def awaiting(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        for future in trial.jobs(executor):
            try:
                await future
            except (Failure, JobCancelled):
                pass


async def waiting(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        for future in trial.jobs(executor):
            await future.wait()
        trial.futures[-1].exception()


async def gathering(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        futures = trial.jobs(executor)
        with pytest.raises(Failure):
            await gather(*futures)


async def gathering_all(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        results = await gather(*trial.jobs(executor), return_exceptions=True)
        assert results[:3] == ["instant", "slept", "shielded"]


async def gathering_nothing(trial: Trial) -> None:
    async with trial.executor(1):
        assert await gather() == []


async def joining(trial: Trial) -> None:
    async with trial.executor(2, on_error="log") as executor:
        await executor.join()
        trial.jobs(executor)
        await executor.join()
        trial.jobs(executor)


async def leaving(trial: Trial) -> None:
    async with trial.executor(2, on_error="log") as executor:
        trial.jobs(executor)
        trial.jobs(executor)


async def leaving_at_once(trial: Trial) -> None:
    async with trial.executor(2):
        pass


async def leaving_while_jobs_submit(trial: Trial) -> None:
    async def parent(depth: int) -> None:
        await checkpoint()
        for _ in range(2 * (depth > 0)):
            try:
                trial.submit(executor, parent, depth - 1)
            except ExecutorClosed:
                pass
        await anyio.sleep(0.1)

    async with trial.executor(2) as executor:
        trial.submit(executor, parent, 2)


async def holding_errors(trial: Trial) -> None:
    with pytest.raises(ExceptionGroup):
        async with trial.executor(2) as executor:
            trial.jobs(executor)


async def cancelling_on_error(trial: Trial) -> None:
    with pytest.raises(ExceptionGroup):
        async with trial.executor(2, on_error="cancel") as executor:
            trial.jobs(executor)
            await anyio.sleep(5)


async def cancelling_on_error_at_once(trial: Trial) -> None:
    with pytest.raises(ExceptionGroup):
        async with trial.executor(2, on_error="cancel") as executor:
            trial.submit(executor, shielding)
            trial.submit(executor, failing_at_once)
            trial.submit(executor, instant)


async def raising(trial: Trial) -> None:
    with pytest.raises(Failure, match="body"):
        async with trial.executor(2) as executor:
            trial.jobs(executor)
            await anyio.sleep(0.2)
            raise Failure("body")


async def raising_at_once(trial: Trial) -> None:
    with pytest.raises(Failure, match="body"):
        async with trial.executor(2) as executor:
            trial.jobs(executor)
            raise Failure("body")


async def shutting_down(trial: Trial) -> None:
    async with trial.executor(2, on_error="log") as executor:
        trial.jobs(executor)
        await executor.shutdown()
        with pytest.raises(ExecutorClosed):
            executor.submit(instant)


async def shutting_down_with_grace(trial: Trial) -> None:
    async with trial.executor(1, on_error="log") as executor:
        trial.jobs(executor)
        await executor.shutdown(grace=1.5)


async def shutting_down_at_once(trial: Trial) -> None:
    async with trial.executor(2, on_error="log") as executor:
        trial.jobs(executor)
        await checkpoint()
        await executor.shutdown(grace=0)


async def closing(trial: Trial) -> None:
    async with trial.executor(1, on_error="log") as executor:
        trial.jobs(executor)
        executor.close()
        await executor.join()


async def cancelling_jobs(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        for future in trial.jobs(executor):
            await checkpoint()
            future.cancel("one")
        trial.jobs(executor)
        await anyio.sleep(0.1)
        executor.cancel("all")
        await executor.join()
        assert await trial.submit(executor, sleeping) == "slept"


async def timing_out(trial: Trial) -> None:
    with anyio.move_on_after(0.3):
        async with trial.executor(2) as executor:
            trial.jobs(executor)


async def two_executors(trial: Trial) -> None:
    async with trial.executor(1) as outer, trial.executor(1) as inner:
        first = trial.submit(outer, sleeping)
        second = trial.submit(inner, shielding)
        assert await gather(second, first) == ["shielded", "slept"]


async def executor_in_a_job(trial: Trial) -> None:
    async def host() -> object:
        async with trial.executor(1) as inner:
            futures = [trial.submit(inner, job) for job in (sleeping, shielding)]
            return await futures[0]

    async with trial.executor(1) as outer:
        future = trial.submit(outer, host)
        trial.submit(outer, instant)
        assert await future == "slept"


async def awkward_jobs(trial: Trial) -> None:
    async with trial.executor(3) as executor:
        futures = [trial.submit(executor, job) for job in (catching, failing_in_cleanup, grouping)]
        await gather(*futures, return_exceptions=True)


async def enqueuing(trial: Trial) -> None:
    trial.unseen_jobs = True
    async with trial.executor(1, max_pending=1, on_error="log") as executor:
        for job in (instant, sleeping, shielding, failing, sleeping):
            trial.futures.append(await executor.enqueue(trial._counted, executor, job))


async def handing_over(trial: Trial) -> None:
    trial.unseen_jobs = True
    async with trial.executor(1, max_pending=0) as executor, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(executor.enqueue, trial._counted, executor, sleeping)


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


async def mapping_to_a_list(trial: Trial) -> None:
    trial.unseen_jobs = True
    async with trial.executor(2) as executor:
        assert await executor.map(twice, range(4)) == [0, 2, 4, 6]
        assert await executor.map(twice, numbers(3), buffer=0) == [0, 2, 4]


async def mapping_as_a_stream(trial: Trial) -> None:
    trial.unseen_jobs = True
    async with trial.executor(2) as executor:
        found = [result async for result in executor.map(twice, numbers(4), ordered=False)]
        assert sorted(found) == [0, 2, 4, 6]
        async with executor.map(twice, numbers(100)) as results:
            async for result in results:
                if result == 4:
                    break
        failing_map = executor.map(lambda _: failing(), range(1))
        with pytest.raises(Failure):
            await anext(failing_map)


async def listing(trial: Trial) -> None:
    assert await amap(twice, range(4), slots=2) == [0, 2, 4, 6]


async def completing(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        found = [future async for future in as_completed(trial.jobs(executor))]
        assert len(found) == 4
        with pytest.raises(Failure):
            await trial.futures[3]


async def waiting_for_some(trial: Trial) -> None:
    async with trial.executor(2) as executor:
        futures = trial.jobs(executor)
        for when in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
            done, _ = await wait(futures, return_when=when)
            assert done
        futures[3].exception()


async def taking_the_first(trial: Trial) -> None:
    async with trial.executor(4) as executor:
        jobs = (failing, shielding, sleeping)
        futures = [trial.submit(executor, job) for job in jobs]
        assert await first_result(*futures) == "slept"


async def lending(trial: Trial) -> None:
    async def lends(executor: Executor) -> object:
        async with lend_slot():
            await anyio.sleep(0.5)
        inner = [trial.submit(executor, job) for job in (sleeping, instant)]
        async with lend_slot():
            await anyio.sleep(0.5)
        return await gather(*inner)

    async with trial.executor(1) as executor:
        trial.submit(executor, lends, executor)
        trial.submit(executor, lends, executor)
        trial.submit(executor, sleeping)


async def calling_a_pool(trial: Trial) -> None:
    assert await pooled() == 8
    async with trial.executor(2) as executor:
        futures = [trial.submit(executor, pooled) for _ in range(3)]
        assert await pooled() == 8
        assert await gather(*futures) == [8, 8, 8]


PROGRAMS = [
    awaiting,
    calling_a_pool,
    enqueuing,
    handing_over,
    mapping_to_a_list,
    mapping_as_a_stream,
    listing,
    completing,
    waiting_for_some,
    taking_the_first,
    lending,
    waiting,
    gathering,
    gathering_all,
    gathering_nothing,
    joining,
    leaving,
    leaving_at_once,
    leaving_while_jobs_submit,
    holding_errors,
    cancelling_on_error,
    cancelling_on_error_at_once,
    raising,
    raising_at_once,
    shutting_down,
    shutting_down_with_grace,
    shutting_down_at_once,
    closing,
    cancelling_jobs,
    timing_out,
    two_executors,
    executor_in_a_job,
    awkward_jobs,
]


def check_expected(error: BaseException, cancelled: bool) -> None:
    """A program that was cancelled somewhere raised nothing but what its jobs did."""
    assert cancelled
    _, rest = BaseExceptionGroup("", [error]).split((Failure, JobCancelled, ExecutorClosed))
    assert rest is None


@pytest.fixture(autouse=True)
def _quiet_and_clean(caplog: pytest.LogCaptureFixture):
    """The event loop has nothing to complain of."""
    yield
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_cancelling_the_host_at_each_of_its_suspensions(
    program: Callable[[Trial], Coroutine[Any, Any, None]], backend: str
):
    """The scope around a program is cancelled at its k-th suspension: nothing is left or lost."""

    async def one_run(k: int) -> str:
        trial = Trial()
        before = living_tasks()
        outcome = "completed"
        with anyio.CancelScope() as scope:
            steps = Steps(k, scope.cancel)

            async def host():
                await program(trial)
                return "completed"

            try:
                await steps.drive(host())
            except Exception as error:
                check_expected(error, steps.reached)
                outcome = "raised"
            # A cancellation must still be felt here, whatever became of the program.
            await checkpoint()
            assert not steps.reached, "the cancellation was lost"
            return outcome
        assert scope.cancelled_caught
        trial.check()
        await checkpoint()
        assert living_tasks() == before
        return "cancelled" if outcome == "completed" else outcome

    sweep(backend, one_run)


@pytest.mark.parametrize("program", PROGRAMS)
def test_cancelling_the_hosts_task_natively_at_each_of_its_suspensions(
    program: Callable[[Trial], Coroutine[Any, Any, None]], backend: str
):
    """The same with `asyncio.Task.cancel`, which comes just once: it isn't lost either."""
    if backend == "trio":
        pytest.skip("asyncio's own")

    async def one_run(k: int) -> str:
        trial = Trial()
        raised = []
        before = living_tasks()
        task: asyncio.Task[Any]
        steps = Steps(k, lambda: task.cancel())

        async def host() -> None:
            try:
                await steps.drive(program(trial))
            except Exception as error:
                check_expected(error, steps.reached)
                raised.append(error)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        task = asyncio.create_task(host())
        await asyncio.wait([task])
        trial.check()
        assert living_tasks() == before
        if not steps.reached:
            await task
            return "completed"
        assert task.cancelled(), ("the cancellation was lost", task.exception())
        return "raised" if raised else "cancelled"

    sweep(backend, one_run)


@pytest.mark.parametrize("program", PROGRAMS)
def test_cancelling_a_program_after_each_number_of_ticks(
    program: Callable[[Trial], Coroutine[Any, Any, None]], backend: str
):
    """The same from another task, tick by tick and then in the middle of the sleeps."""

    async def one_run(k: int) -> str:
        trial = Trial()
        outcome = "completed"
        before = living_tasks()
        done = False
        async with anyio.create_task_group() as group:

            async def cancel_later(scope: anyio.CancelScope):
                for tick in range(1, k):
                    await (checkpoint() if tick < 10 else anyio.sleep(0.3))
                if not done:
                    scope.cancel()

            with anyio.CancelScope() as scope:
                group.start_soon(cancel_later, scope)
                try:
                    await program(trial)
                except Exception as error:
                    check_expected(error, scope.cancel_called)
                    outcome = "raised"
                else:
                    outcome = "completed"
                done = True
                called = scope.cancel_called
                await checkpoint()
                assert not called, "the cancellation was lost"
            group.cancel_scope.cancel()
        trial.check()
        assert living_tasks() == before
        if outcome == "completed" and scope.cancelled_caught:
            outcome = "cancelled"
        return outcome

    sweep(backend, one_run)


# Jobs that are cancelled at each of their own suspensions.


JOBS = [instant, sleeping, shielding, failing, catching, failing_in_cleanup, grouping, pooled]

CANCELS: dict[str, Callable[[Future[Any], Executor, Any], object]] = {
    "its future": lambda future, executor, task: future.cancel("swept"),
    "the executor": lambda future, executor, task: executor.cancel("swept"),
    "its task": lambda future, executor, task: task.cancel(),
    "all three": lambda future, executor, task: (executor.cancel(), task.cancel(), future.cancel()),
}


async def nesting(trial: Trial) -> str:
    async with trial.executor(1) as inner:
        trial.submit(inner, shielding)
        return await trial.submit(inner, sleeping)


async def awaiting_another(trial: Trial) -> str:
    other = trial.submit(trial.executors[0], sleeping)
    await gather(other)
    await other.wait()
    return await other


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
        before = living_tasks()
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
            assert executor.statistics().running == 0
        trial.check()
        await checkpoint()
        assert living_tasks() == before
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
        before = living_tasks()
        acted = done = False
        async with anyio.create_task_group() as group:
            async with trial.executor(2, on_error="log") as executor:
                trial.jobs(executor)
                for job in (instant, instant, catching, grouping, failing_at_once):
                    trial.submit(executor, job)

                async def act_later():
                    nonlocal acted
                    for tick in range(1, k):
                        await (checkpoint() if tick < 12 else anyio.sleep(0.3))
                    if not done:
                        acted = True
                        act(trial, executor)

                group.start_soon(act_later)
                await executor.join()
                done = True
            group.cancel_scope.cancel()
        trial.check()
        await checkpoint()
        assert living_tasks() == before
        if not acted:
            assert not any(future.cancelled() for future in trial.futures)
            return "completed"
        return "cancelled" if any(future.cancelled() for future in trial.futures) else "raised"

    at_least = {"completed", "cancelled"}
    if act in (ACTS["close"], ACTS["cancel job 0"]):  # the first job is done before all else
        at_least.remove("cancelled")
    sweep(backend, one_run, at_least=at_least)


def sweep(
    backend: str, one_run: Callable[[int], Awaitable[str]], at_least: set[str] | None = None
) -> set[str]:
    """Run for k = 1, 2, ... until nothing was cancelled any more; return the outcomes."""
    if at_least is None:
        at_least = {"completed", "cancelled"}
    outcomes = set()

    async def runs() -> None:
        for k in range(1, 1000):
            outcome = await one_run(k)
            outcomes.add(outcome)
            if outcome == "completed":
                return
        pytest.fail("never completed")

    run_in_virtual_time(backend, runs)
    assert outcomes >= at_least
    return outcomes
