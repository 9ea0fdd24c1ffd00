"""`anyslots.testing.run`: virtual time, and what of the real world it waits for."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextvars
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from jobs import Boom

from anyslots import Executor, Rate, from_thread, gather, to_pool
from anyslots.testing import run

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def real_seconds(fn: Any, *args: Any, **kwargs: Any) -> float:
    began = time.monotonic()
    fn(*args, **kwargs)
    return time.monotonic() - began


# The clock.


@both
def test_time_starts_at_0(backend) -> None:
    async def main() -> float:
        return anyio.current_time()

    assert run(main, backend=backend) == 0


@both
def test_clock_stands_still_while_code_runs(backend) -> None:
    async def main() -> float:
        time.sleep(0.01)  # noqa: ASYNC251 - real time
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return anyio.current_time()

    assert run(main, backend=backend) == 0


@both
def test_clock_jumps_exactly_to_each_deadline(backend) -> None:
    async def main() -> list[float]:
        times: list[float] = []

        async def note(delay: float) -> None:
            await anyio.sleep(delay)
            times.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            for delay in (0.3, 1e-9, 7, 1.1, 90_000.7, 0.1, 1.1 + 1e-10):
                group.start_soon(note, delay)
        return times

    assert run(main, backend=backend) == [1e-9, 0.1, 0.3, 1.1, 1.1 + 1e-10, 7, 90_000.7]


@both
@pytest.mark.parametrize("start", [0, 9e3, 2e4, 1e6, 4e9])
def test_timers_stay_exact_far_from_0(backend, start) -> None:
    """The resolution of floats that are large doesn't make the clock stop or timers come late."""

    async def main() -> tuple[float, float]:
        await anyio.sleep_until(start)
        before = anyio.current_time()
        for _ in range(50):
            await anyio.sleep(0.1)
        return before, anyio.current_time()

    expected = start
    for _ in range(50):
        expected += 0.1
    assert run(main, backend=backend) == (start, expected)


@pytest.mark.real_time
@both
def test_years_pass_in_no_real_time(backend) -> None:
    async def main() -> float:
        async with Executor(slots=2, rate=Rate(1, per=3600)) as executor:
            for _ in range(366):
                executor.submit(anyio.sleep, 86_400)
        return anyio.current_time()

    assert real_seconds(run, main, backend=backend) < 5
    assert run(main, backend=backend) == 183 * 86_400 + 3600


@both
def test_what_is_ready_runs_before_the_clock_jumps(backend) -> None:
    async def main() -> list[str]:
        log: list[str] = []

        async def busy() -> None:
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            log.append("busy")

        async def asleep() -> None:
            await anyio.sleep(1e-6)
            log.append("asleep")

        await gather_all(busy, asleep)
        return log

    assert run(main, backend=backend) == ["busy", "asleep"]


async def gather_all(*fns: Any) -> None:
    async with anyio.create_task_group() as group:
        for fn in fns:
            group.start_soon(fn)


@both
def test_timeouts_and_limits_of_an_executor_are_exact(backend) -> None:
    async def main() -> list[Any]:
        async with Executor(slots=2, timeout=5) as executor:
            futures = [executor.submit(anyio.sleep, delay) for delay in (60, 2, 3, 60)]
            results = await gather(*futures, return_exceptions=True)
        return [*map(type, results), anyio.current_time()]

    nothing = type(None)
    assert run(main, backend=backend) == [TimeoutError, nothing, nothing, TimeoutError, 10]


# What comes out.


@both
def test_result_is_returned(backend) -> None:
    async def main(*args: int) -> tuple[int, ...]:
        return args

    assert run(main, 1, 2, backend=backend) == (1, 2)


def test_backend_is_asyncio_unless_named() -> None:
    async def main() -> object:
        return asyncio.get_running_loop()

    assert isinstance(run(main), asyncio.AbstractEventLoop)


