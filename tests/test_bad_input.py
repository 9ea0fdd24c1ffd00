"""Wrong arguments: the message names the argument, what is accepted, and what came."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyslots import Executor, ExecutorClosed, gather

pytestmark = pytest.mark.anyio

BAD_SLOTS = [0, -1, -math.inf, 2.5, 4.0, math.nan, True, False, "4", None, 1j, [], Decimal(2)]


async def give(value: Any = None) -> Any:
    await checkpoint()
    return value


@pytest.mark.parametrize("slots", [*BAD_SLOTS, Decimal("Infinity"), Fraction(2)], ids=repr)
def test_bad_slots(slots: Any) -> None:
    """Slots that are no int from 1, nor infinity, are refused by name, and the value is shown."""
    with pytest.raises((TypeError, ValueError), match="slots") as caught:
        Executor(slots)
    assert "int" in str(caught.value)
    assert "math.inf" in str(caught.value)
    assert repr(slots) in str(caught.value)


@pytest.mark.parametrize("slots", [1, 2, 10**30, math.inf], ids=repr)
def test_good_slots(slots: float) -> None:
    """Every int from 1, and infinity, is a number of slots, and is given back as it came."""
    executor = Executor(slots)
    assert executor.slots == slots
    assert type(executor.slots) is type(slots)


def test_slots_are_required() -> None:
    """There's no default for slots."""
    with pytest.raises(TypeError, match="slots"):
        Executor()  # type: ignore[call-arg]


def test_slots_may_be_named() -> None:
    """``Executor(slots=4)`` and ``Executor(4)`` are the same."""
    assert Executor(slots=4).slots == Executor(4).slots == 4


def test_options_are_keyword_only() -> None:
    """Only slots may be given by position."""
    with pytest.raises(TypeError, match="positional"):
        Executor(4, "hold")  # type: ignore[misc]


@pytest.mark.parametrize("on_error", ["ignore", "", "HOLD", None, 3, ["hold"], {}], ids=repr)
def test_bad_on_error(on_error: Any) -> None:
    """An unknown policy is refused by name; the message lists the known ones, and what came."""
    with pytest.raises((TypeError, ValueError), match="on_error") as caught:
        Executor(1, on_error=on_error)
    for policy in ("hold", "cancel", "log"):
        assert policy in str(caught.value)
    assert repr(on_error) in str(caught.value)


@pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
def test_good_on_error(on_error: Any) -> None:
    """The three policies are accepted."""
    assert Executor(1, on_error=on_error)


@pytest.mark.parametrize("name", [3, b"name", ["name"], True], ids=repr)
def test_bad_name(name: Any) -> None:
    """A name that is no str is refused with a `TypeError`, and the value is shown."""
    with pytest.raises(TypeError, match="name") as caught:
        Executor(1, name=name)
    assert "str" in str(caught.value)
    assert repr(name) in str(caught.value)


def test_unknown_option() -> None:
    """An option that doesn't exist is refused by name."""
    with pytest.raises(TypeError, match="max_workers"):
        Executor(1, max_workers=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("grace", [-1, -0.5, math.nan, -math.inf, "x", "3", []], ids=repr)
async def test_bad_grace(grace: Any) -> None:
    """A bad grace is refused by name and value, and the executor goes on as it was."""
    async with Executor(1) as executor:
        running = executor.submit(anyio.sleep_forever)
        with pytest.raises((TypeError, ValueError), match="grace") as caught:
            await executor.shutdown(grace)
        assert repr(grace) in str(caught.value)
        assert not running.done()
        assert "open" in repr(executor)
        future = executor.submit(give, 1)
        running.cancel()
        assert await future == 1


@pytest.mark.parametrize("grace", [0, 0.0, 1, 2.5, math.inf, None], ids=repr)
async def test_good_grace(grace: Any) -> None:
    """Every number of seconds from 0 is a grace, infinity too, and so is None."""
    async with Executor(1) as executor:
        with anyio.fail_after(5):
            await executor.shutdown(grace)
        with pytest.raises(ExecutorClosed):
            executor.submit(give)


async def test_executor_is_as_it_was_after_bad_input() -> None:
    """Refused calls count nothing and change nothing: the executor works as before."""
    async with Executor(2, name="steady") as executor:
        before = executor.statistics(), repr(executor)
        with pytest.raises(TypeError, match="callable"):
            executor.submit(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            executor.submit()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            executor.submit(fn=give)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            await gather(executor)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            await executor.shutdown(-1)
        with pytest.raises(RuntimeError):
            await executor.__aenter__()
        assert (executor.statistics(), repr(executor)) == before
        futures = [executor.submit(give, number) for number in range(5)]
        assert await gather(*futures) == [0, 1, 2, 3, 4]


async def test_bad_construction_leaves_no_trace() -> None:
    """An executor that couldn't be made warns of nothing when it's collected."""
    for arguments in ({"slots": 0}, {"slots": 1, "on_error": "?"}, {"slots": 1, "name": 3}):
        with pytest.raises((TypeError, ValueError)):
            Executor(**arguments)  # type: ignore[arg-type]


def test_what_can_be_read_only_cannot_be_set() -> None:
    """Futures' and statistics' fields can't be assigned by mistake."""
    statistics = Executor(1).statistics()
    with pytest.raises(AttributeError):
        statistics.running = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["pending", "name", "paused", "parent", "executor", "children"])
@pytest.mark.parametrize("whose", ["executor", "lane"])
def test_setting_what_cannot_be_set_is_an_error(whose: str, name: str) -> None:
    """Setting what can only be read, or a misspelt name, isn't ignored."""
    executor = Executor(4)
    target = executor if whose == "executor" else executor.lane()
    with pytest.raises(AttributeError, match=name):
        setattr(target, name, 5)
