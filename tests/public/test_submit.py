"""Submitting: what may be submitted, from where, and when and in which context it runs."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import sys
import types
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import pytest
import trio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from jobs import all_blocked

from anyslots import Executor, ExecutorClosed, JobCancelled

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Spy:
    """A job that knows how many of it run at once."""

    def __init__(self) -> None:
        self.running = self.peak = self.runs = 0

    async def __call__(self, turns: int = 1) -> None:
        self.running += 1
        self.runs += 1
        self.peak = max(self.peak, self.running)
        for _ in range(turns):
            await checkpoint()
        self.running -= 1


async def double(value: int) -> int:
    await checkpoint()
    return 2 * value


async def instant(value: int = 0) -> int:
    return value


async def read_variable() -> str:
    return variable.get()


# What is passed on, and what comes back.


async def test_arguments_reach_the_function() -> None:
    """Positional and keyword arguments are passed on as they came."""

    async def job(*args: object, **kwargs: object) -> object:
        return args, kwargs

    async with Executor(1) as executor:
        future = executor.submit(job, 1, [2], key=3)
        assert await future == ((1, [2]), {"key": 3})


async def test_every_keyword_goes_to_the_function() -> None:
    """No keyword is an option of `submit` itself, whatever its name."""

    async def job(**kwargs: object) -> object:
        return kwargs

    names = "fn self slots args kwargs name lane timeout queue_timeout priority context future"
    kwargs = dict.fromkeys(names.split(), 1)
    async with Executor(1) as executor:
        assert await executor.submit(job, **kwargs) == kwargs


async def test_submit_returns_before_the_job_begins() -> None:
    """`submit` is synchronous: the job's first step comes once the submitter waits."""
    started = []

    async def job() -> None:
        started.append(True)

    async with Executor(2) as executor:
        future = executor.submit(job)
        assert not started
        assert not future.done()
        assert not future.running()
        await future
        assert started


async def test_none_is_a_value() -> None:
    """A job that returns None has succeeded with None."""

    async def job() -> None:
        pass

    async with Executor(1) as executor:
        future = executor.submit(job)
        assert await future is None
        assert future.exception() is None


class Doubler:
    """Functions that aren't plain ones."""

    async def method(self, value: int) -> int:
        return await double(value)

    @classmethod
    async def class_method(cls, value: int) -> int:
        return await double(value)

    @staticmethod
    async def static_method(value: int) -> int:
        return await double(value)

    async def __call__(self, value: int) -> int:
        return await double(value)


class LazyDouble:
    """Awaitable, and nothing else."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, int]:
        return double(self.value).__await__()


class InstantDouble:
    """Awaitable without suspending, by an iterator that is no generator."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> InstantDouble:
        return self

    def __next__(self) -> None:
        raise StopIteration(2 * self.value)

    def __iter__(self) -> InstantDouble:
        return self


class Yes:
    """Has every attribute that somebody asks for, and these too, as mocks and proxies have."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def __getattr__(self, name: str) -> Yes:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.depth > 20:
            raise RecursionError("a mock would go on for ever")
        return Yes(self.depth + 1)

    async def __call__(self, value: int) -> int:
        return await double(value)


@types.coroutine
def double_by_generator(value: int) -> Generator[Any, Any, int]:
    yield from checkpoint().__await__()
    return 2 * value


def function_returning_coroutine(value: int) -> Awaitable[int]:
    return double(value)


FUNCTIONS = {
    "coroutine function": double,
    "function returning a coroutine": function_returning_coroutine,
    "lambda": lambda value: double(value),
    "partial": functools.partial(double),
    "partial of a partial": functools.partial(functools.partial(double)),
    "bound method": Doubler().method,
    "class method": Doubler.class_method,
    "static method": Doubler.static_method,
    "callable object": Doubler(),
    "class whose instances are awaitable": LazyDouble,
    "awaitable that never suspends": InstantDouble,
    "generator-based coroutine": double_by_generator,
    "object with every attribute": Yes(),
}


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
async def test_whatever_returns_an_awaitable_may_be_submitted(
    fn: Callable[[int], Awaitable[int]],
) -> None:
    """Every callable that returns an awaitable is a job, whatever its kind."""
    async with Executor(1) as executor:
        with anyio.fail_after(5):
            assert await executor.submit(fn, 21) == 42


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
async def test_whatever_is_submitted_may_be_cancelled_while_queued(
    fn: Callable[[int], Awaitable[int]],
) -> None:
    """A queued job of any kind of callable is cancelled, and described, like any other."""
    async with Executor(1) as executor:
        future = executor.submit(fn, 21)
        assert repr(future)
        assert future.cancel()
        assert future.cancelled()
        assert repr(future)


# Tasks and futures of asyncio.


@pytest.mark.usefixtures("asyncio_only")
async def test_asyncio_task_is_awaited() -> None:
    """A function may return an asyncio Task: its result is the job's."""

    def start(value: int) -> asyncio.Task[int]:
        return asyncio.create_task(double(value))

    async with Executor(1) as executor:
        assert await executor.submit(start, 21) == 42