@both
@pytest.mark.parametrize(
    "error",
    [Boom("a"), ExceptionGroup("group", [Boom("b")]), KeyboardInterrupt(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_come_out_as_they_are(backend, error) -> None:
    async def main() -> None:
        await anyio.sleep(1)
        raise error

    with pytest.raises(type(error)) as caught:
        run(main, backend=backend)
    assert caught.value is error


@both
def test_context_of_the_caller_is_seen_and_kept(backend) -> None:
    variable = contextvars.ContextVar("variable", default="default")

    async def main() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    token = variable.set("outside")
    assert run(main, backend=backend) == "outside"
    assert variable.get() == "outside"
    variable.reset(token)


@both
def test_any_callable_that_gives_an_awaitable_will_do(backend) -> None:
    class Waits:
        def __await__(self) -> Any:
            yield from anyio.sleep(1).__await__()
            return "awaited"

    async def add(a: int, b: int) -> int:
        return a + b

    assert run(Waits, backend=backend) == "awaited"
    assert run(functools.partial(add, b=1), 2, backend=backend) == 3
    assert run(lambda: add(1, 1), backend=backend) == 2


# Mistakes.


@pytest.mark.parametrize("backend", ["uvloop", "curio", "", None, "Trio"])
def test_unknown_backend_is_refused(backend) -> None:
    with pytest.raises(ValueError, match=f"must be 'asyncio' or 'trio', not {backend!r}"):
        run(anyio.sleep, 0, backend=backend)


def test_uvloop_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="uvloop's clock can't be replaced"):
        run(anyio.sleep, 0, backend="uvloop")


@both
@pytest.mark.parametrize("thing", [None, 3, "main"])
def test_what_is_not_callable_is_refused(backend, thing) -> None:
    with pytest.raises(TypeError, match=f"async_fn must be an async function, not {thing!r}"):
        run(thing, backend=backend)


@both
def test_coroutine_is_refused_with_a_hint(backend) -> None:
    """It's closed, so that no warning says that it was never awaited."""
    with pytest.raises(TypeError, match=r"not <coroutine object sleep .*: run\(fn, \*args\)"):
        run(anyio.sleep(1), backend=backend)


async def numbers() -> AsyncIterator[int]:
    yield 1


@both
@pytest.mark.parametrize("fn", [int, lambda: "text", numbers])
def test_function_that_is_not_async_is_refused(backend, fn) -> None:
    with pytest.raises(TypeError, match=r"must be an async function, but .* can't be awaited"):
        run(fn, backend=backend)


@both
@pytest.mark.parametrize("outer", ["asyncio", "trio"])
def test_event_loop_in_an_event_loop_is_refused(backend, outer) -> None:
    async def main() -> None:
        run(anyio.sleep, 0, backend=backend)

    with pytest.raises(RuntimeError, match=rf"{outer} is running in this thread: call run\(\)"):
        anyio.run(main, backend=outer)


def test_event_loop_in_a_callback_of_another_is_refused() -> None:
    errors: list[BaseException] = []

    async def main() -> None:
        def callback() -> None:
            with pytest.raises(RuntimeError, match="asyncio is running") as caught:
                run(anyio.sleep, 0, backend="trio")
            errors.append(caught.value)

        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.001)

    asyncio.run(main())
    assert len(errors) == 1


@both
@pytest.mark.parametrize("outer", ["asyncio", "trio"])
def test_it_runs_in_a_thread_that_an_event_loop_started(backend, outer) -> None:
    async def main() -> None:
        context = contextvars.copy_context()
        inner = functools.partial(run, hours, backend=backend)
        with cf.ThreadPoolExecutor(1) as pool:
            assert pool.submit(context.run, inner).result(10) == 7200
        assert await anyio.to_thread.run_sync(inner) == 7200

    anyio.run(main, backend=outer)


async def hours() -> float:
    await anyio.sleep(7200)
    async with anyio.create_task_group():  # finds the right event loop
        return anyio.current_time()


def test_missing_trio_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match=r"pip install 'anyslots\[trio\]'"):
        run(anyio.sleep, 0, backend="trio")
    assert run(hours) == 7200


