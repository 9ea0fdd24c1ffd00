"""Virtual time for tests, and the stacks of jobs that are stuck.

`run` has hours pass at once, and times come out exact. What it does for asyncio and for trio lives
here, too; uvloop's clock can't be replaced. `format_stacks` says where jobs are, in any program.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import inspect
import math
import selectors
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from queue import Queue
from typing import Any, TypeVar, TypeVarTuple

import anyio

from ._handles import Lane
from ._lane import node_of, runtime_of
from ._runtime import stacks

__all__ = ("format_stacks", "run")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Real seconds of silence before the clock jumps. A call that is known to run in a thread gets
# longer, since it ends; a socket or another thread may be there, idle, for the whole of a run.
CALL_SILENCE = 0.05
OPEN_SILENCE = 0.02


def run(async_fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, backend: str = "asyncio") -> T:
    """Run ``async_fn(*args)`` in virtual time; return its result or raise its exception.

    The clock of the event loop, `anyio.current_time`, starts at 0 and stands still while code runs.
    Whenever nothing can run, it jumps to the next deadline. ``backend`` is ``"asyncio"`` or
    ``"trio"``.

    Threads, other processes and sockets live in real time. While a function runs in a worker thread
    (of `anyio.to_thread`, `asyncio.to_thread`, `trio.to_thread`), the clock jumps only after 50
    milliseconds without any event; while the program waits for a socket or a pipe, or another
    thread is alive, after 20. So what answers within that time answers at once in virtual time, and
    what takes longer may run into a timeout. Threads that count are those started during the run,
    and of earlier ones those that aren't daemons. With no deadline at all, the run waits in real
    time until something happens.

    Raises `ValueError` for another ``backend``, `ImportError` if trio is missing, `TypeError` if
    ``async_fn`` isn't an async function, and `RuntimeError` if the thread runs an event loop.

    ::

        def test_one_start_a_minute():
            assert run(two_hours_of_jobs, backend="trio") == 7200
    """
    if backend not in ("asyncio", "trio"):
        hint = "; uvloop's clock can't be replaced" if backend == "uvloop" else ""
        raise ValueError(f"backend must be 'asyncio' or 'trio', not {backend!r}{hint}")
    given: object = async_fn
    if not callable(given):
        hint = ""
        if inspect.iscoroutine(given):
            given.close()  # spares a warning that it was never awaited
            hint = "; pass the function and its arguments, not a call: run(fn, *args)"
        raise TypeError(f"async_fn must be an async function, not {given!r}{hint}")
    if running := _running_event_loop():
        raise RuntimeError(
            f"run() starts an event loop, but {running} is running in this thread: call run() from "
            "a plain function, or await the async function itself"
        )
    options = _trio_options() if backend == "trio" else {"loop_factory": _VirtualLoop}

    async def main() -> T:
        awaitable = async_fn(*args)
        if not isinstance(awaitable, Awaitable):
            raise TypeError(
                f"async_fn must be an async function, but {async_fn!r} returned {awaitable!r}, "
                "which can't be awaited"
            )
        return await awaitable

    def start() -> T:
        return anyio.run(main, backend=backend, backend_options=options)

    return _own_context().run(start)


def format_stacks(executor: Lane) -> str:
    """Tell where each running job of an executor or a lane is, and how many jobs are queued.

    For each job: its name, lane and slot, or that it has lent its slot; how long ago it started,
    where that's known, as in lanes with a rate or with retries; and the whole stack of what it
    awaits, the outermost call first, in the format of tracebacks. A slot that a task occupies by
    `Lane.slot` is told with the stack of that task. Queued jobs are counted by lane, with what
    holds up the lane: a pause, a rate or a gate.

    Works in any thread, also while a job that doesn't await blocks the event loop; from another
    thread, the jobs may have gone on while it reads. Changes nothing, and needs no preparation.
    Before the executor is entered, and after its end, there are no jobs. Raises `TypeError` for
    anything but an executor or a lane.

    ::

        signal.signal(signal.SIGUSR1, lambda *_: print(format_stacks(executor), file=sys.stderr))
    """
    if not isinstance(executor, Lane):
        raise TypeError(f"executor must be an anyslots Executor or Lane, not {executor!r}")
    return stacks.format_stacks(runtime_of(executor), node_of(executor))


def _running_event_loop() -> str | None:
    """Tell which event loop runs in this thread.

    It asks the libraries themselves: what anyio goes by is inherited by threads along with the
    context.
    """
    try:
        asyncio.get_running_loop()
        return "asyncio"
    except RuntimeError:
        pass
    # The module is incomplete while another thread imports it; then it can't be running here.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    in_trio_run = getattr(lowlevel, "in_trio_run", None)
    return "trio" if in_trio_run is not None and in_trio_run() else None


def _own_context() -> Context:
    """Copy the caller's context, without the name of an event loop that a thread inherited."""
    context = copy_context()
    # Without the module, or before another thread has imported it all, no name was set.
    name = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if name is not None:
        context.run(name.set, None)
    return context