@pytest.mark.usefixtures("asyncio_only")
async def test_asyncio_future_is_awaited() -> None:
    """A function may return an asyncio Future: the job runs until it's set."""
    inner = asyncio.get_running_loop().create_future()
    async with Executor(1) as executor:
        future = executor.submit(lambda: inner)
        await all_blocked()
        assert future.running()
        inner.set_result("set")
        assert await future == "set"


@pytest.mark.usefixtures("asyncio_only")
async def test_failing_task_fails_the_job() -> None:
    """The exception of a returned Task is the job's, the same object."""
    error = ValueError("in the task")

    async def fail() -> None:
        raise error

    async with Executor(1) as executor:
        future = executor.submit(lambda: asyncio.create_task(fail()))
        with pytest.raises(ValueError, match="in the task") as caught:
            await future
        assert caught.value is error


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("already", [True, False], ids=["before", "while it runs"])
async def test_cancelled_asyncio_future_cancels_the_job(already: bool) -> None:
    """A returned Future that somebody else cancels leaves the job cancelled, and the rest alone."""
    inner = asyncio.get_running_loop().create_future()
    if already:
        inner.cancel()
    async with Executor(1) as executor:
        future = executor.submit(lambda: inner)
        await all_blocked()
        inner.cancel()
        with pytest.raises(JobCancelled):
            await future
        assert future.cancelled()
        assert await executor.submit(double, 2) == 4


@pytest.mark.usefixtures("asyncio_only")
@pytest.mark.parametrize("cleanup", ["at once", "in its time"])
async def test_cancelling_the_job_cancels_its_task(cleanup: str) -> None:
    unwound = []

    async def sleep() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if cleanup == "in its time":
                for _ in range(3):
                    await asyncio.sleep(0)
            unwound.append(True)

    tasks: list[asyncio.Task[None]] = []

    def start() -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(sleep()))
        return tasks[0]

    async with Executor(1) as executor:
        future = executor.submit(start)
        await all_blocked()
        future.cancel()
        await future.wait()
        assert future.cancelled()
        assert tasks[0].cancelled()
        assert unwound


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks since Python 3.12")
@pytest.mark.usefixtures("asyncio_only")
async def test_eager_task_factory_changes_nothing() -> None:
    """With eager tasks, too, `submit` returns before its job begins, and the counts are right."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    started = []

    async def job(number: int) -> None:
        started.append(number)
        await checkpoint()

    try:
        async with Executor(2) as executor:
            futures = [executor.submit(job, number) for number in range(5)]
            assert not started
            assert not any(future.running() for future in futures)
            assert executor.statistics().queued == 5
            for future in futures:
                await future
            assert executor.statistics().succeeded == 5
    finally:
        loop.set_task_factory(None)
    assert started == [0, 1, 2, 3, 4]


# What may not be submitted, and when.


async def test_executor_that_is_not_entered_takes_no_jobs() -> None:
    """Before it's entered, an executor refuses jobs with a `RuntimeError` that says what to do."""
    executor = Executor(1)
    with pytest.raises(RuntimeError, match="async with") as caught:
        executor.submit(instant)
    assert not isinstance(caught.value, ExecutorClosed)
    assert executor.statistics().submitted == 0


async def test_closed_executor_takes_no_jobs() -> None:
    """After `close`, submitting raises `ExecutorClosed`, a `RuntimeError`, and queues nothing."""
    async with Executor(1) as executor:
        executor.close()
        with pytest.raises(ExecutorClosed) as caught:
            executor.submit(instant)
        assert isinstance(caught.value, RuntimeError)
        assert executor.statistics().submitted == 0