def test_asyncio_needs_no_sniffio(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sniffio", None)
    assert run(hours) == 7200


# Threads.


@pytest.mark.real_time
@both
@pytest.mark.parametrize("seconds", [0, 0.002, 0.02])
def test_call_in_a_thread_ends_before_the_clock_jumps(backend, seconds) -> None:
    async def main() -> list[float]:
        with anyio.fail_after(3600):
            for _ in range(10):
                await anyio.to_thread.run_sync(time.sleep, seconds)
        return [anyio.current_time()]

    assert run(main, backend=backend) == [0]


@both
def test_call_that_takes_long_runs_into_a_timeout(backend) -> None:
    """The clock doesn't wait for it for ever."""
    event = threading.Event()

    async def main() -> tuple[bool, float]:
        with anyio.move_on_after(3600) as scope:
            await anyio.to_thread.run_sync(event.wait, 10, abandon_on_cancel=True)
        event.set()
        return scope.cancelled_caught, anyio.current_time()

    assert run(main, backend=backend) == (True, 3600)


@pytest.mark.real_time
@both
def test_without_a_deadline_a_call_takes_what_it_takes(backend) -> None:
    """What sleeps for ever is no deadline, and the clock stands still."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.to_thread.run_sync(time.sleep, 0.2)
            group.cancel_scope.cancel()
        return anyio.current_time()

    before = time.process_time()
    assert run(main, backend=backend) == 0
    assert time.process_time() - before < 0.15  # it doesn't poll


@pytest.mark.real_time
@both
def test_idle_worker_threads_cost_no_time(backend) -> None:
    async def main() -> None:
        await anyio.to_thread.run_sync(time.sleep, 0)
        if backend == "asyncio":
            await asyncio.to_thread(time.sleep, 0)
        for _ in range(1000):
            await anyio.sleep(1)

    assert real_seconds(run, main, backend=backend) < 3
    assert real_seconds(run, main, backend=backend) < 3  # with threads that the first left idle


@pytest.mark.real_time
@both
def test_thread_that_calls_back_is_waited_for(backend) -> None:
    def in_thread() -> list[float]:
        times = []
        for _ in range(5):
            anyio.from_thread.run(anyio.sleep, 10)
            time.sleep(0.003)
            times.append(anyio.from_thread.run_sync(anyio.current_time))
        return times

    async def main() -> list[float]:
        with anyio.fail_after(3600):
            return await anyio.to_thread.run_sync(in_thread)

    assert run(main, backend=backend) == [10, 20, 30, 40, 50]


@pytest.mark.real_time
@both
@pytest.mark.parametrize("kind", ["own", "earlier"])
def test_pool_is_waited_for(backend, kind) -> None:
    """No matter whether its threads were there before the run."""

    async def main() -> float:
        with anyio.fail_after(3600):
            assert await to_pool.run_sync(slow_square, 3, pool=pool) == 9
        return anyio.current_time()

    with cf.ThreadPoolExecutor(1) as pool:
        if kind == "earlier":
            pool.submit(int).result()
        assert run(main, backend=backend) == 0


def slow_square(number: int) -> int:
    time.sleep(0.003)
    return number**2


@pytest.mark.real_time
def test_run_in_executor_is_waited_for() -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(3600):
            first = await loop.run_in_executor(None, slow_square, 2)
            with cf.ThreadPoolExecutor(1) as pool:
                second = await loop.run_in_executor(pool, slow_square, 3)
            third = await loop.getaddrinfo("127.0.0.1", 80)
        return [first, second, len(third) > 0, loop.time()]

    assert run(main) == [4, 9, True, 0]


def test_call_given_up_in_the_default_executor_is_joined_at_the_end() -> None:
    """In real time: asyncio's limit for that, 300 seconds, would pass at once."""
    ended: list[bool] = []

    def call() -> None:
        time.sleep(0.3)
        ended.append(True)

    async def main() -> float:
        with anyio.move_on_after(60):
            await asyncio.to_thread(call)
        return anyio.current_time()

    assert run(main) == 60
    assert ended == [True]


@pytest.mark.real_time
@both
def test_jobs_from_another_thread_are_waited_for(backend) -> None:
    async def main() -> list[Any]:
        results: list[Any] = []

        def other_thread() -> None:
            for number in range(3):
                future = from_thread.submit(executor, anyio.sleep, 1)
                results.append((number, future.result()))

        async with Executor(slots=1) as executor:
            thread = threading.Thread(target=other_thread)
            thread.start()
            with anyio.fail_after(3600):
                while len(results) < 3:  # noqa: ASYNC110 - the clock is to jump
                    await anyio.sleep(0.5)
            await anyio.to_thread.run_sync(thread.join)
        return results

    assert run(main, backend=backend) == [(0, None), (1, None), (2, None)]


@pytest.mark.real_time
@both
def test_daemons_that_were_there_before_do_not_count(backend) -> None:
    """Nor does a timer, as test runners have one for their time limit."""

    async def main() -> None:
        for _ in range(1000):
            await anyio.sleep(1)

    end = threading.Event()
    threads = [threading.Thread(target=end.wait, daemon=True), threading.Timer(60, int)]
    for thread in threads:
        thread.start()
    seconds = real_seconds(run, main, backend=backend)
    threads[1].cancel()
    end.set()
    for thread in threads:
        thread.join()
    assert seconds < 3


@both
def test_thread_of_the_run_makes_the_clock_wait(backend) -> None:
    async def main() -> float:
        end = threading.Event()
        thread = threading.Thread(target=end.wait, daemon=True)
        thread.start()
        began = time.monotonic()
        for _ in range(10):
            await anyio.sleep(3600)
        end.set()
        thread.join()
        return time.monotonic() - began

    assert run(main, backend=backend) > 0.15


@both
def test_runs_in_several_threads_have_clocks_of_their_own(backend) -> None:
    async def main(number: int) -> float:
        for _ in range(5):
            await anyio.sleep(number)
        return anyio.current_time()

    with cf.ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(run, main, number, backend=backend) for number in range(1, 5)]
        assert [call.result(30) for call in calls] == [5, 10, 15, 20]


