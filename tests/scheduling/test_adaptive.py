"""`Adaptive` and its controller: rule by rule, and against simulated servers."""

from __future__ import annotations

import copy
import math
import pickle
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import Known, Server, efficiency, simulate

from anyslots._scheduling.adaptive import Adaptive, AdaptiveLimit


class Overloaded(Exception):
    pass


def limit_of(start: int = 4, **options: Any) -> AdaptiveLimit:
    return AdaptiveLimit(Adaptive(start, **{"on": Overloaded, **options}))


def succeed(limit: AdaptiveLimit, times: int) -> None:
    for _ in range(times):
        limit.succeeded(saturated=True)


def succeed_until_probe(limit: AdaptiveLimit) -> int:
    """Return how many successes it takes until the limit goes beyond what it settled at."""
    settled = limit.ceiling
    for successes in range(100_000):
        if limit.limit > settled:
            return successes
        limit.succeeded(saturated=True)
    raise AssertionError("never")


# What is accepted


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": 0}, ValueError, "start must be an int from 1, not 0"),
        ({"start": 2.5}, TypeError, "start must be an int, not 2.5"),
        ({"start": True}, TypeError, "start must be an int, not True"),
        ({"least": 0}, ValueError, "least must be an int from 1, not 0"),
        ({"least": "1"}, TypeError, "least must be an int, not '1'"),
        ({"most": 0}, ValueError, "most must be an int from 1, not 0"),
        ({"most": 9, "least": 10}, ValueError, "most must be an int from 10, not 9"),
        ({"most": math.inf}, TypeError, "most must be an int, not inf"),
        ({"backoff": 0}, ValueError, "backoff must be above 0 and below 1, not 0"),
        ({"backoff": 1.0}, ValueError, "backoff must be above 0 and below 1, not 1.0"),
        ({"backoff": math.nan}, ValueError, "backoff must be above 0 and below 1, not nan"),
        ({"backoff": "0.5"}, TypeError, "backoff must be a number, not '0.5'"),
        ({"backoff": True}, TypeError, "backoff must be a number, not True"),
        ({"on": None}, TypeError, "on must be exception classes or a function"),
        ({"on": KeyboardInterrupt}, TypeError, "on must be subclasses of Exception"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        limit_of(**options)


def test_on_has_no_default() -> None:
    with pytest.raises(TypeError, match="on"):
        Adaptive()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Adaptive(4, 1, 1000, on=OSError)  # type: ignore[misc]


def test_policies_compare_hash_copy_and_pickle_by_value() -> None:
    policy = Adaptive(on=[OSError])
    assert policy == Adaptive(4, on=(OSError,)) != Adaptive(5, on=(OSError,))
    assert len({policy, Adaptive(on=iter([OSError]))}) == 1
    assert copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy)) == policy


def test_type_hints_resolve() -> None:
    assert typing.get_type_hints(Adaptive)["backoff"] is float
    assert typing.get_type_hints(AdaptiveLimit.overloaded)["epoch"] is int


@pytest.mark.parametrize(("start", "limit"), [(1, 5), (5, 5), (7, 7), (9, 9), (1000, 9)])
def test_start_is_brought_within_the_bounds(start: int, limit: int) -> None:
    assert limit_of(start, least=5, most=9).limit == limit


# Rule by rule


def test_the_limit_doubles_per_round_until_the_first_overload() -> None:
    limit = limit_of(4)
    for expected in (8, 16, 32, 64):
        succeed(limit, limit.limit)
        assert limit.limit == expected


def test_it_grows_only_while_the_limit_holds_jobs_back() -> None:
    limit = limit_of(4)
    for _ in range(1000):
        limit.succeeded(saturated=False)
    assert limit.limit == 4
    limit.overloaded(limit.epoch)
    for _ in range(1000):
        limit.succeeded(saturated=False)
    assert limit.limit == 2


@pytest.mark.parametrize(("backoff", "cut"), [(0.5, 50), (0.9, 90), (0.25, 25), (0.001, 3)])
def test_an_overload_multiplies_by_backoff(backoff: float, cut: int) -> None:
    limit = limit_of(100, least=3, backoff=backoff)
    limit.overloaded(0)
    assert limit.limit == cut


