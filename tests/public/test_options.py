"""Options of executors and lanes: what's refused, in which words, and setting them."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from jobs import Crew, Starts, fail, give, ticks
from virtual_time import virtual

from anyslots import Adaptive, Executor, ExecutorClosed, Lane, QueueTimeout, Rate, Retry, gather

run_anywhere = pytest.mark.anyio
owners = pytest.mark.parametrize("owner", ["executor", "lane"])

NAN, INF = math.nan, math.inf
TENTH, RETRY = Rate(1, per=0.1), Retry(3, wait=0)


async def gate() -> None:
    await checkpoint()


# What's refused.

NOT_NUMBERS: list[Any] = ["4", b"4", [4], (), 1j, Decimal(4), object(), int, True, False]
NOT_COUNTS: list[Any] = [*NOT_NUMBERS, None, -1, -INF, NAN, 2.5, 1.0, Fraction(2), Decimal("inf")]
NOT_SECONDS: list[Any] = [*NOT_NUMBERS, 0, 0.0, -0.0, -1, -0.5, -INF, NAN, 10**400]
NOT_RATES: list[Any] = [*NOT_NUMBERS, 0, 10, NAN, INF, [], [10], [TENTH, None], {1: 2}, Rate]

NONSENSE: dict[str, list[Any]] = {
    "slots": [*NOT_COUNTS, 0, 0.0, Rate(1)],
    "priority": [*NOT_NUMBERS, None, NAN],
    "max_pending": [*NOT_COUNTS, Adaptive(on=OSError)],
    "rate": [*NOT_RATES, Adaptive(on=OSError)],
    "gate": [3, "gate", True, [gate]],
    "timeout": NOT_SECONDS,
    "queue_timeout": NOT_SECONDS,
    "retry": [3, True, "3", [RETRY], ValueError, Adaptive(on=OSError)],
    "name": [b"name", 4, 2.5, True, ["name"], object()],
    "on_error": ["ignore", "", "HOLD", None, 3, ["hold"], {}],
}
HINTS = {"slots": ["int", "math.inf"], "on_error": ["hold", "cancel", "log"], "name": ["str"]}
CASES = [(name, value) for name, values in NONSENSE.items() for value in values]
IDS = [f"{name}={value!r:.20}-{number}" for number, (name, value) in enumerate(CASES)]


def refusal_of(value: object, name: str) -> Any:
    """The error says which argument was wrong, what's accepted, and what came."""
    shown = "".join(f"(?=.*{re.escape(hint)})" for hint in HINTS.get(name, ()))
    shown += f".*{re.escape(repr(value)[:20])}"
    return pytest.raises((TypeError, ValueError), match=rf"(?s)^{name} must be {shown}")


@pytest.mark.parametrize(("name", "value"), CASES, ids=IDS)
@run_anywhere
async def test_nonsense_is_refused_by_name_and_changes_nothing(name, value) -> None:
    if name != "priority":
        with refusal_of(value, name):
            Executor(**({"slots": 1} | {name: value}))
    if name == "on_error":
        return
    async with Executor(3) as executor:
        outer = executor.lane(slots=2)
        with refusal_of(value, name):
            outer.lane(**{name: value})
        assert outer.children == ()
        if name == "name":
            return
        crew = Crew()
        for each in (outer, executor):
            for _ in range(3):
                each.submit(crew.job)
        await ticks(3)
        for each in (outer, executor):
            before = getattr(each, name), each.statistics()
            with refusal_of(value, name):
                setattr(each, name, value)
            assert (getattr(each, name), each.statistics()) == before
        executor.cancel()


@pytest.mark.parametrize("value", [*NOT_COUNTS, 0, INF], ids=lambda value: f"{value!r:.15}")
def test_a_rate_refuses_nonsense_for_its_limit(value) -> None:
    with refusal_of(value, "limit"):
        Rate(value)