@pytest.mark.parametrize("fn", [None, 3, "fetch"], ids=repr)
async def test_submitting_what_is_not_callable_is_a_type_error(fn: Any) -> None:
    """A `fn` that can't be called is refused at once, with a `TypeError` that shows it."""
    async with Executor(1) as executor:
        with pytest.raises(TypeError, match="callable") as caught:
            executor.submit(fn)
        assert repr(fn) in str(caught.value)
        assert executor.statistics().submitted == 0


async def test_submitting_a_coroutine_instead_of_a_function_is_a_type_error() -> None:
    """``submit(fn())`` is refused at once, and the message shows ``submit(fn, ...)``."""
    coroutine = instant()
    async with Executor(1) as executor:
        with pytest.raises(TypeError, match=r"submit\(fn, "):
            executor.submit(coroutine)  # type: ignore[arg-type]
    coroutine.close()


def plain_function(*values: object) -> object:
    return values[0]


def plain_generator(*values: object) -> Generator[object, None, None]:
    yield from values


async def async_generator(*values: object) -> Any:
    for value in values:
        yield value


@pytest.mark.parametrize("fn", [plain_function, plain_generator, async_generator])
async def test_function_that_returns_no_awaitable_fails_its_job(fn: Any) -> None:
    """The future fails with a `TypeError` that names the function, and the way to use a thread."""
    async with Executor(1) as executor:
        future = executor.submit(fn, 3)
        with pytest.raises(TypeError, match=fn.__name__) as caught:
            await future
        assert "anyio.to_thread.run_sync" in str(caught.value)
        assert await executor.submit(instant, 1) == 1


async def test_plain_function_runs_in_a_thread_as_the_message_says() -> None:
    async with Executor(1) as executor:
        assert await executor.submit(to_thread.run_sync, plain_function, 3) == 3


async def test_function_that_raises_when_called_fails_its_job() -> None:
    """An exception of the call itself, before there is an awaitable, is the job's."""

    def fn() -> Awaitable[None]:
        raise ValueError("called")

    async with Executor(1) as executor:
        future = executor.submit(fn)
        with pytest.raises(ValueError, match="called"):
            await future


async def test_wrong_arguments_fail_the_job() -> None:
    """Arguments that the function doesn't take fail the job, not `submit`."""
    async with Executor(1) as executor:
        future = executor.submit(instant, 1, 2)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="positional"):
            await future


# From where.


async def test_submitting_from_another_thread_names_the_right_call() -> None:
    async with Executor(1) as executor:
        with pytest.raises(RuntimeError, match=r"anyslots\.from_thread"):
            await to_thread.run_sync(executor.submit, instant)
        assert executor.statistics().submitted == 0


@pytest.mark.parametrize("end", ["closed", "ended"])
async def test_another_thread_is_refused_as_such_whatever_the_state(end: str) -> None:
    """From another thread, submitting to a closed executor isn't only `ExecutorClosed`."""
    async with Executor(1) as executor:
        executor.close()
        if end == "closed":
            with pytest.raises(RuntimeError, match="thread"):
                await to_thread.run_sync(executor.submit, instant)
    if end == "ended":
        with pytest.raises(RuntimeError, match="thread"):
            await to_thread.run_sync(executor.submit, instant)


def call_from_the_loop(loop_name: str, fn: Callable[[], object]) -> None:
    """Have the event loop call ``fn`` soon, in no job and no task."""
    if loop_name == "trio":
        trio.lowlevel.current_trio_token().run_sync_soon(fn)
    else:
        asyncio.get_running_loop().call_soon(fn)


@pytest.mark.parametrize("slots", [1, 3, math.inf])
async def test_submitting_from_a_callback_of_the_loop(loop_name: str, slots: float) -> None:
    """`submit` works in a plain callback of the event loop, where no task is current."""
    futures = []
    spy = Spy()
    async with Executor(slots) as executor:
        for _ in range(5):
            call_from_the_loop(loop_name, lambda: futures.append(executor.submit(spy, 3)))
        await all_blocked()
        for future in futures:
            await future
    assert spy.runs == 5
    assert spy.peak == min(slots, 5)