def test_one_cut_answers_all_jobs_that_had_started_before() -> None:
    limit = limit_of(100)
    for _ in range(100):
        limit.overloaded(0)
    assert (limit.limit, limit.epoch) == (50, 1)
    limit.overloaded(1)
    assert (limit.limit, limit.epoch) == (25, 2)
    for _ in range(100):
        limit.overloaded(0)
    assert limit.limit == limit.floor == 25
    succeed(limit, 20)
    assert limit.limit == 45, "overloads of long ago say nothing about now"


def test_it_recovers_to_just_below_the_overload() -> None:
    limit = limit_of(100)
    limit.overloaded(0)
    succeed(limit, 49)
    assert limit.limit == 99
    succeed(limit, 100)
    assert limit.limit == 99


def test_each_further_overload_of_an_epoch_counts_one_less() -> None:
    limit = limit_of(100)
    for _ in range(20):
        limit.overloaded(0)
    succeed(limit, 200)
    assert limit.limit == 80
    limit.overloaded(0)
    assert limit.limit == 79, "one that comes late, too"


def test_a_probe_comes_later_each_time_it_fails() -> None:
    limit = limit_of(100)
    limit.overloaded(0)
    waits = []
    for _ in range(8):
        waits.append(succeed_until_probe(limit))
        limit.overloaded(limit.epoch)
    assert waits == sorted(waits)
    assert waits[0] < 5 * 100
    assert 15 * 99 < waits[-1] <= 16 * 99, "but it comes"


def test_a_probe_that_passes_goes_on_in_ever_larger_steps() -> None:
    limit = limit_of(100)
    limit.overloaded(0)
    succeed_until_probe(limit)
    ceilings = []
    while limit.limit < 1000:
        limit.succeeded(saturated=True)
        if limit.ceiling not in ceilings:
            ceilings.append(limit.ceiling)
    assert ceilings == [100, 102, 106, 114, 130, 162, 226, 354, 610, 1000]


def test_an_overload_out_of_a_probe_makes_probes_frequent_again() -> None:
    limit = limit_of(100)
    limit.overloaded(0)
    for _ in range(5):
        rare = succeed_until_probe(limit)
        limit.overloaded(limit.epoch)
    limit.overloaded(limit.epoch)
    assert succeed_until_probe(limit) < rare / 3


def test_probes_at_few_jobs_wait_for_more_rounds() -> None:
    limit = limit_of(3)
    for _ in range(6):
        limit.overloaded(limit.epoch)
        successes = succeed_until_probe(limit)
    assert limit.limit == 3
    assert successes == 16 * 8


def test_at_most_nothing_changes_any_more() -> None:
    limit = limit_of(10, least=10, most=10)
    succeed(limit, 10_000)
    assert limit.limit == 10
    limit.overloaded(0)
    succeed(limit, 10_000)
    assert limit.limit == 10


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 50),
    st.floats(0.01, 0.99),
    st.lists(
        st.one_of(
            st.tuples(st.just("succeeded"), st.integers(1, 200)),
            st.tuples(st.just("unsaturated"), st.integers(1, 3)),
            st.tuples(st.just("overloaded"), st.integers(0, 3)),
        ),
        max_size=60,
    ),
)
def test_any_course_keeps_the_bounds_and_cuts_once_per_epoch(
    start: int, least: int, more: int, backoff: float, course: list[tuple[str, int]]
) -> None:
    limit = limit_of(start, least=least, most=least + more, backoff=backoff)
    for event, number in course:
        before, epoch, ceiling = limit.limit, limit.epoch, limit.ceiling
        if event == "succeeded":
            for _ in range(number):
                previous = limit.limit
                limit.succeeded(saturated=True)
                assert limit.limit - previous in (0, 1)
            assert limit.epoch == epoch
        elif event == "unsaturated":
            limit.succeeded(saturated=False)
            assert (limit.limit, limit.epoch, limit.ceiling) == (before, epoch, ceiling)
        else:
            limit.overloaded(epoch - number)
            assert limit.epoch == epoch + (number == 0)
            if number == 0:
                assert limit.limit == max(least, int(before * backoff))
            else:
                assert before - limit.limit in (0, 1)
        assert least <= limit.floor <= limit.limit <= limit.ceiling <= least + more


# What is an overload


def test_overloads_match_by_class_or_by_function() -> None:
    assert limit_of().matches(Overloaded())
    assert not limit_of().matches(OSError())
    assert limit_of(on=[OSError, Overloaded]).matches(ConnectionError())
    assert not limit_of(on=OSError).matches(ExceptionGroup("one", [OSError()]))
    by_function = limit_of(on=lambda exception: exception.args)
    assert by_function.matches(Exception(429)) is True
    assert by_function.matches(Exception()) is False