@pytest.mark.parametrize("value", [*NOT_SECONDS, None, INF], ids=lambda value: f"{value!r:.15}")
def test_a_rate_refuses_nonsense_for_its_window(value) -> None:
    for arguments in ({"per": value}, {"per": value, "cost": len}):
        with refusal_of(value, "per"):
            Rate(1, **arguments)


def test_a_rate_is_a_value() -> None:
    assert Rate(1) == Rate(limit=1, per=1.0)
    for name in ("limit", "per", "cost"):
        with pytest.raises(AttributeError):
            setattr(Rate(1, 2), name, 3)


@pytest.mark.parametrize("name", ["speed", "limit", "interval", "concurrency", "max_workers"])
def test_unknown_options_are_refused(name) -> None:
    for make in (lambda **options: Executor(1, **options), Executor(1).lane):
        with pytest.raises(TypeError, match=name):
            make(**{name: 4})


def test_only_slots_and_a_lanes_name_go_by_position() -> None:
    assert Executor(slots=4).slots == Executor(4).slots == 4
    assert Executor(1).lane("name").name == "name"
    with pytest.raises(TypeError, match="slots"):
        Executor()  # type: ignore[call-arg]
    for call in (lambda: Executor(4, "hold"), lambda: Executor(1).lane("name", 2)):  # type: ignore[misc]
        with pytest.raises(TypeError, match="positional"):
            call()


@pytest.mark.parametrize("grace", [-1, -0.5, NAN, -INF, "x", "3", []], ids=repr)
@run_anywhere
async def test_a_bad_grace_is_refused_and_the_executor_goes_on(grace) -> None:
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


@pytest.mark.parametrize("grace", [0, 0.0, 1, 2.5, INF, None], ids=repr)
@run_anywhere
async def test_every_number_of_seconds_is_a_grace(grace) -> None:
    async with Executor(1) as executor:
        with anyio.fail_after(5):
            await executor.shutdown(grace)
        with pytest.raises(ExecutorClosed):
            executor.submit(give)


@run_anywhere
async def test_refused_calls_count_nothing() -> None:
    async with Executor(2, name="steady") as executor:
        before = executor.statistics(), repr(executor)
        with pytest.raises(TypeError, match="callable"):
            executor.submit(None)  # type: ignore[arg-type]
        for wrong in ({}, {"fn": give}):
            with pytest.raises(TypeError):
                executor.submit(**wrong)
        with pytest.raises(TypeError):
            await gather(executor)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):
            await executor.__aenter__()
        assert (executor.statistics(), repr(executor)) == before
        assert await gather(*[executor.submit(give, n) for n in range(5)]) == [*range(5)]


@pytest.mark.parametrize("name", ["pending", "name", "paused", "parent", "executor", "children"])
@owners
def test_setting_what_cannot_be_set_is_an_error(owner, name) -> None:
    with pytest.raises(AttributeError, match=name):
        setattr(owner_of(owner)[1], name, 5)
    with pytest.raises(AttributeError):
        Executor(1).statistics().running = 3  # type: ignore[misc]


# What's accepted. Of each option: its default as it's read, what can be set and how that reads.

OPTIONS: dict[str, tuple[Any, list[tuple[Any, Any]]]] = {
    "slots": (INF, [(3, 3), (INF, INF), (Adaptive(5, on=OSError), 5), (10**30, 10**30), (1, 1)]),
    "priority": (0, [(3, 3), (-2.5, -2.5), (INF, INF), (0, 0)]),
    "max_pending": (INF, [(0, 0), (7, 7), (INF, INF)]),
    "rate": (
        (),
        [(TENTH, (TENTH,)), ([TENTH, Rate(9, 1e-9)], (TENTH, Rate(9, 1e-9))), (None, ())],
    ),
    "gate": (None, [(gate, gate), (None, None)]),
    "timeout": (None, [(3, 3), (0.5, 0.5), (1e9, 1e9), (INF, INF), (None, None)]),
    "queue_timeout": (
        None,
        [(3, 3), (0.5, 0.5), (float("inf"), INF), (None, None)],
    ),
    "retry": (None, [(RETRY, RETRY), (False, False), (None, None)]),
}


