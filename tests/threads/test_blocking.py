"""`BlockingExecutor`: an executor of `concurrent.futures` for code that isn't async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import give

from anyslots import BlockingExecutor, ExecutorClosed, QueueTimeout, Rate, Retry
from anyslots._blocking import finish_all

BACKENDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool(backend: str) -> Iterator[BlockingExecutor]:
    with BlockingExecutor(2, backend=backend) as pool:
        yield pool


def add(a: int, b: int) -> int:
    return a + b


class Blocked:
    """A call that waits until it's cancelled, or let go: as an async function, or a plain one."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.unwound = False

    async def run(self) -> str:
        self.begun.set()
        try:
            while not self.go.is_set():  # noqa: ASYNC110
                await anyio.sleep(0.001)
        finally:
            self.unwound = True
        return "let go"

    def run_plain(self) -> str:
        self.begun.set()
        assert self.go.wait(20)
        return "let go"


# Arguments and results.


def test_async_and_plain_functions_run(pool: BlockingExecutor) -> None:
    """Async functions run in the event loop's thread, plain ones in others."""

    async def where() -> int:
        await checkpoint()
        return threading.get_ident()

    home = pool.submit(where).result(10)
    assert home != threading.get_ident()
    assert pool.submit(where).result(10) == home
    assert pool.submit(threading.get_ident).result(10) not in (home, threading.get_ident())
    assert pool.submit(add, 1, b=2).result(10) == 3


def test_all_kinds_of_async_functions(pool: BlockingExecutor) -> None:
    """Partials, methods, callable objects, and plain functions that return a coroutine."""

    class Callable:
        async def __call__(self, value: int) -> int:
            return value

    assert pool.submit(functools.partial(give, 1)).result(10) == 1
    assert pool.submit(Callable(), 2).result(10) == 2
    assert pool.submit(lambda: give(3)).result(10) == 3
    assert isinstance(pool.submit(Callable).result(10), Callable)


def test_exceptions_are_the_calls_own(pool: BlockingExecutor) -> None:
    """What a call raises is in its future, and harms no other."""
    error = LookupError("lost")

    def fail() -> None:
        raise error

    async def fail_async() -> None:
        raise error

    assert pool.submit(fail).exception(10) is error
    assert pool.submit(fail_async).exception(10) is error
    assert pool.submit(give, 1).result(10) == 1


def test_slots_bound_both_kinds_together(pool: BlockingExecutor) -> None:
    """Async and plain functions together never take more than `slots`."""
    running: set[object] = set()
    peaks: list[int] = []

    def enter() -> object:
        token = object()
        running.add(token)
        peaks.append(len(running))
        return token

    def plain() -> None:
        token = enter()
        time.sleep(0.002)
        running.discard(token)

    async def not_plain() -> None:
        token = enter()
        await anyio.sleep(0.002)
        running.discard(token)

    futures = [pool.submit(fn) for _ in range(20) for fn in (plain, not_plain)]
    assert not concurrent.futures.wait(futures, timeout=20).not_done
    assert max(peaks) == 2


def test_fifty_plain_functions_at_once(backend: str) -> None:
    """The slots are the only limit: anyio's own one on threads is none here."""
    barrier = threading.Barrier(50)
    with BlockingExecutor(50, backend=backend) as pool:
        assert sorted(pool.map(lambda _: barrier.wait(20), range(50))) == list(range(50))


