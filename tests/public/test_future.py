"""A job's future: what it says in each status, who may wait for it, and what it lets go of."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import logging
import traceback
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from jobs import Boom, all_blocked, cancel_when_blocked, fail, give

from anyslots import Executor, Future, JobCancelled, NotDone, gather

pytestmark = pytest.mark.anyio

variable: ContextVar[object] = ContextVar("variable", default=None)

ENDS = ("succeeded", "failed", "cancelled")


async def end_as(end: str) -> str:
    """A job that ends as it's told; one that is to be cancelled waits for that."""
    await checkpoint()
    if end == "failed":
        raise Boom("failed")
    if end == "cancelled":
        await anyio.sleep_forever()
    return "result"


async def submit_until_done(executor: Executor, end: str) -> Future[str]:
    """The future of a job that has ended so, with its error looked at."""
    future = executor.submit(end_as, end)
    await all_blocked()
    if end == "cancelled":
        future.cancel()
    await future.wait()
    if end == "failed":
        future.exception()
    return future


# What it says in each status.


async def test_queued() -> None:
    """A queued future is neither running, done nor cancelled, and has no result yet."""
    event = anyio.Event()
    async with Executor(1) as executor:
        executor.submit(event.wait)
        future = executor.submit(give)
        await all_blocked()
        assert not future.running()
        assert not future.done()
        assert not future.cancelled()
        with pytest.raises(NotDone, match="queued"):
            future.result()
        with pytest.raises(NotDone, match="queued"):
            future.exception()
        event.set()


async def test_running() -> None:
    """A running future is neither done nor cancelled, and has no result yet."""
    event = anyio.Event()
    async with Executor(1) as executor:
        future = executor.submit(event.wait)
        await all_blocked()
        assert future.running()
        assert not future.done()
        assert not future.cancelled()
        with pytest.raises(NotDone, match="running"):
            future.result()
        with pytest.raises(NotDone, match="running"):
            future.exception()
        event.set()


async def test_succeeded() -> None:
    """A future whose job returned is done, has its result, and no exception."""
    async with Executor(1) as executor:
        future = await submit_until_done(executor, "succeeded")
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.result() == "result"
        assert future.exception() is None


async def test_failed() -> None:
    """A future whose job raised is done, and has the exception that the job raised."""
    error = Boom()
    async with Executor(1) as executor:
        future = executor.submit(fail, error)
        await future.wait()
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception() is error
        with pytest.raises(Boom) as caught:
            future.result()
        assert caught.value is error


@pytest.mark.parametrize("was", ["queued", "running"])
async def test_cancelled(was: str) -> None:
    """A future whose job was cancelled is done, and raises `JobCancelled` whatever it's asked."""
    event = anyio.Event()
    async with Executor(1) as executor:
        if was == "queued":
            executor.submit(event.wait)
        future = executor.submit(anyio.sleep_forever)
        await all_blocked()
        assert future.cancel()
        await future.wait()
        assert future.done()
        assert not future.running()
        assert future.cancelled()
        with pytest.raises(JobCancelled):
            future.result()
        with pytest.raises(JobCancelled):
            future.exception()
        event.set()


async def test_job_sees_its_own_future_running() -> None:
    seen = []

    async def job() -> None:
        seen.append((future.running(), future.done()))
        await checkpoint()
        seen.append((future.running(), future.done()))

    async with Executor(1) as executor:
        future = executor.submit(job)
    assert seen == [(True, False), (True, False)]


def test_not_done_is_an_invalid_state_error() -> None:
    """`NotDone` is what `concurrent.futures` raises for a state that doesn't fit."""
    assert issubclass(NotDone, concurrent.futures.InvalidStateError)


def test_job_cancelled_is_an_ordinary_exception() -> None:
    """`JobCancelled` is `concurrent.futures`' `CancelledError`, and never a task's cancellation."""
    assert issubclass(JobCancelled, concurrent.futures.CancelledError)
    assert issubclass(JobCancelled, Exception)
    assert not issubclass(JobCancelled, asyncio.CancelledError)


# Waiting for it.


