"""Lanes by key: a mapping that remembers a key for as long as its limits matter."""

from __future__ import annotations

import gc
import math
import random
import threading
import tracemalloc
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread
import pytest
from jobs import Crew, Starts, all_blocked, give
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, KeyedLanes, Lane, Rate, from_thread

virtual = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


# As a mapping.


def test_a_key_has_one_lane_for_as_long_as_it_is_held() -> None:
    hosts = Executor(4).keyed(slots=2)
    assert isinstance(hosts, KeyedLanes)
    assert isinstance(hosts, Mapping)
    lane = hosts["a"]
    assert isinstance(lane, Lane)
    assert hosts["a"] is lane
    assert hosts["b"] is not lane
    assert (lane.slots, lane.name) == (2, "a")
    assert lane.parent is lane.executor


def test_in_and_get_make_none() -> None:
    hosts = Executor(4).keyed()
    assert "a" not in hosts
    assert hosts.get("a") is None
    assert hosts.get("a", 3) == 3
    assert (len(hosts), list(hosts)) == (0, [])
    lane = hosts["a"]
    assert "a" in hosts
    assert hosts.get("a") is lane
    assert (len(hosts), list(hosts), list(hosts.items())) == (1, ["a"], [("a", lane)])
    del lane
    assert "a" not in hosts
    assert hosts.get("a") is None
    assert len(hosts) == 0


def test_any_hashable_is_a_key() -> None:
    hosts = Executor(4).keyed()
    keys: list[Any] = [None, 0, "", (1, "x"), frozenset(), 2.5]
    lanes = [hosts[key] for key in keys]
    assert list(hosts) == keys
    assert [hosts[key] for key in keys] == lanes
    with pytest.raises(TypeError):
        hosts[[]]
    with pytest.raises(TypeError):
        [] in hosts  # noqa: B015
    assert "6 keys" in repr(hosts)


def test_keys_before_the_block_work_outside_of_an_event_loop() -> None:
    hosts = Executor(4).keyed(rate=Rate(1))
    for number in range(10):
        assert hosts[number].rate == (Rate(1),)
    assert len(hosts) == 0


def test_options_by_function_of_the_key() -> None:
    calls: list[str] = []

    def options(key: str) -> dict[str, Any]:
        calls.append(key)
        return {"slots": len(key), "priority": 1, "timeout": 3}

    executor = Executor(9, timeout=4)
    tenants = executor.keyed(options)
    short, long = tenants["a"], tenants["abc"]
    assert (short.slots, long.slots, long.priority, long.timeout) == (1, 3, 1, 3)
    assert tenants["abc"] is long
    assert calls == ["a", "abc"]