async def test_submitting_from_a_callback_of_the_loop_raises_as_anywhere(loop_name: str) -> None:
    """In a plain callback of the loop a closed executor raises `ExecutorClosed`, too."""
    raised: list[Exception] = []

    def submit() -> None:
        try:
            executor.submit(instant)
        except ExecutorClosed as error:
            raised.append(error)

    async with Executor(1) as executor:
        executor.close()
        call_from_the_loop(loop_name, submit)
        await all_blocked()
    assert len(raised) == 1


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled", "cancelled in the queue"])
async def test_submitting_from_a_done_callback(outcome: str) -> None:
    """A future's done callback may submit the next job, however the one before ended."""
    futures = []

    async def job() -> None:
        if outcome == "failed":
            raise ValueError
        if outcome == "cancelled":
            await anyio.sleep_forever()

    async with Executor(1) as executor:
        future = executor.submit(job)
        future.add_done_callback(lambda _: futures.append(executor.submit(double, 21)))
        if outcome != "cancelled in the queue":
            await all_blocked()
        future.cancel()
        await future.wait()
        future.cancelled() or future.exception()
        assert await futures[0] == 42


@pytest.mark.usefixtures("asyncio_only")
async def test_submitting_from_a_done_callback_of_a_task() -> None:
    futures = []
    async with Executor(1) as executor:
        task = asyncio.create_task(instant())
        task.add_done_callback(lambda _: futures.append(executor.submit(double, 21)))
        await task
        await all_blocked()
        assert await futures[0] == 42


async def test_submitting_from_other_tasks() -> None:
    """Any task of the event loop may submit, not just the one that entered."""
    results = []

    async def submitter(number: int) -> None:
        results.append(await executor.submit(double, number))

    async with Executor(2) as executor, anyio.create_task_group() as tg:
        for number in range(5):
            tg.start_soon(submitter, number)
    assert sorted(results) == [0, 2, 4, 6, 8]


async def test_job_may_submit_while_the_block_is_left() -> None:
    visited = []

    async def visit(depth: int, page: str) -> None:
        visited.append(page)
        await checkpoint()
        if depth:
            executor.submit(visit, depth - 1, page + "a")
            executor.submit(visit, depth - 1, page + "b")

    async with Executor(2) as executor:
        executor.submit(visit, 4, "/")
    assert len(visited) == 31
    assert executor.statistics().succeeded == 31


async def test_last_steps_of_a_job_may_submit_while_the_block_is_left() -> None:
    ran = []

    async def job(depth: int) -> None:
        ran.append(depth)
        if depth:
            executor.submit(job, depth - 1)

    async with Executor(1) as executor:
        future = executor.submit(job, 3)
        future.add_done_callback(lambda _: executor.submit(job, 0))
    assert ran == [3, 2, 0, 1, 0] or ran == [3, 2, 1, 0, 0] or ran == [3, 2, 0, 0, 1]


# When: order, limits, fairness.


@pytest.mark.parametrize("slots", [1, 3, math.inf])
async def test_jobs_start_in_the_order_of_their_submission(slots: float) -> None:
    """Jobs start first in, first out, on every backend, however long each takes."""
    for repetition in range(3):
        started = []

        async def job(number: int, turns: int, started: list[int] = started) -> None:
            started.append(number)
            for _ in range(turns):
                await checkpoint()

        async with Executor(slots) as executor:
            for number in range(40):
                executor.submit(job, number, (number * 7 + repetition) % 4)
        assert started == list(range(40))


async def test_jobs_start_in_order_when_many_workers_wake_at_once() -> None:
    """Workers that all rested before take the jobs of a burst in the order of submission."""
    slots = 8
    started: list[int] = []

    async def job(number: int) -> None:
        started.append(number)
        await checkpoint()

    async with Executor(slots) as executor:
        for _ in range(12):
            started.clear()
            for number in range(2 * slots):
                executor.submit(job, number)
            await executor.join()
            await all_blocked()
            assert started == list(range(2 * slots))


@pytest.mark.parametrize("slots", [1, 2, 7])
async def test_never_more_jobs_than_slots(slots: int) -> None:
    spy = Spy()
    async with Executor(slots) as executor:
        for number in range(50):
            executor.submit(spy, 1 + number % 3)
    assert spy.peak == slots
    assert spy.runs == 50


async def test_infinite_slots_run_everything_at_once() -> None:
    spy = Spy()
    event = anyio.Event()

    async def job() -> None:
        spy.running += 1
        await event.wait()

    async with Executor(float("inf")) as executor:
        for _ in range(30):
            executor.submit(job)
        await all_blocked()
        assert spy.running == 30
        event.set()


async def test_free_slot_is_taken_at_once() -> None:
    """As soon as one job ends the next one starts: jobs don't wait for each other in batches."""
    events = [anyio.Event() for _ in range(4)]
    async with Executor(2) as executor:
        futures = [executor.submit(event.wait) for event in events]
        await all_blocked()
        assert [future.running() for future in futures] == [True, True, False, False]
        events[1].set()
        await all_blocked()
        assert [future.running() for future in futures] == [True, False, True, False]
        for event in events:
            event.set()