def owner_of(owner: str, **options: Any) -> tuple[Executor, Lane]:
    if owner == "executor":
        executor = Executor(**({"slots": INF} | options))
        return executor, executor
    executor = Executor(INF)
    return executor, executor.lane(**options)


@pytest.mark.parametrize("name", OPTIONS)
@owners
@virtual
async def test_it_is_read_and_set_before_the_block_and_in_it(owner, name):
    default, settings = OPTIONS[name]
    executor, lane = owner_of(owner)
    assert getattr(lane, name) == default
    for value, reads in settings:
        setattr(lane, name, value)
        assert getattr(lane, name) == reads
        assert type(getattr(lane, name)) is type(reads)
        if owner == "lane" or name != "priority":
            assert getattr(owner_of(owner, **{name: value})[1], name) == reads
    async with executor:
        for value, reads in settings:
            setattr(lane, name, value)
            assert getattr(lane, name) == reads
            await lane.submit(checkpoint)
        lane.close()
        setattr(lane, name, settings[0][0])
        assert getattr(lane, name) == settings[0][1]
        assert executor.statistics().succeeded == executor.statistics().submitted


@pytest.mark.parametrize("on_error", ["hold", "cancel", "log"])
def test_names_policies_and_any_iterable_of_rates(on_error) -> None:
    executor = Executor(1, on_error=on_error, name="", rate=iter([TENTH, Rate(1)]))
    assert (executor.name, executor.rate) == ("", (TENTH, Rate(1)))


@run_anywhere
async def test_in_another_thread_it_can_be_read_only() -> None:
    async with Executor(3, rate=TENTH, timeout=3) as executor:
        lane = executor.lane()

        def use() -> None:
            assert [getattr(lane, name) for name in OPTIONS][4:6] == [None, 3]
            assert executor.rate == (TENTH,)
            for each in (executor, lane):
                for name, (_, settings) in OPTIONS.items():
                    with pytest.raises(RuntimeError, match="thread"):
                        setattr(each, name, settings[0][0])

        await anyio.to_thread.run_sync(use)
        assert (executor.slots, lane.slots, lane.retry) == (3, INF, None)


@pytest.mark.parametrize("name", ["timeout", "queue_timeout", "retry"])
def test_what_is_unset_is_inherited(name) -> None:
    first, second, none = (RETRY, Retry(9), False) if name == "retry" else (3, 5, INF)
    executor = Executor(4)
    outer = executor.lane()
    inner = outer.lane()
    for lane, value, expected in [
        (executor, first, [first, first, first]),
        (outer, second, [first, second, second]),
        (inner, none, [first, second, none]),
        (inner, None, [first, second, second]),
        (outer, None, [first, first, first]),
        (executor, None, [None, None, None]),
    ]:
        setattr(lane, name, value)
        assert [getattr(each, name) for each in (executor, outer, inner)] == expected


@virtual
async def test_a_lane_may_have_none_of_what_its_executor_has():
    async with Executor(1, timeout=1, queue_timeout=1, retry=RETRY, on_error="log") as executor:
        lane = executor.lane(timeout=INF, queue_timeout=INF, retry=False)
        with pytest.raises(TimeoutError):
            await executor.submit(anyio.sleep, 2)
        blocking, queued = lane.submit(anyio.sleep, 5), lane.submit(anyio.sleep, 0)
        with pytest.raises(QueueTimeout):
            await executor.submit(anyio.sleep, 0)
        await gather(blocking, queued)
        futures = [lane.submit(fail), executor.submit(fail)]
        await executor.join()
        assert [future.attempts for future in futures] == [1, 3]


# Effect at once; rates, gates and slots have files of their own.


@virtual
async def test_priority():
    starts = Starts()
    async with Executor(1) as executor:
        executor.submit(starts, "running", 2)
        lanes = [executor.lane(priority=number) for number in range(3)]
        for lane in lanes:
            lane.submit(starts, lane.priority, 1)
            lane.submit(starts, lane.priority, 1)
        await anyio.sleep(2.5)
        lanes[0].priority = 5
    assert starts.names == ["running", 2, 0, 0, 2, 1, 1]