def test_map_takes_async_functions(pool: BlockingExecutor) -> None:
    """`map` gives results in order, a call's exception at its place, and `TimeoutError`."""

    async def invert(number: int) -> float:
        return 1 / number

    assert list(pool.map(give, range(10))) == list(range(10))
    results = pool.map(invert, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    blocked = Blocked()
    with pytest.raises(TimeoutError):
        list(pool.map(lambda _: blocked.run(), [1, 2], timeout=0.01))
    blocked.go.set()


@pytest.mark.real_time
def test_limits_in_time(backend: str) -> None:
    """`rate`, `timeout` and `queue_timeout` hold for its calls."""
    with BlockingExecutor(
        1, backend=backend, rate=Rate(1, per=0.02), timeout=0.3, queue_timeout=0.1, name="x"
    ) as pool:
        blocked = Blocked()
        future = pool.submit(blocked.run)
        assert blocked.begun.wait(20)
        with pytest.raises(QueueTimeout):
            pool.submit(give).result(20)
        with pytest.raises(TimeoutError, match="ran for"):
            future.result(20)


def test_a_callback_may_submit(pool: BlockingExecutor) -> None:
    """A done callback, in the event loop's thread, submits the next call."""
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def follow(first: concurrent.futures.Future[Any]) -> None:
        pool.submit(give, first.result() + 1).add_done_callback(
            lambda second: done.set_result(second.result())
        )

    pool.submit(give, 1).add_done_callback(follow)
    assert done.result(10) == 2


def test_uvloop() -> None:
    """`backend_options` go to the event loop."""
    with BlockingExecutor(1, backend_options={"use_uvloop": True}) as pool:

        async def loop() -> str:
            import asyncio

            return type(asyncio.get_running_loop()).__module__

        assert pool.submit(loop).result(10) == "uvloop"


def test_bad_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error names the argument, and no thread is left."""
    threads = threading.active_count()
    with pytest.raises(ValueError, match="backend must be one of asyncio, trio, not 'curio'"):
        BlockingExecutor(1, backend="curio")
    with pytest.raises(TypeError, match="backend_options must be a dict or None, not 3"):
        BlockingExecutor(1, backend_options=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slots must be an int from 1"):
        BlockingExecutor(0)
    with pytest.raises(TypeError, match="nonsense"):
        BlockingExecutor(1, backend="trio", backend_options={"nonsense": 1})
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match=r"trio is not installed: anyslots\[trio\] has it"):
        BlockingExecutor(1, backend="trio")
    assert threading.active_count() == threads


def test_a_function_that_is_none(pool: BlockingExecutor) -> None:
    """What can't be called is refused at once."""
    with pytest.raises(TypeError, match="fn must be callable, not 3"):
        pool.submit(3)  # type: ignore[call-overload]


# Cancelling.


def test_cancelling_an_async_function(pool: BlockingExecutor) -> None:
    blocked = Blocked()
    future = pool.submit(blocked.run)
    assert blocked.begun.wait(20)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(20)
    assert blocked.unwound
    assert future.cancelled()


def test_cancelling_a_plain_function(pool: BlockingExecutor) -> None:
    """A running plain function can't be cancelled; one that is queued never runs."""
    blocked = [Blocked() for _ in range(3)]
    futures = [pool.submit(each.run_plain) for each in blocked]
    for each in blocked[:2]:
        assert each.begun.wait(20)
    assert [future.cancel() for future in futures] == [False, False, True]
    assert futures[2].cancelled()
    for each in blocked:
        each.go.set()
    assert [future.result(20) for future in futures[:2]] == ["let go"] * 2
    assert not blocked[2].begun.is_set()


# The end.


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown(backend: str, wait: bool) -> None:
    """What was submitted finishes, nothing more is taken, and the thread ends."""
    threads = set(threading.enumerate())
    pool = BlockingExecutor(1, backend=backend)
    home = next(t for t in set(threading.enumerate()) - threads if t.name == "anyslots")
    blocked = Blocked()
    futures = [pool.submit(blocked.run), pool.submit(give, 1)]
    if wait:
        blocked.go.set()
    pool.shutdown(wait=wait)
    assert wait == (not home.is_alive())
    for fn in (give, time.time):
        with pytest.raises(ExecutorClosed, match="after shutdown"):
            pool.submit(fn)
    blocked.go.set()
    assert [future.result(20) for future in futures] == ["let go", 1]
    pool.shutdown()
    assert not home.is_alive()
    pool.shutdown(cancel_futures=True)


def test_shutdown_that_cancels(backend: str) -> None:
    """`cancel_futures` cancels what hasn't begun, and lets the rest finish."""
    pool = BlockingExecutor(1, backend=backend)
    blocked = Blocked()
    running, queued = pool.submit(blocked.run), pool.submit(give, 1)
    assert blocked.begun.wait(20)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        queued.result(20)
    blocked.go.set()
    assert running.result(20) == "let go"
    pool.shutdown()


def test_an_executor_that_is_dropped(backend: str) -> None:
    """Collected without a shutdown, it finishes what it has, and ends its thread."""
    pool = BlockingExecutor(1, backend=backend)
    gone = weakref.ref(pool)
    thread = pool._loop_thread.thread
    blocked = Blocked()
    future = pool.submit(blocked.run)
    del pool
    gc.collect()
    assert gone() is None
    blocked.go.set()
    assert future.result(20) == "let go"
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_that_exits(backend: str, kind: str) -> None:
    """`SystemExit` is in its call's future, and ends the executor; no other future is left."""

    async def leave() -> None:
        await checkpoint()
        sys.exit(3)

    pool = BlockingExecutor(1, backend=backend)
    blocked = Blocked()
    first = pool.submit(blocked.run_plain)
    futures = [pool.submit(sys.exit, 3) if kind == "plain" else pool.submit(leave)]
    futures.append(pool.submit(give))
    blocked.go.set()
    assert not concurrent.futures.wait([first, *futures], timeout=20).not_done
    assert isinstance(futures[0].exception(0), SystemExit)
    assert futures[1].cancelled()
    pool._loop_thread.thread.join(20)
    with pytest.raises(ExecutorClosed):
        pool.submit(give)
    pool.shutdown()


def test_what_the_interpreters_exit_does(backend: str) -> None:
    """All executors that are left finish what they have; no call is needed for it."""
    pools = [BlockingExecutor(1, backend=backend) for _ in range(2)]
    futures = [pool.submit(give, 1) for pool in pools]
    finish_all()
    assert [future.result(0) for future in futures] == [1, 1]
    for pool in pools:
        with pytest.raises(ExecutorClosed):
            pool.submit(give)


AT_EXIT = """
import sys, time, anyio, threading
from anyslots import BlockingExecutor

async def slow():
    await anyio.sleep(0.05)
    print("async", flush=True)

def slow_plain():
    time.sleep(0.05)
    print("plain", flush=True)

pool = BlockingExecutor(1, backend=sys.argv[1])
other = BlockingExecutor(1, backend=sys.argv[1])
other.shutdown()
futures = [pool.submit(slow), pool.submit(slow_plain), pool.submit(slow), pool.submit(slow_plain)]
END
"""


@pytest.mark.real_time
@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "threading.main_thread()"])
def test_the_interpreter_exits(backend: str, end: str) -> None:
    """Without a shutdown, what was submitted finishes, and then the interpreter exits."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", AT_EXIT.replace("END", end), backend],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # Python 3.12 starts no thread any more by then, and the plain functions' futures fail.
    finished = ["async"] if sys.version_info[:2] == (3, 12) else ["async", "plain"]
    assert (done.stdout.split(), done.stderr) == (finished * 2, "")
    assert done.returncode == (3 if "Exit" in end else 0)


# Context, and many threads.

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def test_calls_see_the_context_of_their_submission(pool: BlockingExecutor) -> None:
    """Async or plain, a call runs in a copy of its submitter's context."""

    def look() -> str:
        seen = var.get()
        var.set("the call's")
        return seen

    async def look_async() -> str:
        return look()

    def submit() -> list[str]:
        var.set("the caller's")
        return [pool.submit(fn).result(10) for fn in (look, look_async, look, look_async)]

    assert contextvars.copy_context().run(submit) == ["the caller's"] * 4
    assert pool.submit(look).result(10) == "unset"