async def test_instant_jobs_leave_turns_to_other_tasks(loop_name: str) -> None:
    """At most eight jobs of a slot that never suspend run without a checkpoint for other tasks."""
    slots, jobs = 2, 1000
    ran = 0
    between_turns = []

    async def job() -> None:
        nonlocal ran
        ran += 1

    async def ticker() -> None:
        while ran < jobs:
            before = ran
            await checkpoint()
            between_turns.append(ran - before)

    async with anyio.create_task_group() as tg, Executor(slots) as executor:
        for _ in range(jobs):
            executor.submit(job)
        tg.start_soon(ticker)
    assert ran == jobs
    # Trio runs the tasks of a turn in random order: a slot may come last in one, first in the next.
    assert max(between_turns) <= 8 * slots * (2 if loop_name == "trio" else 1)


@pytest.mark.parametrize("how", ["executor", "scope", "future"])
async def test_instant_jobs_can_be_cancelled_between_two_of_them(how: str) -> None:
    """A long series of jobs that never suspend can be cancelled from outside at any time."""
    ran = 0

    async def job() -> None:
        nonlocal ran
        ran += 1

    with anyio.CancelScope() as scope:
        async with Executor(2) as executor:
            futures = [executor.submit(job) for _ in range(2000)]
            while ran < 10:
                await checkpoint()
            if how == "executor":
                executor.cancel()
            elif how == "scope":
                scope.cancel()
            else:
                for future in futures:
                    future.cancel()
    assert 10 <= ran < 100
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) == 2000 - ran


# What becomes of a job that nobody looks after.


async def test_job_finishes_though_nobody_holds_its_future() -> None:
    """A job whose future is dropped runs to its end, whatever the garbage collector does."""
    steps = []

    async def job() -> None:
        await checkpoint()
        gc.collect()
        await checkpoint()
        steps.append("end")

    async with Executor(1) as executor:
        executor.submit(job)
        await executor.join()
        assert steps == ["end"]


@pytest.mark.usefixtures("asyncio_only")
async def test_job_that_waits_for_what_only_it_knows_finishes() -> None:
    """A job is kept alive by its executor: asyncio itself keeps no task that only waits."""
    waiters: list[weakref.ref[asyncio.Future[None]]] = []
    loop = asyncio.get_running_loop()
    finished = []

    async def job() -> None:
        waiter = loop.create_future()
        waiters.append(weakref.ref(waiter))
        await waiter
        finished.append(True)

    async with Executor(1) as executor:
        executor.submit(job)
        await all_blocked()
        gc.collect()
        waiter = waiters[0]()
        assert waiter is not None
        waiter.set_result(None)
        del waiter
    assert finished


# In which context.


async def test_job_sees_the_context_of_its_submitter() -> None:
    async with Executor(1) as executor:
        futures = []
        for value in ["one", "two", "three"]:
            variable.set(value)
            futures.append(executor.submit(read_variable))
        assert [await future for future in futures] == ["one", "two", "three"]


async def test_function_is_called_in_the_context_of_its_submitter() -> None:
    def fn() -> Awaitable[int]:
        return instant(len(variable.get()))

    async with Executor(1) as executor:
        variable.set("four")
        future = executor.submit(fn)
        variable.set("")
        assert await future == 4


async def test_changes_after_submit_are_invisible() -> None:
    """What the submitter sets after the call isn't seen, neither before nor while the job runs."""
    seen = []
    event = anyio.Event()

    async def job() -> None:
        seen.append(variable.get())
        await event.wait()
        seen.append(variable.get())

    async with Executor(1) as executor:
        variable.set("submitted")
        executor.submit(job)
        variable.set("changed")
        await all_blocked()
        variable.set("changed again")
        event.set()
    assert seen == ["submitted", "submitted"]


@pytest.mark.parametrize("turns", [0, 1])
async def test_what_a_job_sets_reaches_no_other_job(turns: int) -> None:
    """The next job in the same slot, and its submitter, see nothing of what a job has set."""

    async def job(value: str) -> tuple[str, str]:
        before = variable.get()
        variable.set(value)
        for _ in range(turns):
            await checkpoint()
        return before, variable.get()

    async with Executor(1) as executor:
        variable.set("outer")
        futures = [executor.submit(job, str(number)) for number in range(5)]
        results = [await future for future in futures]
        assert results == [("outer", str(number)) for number in range(5)]
        assert variable.get() == "outer"


