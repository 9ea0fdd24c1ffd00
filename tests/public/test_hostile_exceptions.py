"""Whatever a job or a source raises is kept as it is, and hurts that job or that `map` alone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint
from jobs import Boom, check_idle, fail, give

from anyslots import (
    Executor,
    ExecutorClosed,
    Future,
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


def refuse(*args: object) -> NoReturn:
    raise ZeroDivisionError


class NoAttributes(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)

    __delattr__ = __setattr__  # type: ignore[assignment]


class NoTraceback(Exception):
    """Its traceback can be neither read nor set, by the usual means."""

    __traceback__ = property(refuse)  # type: ignore[assignment]
    with_traceback = refuse


class NoNotes(Exception):
    add_note = refuse
    if sys.version_info >= (3, 13):  # before, the standard library can't print its traceback
        __notes__ = property(refuse)


class Equal(Exception):
    """Equal to all others, and can't be hashed."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class NoComparing(Exception):
    __eq__ = __ne__ = __hash__ = refuse


class NoText(Exception):
    __repr__ = __str__ = refuse


class NoTruth(Exception):
    __bool__ = __len__ = refuse


class False_(Exception):
    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0


class Callable_(Exception):
    __call__ = __await__ = refuse


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
        done, _ = await wait([executor.submit(fail, error), executor.submit(give, 1)])
        assert sum(future.exception() is error for future in done) == 1
        async for future in as_completed([executor.submit(fail, error)]):
            assert future.exception() is error
        assert await first_result(executor.submit(fail, error), executor.submit(give, 1)) == 1
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
        assert await executor.submit(give, 1) == 1


async def test_a_slot_that_it_leaves(error: Exception) -> None:
    """It goes on as it is, and the slot is free."""
    async with Executor(1) as executor:

        async def hold() -> None:
            async with executor.slot():
                raise error

        assert await caught(hold()) is error
        assert await executor.submit(give, 1) == 1


async def test_callbacks_and_instruments_that_raise_it(
    error: Exception, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They are logged and harm nothing."""

    def raise_it(_: object) -> NoReturn:
        raise error

    class Instrument:
        job_submitted = job_started = job_finished = staticmethod(raise_it)

    async with Executor(1, instruments=[Instrument()]) as executor:
        future = executor.submit(give, 1)
        future.add_done_callback(raise_it)
        later: list[object] = []
        future.add_done_callback(later.append)
        assert await future == 1
        assert await executor.submit(give, 1) == 1
    assert later == [future]
    assert [each.levelname for each in caplog.records] == ["ERROR"] * (2 * is_logged)


@pytest.mark.parametrize(
    "make",
    [
        Base,
        FrozenBase,
        asyncio.CancelledError,
        GeneratorExit,
        partial(BaseExceptionGroup, "several", [Base(), ValueError()]),
    ],
)
async def test_base_exceptions_of_a_job(make: Any) -> None:
    """That job alone fails, or is cancelled by what cancels; the executor goes on."""
    error = make()
    async with Executor(2) as executor:
        other = executor.submit(anyio.sleep, 0.01)
        for job in (fail, fail_at_once):
            future = executor.submit(job, error)
            following = executor.submit(give, 1)
            await future.wait()
            if isinstance(error, anyio.get_cancelled_exc_class()):
                assert future.cancelled()
            else:
                assert future.exception() is error
            assert await following == 1
        assert await other is None


# Foreign cancellations under asyncio.


@pytest.mark.usefixtures("asyncio_only")
async def test_a_foreign_cancellation_keeps_message_and_cause() -> None:
    """`CancelledError("pool is closing")` is how the job's cancellation is explained."""

    async def cancelled(cause: Exception | None) -> None:
        await checkpoint()
        raise asyncio.CancelledError("pool is closing") from cause

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
    jobs = [(cancelled, cause), (cancelled, None), (awaits_cancelled,), (cancelled_natively,)]
    async with Executor(1) as executor:
        for job, *args in jobs:
            future: Future[None] = executor.submit(job, *args)
            with pytest.raises(JobCancelled, match="pool is closing") as info:
                await future
            if args:
                assert info.value.__cause__ is args[0]
            assert future.cancelled()
            assert await executor.submit(give, 1) == 1


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
        self.error, self.numbers = error, iter(range(taken))

    def __iter__(self) -> Iterating:
        return self

    def __next__(self) -> int:
        for number in self.numbers:
            return number
        raise self.error


class AsyncIterating(Iterating):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncIterating:
        return self

    async def __anext__(self) -> int:
        await checkpoint()
        return self.__next__()


every_source = pytest.mark.parametrize(
    "source", [sync_source, async_source, Iterating, AsyncIterating]
)
SOURCE_ERRORS: list[Callable[[], BaseException]] = [
    *HOSTILE,
    Base,
    FrozenBase,
    asyncio.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
    JobCancelled,
    ExecutorClosed,
    TimeoutError,
    partial(ExceptionGroup, "several", [Boom()]),
    partial(BaseExceptionGroup, "several", [Base()]),
]


@every_source
@pytest.mark.parametrize("make", SOURCE_ERRORS)
async def test_errors_of_sources_come_out_as_themselves(source: Any, make: Any) -> None:
    """After the results of what came before; no job but those of that `map` is touched."""
    for taken, how in product((0, 1, 5), ("stream", "list", "block", "unordered", "exceptions")):
        error, results = make(), []

        async def use(mapped: Any, how: str = how, results: list[int] = results) -> None:
            if how == "list":
                await mapped
            elif how == "block":
                async with mapped:
                    results.extend([result async for result in mapped])
            else:
                async for result in mapped:
                    results.append(result)

        async with Executor(2) as executor:
            other = executor.submit(give, 7)
            mapped = executor.map(
                give,
                source(error, taken),
                ordered=how != "unordered",
                return_exceptions=how == "exceptions",
            )
            assert await caught(use(mapped)) is error
            if how not in ("list", "block"):
                assert sorted(results) == list(range(taken))
            assert await other == 7
            assert await gather(*[executor.submit(give, n) for n in range(4)]) == [0, 1, 2, 3]
            check_idle(executor)


# Failures of a `map` that was handled.


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("how", ["stream", "list", "block", "cancelled"])
async def test_failures_of_a_map_that_was_handled_are_retrieved(how: str, ordered: bool) -> None:
    """Jobs fail together, or as the first one cancels them; the block raises none of the others."""
    failing = anyio.Event()

    async def fail_together(n: int) -> None:
        if n == 3:
            failing.set()
        await failing.wait()
        raise ValueError(n)

    async def fail_in_the_end(n: int) -> None:
        try:
            if n:
                await anyio.sleep_forever()
        finally:
            raise ValueError(n)

    async with Executor(4) as executor:
        job = fail_in_the_end if how == "cancelled" else fail_together
        mapped = executor.map(job, range(4), ordered=ordered)
        with pytest.raises(ValueError, match="0" if how == "cancelled" else "[0-3]"):
            if how in ("list", "cancelled"):
                await mapped
            elif how == "stream":
                await anext(mapped)
            else:
                async with mapped:
                    await anext(mapped)
