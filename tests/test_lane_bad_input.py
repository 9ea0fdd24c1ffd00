"""Nonsense for an option is refused where it's given, by the option's name, and changes nothing."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import anyio
import pytest

from anyslots import Executor, Lane, Rate

pytestmark = pytest.mark.anyio

NAN = float("nan")
NOT_NUMBERS: list[Any] = ["4", b"4", [4], (), 1j, Decimal(4), object(), int, True, False]
NOT_COUNTS: list[Any] = [*NOT_NUMBERS, None, -1, -math.inf, NAN, 2.5, 1.0]
NOT_SECONDS: list[Any] = [*NOT_NUMBERS, 0, 0.0, -0.0, -1, -0.5, -math.inf, NAN, 10**400]
NOT_RATES: list[Any] = [*NOT_NUMBERS, 0, 10, NAN, math.inf, [], [10], [Rate(1), None], {1: 2}, Rate]

# What each option of a lane doesn't accept; an executor has them, too, but for the priority.
NONSENSE: dict[str, list[Any]] = {
    "slots": [*NOT_COUNTS, 0, 0.0],
    "max_pending": NOT_COUNTS,
    "rate": NOT_RATES,
    "timeout": NOT_SECONDS,
    "queue_timeout": NOT_SECONDS,
    "priority": [*NOT_NUMBERS, None, NAN],
    "name": [b"name", 4, 2.5, True, ["name"], object()],
}
CASES = [(option, value) for option, values in NONSENSE.items() for value in values]
IDS = [f"{option}={value!r:.20}-{number}" for number, (option, value) in enumerate(CASES)]


def refusal_of(value: object, name: str) -> Any:
    """The error says which argument was wrong, and what came."""
    shown = re.escape(repr(value)[:20])
    return pytest.raises((TypeError, ValueError), match=rf"(?s)^{name} must be .*{shown}")


# Where they're made.


@pytest.mark.parametrize(("option", "value"), CASES, ids=IDS)
def test_a_lane_refuses_nonsense(option, value) -> None:
    """`lane` refuses it with a `TypeError` or `ValueError` that begins with the option's name."""
    executor = Executor(slots=1)
    with refusal_of(value, option):
        executor.lane(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [case for case in CASES if case[0] != "priority"],
    ids=[case_id for case_id in IDS if not case_id.startswith("priority")],
)
def test_an_executor_refuses_nonsense(option, value) -> None:
    """`Executor` refuses the same values, in the same words."""
    with refusal_of(value, option):
        Executor(**({"slots": 1} | {option: value}))


@pytest.mark.parametrize("value", [*NOT_COUNTS, 0, math.inf], ids=lambda value: f"{value!r:.15}")
def test_a_rate_refuses_nonsense_for_its_limit(value) -> None:
    """A limit is an int from 1; no limit at all isn't a rate."""
    with refusal_of(value, "limit"):
        Rate(value)


@pytest.mark.parametrize(
    "value", [*NOT_SECONDS, None, math.inf], ids=lambda value: f"{value!r:.15}"
)
def test_a_rate_refuses_nonsense_for_its_window(value) -> None:
    """A window is a finite number of seconds above 0."""
    with refusal_of(value, "per"):
        Rate(1, value)
    with refusal_of(value, "per"):
        Rate(limit=1, per=value)


@pytest.mark.parametrize(
    "options",
    [{"speed": 4}, {"limit": 4}, {"interval": 1}, {"concurrency": 4}],
    ids=lambda options: "".join(options),
)
def test_unknown_options_are_refused(options) -> None:
    """Options of other libraries aren't taken for ours."""
    with pytest.raises(TypeError, match="".join(options)):
        Executor(1, **options)
    with pytest.raises(TypeError, match="".join(options)):
        Executor(1).lane(**options)


def test_options_are_given_by_name() -> None:
    """Only an executor's slots, and a lane's name, are understood by their place."""
    with pytest.raises(TypeError, match="positional"):
        Executor(1, 2)
    with pytest.raises(TypeError, match="positional"):
        Executor(1).lane("name", 2)


# What's accepted looks like some of it.


@pytest.mark.parametrize("infinity", [math.inf, float("inf")], ids=["math.inf", "float"])
async def test_infinity_is_accepted_however_it_was_made(infinity) -> None:
    """Where infinity makes sense, it needn't be the very object that `math.inf` is."""
    async with Executor(
        infinity, max_pending=infinity, timeout=infinity, queue_timeout=infinity
    ) as executor:
        lane = executor.lane(
            slots=infinity, max_pending=infinity, timeout=infinity, queue_timeout=infinity
        )
        lane.slots = executor.slots = infinity
        futures = [lane.submit(anyio.sleep, 0) for _ in range(20)]
        for future in futures:
            await future
        assert executor.statistics().slots == lane.statistics().slots == math.inf


async def test_what_is_just_within_bounds_is_accepted() -> None:
    """The least numbers that make sense, floats of seconds, and any iterable of rates, are fine."""
    rates = [Rate(1, 1e-9), Rate(1, 1), Rate(10**9, 0.5)]
    async with Executor(1, max_pending=0, rate=iter(rates), timeout=1e9, name="") as executor:
        lane = executor.lane("", slots=1, priority=-0.5, rate=(Rate(2),), queue_timeout=10**9)
        await lane.submit(anyio.sleep, 0)
    assert Rate(1) == Rate(limit=1, per=1.0)


# Setters.


@pytest.mark.parametrize("value", NONSENSE["slots"], ids=lambda value: f"{value!r:.15}")
async def test_the_slots_stay_when_nonsense_is_set(value) -> None:
    """Setting `slots` to nonsense raises, keeps the old number, and starts or ends nothing."""
    released = anyio.Event()
    async with Executor(slots=3) as executor:
        lane = executor.lane(slots=2)
        resizables: list[Lane] = [lane, executor]
        for resizable in resizables:
            for _ in range(3):
                resizable.submit(released.wait)
        before = executor.statistics(), lane.statistics()
        for resizable in resizables:
            with refusal_of(value, "slots"):
                resizable.slots = value
        assert (executor.slots, lane.slots) == (3, 2)
        assert (executor.statistics(), lane.statistics()) == before
        released.set()


@pytest.mark.parametrize("name", ["limit", "per", "cost"])
def test_a_rate_cannot_be_changed(name) -> None:
    """A `Rate` is a value."""
    with pytest.raises(AttributeError):
        setattr(Rate(1, 2), name, 3)
