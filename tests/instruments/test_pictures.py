"""What pictures say of limits, of slots that are idle, and on pages to zoom into."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest
from played import Play, PlayedFuture, PlayedLane
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, Rate
from anyslots.instruments import Timeline
from anyslots.instruments._snapshot import PALETTE
from anyslots.instruments._svg import shades_of

in_virtual_time = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

SVG = "{http://www.w3.org/2000/svg}"


async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


def played() -> tuple[Play, Timeline]:
    play = Play()
    timeline = Timeline(clock=play.clock)
    play.instruments = [timeline]
    return play, timeline


def saved(timeline: Timeline, folder: Path) -> str:
    timeline.save_svg(folder / "picture.svg")
    ElementTree.parse(folder / "picture.svg")
    return (folder / "picture.svg").read_text(encoding="utf-8")


def data_of(timeline: Timeline, folder: Path) -> Any:
    """What's embedded in a page."""
    timeline.save_html(folder / "page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    [data] = re.findall(r"^const data = (.*);$", page, re.MULTILINE)
    return json.loads(data)


# Idle slots.


def run_two_then_one(play: Play, first: PlayedLane, second: PlayedLane) -> None:
    """Slots 0 and 1 run from 0 to 1, slot 0 from 1 to 9 while a job waits, which runs at last."""
    one, two = play.submit(second), play.submit(second)
    play.start(one, 0)
    play.start(two, 1)
    play.now = 1.0
    waiting: list[PlayedFuture] = []
    for lane in (second, first):
        future = play.submit(lane)
        waiting.append(future)
    play.finish(one)
    play.start(waiting[0], 0)
    play.finish(two)
    play.now = 9.0
    play.finish(waiting[0])
    play.start(waiting[1], 1)
    play.now = 10.0
    play.finish(waiting[1])


def reasons_of(timeline: Timeline) -> list[tuple[int, float, float, str]]:
    idle = timeline.snapshot().idle(columns=10)
    return [(one.row[1], round(one.begin), round(one.end), one.reason) for one in idle]


def test_a_lane_at_its_limit_leaves_slots_idle(tmp_path: Path) -> None:
    """It's named with its limit; the hatching of the picture says so when pointed at."""
    play, timeline = played()
    executor = PlayedLane(name="crawler", slots=2)
    lane = PlayedLane(executor, "api", slots=1)
    run_two_then_one(play, lane, executor)
    busy = play.submit(lane)
    play.start(busy, 0)
    late = play.submit(lane)
    play.now = 20.0
    play.finish(busy)
    play.start(late, 0)
    play.finish(late)
    assert reasons_of(timeline) == [(1, 10, 20, "api: at its limit of 1")]
    picture = saved(timeline, tmp_path)
    assert "<title>idle from 10 s to 20 s\napi: at its limit of 1</title>" in picture
    assert "idle while jobs wait" in picture


def test_an_executor_at_its_limit_leaves_slots_idle() -> None:
    """Rows beyond the limit are empty for that reason."""
    play, timeline = played()
    executor = PlayedLane(name="crawler", slots=2)
    executor.slots = 1
    run_two_then_one(play, executor, executor)
    assert reasons_of(timeline) == [(1, 1, 9, "executor: at its limit of 1")]


def test_a_lane_around_at_its_limit_leaves_slots_idle() -> None:
    """Jobs of lanes inside count against it."""
    for slots, reasons in ((2, []), (1, [(1, 1, 9, "model: at its limit of 1")])):
        play, timeline = played()
        model = PlayedLane(PlayedLane(slots=9), "model", slots=slots)
        run_two_then_one(play, PlayedLane(model, "a"), PlayedLane(model, "b"))
        assert reasons_of(timeline) == reasons


def test_a_rate_leaves_slots_idle() -> None:
    """It's named where no limit and no pause explains it."""
    play, timeline = played()
    executor = PlayedLane(slots=2)
    run_two_then_one(play, PlayedLane(executor, rate=(1,)), executor)
    reason = "a lane without a name: held back by its rate or gate"
    assert reasons_of(timeline) == [(1, 1, 9, reason)]


def test_a_pause_leaves_slots_idle() -> None:
    """As far as job events tell when it began and ended."""
    play, timeline = played()
    executor = PlayedLane(slots=2)
    lane = PlayedLane(executor, "api")
    lane.paused = True
    run_two_then_one(play, lane, executor)
    assert reasons_of(timeline) == [(1, 1, 9, "api: paused")]


def test_a_pause_ends_with_the_next_start() -> None:
    """It's seen when a job is submitted, and to be over when one starts."""
    play, timeline = played()
    executor = PlayedLane(slots=1)
    play.start(first := play.submit(executor))
    play.now = 2.0
    executor.paused = True
    second = play.submit(executor)
    play.finish(first)
    play.now = 6.0
    executor.paused = False
    play.start(second)
    play.now = 8.0
    third = play.submit(executor)
    play.finish(second)
    play.now = 10.0
    play.start(third)
    play.finish(third)
    assert reasons_of(timeline) == [(0, 2, 6, "executor: paused")]


def test_waiting_to_retry_leaves_slots_idle() -> None:
    """Until the delay is over."""
    play, timeline = played()
    play.retried_job(PlayedLane(PlayedLane(slots=2), "api"))
    assert {reason for _, _, _, reason in reasons_of(timeline)} == {"api: waiting to retry"}


def test_several_reasons_are_listed_up_to_four() -> None:
    """An executor may have many lanes that wait."""
    play, timeline = played()
    executor = PlayedLane(slots=2)
    lanes = [PlayedLane(executor, f"lane {n}", rate=(1,)) for n in range(6)]
    waiting = [play.submit(lane) for lane in lanes]
    play.now = 10.0
    for future in waiting:
        play.start(future)
        play.finish(future)
    [reason] = {reason for _, _, _, reason in reasons_of(timeline)}
    assert reason.count("held back") == 4
    assert reason.endswith("; ...")


def test_what_is_not_known_is_not_explained(tmp_path: Path) -> None:
    """A slot that is idle for no reason that could be seen isn't hatched, nor one without jobs."""
    play, timeline = played()
    executor = PlayedLane(slots=2)
    run_two_then_one(play, PlayedLane(executor), executor)
    assert reasons_of(timeline) == []
    assert "idle while jobs wait" not in saved(timeline, tmp_path)


@in_virtual_time
def test_idle_slots_of_a_real_run_are_explained(backend: str) -> None:
    """By the limit of a lane, and by a rate."""
    timeline = Timeline(clock=anyio.current_time)

    async def main() -> None:
        async with Executor(3, name="crawler", instruments=[timeline]) as executor:
            limited, slow = executor.lane("limited", slots=1), executor.lane(rate=Rate(1, per=4))
            executor.submit(sleep, 1)
            for lane in (limited, limited, slow, slow):
                lane.submit(sleep, 2)

    run_in_virtual_time(backend, main)
    reasons = {reason for *_, reason in reasons_of(timeline)}
    assert "limited: at its limit of 1; a lane without a name: held back by its rate or gate" in (
        reasons
    )


# Limits.


def resized(play: Play, executor: PlayedLane, lane: PlayedLane) -> None:
    for slots in (2, 4, 8, 3):
        executor.slots, lane.slots = slots, slots // 2
        future = play.submit(lane)
        play.start(future)
        play.now += 1
        play.finish(future)


def test_limits_that_change_are_drawn_as_steps(tmp_path: Path) -> None:
    """A line for the executor and one for each lane, in its color; said in text, too."""
    play, timeline = played()
    executor = PlayedLane(name="crawler")
    resized(play, executor, PlayedLane(executor, "api"))
    limits = {limit.label: limit for limit in timeline.snapshot().limits()}
    assert limits["crawler"].steps == [(0, 2), (1, 4), (2, 8), (3, 3)]
    assert limits["api"].steps == [(0, 1), (1, 2), (2, 4), (3, 1)]
    picture = saved(timeline, tmp_path)
    assert "slots of crawler: 2, 4, 8, 3" in picture
    assert '<path class="limit l0"' in picture
    assert "slots 8" in picture
    assert (
        str(timeline)
        .splitlines()[-1]
        .endswith("slots of api: 1 to 4, at the end 1; slots: 2 to 8, at the end 3")
    )


def test_a_limit_that_stays_is_not_drawn(tmp_path: Path) -> None:
    """Most executors have the same slots all the time."""
    play, timeline = played()
    executor = PlayedLane(slots=4)
    run_two_then_one(play, executor, executor)
    assert timeline.snapshot().limits() == []
    assert 'class="limit' not in saved(timeline, tmp_path)


def test_a_limit_may_become_infinite(tmp_path: Path) -> None:
    """It's drawn at the top, and left out of a trace."""
    play, timeline = played()
    executor = PlayedLane(name="crawler", slots=4)
    for slots in (4, 8, math.inf):
        executor.slots = slots
        future = play.submit(executor)
        play.now += 1
        play.start(future)
        play.finish(future)
    assert "slots of crawler: 4, 8, inf" in saved(timeline, tmp_path)
    [limit] = data_of(timeline, tmp_path)["limits"]
    assert [slots for _, slots in limit[2]] == [4, 8, None]
    timeline.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    counters = [(event["name"], event["args"]["slots"]) for event in events if event["ph"] == "C"]
    assert counters == [("slots of crawler", 4), ("slots of crawler", 8)]


def test_a_limited_timeline_keeps_few_changes() -> None:
    """An adaptive executor that runs for days changes its slots without end."""
    play = Play()
    timeline = Timeline(limit=10, clock=play.clock)
    play.instruments = [timeline]
    executor = PlayedLane(slots=1)
    for slots in range(1, 200):
        executor.slots = slots
        future = play.submit(executor)
        play.start(future)
        play.now += 1
        play.finish(future)
    [limit] = timeline.snapshot().limits()
    assert len(limit.steps) <= 11
    assert limit.steps[-1][1] == 199


# Several jobs of one lane.


def test_jobs_of_one_lane_are_told_apart(tmp_path: Path) -> None:
    """One after another they have three shades; parts of one job have the same."""
    play, timeline = played()
    executor = PlayedLane(slots=1)
    for _ in range(4):
        future = play.submit(executor)
        play.start(future)
        play.now += 1
        play.finish(future)
    assert re.findall(r'class="bar c0 (s\d)"><title>\d', saved(timeline, tmp_path)) == [
        "s0",
        "s1",
        "s2",
        "s0",
    ]


def luminance(color: str) -> float:
    channels = (channel / 255 for channel in bytes.fromhex(color[1:]))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", range(len(PALETTE)))
def test_labels_have_enough_contrast(color: int) -> None:
    """At least 4.5 to 1 on every shade, as WCAG AA asks for."""
    ink = 1.0 if color == 0 else 0.0
    for shade in shades_of(color):
        light, dark = sorted((luminance(shade), ink), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


# Pages.


def test_a_page_is_complete_in_itself(tmp_path: Path) -> None:
    """One file, that loads nothing, with the title and the data of the timeline."""
    play, timeline = played()
    run_two_then_one(play, PlayedLane(name="crawler"), PlayedLane(name="other"))
    timeline.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//cdn|@import|<link|src=|__[A-Z]+__", page)
    assert "prefers-color-scheme: dark" in page
    assert f"<title>{timeline.snapshot().title}</title>" in page


def test_a_page_has_all_jobs(tmp_path: Path) -> None:
    """Bars by row, attempts that are joined, jobs that never ran, the queue, idle slots."""
    play, timeline = played()
    executor = PlayedLane(name="crawler", slots=2)
    lane = PlayedLane(executor, "api", rate=(1,))
    run_two_then_one(play, lane, executor)
    play.finish(play.submit(lane), "cancelled")
    play.retried_job(executor)
    data = data_of(timeline, tmp_path)
    assert [row["label"] for row in data["rows"]] == ["slot 0", "slot 1"]
    assert [[span[2] for span in row["spans"]] for row in data["rows"]] == [
        ["1 fetch", "3 fetch", "6 fetch"],
        ["2 fetch", "4 fetch", "6 fetch"],
    ]
    assert data["rows"][0]["spans"][2][5:7] == [
        "failed",
        "6 fetch: failed with ConnectionError\nattempt 1 of 2\nlane: no lane\nwaited: 1 s\n"
        "ran: 1 s, from 11 s to 12 s\nretried after 3 s",
    ]
    assert data["again"] == [[0, 12, 1, 15]]
    assert data["never"] == [[10, "5 fetch never ran: cancelled", False]]
    assert data["lanes"] == [["no lane", 0], ["api", 1]]
    assert max(count for _, count in data["queue"]) == 1
    assert "api: held back by its rate or gate" in {reason for *_, reason in data["idle"]}


def test_names_cannot_end_a_pages_script(tmp_path: Path) -> None:
    """Whatever jobs, lanes and executors are called, the data are data."""
    play, timeline = played()
    name = "</script><script>alert(1)</script>\0\ud800&"
    executor = PlayedLane(name=name)
    for lane in (executor, *[PlayedLane(executor, f"{n}{name}") for n in range(8)]):
        future = play.submit(lane, name)
        play.start(future)
        play.now += 1
        play.finish(future)
    data = data_of(timeline, tmp_path)
    assert data["lanes"][-1][0] == "3 other lanes"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("</script>") == 1
    assert saved(timeline, tmp_path)


def test_an_empty_timeline_has_a_page(tmp_path: Path) -> None:
    """It says that there were no jobs."""
    assert data_of(Timeline(), tmp_path)["title"] == "no jobs"


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """`OSError`, as of any other file."""
    with pytest.raises(OSError, match="no-such-folder"):
        Timeline().save_html(tmp_path / "no-such-folder" / "file")
