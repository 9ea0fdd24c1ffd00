"""Whatever a job or a source raises is kept as it is, and hurts that job or that `map` alone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import fail

from anyslots import (
    Executor,
    JobCancelled,
    Retry,
    amap,
    as_completed,
    first_result,
    gather,
    wait,
)

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Frozen(Exception):
    text: str = "frozen"


@dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    text: str = "slots"


class NoAttributes(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(name)


class NoTraceback(Exception):
    """Its traceback can be neither read nor set, by the usual means."""

    @property
    def __traceback__(self) -> NoReturn:  # type: ignore[override]
        raise ZeroDivisionError

    def with_traceback(self, tb: object) -> NoReturn:
        raise ZeroDivisionError


class NoNotes(Exception):
    def add_note(self, note: str) -> NoReturn:
        raise ZeroDivisionError

    if sys.version_info >= (3, 13):  # before, the standard library can't print its traceback

        @property
        def __notes__(self) -> NoReturn:
            raise ZeroDivisionError


class Equal(Exception):
    """Equal to all others, and can't be hashed."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class NoComparing(Exception):
    def __eq__(self, other: object) -> NoReturn:
        raise ZeroDivisionError

    def __ne__(self, other: object) -> NoReturn:
        raise ZeroDivisionError

    def __hash__(self) -> NoReturn:
        raise ZeroDivisionError


class NoText(Exception):
    def __repr__(self) -> NoReturn:
        raise ZeroDivisionError

    __str__ = __repr__


class NoTruth(Exception):
    def __bool__(self) -> NoReturn:
        raise ZeroDivisionError

    def __len__(self) -> NoReturn:
        raise ZeroDivisionError


class False_(Exception):
    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0


class Callable_(Exception):
    def __call__(self) -> NoReturn:
        raise ZeroDivisionError

    def __await__(self) -> NoReturn:
        raise ZeroDivisionError


HOSTILE: list[Callable[[], Exception]] = [
    Frozen,
    FrozenSlots,
    NoAttributes,
    NoTraceback,
    NoNotes,
    Equal,
    NoComparing,
    NoText,
    NoTruth,
    False_,
    Callable_,
]


class Base(BaseException):
    """Neither an `Exception` nor anything that ends a program."""


@dataclass(frozen=True)
class FrozenBase(BaseException):
    text: str = "frozen"


async def fail_at_once(error: BaseException) -> NoReturn:
    raise error


async def give(value: int = 1) -> int:
    await checkpoint()
    return value


@pytest.fixture(params=HOSTILE)
def error(request: pytest.FixtureRequest) -> Exception:
    return request.param()


async def caught(awaitable: Any) -> BaseException:
    try:
        await awaitable
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("job", [fail, fail_at_once])
async def test_a_job_raises_the_very_object(job: Any, error: Exception) -> None:
    """It's the same each time, and no later job of that worker meets it."""
    async with Executor(1) as executor:
        future = executor.submit(job, error)
        following = [executor.submit(give, n) for n in range(5)]
        assert await caught(future) is error
        assert await caught(future) is error
        assert future.exception() is error
        assert future.error is error
        assert future.status == "failed"
        assert "failed" in repr(future)
        assert await gather(*following) == [0, 1, 2, 3, 4]
        assert executor.statistics().failed == 1


async def test_ways_to_collect_it(error: Exception) -> None:
    """Each of them passes the object on."""
    async with Executor(2) as executor:
        assert await caught(gather(executor.submit(fail, error))) is error
        results = await gather(executor.submit(fail, error), return_exceptions=True)
        assert results[0] is error
        done, _ = await wait([executor.submit(fail, error), executor.submit(give)])
        assert sum(future.exception() is error for future in done) == 1
        async for future in as_completed([executor.submit(fail, error)]):
            assert future.exception() is error
        assert await first_result(executor.submit(fail, error), executor.submit(give)) == 1
        assert await caught(executor.map(fail, [error])) is error
        kept = await executor.map(fail, [error, error], return_exceptions=True)
        assert kept[0] is kept[1] is error
        async for source, result in executor.map(fail, [error], return_exceptions=True).items():
            assert source is result is error
    assert await caught(amap(fail, [error], slots=2)) is error


