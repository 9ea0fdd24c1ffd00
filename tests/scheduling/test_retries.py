"""`Retry`: what it accepts, which exceptions it matches, and how long it waits."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import typing
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyslots._scheduling.retries import Retry


def steady(**options: Any) -> Retry:
    """Return a policy without jitter."""
    return Retry(**{"attempts": 1000, "jitter": False, **options})


def delay(retry: Retry, exception: Exception | None = None, attempt: int = 1) -> float | None:
    return retry.delay(OSError() if exception is None else exception, attempt, Random(1))


class Hostile(OSError):
    """An exception that can be looked at only by its type."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked at")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")

    __hash__ = None  # type: ignore[assignment]


async def is_transient(exception: Exception) -> bool:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "attempts must be an int from 1, not 0"),
        ({"attempts": -1}, ValueError, "attempts must be an int from 1, not -1"),
        ({"attempts": True}, TypeError, "attempts must be an int, not True"),
        ({"attempts": 2.0}, TypeError, "attempts must be an int, not 2.0"),
        ({"attempts": math.inf}, TypeError, "attempts must be an int, not inf"),
        ({"wait": -0.1}, ValueError, "wait must be seconds from 0, finite, not -0.1"),
        ({"wait": math.inf}, ValueError, "wait must be seconds from 0, finite, not inf"),
        ({"wait": math.nan}, ValueError, "wait must be seconds from 0, finite, not nan"),
        ({"wait": "1"}, TypeError, "wait must be a number of seconds, not '1'"),
        ({"wait": True}, TypeError, "wait must be a number of seconds, not True"),
        ({"most": -1}, ValueError, "most must be seconds from 0, finite, not -1"),
        ({"most": math.inf}, ValueError, "most must be seconds from 0, finite, not inf"),
        ({"most": 10**400}, ValueError, "most must be seconds from 0, finite, not 1000"),
        ({"most": None}, TypeError, "most must be a number of seconds, not None"),
        ({"factor": 0.5}, ValueError, "factor must be a finite number from 1, not 0.5"),
        ({"factor": math.inf}, ValueError, "factor must be a finite number from 1, not inf"),
        ({"factor": math.nan}, ValueError, "factor must be a finite number from 1, not nan"),
        ({"factor": "2"}, TypeError, "factor must be a number, not '2'"),
        ({"jitter": 1}, TypeError, "jitter must be a bool, not 1"),
        ({"jitter": None}, TypeError, "jitter must be a bool, not None"),
        ({"on": None}, TypeError, "on must be exception classes or a function"),
        ({"on": 429}, TypeError, "on must be exception classes or a function"),
        ({"on": int}, TypeError, "on must be exception classes .* not <class 'int'>"),
        ({"on": "OSError"}, TypeError, "on must be exception classes .* not 'O'"),
        ({"on": OSError()}, TypeError, "on must be exception classes .* not OSError"),
        ({"on": (OSError, 429)}, TypeError, "on must be exception classes .* not 429"),
        ({"on": (OSError, (KeyError,))}, TypeError, "on must be exception classes .* not \\("),
        ({"on": BaseException}, TypeError, "on must be subclasses of Exception, .*BaseException"),
        ({"on": KeyboardInterrupt}, TypeError, "on must be subclasses of Exception"),
        ({"on": (OSError, SystemExit)}, TypeError, "subclasses of Exception, .*SystemExit"),
        ({"on": [asyncio.CancelledError]}, TypeError, "subclasses of Exception, .*CancelledError"),
        ({"on": BaseExceptionGroup}, TypeError, "on must be subclasses of Exception"),
        ({"on": is_transient}, TypeError, "on must be a plain function, not the async function"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Retry(**options)


def test_every_option_but_attempts_is_keyword_only() -> None:
    assert Retry(3).attempts == 3
    with pytest.raises(TypeError):
        Retry(3, OSError)  # type: ignore[misc]


def test_policies_compare_hash_copy_and_pickle_by_value() -> None:
    policy = Retry(3, on=[OSError, KeyError], wait=1)
    assert policy == Retry(3, on=(OSError, KeyError), wait=1.0) != Retry(3)
    assert len({policy, Retry(3, on=iter([OSError, KeyError]), wait=1)}) == 1
    assert copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy)) == policy


def test_type_hints_resolve() -> None:
    assert typing.get_type_hints(Retry)["wait"] is float
    assert typing.get_type_hints(Retry.delay)["return"] == float | None