@pytest.mark.real_time
def test_eight_threads_that_submit(pool: BlockingExecutor) -> None:
    """Threads that share one executor each get their own results."""

    def work(thread: int) -> list[tuple[int, int]]:
        return list(pool.map(give, [(thread, n) for n in range(100)]))

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for thread, results in enumerate(threads.map(work, range(8))):
            assert results == [(thread, n) for n in range(100)]


# Lanes.


def test_a_lane_is_an_executor_with_limits_of_its_own(pool: BlockingExecutor) -> None:
    lane = pool.lane("one at a time", slots=1)
    assert isinstance(lane, concurrent.futures.Executor)
    blocked = Blocked()
    running, queued = lane.submit(blocked.run), lane.submit(add, 1, 2)
    assert blocked.begun.wait(20)
    assert pool.submit(add, 3, 4).result(20) == 7
    assert not queued.running()
    blocked.go.set()
    assert (running.result(20), queued.result(20)) == ("let go", 3)
    assert list(lane.map(add, [1, 2], [3, 4])) == [4, 6]


def test_shutting_down_a_lane_waits_for_its_calls_alone(pool: BlockingExecutor) -> None:
    blocked, outside = Blocked(), Blocked()
    running = pool.submit(outside.run)
    with pool.lane(slots=1) as lane, lane.lane("inside") as inside:
        futures = [lane.submit(blocked.run), inside.submit(give, 5)]
        assert blocked.begun.wait(20)
        threading.Timer(0.05, blocked.go.set).start()
        lane.shutdown()
        assert [future.result(0) for future in futures] == ["let go", 5]
        for closed in (lane, inside):
            with pytest.raises(ExecutorClosed):
                closed.submit(give)
    assert running.running()
    outside.go.set()
    assert running.result(20) == "let go"