def test_an_error_of_the_function_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        limit_of(on=lambda exception: 1 / 0).matches(OSError())


# Against simulated servers


@pytest.mark.parametrize("spread", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("capacity", [2, 3, 5, 12, 33, 80, 129, 257, 500])
def test_it_finds_the_capacity(capacity: int, spread: float) -> None:
    jobs = max(1000, (200 if capacity < 100 else 100) * capacity)
    share, run = efficiency(limit_of(), Server(capacity, spread=spread), jobs)
    assert share >= 0.92
    assert run.overload_share <= 0.02


@pytest.mark.parametrize("start", [1, 100, 1000])
def test_it_finds_the_capacity_from_any_start(start: int) -> None:
    share, run = efficiency(limit_of(start), Server(50, spread=0.3), 10_000)
    assert share >= 0.92
    assert run.overload_share <= 0.02


@pytest.mark.parametrize("capacity", [3, 30, 200])
@pytest.mark.parametrize(
    "options",
    [
        {"slowdown": 1.0},
        {"slowdown": 3.0, "spread": 0.5},
        {"refusal": 0.001},
        {"refusal": 1.0, "spread": 0.5},
    ],
    ids=str,
)
def test_growing_latency_and_slow_refusals_do_no_harm(
    capacity: int, options: dict[str, float]
) -> None:
    share, run = efficiency(limit_of(), Server(capacity, **options), max(1000, 150 * capacity))
    assert share >= 0.92
    assert run.overload_share <= 0.02


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("low", [2, 5, 20, 60])
@pytest.mark.parametrize("length", [50, 200])
def test_it_follows_a_capacity_that_changes(low: int, spread: float, length: int) -> None:
    high = 5 * low
    risen, _ = efficiency(limit_of(), Server(low, high, spread=spread), length * high)
    assert risen >= 0.85
    fallen, _ = efficiency(limit_of(), Server(high, low, spread=spread), length * high)
    assert fallen >= 0.95


@pytest.mark.parametrize("capacity", [5, 50, 200])
def test_it_follows_a_capacity_that_wobbles(capacity: int) -> None:
    server = Server(capacity, spread=0.5, wobble=0.3)
    share, run = efficiency(limit_of(), server, 200 * capacity)
    assert share >= 0.85
    assert run.overload_share <= 0.03


@pytest.mark.parametrize("capacity", [5, 50, 200])
def test_a_rare_error_whatever_the_load_does_no_harm(capacity: int) -> None:
    share, _ = efficiency(limit_of(), Server(capacity, spread=0.5, flaky=0.001), 200 * capacity)
    assert share >= 0.9


@pytest.mark.parametrize("jobs", [1, 10, 30, 100, 300])
@pytest.mark.parametrize("capacity", [2, 5, 8, 100])
def test_short_runs_are_no_slower_than_where_they_start(capacity: int, jobs: int) -> None:
    for seed in range(20):
        server = Server(capacity, spread=0.5)
        adaptive = simulate(limit_of(), server, jobs, seed)
        fixed = simulate(limit_of(min(4, capacity), most=min(4, capacity)), server, jobs, seed)
        assert adaptive.seconds <= fixed.seconds * 1.1 + 2
        assert adaptive.overloads <= 3 + jobs / 10


# The simulation itself


def test_the_simulated_server_is_as_fast_as_its_capacity() -> None:
    server = Server(10)
    assert simulate(Known(server), server, 1000).seconds == pytest.approx(100)
    assert simulate(limit_of(5, most=5), server, 1000).seconds == pytest.approx(200)
    assert simulate(Known(server), Server(10, slowdown=1.0), 1000).seconds > 150
    changing = Server(10, later=50)
    assert simulate(Known(changing), changing, 1000).seconds == pytest.approx(60, abs=1)


def test_the_simulated_server_refuses_beyond_its_capacity() -> None:
    assert simulate(limit_of(10, least=10), Server(10), 100).overloads > 0
    assert simulate(limit_of(10, most=10), Server(10), 1000).overloads == 0
    flaky = simulate(limit_of(1, most=1), Server(10, flaky=0.5), 1000)
    assert 800 < flaky.overloads < 1200
    assert flaky == simulate(limit_of(1, most=1), Server(10, flaky=0.5), 1000)