@owners
@virtual
async def test_max_pending(owner):
    executor, lane = owner_of(owner, slots=1, max_pending=1)
    admitted: list[int] = []

    async def enqueue(number: int) -> None:
        await lane.enqueue(anyio.sleep, 0)
        admitted.append(number)

    async with executor, anyio.create_task_group() as group:
        lane.submit(anyio.sleep, 10)
        await anyio.sleep(0.1)
        lane.submit(anyio.sleep, 0)
        for number in range(3):
            group.start_soon(enqueue, number)
            await anyio.sleep(0.1)
        for most, expected in [(1, []), (3, [0, 1]), (0, [0, 1])]:
            lane.max_pending = most
            await anyio.sleep(0.1)
            assert sorted(admitted) == expected
            assert lane.statistics().queued == 1 + len(expected)
            with pytest.raises(anyio.WouldBlock):
                lane.submit(anyio.sleep, 0)
        lane.max_pending = INF
        await anyio.sleep(0.1)
        assert sorted(admitted) == [0, 1, 2]
        lane.submit(anyio.sleep, 0)


@owners
@virtual
async def test_rate(owner):
    starts = Starts()
    executor, lane = owner_of(owner, rate=Rate(1, per=10))
    async with executor:
        inner = lane.lane()
        for number in range(6):
            (inner if number == 5 else lane).submit(starts, number)
        await anyio.sleep(1)
        lane.rate = Rate(2, per=10)  # one more at once, since one has started
        await anyio.sleep(1)
        lane.rate = [Rate(3, per=10), Rate(1, per=5)]
        await anyio.sleep(6)
        lane.rate = None
    assert starts.times == [0, 1, 6, 8, 8, 8]


@owners
@virtual
async def test_timeout_holds_for_later_starts(owner):
    executor, lane = owner_of(owner, slots=1, timeout=2)
    ends: list[Any] = []

    async def watch(future: Any) -> None:
        await future.wait()
        ends.append((type(future.exception()), anyio.current_time()))

    async with executor, anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(watch, lane.submit(anyio.sleep, 5))
        for until, seconds in [(1, 3), (3, INF), (6, 1)]:
            await anyio.sleep_until(until)
            lane.timeout = seconds
    assert ends == [(TimeoutError, 2), (TimeoutError, 5), (type(None), 10), (TimeoutError, 11)]


@owners
@virtual
async def test_queue_timeout_holds_for_later_submissions(owner):
    executor, lane = owner_of(owner, slots=1)
    async with executor:
        blocking, patient = lane.submit(anyio.sleep, 20), lane.submit(anyio.sleep, 0)
        for seconds, time in [(3, 3), (1, 4)]:
            lane.queue_timeout = seconds
            with pytest.raises(QueueTimeout):
                await lane.submit(anyio.sleep, 0)
            assert anyio.current_time() == time
        await gather(blocking, patient)


@owners
@virtual
async def test_retry_holds_for_later_failures(owner):
    async def fail_after(seconds: float) -> None:
        await anyio.sleep(seconds)
        raise ValueError

    executor, lane = owner_of(owner)
    async with executor:
        futures = [lane.submit(fail_after, seconds) for seconds in (1, 3, 5)]
        await anyio.sleep(2)
        lane.retry = Retry(2, wait=0)
        await anyio.sleep(2)
        lane.retry = False if owner == "executor" else None
        await gather(*futures, return_exceptions=True)
    assert [future.attempts for future in futures] == [1, 2, 1]


@virtual
async def test_an_option_set_from_a_job_or_a_callback():
    async def widen() -> None:
        executor.slots = 3

    starts = Starts()
    async with Executor(1) as executor:
        executor.submit(widen)
        futures = [executor.submit(starts, number, 5) for number in range(4)]
        futures[0].add_done_callback(lambda _: setattr(executor, "slots", 9))
    assert starts == [(0, 0), (1, 0), (2, 0), (3, 5)]