class _Threads:
    """The threads from which a wake-up may come."""

    def __init__(self) -> None:
        self._own = threading.current_thread()
        self._earlier = frozenset(threading.enumerate())

    def silence(self, runs_call: Callable[[threading.Thread], bool | None]) -> float:
        """Tell for how many real seconds to wait for them.

        ``runs_call`` says of a pool's worker whether it runs a call, and None of other threads.
        """
        longest = 0.0
        for thread in threading.enumerate():
            if at_work := runs_call(thread):
                return CALL_SILENCE
            if at_work is None and self._counts(thread):
                longest = OPEN_SILENCE
        return longest

    def _counts(self, thread: threading.Thread) -> bool:
        if thread is self._own or thread is threading.main_thread():
            return False
        # Daemons serve the process as a whole, and so do the timers of test runners. What isn't a
        # daemon may be a worker of a pool that the run uses.
        is_service = thread.daemon or isinstance(thread, threading.Timer)
        return not (is_service and thread in self._earlier)


# asyncio


class _CountingPool(cf.ThreadPoolExecutor):
    """The event loop's default executor, which knows whether it's at work."""

    def __init__(self) -> None:
        self.calls: set[cf.Future[Any]] = set()
        self.threads: set[threading.Thread] = set()
        self.used = False
        super().__init__(thread_name_prefix="asyncio", initializer=self._note_thread)

    def _note_thread(self) -> None:
        self.threads.add(threading.current_thread())

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> cf.Future[T]:
        self.used = True
        future = super().submit(fn, *args, **kwargs)
        self.calls.add(future)
        # Registered first, so that the call has gone before the event loop is woken up by its end.
        future.add_done_callback(self.calls.discard)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock forward instead of waiting, unless something happens in real time."""

    now = 0.0

    def __init__(self, pool: _CountingPool) -> None:
        super().__init__()
        self._pool = pool
        self._threads = _Threads()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:  # no deadline to jump to, or something can run
            return super().select(timeout)
        began = time.monotonic()
        while True:
            left = began + self._silence() - time.monotonic()
            # In steps, since some ends don't wake up the loop: that of a call whose result was
            # given up. The last look comes after threads were found at rest: they may just have
            # left something.
            if ready := super().select(min(max(left, 0), 0.002)):
                return ready
            if left <= 0:
                self.now += timeout
                return []

    def _silence(self) -> float:
        if self._pool.calls:
            return CALL_SILENCE
        # One is the loop's own, by which threads and signals wake it up.
        open_files = OPEN_SILENCE if len(self.get_map()) > 1 else 0
        return max(open_files, self._threads.silence(self._runs_call))

    def _runs_call(self, thread: threading.Thread) -> bool | None:
        if thread in self._pool.threads:
            return False
        # Workers of `anyio.to_thread` live as long as the run, and say in their queue what they do.
        queue = getattr(thread, "queue", None)
        if type(thread).__module__.startswith("anyio.") and isinstance(queue, Queue):
            return queue.unfinished_tasks > 0
        return None


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time."""

    def __init__(self) -> None:
        self._pool = _CountingPool()
        self._jumping = _JumpingSelector(self._pool)
        super().__init__(self._jumping)
        self.set_default_executor(self._pool)

    def time(self) -> float:
        return self._jumping.now

    @property
    def _clock_resolution(self) -> float:
        # Timers run whose time is less than this ahead: just those whose time has come. The base
        # class compares with a sum that a constant would vanish in once the time is large.
        return math.ulp(self._jumping.now)

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        pass  # the base class sets that of the real clock

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if when == math.inf:  # no deadline to jump to, day by day
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        # The time limit of `asyncio.Runner` would pass at once. It takes a thread.
        if self._pool.used:
            await super().shutdown_default_executor()


# trio


def _trio_options() -> dict[str, Any]:
    """Make a clock that jumps, and an instrument that tells it how long to wait before."""
    try:
        import trio
        import trio.testing
    except ModuleNotFoundError as error:
        raise ImportError("trio is not installed: pip install 'anyslots[trio]'") from error

    clock = trio.testing.MockClock(autojump_threshold=0)
    threads = _Threads()

    def tasks_waiting_for_io(statistics: object) -> int:
        # The counts go by different names on different operating systems.
        if not io_counts:
            named = {name: getattr(statistics, name) for name in dir(statistics) if name[0] != "_"}
            io_counts.extend(name for name, value in named.items() if isinstance(value, int))
        return sum(getattr(statistics, name) for name in io_counts)

    io_counts: list[str] = []

    def silence(statistics: trio.lowlevel.RunStatistics) -> float:
        if statistics.seconds_to_next_deadline == math.inf:
            return math.inf  # nothing to jump to: trio would poll all the time
        if trio.testing.active_thread_count():
            return CALL_SILENCE
        if tasks_waiting_for_io(statistics.io_statistics) > 1:  # one is trio's own
            return OPEN_SILENCE
        return threads.silence(_runs_call_of_trio)

    class Silence(trio.abc.Instrument):
        """Sets the clock's threshold to what suits the present situation."""

        def before_io_wait(self, timeout: float) -> None:
            statistics = trio.lowlevel.current_statistics()
            if statistics.tasks_runnable:
                return
            threshold = silence(statistics)
            if threshold != clock.autojump_threshold:
                clock.autojump_threshold = threshold
                # This pass goes by the old one: have trio make another before it jumps.
                trio.lowlevel.current_trio_token().run_sync_soon(_do_nothing, idempotent=True)

    return {"clock": clock, "instruments": [Silence()]}


def _runs_call_of_trio(thread: threading.Thread) -> bool | None:
    # Idle workers stay for a while. One that runs a call is named after that, and counted.
    return False if thread.name.startswith("Trio thread ") else None


def _do_nothing() -> None:
    pass
