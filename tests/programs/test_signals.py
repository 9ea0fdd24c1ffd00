"""Ctrl-C and exits, in real programs: each test starts one, and talks to it by lines of output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyslots

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX here"),
    pytest.mark.real_time,
]

COMMON = """
import sys
from functools import partial
import anyio
from anyslots import Executor

def say(*words):
    print(*words, flush=True)

def run(main, runner):
    if runner == "asyncio.run":
        import asyncio
        asyncio.run(main())
    elif runner == "uvloop.run":
        import uvloop
        uvloop.run(main())
    elif runner == "trio.run":
        import trio
        trio.run(main)
    elif runner == "anyio.run(uvloop)":
        anyio.run(main, backend_options={"use_uvloop": True})
    else:
        anyio.run(main, backend=runner[10:-1])

async def job(number, begun=None):
    say("begin", number)
    if begun is not None:
        begun.set()
    try:
        await anyio.sleep_forever()
    finally:
        say("cleanup", number)
"""

RUNNERS = {"asyncio": "asyncio.run", "uvloop": "uvloop.run", "trio": "trio.run"}


@pytest.fixture
def runner(loop_name: str) -> str:
    return RUNNERS[loop_name]


class Program:
    """A child interpreter, read line by line."""

    def __init__(self, code: str, runner: str) -> None:
        where = str(Path(anyslots.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-u", "-c", COMMON + code, runner],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": where},
            # A group of its own, and its own idea of Ctrl-C, whatever ours is.
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.lines: list[str] = []
        # Whatever happens, no test waits for longer than this.
        self.timer = threading.Timer(20, self.process.kill)
        self.timer.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        self.process.kill()
        self.process.communicate()

    def read_until(self, line: str) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(text.strip())
            if self.lines[-1] == line:
                return
        pytest.fail(f"{line!r} never came:\n{self.lines}\n{self.process.stderr.read()}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> str:
        """Wait for its end, and return what it wrote to standard error."""
        stdout, stderr = self.process.communicate()
        self.lines += stdout.split("\n")
        assert self.timer.is_alive(), f"it hung: {self.lines}\n{stderr}"
        for complaint in (
            "never retrieved",
            "destroyed but it is pending",
            "never awaited",
            "Exception ignored",
            "ResourceWarning",
            "TrioInternalError",
        ):
            assert complaint not in stderr, stderr
        return stderr

    def begun(self) -> list[str]:
        return sorted(self.words("begin"))

    def cleaned_up(self) -> list[str]:
        return sorted(self.words("cleanup"))

    def words(self, first: str) -> Iterator[str]:
        return (line.split(" ", 1)[1] for line in self.lines if line.startswith(first + " "))

    @property
    def interrupted(self) -> bool:
        """It ended as Ctrl-C ends a Python program."""
        return self.process.returncode in (-signal.SIGINT, 130)


BUSY = """
futures = []

async def main():
    try:
        async with Executor(10, on_error=ON_ERROR) as executor:
            begun = [anyio.Event() for _ in range(10)]
            for number in range(1000):
                event = begun[number] if number < 10 else None
                futures.append(executor.submit(job, number, event))
            for event in begun:
                await event.wait()
            AND_THEN
    finally:
        counts = executor.statistics()
        say("counts", counts.queued, counts.running, sum(not f.done() for f in futures))

run(main, sys.argv[1])
"""
IN_BODY = "say('ready'); await anyio.sleep_forever()"
WHILE_LEAVING = "say('ready')"
WHILE_SHUTTING_DOWN = "say('ready'); await executor.shutdown(grace=3600)"


def busy(and_then: str, on_error: str = "hold") -> str:
    return BUSY.replace("AND_THEN", and_then).replace("ON_ERROR", repr(on_error))


def check_unwound(program: Program) -> None:
    """Ten jobs had begun, and unwound; the others never began; and no future was left."""
    assert program.begun() == sorted(map(str, range(10)))
    assert program.cleaned_up() == program.begun()
    assert list(program.words("counts")) == ["0 0 0"]


@pytest.mark.parametrize("and_then", [IN_BODY, WHILE_LEAVING, WHILE_SHUTTING_DOWN])
def test_one_interrupt_ends_a_program_with_a_thousand_jobs(runner: str, and_then: str):
    """Ctrl-C: the ten running jobs clean up, no queued one begins, and the program ends by it."""
    with Program(busy(and_then), runner) as program:
        program.read_until("ready")
        program.interrupt()
        stderr = program.finish()
        check_unwound(program)
        assert program.interrupted
        assert "KeyboardInterrupt" in stderr


@pytest.mark.parametrize("runner", ["anyio.run(asyncio)", "anyio.run(uvloop)", "anyio.run(trio)"])
def test_one_interrupt_ends_a_program_run_by_anyio(runner: str):
    with Program(busy(IN_BODY), runner) as program:
        program.read_until("ready")
        program.interrupt()
        program.finish()
        check_unwound(program)
        assert program.interrupted


ENDED_BY_A_JOB = """
async def ends_program(begun):
    for event in begun:
        await event.wait()
    raise ERROR