@pytest.mark.parametrize(
    ("on", "exception", "matches"),
    [
        (Exception, OSError(), True),
        (OSError, ConnectionResetError(), True),
        (OSError, ValueError(), False),
        ((KeyError, OSError), OSError(), True),
        ([KeyError, OSError], ValueError(), False),
        ((), OSError(), False),
        (OSError, ExceptionGroup("two", [OSError(), OSError()]), False),
        (ExceptionGroup, ExceptionGroup("two", [OSError(), OSError()]), True),
        (OSError, Hostile(), True),
        ((ValueError, KeyError), Hostile(), False),
    ],
    ids=range(10),
)
def test_classes_match_as_by_except(on: Any, exception: Exception, matches: bool) -> None:
    assert delay(steady(on=on), exception) == (0.5 if matches else None)


def test_an_iterator_of_classes_serves_every_failure() -> None:
    policy = steady(on=iter([KeyError, OSError]))
    assert [delay(policy, OSError(), n) for n in (1, 2)] == [0.5, 1.0]


def test_a_class_that_claims_all_matches_only_its_own() -> None:
    """`except` doesn't ask a metaclass either."""

    class Claims(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return True

        __subclasscheck__ = __instancecheck__

    class Greedy(Exception, metaclass=Claims):
        pass

    assert delay(steady(on=Greedy), OSError()) is None
    assert delay(steady(on=Greedy), Greedy()) == 0.5


def test_attempts_is_the_number_of_starts() -> None:
    asked: list[Exception] = []
    policy = steady(attempts=3, on=lambda exception: asked.append(exception) or True)
    assert [delay(policy, attempt=n) for n in (1, 2, 3, 4)] == [0.5, 1.0, None, None]
    assert len(asked) == 2, "not asked where there is no attempt left"
    assert delay(Retry(1)) is None


def test_the_wait_grows_by_factor_up_to_most() -> None:
    policy = steady(wait=0.5, factor=3, most=10)
    assert [delay(policy, attempt=n) for n in (1, 2, 3, 4, 5)] == [0.5, 1.5, 4.5, 10.0, 10.0]
    assert delay(steady(wait=90)) == 60.0
    assert type(delay(steady(wait=90, most=60))) is float


@pytest.mark.parametrize("factor", [2, 2.0, 10**300, 1e300])
def test_late_attempts_wait_for_most(factor: float) -> None:
    policy = Retry(10**12, factor=factor, jitter=False)
    assert delay(policy, attempt=10**11) == 60.0
    assert delay(Retry(10**12, factor=factor, wait=0, jitter=False), attempt=10**11) == 0.0


@given(
    wait=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    most=st.floats(0, 1e9),
    attempt=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_the_usual_wait_is_what_is_documented(
    wait: float, factor: float, most: float, attempt: int, seed: int
) -> None:
    exact = min(Fraction(most), Fraction(wait) * Fraction(factor) ** (attempt - 1))
    usual = delay(steady(wait=wait, factor=factor, most=most), attempt=attempt)
    assert type(usual) is float
    assert usual == pytest.approx(float(exact), rel=1e-9)
    jittered = Retry(99, wait=wait, factor=factor, most=most)
    assert jittered.delay(OSError(), attempt, Random(seed)) == usual * Random(seed).random()


def test_jitter_spreads_waits_over_all_of_the_wait() -> None:
    random, policy = Random(1), Retry(9, wait=8)
    waits = [policy.delay(OSError(), 1, random) or 0.0 for _ in range(1000)]
    for low in range(8):
        assert 90 < sum(low <= wait < low + 1 for wait in waits) < 160


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (False, None),
        (None, None),
        (True, 0.5),
        (0, 0.0),
        (0.0, 0.0),
        (7, 7.0),
        (0.25, 0.25),
        (3600.0, 3600.0),
    ],
)
def test_a_function_says_whether_and_when(answer: Any, expected: float | None) -> None:
    found = delay(steady(on=lambda exception: answer))
    assert found == expected
    assert type(found) is type(expected)


def test_jitter_leaves_seconds_of_the_function_alone() -> None:
    assert delay(Retry(on=lambda exception: 120)) == 120.0


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (-1, ValueError, "on must return seconds from 0, finite, not -1"),
        (math.nan, ValueError, "on must return seconds from 0, finite, not nan"),
        (math.inf, ValueError, "on must return seconds from 0, finite, not inf"),
        (10**400, ValueError, "on must return seconds from 0, finite, not 1000"),
        ("2", TypeError, "on must return a bool, None or a number of seconds, not '2'"),
        (Fraction(1), TypeError, "on must return .* not Fraction"),
        ([], TypeError, "on must return .* not \\[\\]"),
    ],
)
def test_any_other_answer_is_an_error(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        delay(steady(on=lambda exception: answer))


def test_an_error_of_the_function_comes_out() -> None:
    def broken(exception: Exception) -> bool:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        delay(Retry(on=broken))


def test_the_function_gets_the_exception_itself() -> None:
    given: list[Exception] = []
    exception = Hostile()
    delay(Retry(on=lambda exception: given.append(exception)), exception)
    assert given[0] is exception