@pytest.mark.parametrize(
    "options",
    [{"slots": 0}, {"slots": "2"}, {"rate": 3}, {"speed": 3}, {"timeout": -1}, {"name": "x"}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    executor = Executor(4)
    with pytest.raises((TypeError, ValueError)):
        executor.keyed(**options)
    keyed = executor.keyed(lambda key: options)
    with pytest.raises((TypeError, ValueError)):
        keyed["a"]
    assert "a" not in keyed
    assert executor.children == ()


def test_bad_functions() -> None:
    executor = Executor(4)
    for wrong in (3, "slots", {"slots": 3}):
        with pytest.raises(TypeError):
            executor.keyed(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        executor.keyed(lambda key: {}, slots=3)  # type: ignore[call-overload]

    def fail(key: object) -> dict[str, Any]:
        raise LookupError(key)

    with pytest.raises(LookupError):
        executor.keyed(fail)["a"]
    with pytest.raises(TypeError):
        executor.keyed(lambda key: 3)["a"]  # type: ignore[arg-type, return-value]
    assert executor.children == ()


# When a key is forgotten.


@virtual
@pytest.mark.parametrize("held_by", ["handle", "job", "queue", "pause", "timed", "close", "rate"])
def test_a_key_stays_while_its_lane_matters(backend, held_by) -> None:
    async def main() -> None:
        async with Executor(1) as executor:
            hosts = executor.keyed(rate=Rate(1, per=9) if held_by == "rate" else None)
            lane: Lane | None = hosts["a"]
            assert lane is not None
            future = None
            if held_by == "job":
                future = lane.submit(anyio.sleep, 9)
            elif held_by == "queue":
                executor.submit(anyio.sleep, 9)
                future = lane.submit(anyio.sleep, 0)
            elif held_by == "pause":
                lane.pause()
            elif held_by == "timed":
                lane.pause(9)
            elif held_by == "close":
                lane.close()
            elif held_by == "rate":
                await lane.submit(anyio.sleep, 0)
            if held_by != "handle":
                lane = None
            await anyio.sleep(8.5)
            assert "a" in hosts
            assert list(hosts) == ["a"]
            same = hosts["a"]
            if held_by in ("pause", "timed"):
                assert same.paused
            if held_by == "pause":
                same.resume()
            if held_by == "close":
                with pytest.raises(RuntimeError):
                    same.submit(anyio.sleep, 0)
            del same
            lane = None
            if future is not None:
                await future
                future = None
            await anyio.sleep(1)
            assert ("a" in hosts) is (held_by == "close")

    run_in_virtual_time(backend, main)


@virtual
def test_a_forgotten_key_starts_anew(backend) -> None:
    async def main() -> Starts:
        starts = Starts()
        async with Executor(math.inf) as executor:
            hosts = executor.keyed(rate=Rate(2, per=10))
            hosts["a"].slots = 1
            for _ in range(3):
                hosts["a"].submit(starts, "a")
            assert len(hosts) == 1
            await anyio.sleep(25)
            assert len(hosts) == 0
            assert hosts["a"].slots == math.inf
            for _ in range(3):
                hosts["a"].submit(starts, "a")
        return starts

    assert [time for _, time in run_in_virtual_time(backend, main)] == [0, 0, 10, 25, 25, 35]


@virtual
def test_statistics_keep_what_forgotten_keys_have_counted(backend) -> None:
    async def main() -> None:
        async with Executor(4) as executor:
            outer = executor.lane()
            hosts = outer.keyed()
            for number in range(50):
                await hosts[number].submit(anyio.sleep, 0)
            gc.collect()
            assert len(hosts) == 0
            assert len(outer.children) == 0
            assert outer.statistics().succeeded == executor.statistics().succeeded == 50

    run_in_virtual_time(backend, main)


@virtual
def test_what_is_set_or_closed_outside_holds_for_keys_made_later(backend) -> None:
    async def main() -> None:
        async with Executor(4) as executor:
            outer = executor.lane()
            hosts = outer.keyed()
            await hosts["a"].submit(anyio.sleep, 0)
            outer.timeout = 5
            assert hosts["a"].timeout == hosts["b"].timeout == 5
            outer.close()
            for key in ("a", "b", "c"):
                with pytest.raises(RuntimeError):
                    hosts[key].submit(anyio.sleep, 0)

    run_in_virtual_time(backend, main)


# Compared with a dictionary that never forgets.


class Dictionary(dict[Any, Lane]):
    def __init__(self, lane: Lane, options: Any) -> None:
        self.lane = lane
        self.options = options

    def __missing__(self, key: Any) -> Lane:
        self[key] = self.lane.lane(str(key), **self.options(key))
        return self[key]


def options_of(key: int) -> dict[str, Any]:
    return [
        {"slots": 2, "rate": Rate(1, per=3)},
        {"rate": [Rate(2, per=4), Rate(3, per=16)]},
        {"slots": 1},
        {"rate": Rate(5, per=8, cost=lambda key, seconds: 1 + seconds)},
    ][key % 4]


async def start_times(seed: int, kind: str) -> Starts:
    chosen = random.Random(seed)
    # No two things happen at one instant: their order would be up to the event loop.
    starts = Starts()
    async with Executor(math.inf) as executor:
        lanes: Any = Dictionary(executor, options_of)
        if kind == "keyed":
            lanes = executor.keyed(options_of)
        for number in range(80):
            key = chosen.randrange(12)
            lanes[key].submit(starts, key, chosen.randrange(4) + number / 1024 + 1 / 3)
            if chosen.random() < 0.1:
                lanes[chosen.randrange(12)].pause(chosen.randrange(6) + number / 7000)
            if chosen.random() < 0.5:
                await anyio.sleep(chosen.choice([0, 0.125, 1, 4, 9]) + number / 5000)
    return starts


@virtual
def test_jobs_start_as_with_a_dictionary_that_never_forgets(backend) -> None:
    for seed in range(12):
        expected = run_in_virtual_time(backend, start_times, seed, "dictionary")
        found = run_in_virtual_time(backend, start_times, seed, "keyed")
        assert sorted(found) == sorted(expected), seed


# From other threads.


@pytest.mark.anyio
async def test_keys_are_looked_up_in_any_thread() -> None:
    async def job(key: int) -> int:
        await anyio.lowlevel.checkpoint()
        return key

    def submit_all(results: list[int]) -> None:
        futures = [from_thread.submit(hosts[key % 100], job, key) for key in range(300)]
        results.extend(future.result(20) for future in futures)

    async with Executor(20) as executor:
        hosts = executor.keyed(slots=1, rate=Rate(10**6, per=0.01))
        gathered: list[list[int]] = [[], [], []]
        async with anyio.create_task_group() as group:
            for results in gathered:
                group.start_soon(anyio.to_thread.run_sync, submit_all, results)
        assert gathered == [list(range(300))] * 3
        counts = executor.statistics()
        assert (counts.submitted, counts.succeeded) == (900, 900)
        await anyio.sleep(0.03)
        gc.collect()
        assert len(hosts) == 0
        assert executor.children == ()


@pytest.mark.anyio
async def test_threads_that_look_up_one_key_get_one_lane() -> None:
    async with Executor(4) as executor:
        hosts = executor.keyed(slots=1)
        barrier = threading.Barrier(4)
        lanes: list[Lane] = []

        def look_up() -> None:
            barrier.wait(10)
            lanes.append(hosts["a"])

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(anyio.to_thread.run_sync, look_up)
        assert len({id(lane) for lane in lanes}) == 1
        assert len(executor.children) == 1


# Memory.


@pytest.mark.anyio
async def test_keys_of_other_threads_are_forgotten_too() -> None:
    def look_up() -> None:
        for number in range(500):
            hosts[number]

    def lanes() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "LaneState" for thing in gc.get_objects())

    async with Executor(4) as executor:
        hosts = executor.keyed(slots=1)
        before = lanes()
        for _ in range(5):
            await anyio.to_thread.run_sync(look_up)
            await anyio.sleep(0.01)
        assert lanes() < before + 600


@pytest.mark.unmeasured
@virtual
def test_memory_is_that_of_the_live_keys(backend) -> None:
    """A hundred thousand keys leave no more than the few that are within their windows."""

    async def main() -> int:
        async with Executor(10) as executor:
            hosts = executor.keyed(slots=2, rate=Rate(5, per=1))
            most = 0

            async def use(count: int) -> None:
                nonlocal most
                for number in range(count):
                    if number % 10:
                        hosts[number]
                    else:
                        await hosts[number].submit(nothing)
                    if number % 100 == 99:
                        await anyio.sleep(0.5)
                        most = max(most, len(executor.children))

            await use(2_000)
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            await use(3_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            await use(95_000)
            assert most <= 1_000
            assert len(hosts) <= 300
            return grown

    async def nothing() -> None: ...

    assert run_in_virtual_time(backend, main) < 300_000


def living_lanes() -> int:
    """How many nodes there are, of whatever tree; `Lane.children` shows only those that matter."""
    gc.collect()
    return sum(type(each).__name__ == "LaneState" for each in gc.get_objects())


@pytest.mark.anyio
async def test_lanes_of_a_dropped_mapping_are_forgotten() -> None:
    """But for one that's held, and one that has jobs until these have ended."""
    async with Executor(2) as executor:
        before = living_lanes()
        mapping = executor.keyed(slots=1)
        held, crew = mapping["held"], Crew()
        future = mapping["busy"].submit(crew.job)
        for n in range(10):
            await mapping[n].submit(give)
        await all_blocked()
        del mapping
        gc.collect()
        executor.lane()
        assert {lane.name for lane in executor.children} == {"held", "busy"}
        assert living_lanes() == before + 3  # and the last one that was made
        crew.release()
        await future
        del future
        executor.lane()
        assert executor.children == (held,)
        assert living_lanes() == before + 2
        assert executor.statistics().succeeded == 11


@pytest.mark.anyio
async def test_a_lane_that_is_recalled_by_a_future_is_forgotten_again() -> None:
    """A key's lane that the mapping has forgotten is like any other."""
    async with Executor(2) as executor:
        hosts, before = executor.keyed(), living_lanes()
        future = hosts["a"].submit(give)
        await future
        for key in "bcd":
            hosts[key]
        lane = future.lane
        assert lane in executor.children
        del lane, future, hosts
        gc.collect()
        executor.lane()
        assert living_lanes() == before + 1