async def wait_by(how: str, future: Future[Any]) -> None:
    match how:
        case "await":
            await future
        case "wait":
            await future.wait()
        case "gather":
            await gather(future)


@pytest.mark.parametrize("end", ENDS)
async def test_any_number_of_tasks_may_await_one_future(end: str) -> None:
    """Every task that awaits a future, before or after it's done, gets the same outcome."""
    outcomes: list[object] = []

    async def awaiter() -> None:
        try:
            outcomes.append(await future)
        except (Boom, JobCancelled) as error:
            outcomes.append(error)

    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(end_as, end)
        for _ in range(5):
            tg.start_soon(awaiter)
        await all_blocked()
        if end == "cancelled":
            future.cancel()
            await future.wait()
        for _ in range(5):
            tg.start_soon(awaiter)
    assert len(outcomes) == 10
    if end == "cancelled":
        assert {type(outcome) for outcome in outcomes} == {JobCancelled}
    else:
        assert all(outcome is outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize("end", ENDS)
async def test_awaiting_after_the_block_gives_the_same(end: str) -> None:
    """A future outlives its executor: awaiting and asking it give the same as before."""
    async with Executor(1) as executor:
        future = await submit_until_done(executor, end)
    if end == "succeeded":
        assert await future == future.result() == "result"
    else:
        with pytest.raises((Boom, JobCancelled)):
            await future
        with pytest.raises((Boom, JobCancelled)):
            future.result()
    await future.wait()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["await", "wait", "gather"])
async def test_await_is_a_checkpoint_for_a_done_future_too(end: str, how: str) -> None:
    """Waiting for what is done already lets other tasks run."""
    ran = []

    async def other() -> None:
        ran.append(True)

    async with Executor(1) as executor:
        future = await submit_until_done(executor, end)
        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            for _ in range(2):  # trio runs what is ready in random order
                try:
                    await wait_by(how, future)
                except (Boom, JobCancelled):
                    pass
            assert ran


async def test_loop_of_awaits_on_done_futures_lets_others_run() -> None:
    """Awaiting many done futures in a row keeps no other task waiting."""
    turns = 0

    async def ticker() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(give)
        await future
        tg.start_soon(ticker)
        for _ in range(100):
            await future
        assert turns >= 30
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("end", ENDS)
async def test_wait_never_raises_for_the_job(end: str) -> None:
    """`wait` returns None once the job is done, before and after, whatever became of it."""
    async with Executor(1, on_error="log") as executor:
        future = executor.submit(end_as, end)
        await all_blocked()
        future.cancel()
        assert await future.wait() is None
        assert future.done()
        assert await future.wait() is None
        future.cancelled() or future.exception()


# Callbacks.


@pytest.mark.parametrize("end", ENDS)
async def test_callback_gets_the_future_once_it_is_done(end: str) -> None:
    calls = []
    async with Executor(1) as executor:
        future = executor.submit(end_as, end)
        future.add_done_callback(lambda done: calls.append((done, done.done())))
        await all_blocked()
        future.cancel()
        await future.wait()
        assert calls == [(future, True)]
        future.cancelled() or future.exception()
    assert calls == [(future, True)]


@pytest.mark.parametrize("end", ENDS)
async def test_callback_added_to_a_done_future_is_called_at_once(end: str) -> None:
    calls: list[Future[Any]] = []
    async with Executor(1) as executor:
        future = await submit_until_done(executor, end)
        future.add_done_callback(calls.append)
        assert calls == [future]


async def test_callbacks_are_called_in_order() -> None:
    calls = []

    def first(_: object) -> None:
        calls.append("first")

    def second(_: object) -> None:
        calls.append("second")

    async with Executor(1) as executor:
        future = executor.submit(give)
        for callback in [first, second, first]:
            future.add_done_callback(callback)
        await future
    assert calls == ["first", "second", "first"]


async def test_callback_runs_in_the_thread_of_the_event_loop() -> None:
    import threading

    threads = []
    async with Executor(1) as executor:
        future = executor.submit(to_thread.run_sync, threading.get_ident)
        future.add_done_callback(lambda _: threads.append(threading.get_ident()))
        assert await future != threading.get_ident()
    assert threads == [threading.get_ident()]