futures = []

async def main():
    try:
        async with Executor(11, on_error=ON_ERROR) as executor:
            begun = [anyio.Event() for _ in range(10)]
            futures.append(executor.submit(ends_program, begun))
            for number in range(1000):
                event = begun[number] if number < 10 else None
                futures.append(executor.submit(job, number, event))
            say("ready")
            await anyio.sleep_forever()
    finally:
        counts = executor.statistics()
        say("counts", counts.queued, counts.running, sum(not f.done() for f in futures))

run(main, sys.argv[1])
"""


@pytest.mark.parametrize(
    ("error", "on_error"),
    [("KeyboardInterrupt", "hold"), ("SystemExit(3)", "log")],
)
def test_a_job_that_ends_the_program_ends_it(runner: str, error: str, on_error: str):
    """`KeyboardInterrupt` and `SystemExit` in a job: all unwinds, and the exit status is theirs."""
    code = ENDED_BY_A_JOB.replace("ERROR", error, 1).replace("ON_ERROR", repr(on_error))
    with Program(code, runner) as program:
        stderr = program.finish()
        check_unwound(program)
        if error == "KeyboardInterrupt":
            assert program.interrupted
            assert "KeyboardInterrupt" in stderr
        else:
            assert program.process.returncode == 3


SLOW_CLEANUP = """
futures = []

async def job(number, begun):
    begun.set()
    say("begin", number)
    try:
        await anyio.sleep_forever()
    finally:
        say("unwinding")
        with anyio.CancelScope(shield=True):
            await anyio.sleep(SECONDS)
        say("cleanup", number)

async def main():
    try:
        async with Executor(1) as executor:
            begun = anyio.Event()
            futures.extend(executor.submit(job, n, begun) for n in range(100))
            await begun.wait()
            say("ready")
            await anyio.sleep_forever()
    finally:
        counts = executor.statistics()
        say("counts", counts.queued, counts.running, sum(not f.done() for f in futures))

run(main, sys.argv[1])
"""


def test_cleanup_in_a_shield_is_waited_for_after_an_interrupt(runner: str):
    """A job that takes its time to unwind is given it, also after Ctrl-C."""
    with Program(SLOW_CLEANUP.replace("SECONDS", "0.2"), runner) as program:
        program.read_until("ready")
        program.interrupt()
        program.finish()
        assert program.begun() == program.cleaned_up() == ["0"]
        assert list(program.words("counts")) == ["0 0 0"]
        assert program.interrupted


# The second one is raised by the event loop itself: one from outside may strike anywhere, and be
# lost inside of CPython's own callbacks.
AGAIN_WHILE_UNWINDING = """
import asyncio, signal

async def impatient():
    asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
    await anyio.sleep(3600)
"""


def test_a_second_interrupt_ends_a_cleanup_that_takes_too_long(runner: str):
    """Ctrl-C again while a job is unwinding in a shield: the program ends all the same."""
    if runner == "trio.run":
        pytest.skip("trio raises it in the main task, which waits for the others, as any nursery")
    slow = SLOW_CLEANUP.replace("anyio.sleep(SECONDS)", "impatient()")
    with Program(AGAIN_WHILE_UNWINDING + slow, runner) as program:
        program.read_until("ready")
        program.interrupt()
        program.finish()
        assert program.interrupted
        assert program.begun() == ["0"]
        assert program.cleaned_up() == []
        assert list(program.words("counts")) == ["0 0 0"]


STOP_BY_HANDLER = """
import signal

async def main():
    async with Executor(10) as executor:
        async def stop():
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                say("ready")
                async for _ in signals:
                    await executor.shutdown(grace=GRACE)
                    return
        async def wait():
            released.set()
            await release.wait()
            say("finished")
        released, release = anyio.Event(), anyio.Event()
        futures = [executor.submit(wait)] + [executor.submit(job, n) for n in range(1000)]
        await released.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            if GRACE:
                while not refused(executor):
                    await anyio.sleep(0.01)
                release.set()
                await futures[0]
                executor.cancel()
    say("ended", sum(not f.done() for f in futures))

def refused(executor):
    try:
        executor.submit(anyio.sleep, 0).cancel()
    except RuntimeError:
        return True
    return False