@pytest.fixture
def is_logged(error: Exception, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Python's own `traceback` asks for the truth of exceptions, and can't format all."""
    can_be = not isinstance(error, NoTruth)
    monkeypatch.setattr(logging.getLogger("anyslots"), "disabled", not can_be)
    return can_be


@pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
async def test_nobody_asks_for_it(
    on_error: Any, error: Exception, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each policy deals with it: the block raises it in a group, or it's logged."""
    raised = None
    try:
        async with Executor(2, on_error=on_error) as executor:
            executor.submit(fail, error)
            await executor.join()
    except ExceptionGroup as group:
        raised = group.exceptions
    if on_error == "log":
        assert raised is None
        assert ("never retrieved" in caplog.text) == is_logged
    else:
        assert raised is not None
        assert len(raised) == 1
        assert raised[0] is error


async def test_it_leaves_the_body(error: Exception) -> None:
    """The body's own error leaves the block unwrapped, also if it's a job's."""
    executor = Executor(1)

    async def use() -> None:
        async with executor:
            executor.submit(anyio.sleep_forever)
            raise error

    assert await caught(use()) is error

    async def await_job() -> None:
        async with Executor(1, on_error="cancel") as executor:
            await executor.submit(fail, error)

    raised = await caught(await_job())
    found = raised.exceptions[0] if isinstance(raised, ExceptionGroup) else raised
    assert found is error


async def test_two_that_are_equal_are_two() -> None:
    """What isn't retrieved is told apart by identity."""
    errors = [Equal(), Equal(), NoComparing()]
    with pytest.raises(ExceptionGroup) as info:
        async with Executor(3) as executor:
            futures = [executor.submit(fail, error) for error in errors]
            await executor.join()
            assert futures[0].exception() is errors[0]
    raised = {id(each) for each in info.value.exceptions}
    assert raised == {id(each) for each in errors[1:]}


async def test_it_is_retried(error: Exception) -> None:
    """Attempts come to an end; the last exception goes without a note if it takes none."""
    attempts = 0

    async def try_it() -> NoReturn:
        nonlocal attempts
        attempts += 1
        raise error

    async with Executor(1, retry=Retry(3, wait=0)) as executor:
        assert await caught(executor.submit(try_it)) is error
        assert attempts == 3
        assert await executor.submit(give) == 1


async def test_a_slot_that_it_leaves(error: Exception) -> None:
    """It goes on as it is, and the slot is free."""
    async with Executor(1) as executor:

        async def hold() -> None:
            async with executor.slot():
                raise error

        assert await caught(hold()) is error
        assert await executor.submit(give) == 1


async def test_callbacks_and_instruments_that_raise_it(
    error: Exception, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged and harm nothing."""

    def raise_it(_: object) -> NoReturn:
        raise error

    class Instrument:
        job_submitted = job_started = job_finished = staticmethod(raise_it)

    async with Executor(1, instruments=[Instrument()]) as executor:
        future = executor.submit(give)
        future.add_done_callback(raise_it)
        later: list[object] = []
        future.add_done_callback(later.append)
        assert await future == 1
        assert await executor.submit(give) == 1
    assert later == [future]
    assert [each.levelname for each in caplog.records] == ["ERROR"] * (2 * is_logged)


@pytest.mark.parametrize("make", [Base, FrozenBase, asyncio.CancelledError, GeneratorExit])
async def test_base_exceptions_of_a_job(make: Any, loop_name: str) -> None:
    """That job alone fails, or is cancelled by what cancels; the executor goes on."""
    error = make()
    async with Executor(2) as executor:
        other = executor.submit(anyio.sleep, 0.01)
        for job in (fail, fail_at_once):
            future = executor.submit(job, error)
            following = executor.submit(give)
            await future.wait()
            if isinstance(error, anyio.get_cancelled_exc_class()):
                assert future.cancelled()
            else:
                assert future.exception() is error
            assert await following == 1
        assert await other is None


async def test_groups_of_base_exceptions() -> None:
    """A group with one in it is the job's failure, too."""
    error = BaseExceptionGroup("several", [Base(), ValueError()])
    async with Executor(1) as executor:
        assert await caught(executor.submit(fail, error)) is error
        assert await executor.submit(give) == 1


# Foreign cancellations under asyncio.


async def test_a_foreign_cancellation_keeps_message_and_cause(loop_name: str) -> None:
    """`CancelledError("pool is closing")` is how the job's cancellation is explained."""
    if loop_name == "trio":
        pytest.skip("asyncio's own")

    async def cancelled(with_cause: bool) -> None:
        await checkpoint()
        if with_cause:
            raise asyncio.CancelledError("pool is closing") from cause
        raise asyncio.CancelledError("pool is closing")

    async def awaits_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel("pool is closing")
        await future

    async def cancelled_natively() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("pool is closing")
        await asyncio.sleep(0)

    cause = OSError("lost")
    async with Executor(1) as executor:
        for job, args in [
            (cancelled, (True,)),
            (cancelled, (False,)),
            (awaits_cancelled, ()),
            (cancelled_natively, ()),
        ]:
            future = executor.submit(job, *args)
            with pytest.raises(JobCancelled, match="pool is closing") as info:
                await future
            if args == (True,):
                assert info.value.__cause__ is cause
            elif args:
                assert info.value.__cause__ is None
            assert future.cancelled()
            assert await executor.submit(give) == 1


# Sources of `map`.


def sync_source(error: BaseException, taken: int) -> Iterator[int]:
    yield from range(taken)
    raise error


async def async_source(error: BaseException, taken: int) -> AsyncIterator[int]:
    for n in range(taken):
        yield n
    await checkpoint()
    raise error


class Iterating:
    """An iterator that isn't a generator, so that it may raise anything."""

    def __init__(self, error: BaseException, taken: int) -> None:
        self.error, self.left = error, taken

    def __iter__(self) -> Iterating:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise self.error
        self.left -= 1
        return self.left


class AsyncIterating(Iterating):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncIterating:
        return self

    async def __anext__(self) -> int:
        await checkpoint()
        return self.__next__()


SOURCES = [sync_source, async_source, Iterating, AsyncIterating]
SOURCE_ERRORS = [*HOSTILE, Base, FrozenBase, asyncio.CancelledError, GeneratorExit]


@pytest.mark.unmeasured
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("make", SOURCE_ERRORS)
@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("how", ["stream", "list", "unordered", "items"])
async def test_errors_of_sources_come_out_as_themselves(
    source: Any, make: Any, taken: int, how: str
) -> None:
    """Whatever their class; no job but those of that `map` is touched."""
    error = make()
    results: list[Any] = []

    async def use(executor: Executor) -> None:
        mapped = executor.map(give, source(error, taken), ordered=how != "unordered")
        if how == "list":
            results.extend(await mapped)
        elif how == "items":
            async for item in mapped.items():
                results.append(item)
        else:
            async for result in mapped:
                results.append(result)

    async with Executor(2) as executor:
        other = executor.submit(give, 7)
        assert await caught(use(executor)) is error
        assert await other == 7
        assert await gather(*[executor.submit(give, n) for n in range(4)]) == [0, 1, 2, 3]
        counts = executor.statistics()
        assert (counts.running, counts.queued) == (0, 0)
    assert len(results) <= taken


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
async def test_sources_that_end_the_program(source: Any, fatal: Any, loop_name: str) -> None:
    """The consumer gets it, as from any iterator; nothing hangs, and no job is lost."""
    error = fatal()
    async with Executor(2) as executor:
        other = executor.submit(give, 7)

        async def use() -> None:
            async for _ in executor.map(give, source(error, 2)):
                pass

        assert await caught(use()) is error
        assert await other == 7


# Failures of a `map` that was handled.


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("how", ["stream", "list", "block"])
async def test_failures_of_a_map_that_was_handled_are_retrieved(how: str, ordered: bool) -> None:
    """Two jobs fail at once; the error of one is handled, and the block doesn't raise the other."""
    failing = anyio.Event()

    async def fail_together(n: int) -> None:
        if n == 3:
            failing.set()
        await failing.wait()
        raise ValueError(n)

    async with Executor(4) as executor:
        mapped = executor.map(fail_together, range(4), ordered=ordered)
        with pytest.raises(ValueError):  # noqa: PT011
            if how == "list":
                await mapped
            elif how == "stream":
                async for _ in mapped:
                    pass
            else:
                async with mapped:
                    async for _ in mapped:
                        pass


async def test_failures_of_jobs_that_a_failure_cancels_are_retrieved() -> None:
    """The rest of the map fails as it's cancelled for the first one's sake."""

    async def fail_in_the_end(n: int) -> None:
        try:
            if n:
                await anyio.sleep_forever()
        finally:
            raise ValueError(n)

    async with Executor(3) as executor:
        with pytest.raises(ValueError, match="0"):
            await executor.map(fail_in_the_end, range(3))