async def test_callback_runs_in_the_context_of_its_adding() -> None:
    seen = []

    async def job() -> None:
        variable.set("job")
        await checkpoint()

    async with Executor(1) as executor:
        variable.set("submitted")
        future = executor.submit(job)
        variable.set("added")
        future.add_done_callback(lambda _: seen.append(variable.get()))
        variable.set("later")
        await future
        future.add_done_callback(lambda _: seen.append(variable.get()))
    assert seen == ["added", "later"]


async def test_what_a_callback_sets_stays_there() -> None:
    """A callback changes the context variables of nobody else."""
    seen = []

    def change(_: object) -> None:
        variable.set("changed")

    async def job() -> None:
        seen.append(variable.get())

    async with Executor(1) as executor:
        variable.set("original")
        future = executor.submit(give)
        future.add_done_callback(change)
        future.add_done_callback(lambda _: seen.append(variable.get()))
        executor.submit(job)
        await future
        future.add_done_callback(change)
        assert variable.get() == "original"
    assert seen == ["original", "original"]


class BaseBoom(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("kind", [Boom, BaseBoom, asyncio.CancelledError])
@pytest.mark.parametrize("when", ["instant", "suspended", "queued", "running", "done"])
async def test_callback_that_raises_is_logged_and_harms_nothing(
    kind: type[BaseException], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A raising callback is logged once; the job, its slot and the other callbacks are unharmed."""
    calls: list[Future[Any]] = []
    error = kind("callback")

    def bad(_: object) -> None:
        raise error

    async def instant() -> None:
        pass

    job = {"instant": instant, "suspended": give}.get(when, anyio.sleep_forever)
    async with Executor(1) as executor:
        future: Future[Any] = executor.submit(job)
        if when != "done":
            future.add_done_callback(bad)
        future.add_done_callback(calls.append)
        if when in ("running", "done"):
            await all_blocked()
        if when in ("queued", "running", "done"):
            future.cancel()
        with anyio.fail_after(5):
            await future.wait()
        if when == "done":
            future.add_done_callback(bad)
        assert calls == [future]
        assert future.cancelled() == (job is anyio.sleep_forever)
        with anyio.fail_after(5):
            assert await executor.submit(give, 1) == 1
        statistics = executor.statistics()
        assert (statistics.submitted, statistics.running) == (2, 0)
        assert (statistics.succeeded, statistics.cancelled) == (
            (2, 0) if job is not anyio.sleep_forever else (1, 1)
        )
    logged = [r for r in caplog.records if r.name == "anyslots" and r.levelno == logging.ERROR]
    assert [record.exc_info and record.exc_info[1] for record in logged] == [error]


async def test_removed_callback_is_not_called() -> None:
    """`remove_done_callback` takes out all callbacks equal to its argument, and counts them."""
    calls: list[Future[Any]] = []
    others = []
    async with Executor(1) as executor:
        future = executor.submit(give)
        future.add_done_callback(calls.append)
        future.add_done_callback(others.append)
        future.add_done_callback(calls.append)
        assert future.remove_done_callback(calls.append) == 2
        assert future.remove_done_callback(calls.append) == 0
        await future
        assert not calls
        assert others == [future]
        assert future.remove_done_callback(others.append) == 0


async def test_removing_callbacks_leaves_awaiters_alone() -> None:
    """No callback of a user is equal to what an `await` waits with."""
    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(give, 1)

        async def awaiter() -> None:
            assert await future == 1

        tg.start_soon(awaiter)
        tg.start_soon(gather, future)
        await checkpoint()

        class EqualToAll:
            def __eq__(self, other: object) -> bool:
                return True

            __hash__ = None  # type: ignore[assignment]

        assert future.remove_done_callback(EqualToAll()) == 0  # type: ignore[arg-type]


async def test_callback_may_do_what_it_likes_with_its_future() -> None:
    """A callback may add, remove and cancel: it finds its future done."""
    calls = []

    def callback(done: Future[Any]) -> None:
        calls.append("callback")
        assert done.cancel() is False
        done.remove_done_callback(callback)
        done.add_done_callback(lambda _: calls.append("added"))
        assert done.result() == 1

    async with Executor(1) as executor:
        future = executor.submit(give, 1)
        future.add_done_callback(callback)
        await future
    assert calls == ["callback", "added"]


@pytest.mark.parametrize("when", ["queued", "done"])
async def test_callback_that_is_not_callable_is_a_type_error(when: str) -> None:
    """`add_done_callback` takes callables only, and says so at once."""
    async with Executor(1) as executor:
        future = executor.submit(give)
        if when == "done":
            await future
        with pytest.raises(TypeError, match="callable"):
            future.add_done_callback(None)  # type: ignore[arg-type]


# Other threads.


async def drive(awaitable: Callable[[], Awaitable[object]]) -> None:
    """Await it once in another thread, where no event loop runs."""

    def step() -> None:
        generator = awaitable().__await__()
        try:
            generator.send(None)
        finally:
            generator.close()

    await to_thread.run_sync(step)


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("what", ["await", "wait", "gather", "cancel", "add", "remove"])
async def test_another_thread_may_neither_change_nor_await_a_future(done: bool, what: str) -> None:
    calls: list[Future[Any]] = []
    event = anyio.Event()
    async with Executor(1) as executor:
        future = executor.submit(event.wait)
        if done:
            event.set()
            await future
        with pytest.raises(RuntimeError, match="thread"):
            match what:
                case "await":
                    await drive(lambda: future)
                case "wait":
                    await drive(future.wait)
                case "gather":
                    await drive(lambda: gather(future))
                case "cancel":
                    await to_thread.run_sync(future.cancel)
                case "add":
                    await to_thread.run_sync(future.add_done_callback, calls.append)
                case "remove":
                    await to_thread.run_sync(future.remove_done_callback, calls.append)
        assert future.done() == done
        event.set()
        await future
    assert not calls
    assert not future.cancelled()


@pytest.mark.parametrize("end", ["queued", "running", *ENDS])
async def test_another_thread_may_read_a_future(end: str) -> None:
    """`done()`, `running()`, `cancelled()`, name, lane, slot and `repr` just read, anywhere."""
    event = anyio.Event()
    async with Executor(1) as executor:
        if end in ENDS:
            future: Future[Any] = await submit_until_done(executor, end)
        else:
            futures = [executor.submit(event.wait), executor.submit(event.wait)]
            await all_blocked()
            future = futures[0] if end == "running" else futures[1]

        def read() -> tuple[object, ...]:
            flags = future.done(), future.running(), future.cancelled()
            return *flags, future.name, future.lane, future.slot, repr(future)

        assert await to_thread.run_sync(read) == read()
        assert end in repr(future)
        event.set()


async def test_another_thread_may_read_the_result() -> None:
    """`result()` and `exception()` don't block, and so may be called in any thread."""
    error = Boom()
    event = anyio.Event()
    async with Executor(1) as executor:
        future = executor.submit(give, 7)
        failed = executor.submit(fail, error)
        running = executor.submit(event.wait)
        await failed.wait()
        assert await to_thread.run_sync(future.result) == 7
        assert await to_thread.run_sync(failed.exception) is error
        with pytest.raises(NotDone):
            await to_thread.run_sync(running.result)
        event.set()


# Exceptions and their tracebacks.


def walk(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def files(error: BaseException) -> list[str]:
    return [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]


async def raise_at_origin(error: BaseException) -> NoReturn:
    await checkpoint()
    deep_down(error)


def deep_down(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize("kind", [Boom, BaseBoom])
@pytest.mark.parametrize("how", ["await", "result", "gather", "by turns"])
async def test_traceback_stays_the_same(kind: type[BaseException], how: str) -> None:
    """However often one asks, a failed job's traceback leads to the origin, and never grows."""
    error = kind()
    async with Executor(1) as executor:
        future = executor.submit(raise_at_origin, error)
        await future.wait()
        tracebacks = []
        for turn in range(6):
            with pytest.raises(kind) as caught:
                if how == "result" or (how == "by turns" and turn % 2):
                    future.result()
                elif how == "gather":
                    await gather(future)
                else:
                    await future
            assert caught.value is error
            tracebacks.append(walk(error))
            assert not [file for file in files(error) if file.endswith("_worker.py")]
        assert all(names[-2:] == ["raise_at_origin", "deep_down"] for names in tracebacks)
        assert {len(names) for names in tracebacks[::2]} == {len(tracebacks[0])}
        assert {len(names) for names in tracebacks[1::2]} == {len(tracebacks[1])}
        assert max(map(len, tracebacks)) <= 7


@pytest.mark.parametrize("kind", [Boom, BaseBoom])
async def test_traceback_of_exception_begins_in_the_job(kind: type[BaseException]) -> None:
    """The exception that `exception()` gives has the job's own frames alone."""
    async with Executor(1) as executor:
        future = executor.submit(raise_at_origin, kind())
        await future.wait()
        for _ in range(3):
            exception = future.exception()
            assert exception is not None
            assert walk(exception) == ["raise_at_origin", "deep_down"]
            with pytest.raises((Boom, BaseBoom)):
                await future


async def test_traceback_stays_the_same_for_many_awaiters() -> None:
    """Several tasks that get one exception in the same turn see the same traceback."""
    error = Boom()
    lengths = []

    async def awaiter() -> None:
        with pytest.raises(Boom) as caught:
            await future
        assert caught.value is error
        lengths.append(len(walk(error)))

    async with Executor(1) as executor, anyio.create_task_group() as tg:
        future = executor.submit(raise_at_origin, error)
        for _ in range(5):
            tg.start_soon(awaiter)
    assert len(lengths) == 5
    assert len(set(lengths)) == 1


async def raise_stop_async_iteration() -> NoReturn:
    raise StopAsyncIteration("origin")


async def raise_stop_iteration() -> NoReturn:
    raise StopIteration("origin")


def raise_stop_iteration_when_called() -> NoReturn:
    raise StopIteration("origin")


def raise_stop_async_iteration_when_called() -> NoReturn:
    raise StopAsyncIteration("origin")


@pytest.mark.parametrize(
    "fn",
    [
        raise_stop_async_iteration,
        raise_stop_iteration,
        raise_stop_async_iteration_when_called,
        raise_stop_iteration_when_called,
    ],
)
async def test_end_of_an_iteration_fails_the_job_with_a_runtime_error(fn: Any) -> None:
    """A job's StopIteration or StopAsyncIteration is the cause of a `RuntimeError`."""
    async with Executor(1) as executor:
        future = executor.submit(fn)
        with pytest.raises(RuntimeError) as caught:
            await future
        assert isinstance(caught.value.__cause__, StopIteration | StopAsyncIteration)
        assert caught.value.__cause__.args == ("origin",)
        assert future.exception() is caught.value
        assert await executor.submit(give, 1) == 1


# What it lets go of.


class Thing:
    """Something whose death is noticed."""


async def instant() -> str:
    return "result"


async def suspended() -> str:
    await checkpoint()
    return "result"


def alive(refs: dict[str, weakref.ref[object]]) -> list[str]:
    return [name for name, ref in refs.items() if ref() is not None]


@pytest.mark.usefixtures("no_collector")
async def test_failed_future_is_in_no_cycle() -> None:
    """However a job fails, its future and its locals are freed without a collector."""

    async def job(kind: type[BaseException], when: str) -> None:
        large = Thing()
        held["locals"] = weakref.ref(large)
        if when == "later":
            await checkpoint()
        try:
            if when == "when cancelled":
                await anyio.sleep_forever()
        finally:
            raise kind

    held: dict[str, weakref.ref[object]] = {}
    left = []
    async with Executor(1) as executor:
        for kind in (Boom, BaseBoom, StopAsyncIteration):
            for when in ("at once", "later", "when cancelled"):
                future = executor.submit(job, kind, when)
                held["future"] = weakref.ref(future)
                await all_blocked()
                future.cancel()
                await future.wait()
                future.exception()
                del future
                await all_blocked()
                left += [(kind.__name__, when, what) for what in alive(held)]
    assert left == []


@pytest.mark.usefixtures("no_collector")
async def test_looking_at_a_failed_future_makes_no_cycle() -> None:
    async def job() -> None:
        large = Thing()
        held["locals"] = weakref.ref(large)
        await checkpoint()
        raise Boom

    async def look_at(futures: list[Future[Any]], how: str) -> None:
        # This frame becomes part of the exception's traceback: it must not hold the future.
        await futures[0].wait()
        try:
            match how:
                case "await":
                    await futures.pop()
                case "result":
                    futures.pop().result()
                case "exception":
                    futures.pop().exception()
                case "gather":
                    await gather(futures.pop())
                case "gather exceptions":
                    await gather(futures.pop(), return_exceptions=True)
        except Boom:
            pass

    held: dict[str, weakref.ref[object]] = {}
    left = []
    async with Executor(1) as executor:
        for how in ("await", "result", "exception", "gather", "gather exceptions"):
            futures = [executor.submit(job)]
            held["future"] = weakref.ref(futures[0])
            await look_at(futures, how)
            await all_blocked()
            left += [(how, what) for what in alive(held)]
    assert left == []


@pytest.mark.usefixtures("no_collector")
async def test_executor_keeps_no_result() -> None:
    """A result lives as long as its future: an idle executor holds neither."""

    async def job(turns: int) -> Thing:
        for _ in range(turns):
            await checkpoint()
        thing = Thing()
        held["result"] = weakref.ref(thing)
        return thing

    held: dict[str, weakref.ref[object]] = {}
    async with Executor(1) as executor:
        for turns in (0, 1):
            future = executor.submit(job, turns)
            await future
            await all_blocked()
            assert held["result"]() is future.result()
            held["future"] = weakref.ref(future)
            del future
            assert alive(held) == []


@pytest.mark.usefixtures("no_collector")
async def test_awaiting_leaves_nothing_behind() -> None:
    """A future whose awaiters were cancelled is freed with its last reference."""
    event = anyio.Event()
    async with Executor(1) as executor:
        future = executor.submit(event.wait)
        for how in ("await", "wait", "gather"):
            async with anyio.create_task_group() as tg:
                with anyio.CancelScope() as scope:
                    tg.start_soon(cancel_when_blocked, scope)
                    await wait_by(how, future)
        ref = weakref.ref(future)
        event.set()
        await future
        del future
        await all_blocked()
        assert ref() is None


@pytest.mark.unmeasured
async def test_cancelled_waits_do_not_pile_up() -> None:
    """A future that is waited for again and again, in vain, holds nothing of those waits."""

    async def wait_in_vain(times: int) -> int:
        for _ in range(times):
            for how in ("await", "wait", "gather"):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(wait_by, how, future)
                        await checkpoint()
                        await checkpoint()
                        scope.cancel()
        gc.collect()
        return len(gc.get_objects())

    event = anyio.Event()
    async with Executor(1) as executor:
        future = executor.submit(event.wait)
        before = await wait_in_vain(5)
        assert await wait_in_vain(20) < before + 20
        event.set()


# Name, lane, slot and repr.


class Client:
    async def get(self) -> None:
        pass

    async def __call__(self) -> None:
        pass


NAMES = {
    "give": (give, "give"),
    "method": (Client().get, "Client.get"),
    "partial": (functools.partial(give, 1), "give"),
    "partial of a partial": (functools.partial(functools.partial(give), 1), "give"),
    "partial method": (functools.partial(Client().get), "Client.get"),
    "callable object": (Client(), "Client"),
    "partial of an object": (functools.partial(Client()), "Client"),
    "class": (Client, "Client"),
    "lambda": (lambda: give(), "<lambda>"),
}


@pytest.mark.parametrize(("fn", "name"), NAMES.values(), ids=NAMES)
async def test_name_is_that_of_the_function(fn: Any, name: str) -> None:
    """A future's name is its function's qualified name, or its class's: while queued, and after."""
    async with Executor(1) as executor:
        future = executor.submit(fn)
        assert future.name == name
        await future.wait()
        assert future.name == name
        if not future.cancelled():
            future.exception()


async def test_lane_of_a_job_of_the_executor_is_the_executor() -> None:
    async with Executor(1) as executor:
        future = executor.submit(give)
        assert future.lane is executor
        await future
        assert future.lane is executor


async def test_slot_is_none_until_the_job_begins() -> None:
    """A future has the number of its slot from the job's first step on, and keeps it."""
    seen = []

    async def job() -> None:
        seen.append(future.slot)

    async with Executor(1) as executor:
        future = executor.submit(job)
        assert future.slot is None
        await future
        assert future.slot == 0
    assert seen == [0]


@pytest.mark.parametrize("slots", [1, 3, 8])
async def test_slot_numbers_are_those_of_the_slots(slots: int) -> None:
    """Slots are numbered from 0, and no two jobs that run at once have the same number."""
    taken: set[int] = set()
    seen: set[int] = set()
    futures: list[Future[None]] = []

    async def job(number: int) -> None:
        slot = futures[number].slot
        assert slot is not None
        assert slot not in taken
        taken.add(slot)
        seen.add(slot)
        try:
            for _ in range(number * 7 % 5):
                await checkpoint()
            if number % 4 == 0:
                raise Boom
        finally:
            taken.discard(slot)

    async with Executor(slots) as executor:
        futures += [executor.submit(job, number) for number in range(60)]
        for number in range(0, 60, 7):
            futures[number].cancel()
        await gather(*futures, return_exceptions=True)
        for future in futures:
            if not future.cancelled() and not isinstance(future.exception(), Boom):
                future.result()
    assert seen == set(range(slots))


async def test_slot_numbers_are_the_lowest_free_ones() -> None:
    """With endless slots, numbers are used again: as many numbers as jobs ran at once."""
    async with Executor(float("inf")) as executor:
        for _ in range(5):
            event = anyio.Event()
            futures = [executor.submit(event.wait) for _ in range(4)]
            await all_blocked()
            event.set()
            await gather(*futures)
            assert {future.slot for future in futures} == {0, 1, 2, 3}


async def test_repr_shows_name_status_and_slot() -> None:
    """A future's `repr` says which job it is, its status, and its slot."""
    event = anyio.Event()
    async with Executor(1) as executor:
        running = executor.submit(event.wait)
        queued = executor.submit(give)
        assert repr(queued) == "<Future give queued>"
        await all_blocked()
        assert repr(running).endswith("Event.wait running slot=0>")
        assert repr(queued) == "<Future give queued>"
        queued.cancel()
        assert repr(queued) == "<Future give cancelled>"
        event.set()
    for end in ENDS:
        async with Executor(1) as executor:
            future = await submit_until_done(executor, end)
            assert repr(future) == f"<Future end_as {end} slot=0>"


async def test_future_is_generic_at_run_time() -> None:
    """``Future[int]`` may be written anywhere, and futures are hashable by identity."""
    assert Future[int]
    async with Executor(1) as executor:
        one, other = executor.submit(give), executor.submit(give)
        assert one != other
        assert {one, other, one} == {one, other}


async def test_name_of_a_callable_that_answers_oddly() -> None:
    """Whatever a callable says when it's asked for its name, its job ends, and it isn't kept."""

    class Proxy:
        """Has any attribute, like a client of remote calls."""

        def __getattr__(self, name: str) -> object:
            return Proxy()

        async def __call__(self) -> str:
            return "proxied"

    class Rude(Proxy):
        def __getattr__(self, name: str) -> object:
            raise LookupError(name)

    async with Executor(1) as executor:
        for callable_ in (Proxy(), Rude()):
            future = executor.submit(callable_)
            assert await future == "proxied"
            assert future.name == type(callable_).__qualname__
            kept = weakref.ref(callable_)
            del callable_
        del future
        assert executor.statistics().succeeded == 2
    assert kept() is None