# Sockets, pipes and signals.


@pytest.mark.real_time
@both
def test_server_and_client_talk_before_the_clock_jumps(backend) -> None:
    """What they wait for by the clock takes exactly as long as it says."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for data in stream:
                await anyio.sleep(2)
                await stream.send(data.upper())

    async def main() -> list[tuple[bytes, float]]:
        answers = []
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            with anyio.fail_after(60):
                async with await anyio.connect_tcp("127.0.0.1", port) as client:
                    for word in (b"one", b"two", b"three"):
                        await client.send(word)
                        answers.append((await client.receive(), anyio.current_time()))
            group.cancel_scope.cancel()
        return answers

    assert run(main, backend=backend) == [(b"ONE", 2), (b"TWO", 4), (b"THREE", 6)]


@both
def test_silent_socket_runs_into_a_timeout(backend) -> None:
    async def main() -> tuple[bool, float]:
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as socket:
            with anyio.move_on_after(3600) as scope:
                await socket.receive()
        return scope.cancelled_caught, anyio.current_time()

    assert run(main, backend=backend) == (True, 3600)


@both
@pytest.mark.skipif(sys.platform == "win32", reason="asyncio's loop for it can't be replaced")
def test_output_of_a_process_is_read_without_a_deadline(backend) -> None:
    async def main() -> tuple[bytes, float]:
        result = await anyio.run_process([sys.executable, "-c", "print('hello')"])
        return result.stdout.strip(), anyio.current_time()

    assert run(main, backend=backend) == (b"hello", 0)


@both
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_signal_is_received_before_the_clock_jumps(backend) -> None:
    async def main() -> tuple[int, float]:
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals, anyio.fail_after(3600):
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                return number, anyio.current_time()
        raise AssertionError

    assert run(main, backend=backend) == (signal.SIGUSR1, 0)


@pytest.mark.real_time
@both
@pytest.mark.skipif(sys.platform == "win32", reason="sends no Ctrl-C to a single process")
@pytest.mark.parametrize("wait", ["sleep(1)", "sleep_forever()"])
def test_ctrl_c_ends_a_run(backend, wait) -> None:
    """Whether the clock jumps on and on, or nothing will ever happen."""
    code = f"""
import anyio
from anyslots.testing import run

async def main():
    print("begun", flush=True)
    while True:
        await anyio.{wait}

try:
    run(main, backend={backend!r})
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-X", "dev", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "interrupted\n"


@pytest.mark.real_time
@both
def test_deadlock_uses_no_processor_time(backend) -> None:
    """A run in which nothing can ever happen waits, as in real time, instead of polling."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            thread = threading.Timer(0.3, wake, [tokens, group.cancel_scope.cancel])
            tokens.append(anyio.lowlevel.current_token())
            thread.start()
            await anyio.Event().wait()
        thread.join()
        return anyio.current_time()

    def wake(tokens: list[Any], fn: Any) -> None:
        anyio.from_thread.run_sync(fn, token=tokens[0])

    tokens: list[Any] = []
    before = time.process_time()
    assert run(main, backend=backend) == 0
    assert time.process_time() - before < 0.2