async def test_jobs_running_at_once_have_contexts_of_their_own() -> None:
    """Jobs submitted from one context and running at once don't share what they set."""

    async def job(value: str) -> bool:
        for turn in range(3):
            variable.set(f"{value} {turn}")
            await checkpoint()
            if variable.get() != f"{value} {turn}":
                return False
        return True

    async with Executor(10) as executor:
        futures = [executor.submit(job, str(number)) for number in range(100)]
        assert all([await future for future in futures])


async def test_context_lasts_as_long_as_the_job() -> None:
    """What a job sets it still sees after waiting, after a failed wait, and in its cleanup."""
    seen = []

    async def job() -> None:
        variable.set("mine")
        await checkpoint()
        seen.append(variable.get())
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        seen.append(variable.get())
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(variable.get())

    async with Executor(1) as executor:
        future = executor.submit(job)
        while len(seen) < 2:
            await checkpoint()
        await all_blocked()
        future.cancel()
    assert seen == ["mine"] * 3


async def test_context_of_a_job_that_a_job_submits() -> None:
    """A job's own submissions see what that job had set."""

    async def parent() -> Any:
        variable.set("parent")
        return executor.submit(read_variable)

    async with Executor(1) as executor:
        child = await executor.submit(parent)
        assert await child == "parent"


async def test_context_of_a_submission_from_a_given_context() -> None:
    """``Context.run(submit, ...)`` gives the job that context, as a copy."""
    context = copy_context()
    context.run(variable.set, "given")

    async def job() -> str:
        seen = variable.get()
        variable.set("set by the job")
        return seen

    async with Executor(1) as executor:
        assert await context.run(executor.submit, job) == "given"
    assert context[variable] == "given"


async def test_tasks_that_a_job_starts_inherit_its_context() -> None:
    seen = []

    async def child() -> None:
        seen.append(variable.get())

    async def job() -> None:
        variable.set("job")
        async with anyio.create_task_group() as tg:
            tg.start_soon(child)
        seen.append(await to_thread.run_sync(variable.get))

    async with Executor(1) as executor:
        executor.submit(job)
    assert seen == ["job", "job"]


async def test_jobs_of_one_slot_share_a_task() -> None:
    async def job() -> int:
        await checkpoint()
        return anyio.get_current_task().id

    async with Executor(1) as executor:
        futures = [executor.submit(job) for _ in range(5)]
        ids = {await future for future in futures}
        assert len(ids) == 1
        assert anyio.get_current_task().id not in ids


# What a job may do inside.


async def test_job_may_use_task_groups_scopes_and_threads() -> None:
    log = []

    async def child(number: int) -> None:
        await checkpoint()
        log.append(number)

    async def job() -> int:
        async with anyio.create_task_group() as tg:
            tg.start_soon(child, 1)
            async with anyio.create_task_group() as inner:
                inner.start_soon(child, 2)
                inner.start_soon(anyio.sleep_forever)
                await all_blocked()
                inner.cancel_scope.cancel()
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0):
            await anyio.sleep_forever()
        return await to_thread.run_sync(sum, [1, 2, 3])

    async with Executor(2) as executor:
        futures = [executor.submit(job) for _ in range(3)]
        assert [await future for future in futures] == [6, 6, 6]
    assert sorted(log) == [1, 1, 1, 2, 2, 2]


async def test_job_may_run_an_executor_of_its_own() -> None:
    async def job(value: int) -> int:
        async with Executor(1) as inner:
            return await inner.submit(double, value)

    async with Executor(2) as executor:
        futures = [executor.submit(job, value) for value in range(4)]
        assert [await future for future in futures] == [0, 2, 4, 6]


@pytest.mark.usefixtures("asyncio_only")
async def test_job_may_use_asyncio_timeouts() -> None:
    """`asyncio.timeout` works in a job, and the next job in the slot isn't touched by it."""

    async def job() -> str:
        try:
            async with asyncio.timeout(0):
                await anyio.sleep_forever()
        except TimeoutError:
            return "timed out"
        return "slept"

    async with Executor(1) as executor:
        futures = [executor.submit(job) for _ in range(3)]
        assert [await future for future in futures] == ["timed out"] * 3
        assert await executor.submit(double, 21) == 42