run(main, sys.argv[1])
"""


@pytest.mark.parametrize("grace", [0, 3600])
def test_a_signal_handler_shuts_down_as_leaving_the_block_does(runner: str, grace: int):
    """SIGTERM leads to `shutdown`: what's running may finish or is cancelled; the exit is 0."""
    with Program(STOP_BY_HANDLER.replace("GRACE", str(grace)), runner) as program:
        program.read_until("ready")
        program.process.send_signal(signal.SIGTERM)
        assert program.finish() == ""
        assert program.process.returncode == 0
        assert "ended 0" in program.lines
        assert ("finished" in program.lines) == bool(grace)
        assert program.begun() == program.cleaned_up()
        assert len(program.begun()) in (9, 10)


STOP_TWICE = """
import signal

async def main():
    async with Executor(10) as executor, anyio.create_task_group() as group:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            futures = [executor.submit(job, n) for n in range(1000)]
            say("ready")
            async for _ in signals:
                if refused(executor):
                    executor.cancel("told twice")
                    break
                group.start_soon(executor.shutdown, 3600)
                while not refused(executor):
                    await anyio.sleep(0)
                say("stopping")
    say("ended", sum(not f.done() for f in futures), executor.statistics().cancelled)

def refused(executor):
    try:
        executor.submit(anyio.sleep, 0).cancel()
    except RuntimeError:
        return True
    return False

run(main, sys.argv[1])
"""


def test_a_second_signal_may_end_the_grace_of_the_first(runner: str):
    """SIGTERM in the midst of a shutdown: a handler that cancels then ends a thousand jobs."""
    with Program(STOP_TWICE, runner) as program:
        program.read_until("ready")
        program.process.send_signal(signal.SIGTERM)
        program.read_until("stopping")
        program.process.send_signal(signal.SIGTERM)
        assert program.finish() == ""
        assert program.process.returncode == 0
        assert program.begun() == program.cleaned_up()
        ended = next(line for line in program.lines if line.startswith("ended"))
        assert ended.split()[1] == "0"
        assert int(ended.split()[2]) >= 1000


INTERRUPTED_IN_CODE = """
import signal

futures = []

async def interrupts():
    for _ in range(3):
        await anyio.sleep(0)
    signal.raise_signal(signal.SIGINT)
    await anyio.sleep_forever()

async def main():
    try:
        async with Executor(3) as executor:
            futures.extend(executor.submit(job, n) for n in range(2))
            futures.append(executor.submit(interrupts))
            futures.extend(executor.submit(job, n) for n in range(2, 100))
            await anyio.sleep_forever()
    finally:
        counts = executor.statistics()
        say("counts", counts.queued, counts.running, sum(not f.done() for f in futures))

run(main, sys.argv[1])
"""


def test_an_interrupt_while_a_jobs_code_runs_ends_the_program(runner: str):
    """SIGINT in the middle of a job's step (trio raises it there): all unwinds all the same."""
    with Program(INTERRUPTED_IN_CODE, runner) as program:
        program.finish()
        assert program.interrupted
        assert program.begun() == program.cleaned_up() == ["0", "1"]
        assert list(program.words("counts")) == ["0 0 0"]


BLOCKING = """
def block():
    # From here on: the line is written before the loop is entered, and Ctrl-C may come between.
    say("blocks")
    while True:
        pass

async def at_once():
    block()

async def after_a_checkpoint():
    await anyio.sleep(0.01)
    block()

async def in_a_scope():
    with anyio.fail_after(100):
        await anyio.sleep(0)
        block()

async def in_a_nested_job():
    await executor.submit(after_a_checkpoint)

async def as_it_unwinds():
    try:
        await anyio.sleep(0)
    finally:
        block()

async def main():
    global executor
    executor = Executor(2)
    try:
        async with executor:
            futures.append(executor.submit(anyio.sleep, 0))
            futures.append(executor.submit(JOB))
            futures.append(executor.submit(anyio.sleep_forever))
            await anyio.sleep_forever()
    finally:
        counts = executor.statistics()
        say("counts", counts.queued, counts.running, sum(not f.done() for f in futures))

futures = []
run(main, sys.argv[1])
"""


@pytest.mark.parametrize(
    "job", ["at_once", "after_a_checkpoint", "in_a_scope", "in_a_nested_job", "as_it_unwinds"]
)
def test_an_interrupt_reaches_a_job_that_blocks(job: str, runner: str):
    """`while True: pass` in a job ends by Ctrl-C, as in any task: by a second one under asyncio."""
    with Program(BLOCKING.replace("JOB", job), runner) as program:
        program.read_until("blocks")
        program.interrupt()
        if runner != "trio.run":
            time.sleep(0.2)  # the first one only asks the main task to end
            program.interrupt()
        program.finish()
        assert program.process.returncode != 0
        assert program.interrupted
        if runner == "trio.run":
            assert list(program.words("counts")) == ["0 0 0"]