def test_shutting_down_a_lane_can_cancel_what_is_queued(pool: BlockingExecutor) -> None:
    lane = pool.lane(slots=1)
    blocked = Blocked()
    futures = [lane.submit(blocked.run), lane.submit(give, 1), lane.submit(give, 2)]
    assert blocked.begun.wait(20)
    lane.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        futures[1].result(20)
    blocked.go.set()
    assert futures[0].result(20) == "let go"
    assert futures[2].cancelled()
    lane.shutdown()


def test_a_job_cannot_wait_for_the_end_of_its_lane(pool: BlockingExecutor) -> None:
    lane = pool.lane()

    async def shut_down() -> None:
        await checkpoint()
        with pytest.raises(RuntimeError, match="wait"):
            lane.shutdown()

    lane.submit(shut_down).result(20)
    assert lane.submit(give, 1).result(20) == 1


def test_a_lane_keeps_its_executor_from_ending(backend: str) -> None:
    lane = BlockingExecutor(1, backend=backend).lane()
    gc.collect()
    assert lane.submit(give, 1).result(20) == 1
    thread = lane._loop_thread.thread
    del lane
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_calls_are_retried(pool: BlockingExecutor, kind: str) -> None:
    lane = pool.lane(retry=Retry(3, wait=0))
    calls: list[int] = []

    def fail_twice(result: int) -> int:
        calls.append(result)
        if len(calls) < 3:
            raise ValueError(result)
        return result

    async def fail_twice_async(result: int) -> int:
        await checkpoint()
        return fail_twice(result)

    future = lane.submit(fail_twice if kind == "plain" else fail_twice_async, 7)
    assert future.result(20) == 7
    assert calls == [7, 7, 7]


def test_a_full_queue_and_bad_options(pool: BlockingExecutor) -> None:
    lane = pool.lane(slots=1, max_pending=0)
    blocked = Blocked()
    running = lane.submit(blocked.run)
    assert blocked.begun.wait(20)
    with pytest.raises(anyio.WouldBlock):
        lane.submit(give).result(20)
    blocked.go.set()
    assert running.result(20) == "let go"
    with pytest.raises(ValueError, match="slots"):
        pool.lane(slots=0)
    with pytest.raises(TypeError, match="retry"):
        BlockingExecutor(1, retry=3)  # type: ignore[arg-type]


def test_the_thread_inherits_no_context() -> None:
    """From Python 3.14 on threads may, along with the name of the caller's event loop."""
    seen: list[str] = []

    def make_loop() -> asyncio.AbstractEventLoop:
        seen.append(var.get())
        return asyncio.new_event_loop()

    def use() -> int:
        var.set("the caller's")
        with BlockingExecutor(1, backend_options={"loop_factory": make_loop}) as pool:
            return int(pool.submit(give, 1).result(20))

    assert contextvars.copy_context().run(use) == 1
    assert seen == ["unset"]


def test_lanes_that_were_dropped_are_forgotten(pool: BlockingExecutor) -> None:
    def lanes() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "LaneState" for thing in gc.get_objects())

    before = lanes()
    for number in range(300):
        assert pool.lane(slots=1).submit(give, number).result(20) == number
    assert lanes() < before + 20
