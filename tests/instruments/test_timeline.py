"""The timeline: what it keeps, and its drawings, as text, as a picture and as a trace."""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest
from rich.console import Console
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor
from anyslots.instruments import Timeline
from anyslots.instruments._snapshot import PALETTE
from anyslots.instruments._svg import WIDTH

in_virtual_time = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)


async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


async def fail(seconds: float) -> None:
    await anyio.sleep(seconds)
    raise ValueError("no luck")


async def small(timeline: Timeline) -> None:
    """Two slots for ten seconds: a failure, one cancelled as it runs, and one as it waits."""
    async with Executor(2, instruments=[timeline], on_error="log") as executor:
        executor.submit(sleep, 4)
        executor.submit(fail, 2).add_done_callback(lambda future: future.exception())
        cancelled = executor.submit(sleep, 9)
        executor.submit(sleep, 6)
        queued = executor.submit(sleep, 1)
        await anyio.sleep(3)
        queued.cancel()
        await anyio.sleep(3)
        cancelled.cancel()


def timeline_of(program: Any, backend: str = "asyncio", **options: Any) -> Timeline:
    timeline = Timeline(clock=anyio.current_time, **options)
    run_in_virtual_time(backend, program, timeline)
    return timeline


def random_run(jobs: int, slots: int, lanes: int) -> Timeline:
    """A long run, always the same, with failures and cancellations."""
    chance = random.Random(jobs)

    async def main(timeline: Timeline) -> None:
        asyncio.get_running_loop().set_debug(False)  # it takes ten times as long otherwise
        async with Executor(slots, instruments=[timeline], on_error="log") as executor:
            some = [executor.lane(f"host-{n}.example", slots=slots) for n in range(lanes)]
            late = executor.lane("late", queue_timeout=0.5)
            for _ in range(jobs):
                fn = fail if chance.random() < 0.1 else sleep
                lane = chance.choice([*some, late])
                future = lane.submit(fn, chance.expovariate(2))
                future.add_done_callback(lambda f: f.cancelled() or f.exception())
                if chance.random() < 0.1:
                    await anyio.sleep(chance.random())
                    future.cancel()

    return timeline_of(main)


# As text.


@in_virtual_time
def test_a_timeline_is_printed_as_rows_of_slots(backend: str) -> None:
    """Each job's bar is in its slot and to scale; failed and cancelled ones are drawn otherwise."""
    assert str(timeline_of(small, backend)) == (
        "slot 0  [1=========================][4=========================================]\n"
        "slot 1  [2xxxxxxxxxxx][3~~~~~~~~~~~~~~~~~~~~~~~~~~]\n"
        "queue   ##############=-------::::::.\n"
        "        0                                                                   10 s\n"
        "2 slots, 5 jobs in 10 s: 2 succeeded, 2 cancelled, 1 failed\n"
        "x: failed; ~: cancelled; longest queue: 3 jobs"
    )


def test_a_timeline_of_many_jobs_keeps_to_its_width() -> None:
    """However short the jobs, lines are short, and a failure is never hidden by its neighbors."""
    timeline = random_run(3000, 8, 3)
    lines = str(timeline).splitlines()
    assert len(lines) == 8 + 4
    assert max(map(len, lines)) <= 80
    assert all("x" in line for line in lines[:8])
    assert str(timeline).isascii()


def test_rich_draws_a_timeline_in_color() -> None:
    """A color for each lane, said in words below, as wide as the terminal is."""

    async def main(timeline: Timeline) -> None:
        async with Executor(1, instruments=[timeline]) as executor:
            executor.lane("a").submit(sleep, 1)
            executor.lane("b").submit(sleep, 1)

    console = Console(
        file=io.StringIO(), width=60, force_terminal=True, color_system="truecolor", record=True
    )
    console.print(timeline_of(main))
    drawn = console.file.getvalue()
    for paint in PALETTE[:2]:
        red, green, blue = bytes.fromhex(paint[1:])
        assert f"48;2;{red};{green};{blue}m" in drawn
    lines = console.export_text().splitlines()
    assert lines[0].startswith("slot 0   1")
    assert max(map(len, lines)) == 60
    assert "█" in lines[1]
    assert lines[-1].split() == ["a", "b"]


def test_rich_draws_a_timeline_without_color() -> None:
    """Where there's none, the bars are drawn with characters, as they are printed."""
    console = Console(file=io.StringIO(), width=80)
    timeline = timeline_of(small)
    console.print(timeline)
    drawn = console.file.getvalue().splitlines()
    assert [line.rstrip() for line in drawn[:2]] == str(timeline).splitlines()[:2]


def test_rich_draws_a_timeline_where_there_is_only_ascii() -> None:
    """An encoding without blocks is no error."""
    console = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), width=80, force_terminal=True)
    assert console.options.ascii_only
    console.print(timeline_of(small))


def test_an_empty_timeline_can_be_drawn(tmp_path: Path) -> None:
    """It says that there were no jobs."""
    timeline = Timeline()
    assert "no jobs" in str(timeline)
    timeline.save_svg(tmp_path / "empty.svg")
    ElementTree.parse(tmp_path / "empty.svg")
    timeline.save_trace(tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text())["traceEvents"] == []


# What's kept.


@in_virtual_time
def test_a_job_that_lent_its_slot_is_shown_where_it_ran(backend: str) -> None:
    """In its slot until it lends it, and in the one where it goes on: no two bars overlap."""

    async def main(timeline: Timeline) -> None:
        async with Executor(1, instruments=[timeline]) as executor:

            async def outer() -> None:
                await anyio.sleep(2)
                await executor.submit(sleep, 5)
                await anyio.sleep(3)

            executor.submit(outer)

    timeline = timeline_of(main, backend)
    line = str(timeline).splitlines()[0]
    assert re.findall(r"\[(\d+)=*\]", line) == ["1", "2", "1"]
    picture = timeline.snapshot()
    assert [job.runs for job in picture.jobs] == [
        [(0, 0, 2, 1), (0, 7, 10, 1)],
        [(0, 2, 7, 1)],
    ]


@in_virtual_time
def test_a_job_that_goes_on_elsewhere_is_shown_in_both_slots(backend: str) -> None:
    """When another job has the slot that it lent, a lender goes on in the next that is free."""

    async def main(timeline: Timeline) -> None:
        async with Executor(2, instruments=[timeline]) as executor:

            async def outer() -> None:
                inner = executor.submit(sleep, 2)
                executor.submit(sleep, 9)
                await inner
                await anyio.sleep(1)

            executor.submit(outer)

    jobs = timeline_of(main, backend).snapshot().jobs
    assert {slot for job in jobs for slot, *_ in job.runs} == {0, 1}
    for one in jobs:
        for other in jobs:
            for slot, begin, end, _ in one.runs if one is not other else ():
                for elsewhere, start, stop, _ in other.runs:
                    assert slot != elsewhere or end <= start or stop <= begin


def test_a_limited_timeline_keeps_the_last_jobs() -> None:
    """The picture begins where the first of them began to run."""

    async def main(timeline: Timeline) -> None:
        async with Executor(1, instruments=[timeline]) as executor:
            for _ in range(100):
                executor.submit(sleep, 1)

    timeline = timeline_of(main, limit=3)
    assert [job.number for job in timeline.snapshot().jobs] == [98, 99, 100]
    assert str(timeline).splitlines()[-2] == "1 slot, 3 jobs in 3 s: 3 succeeded"
    assert re.findall(r"\[(\d+)=*\]", str(timeline)) == ["98", "99", "100"]


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True, None])
def test_a_limit_is_a_number_of_jobs(limit: Any) -> None:
    """Anything but an int from 1 or infinity is refused by name."""
    with pytest.raises((TypeError, ValueError), match="limit must be an int from 1"):
        Timeline(limit=limit)


def test_a_timeline_can_be_drawn_while_jobs_run(tmp_path: Path) -> None:
    """Those that run are drawn until now; those that wait are in the queue."""

    async def main(timeline: Timeline) -> None:
        async with Executor(1, instruments=[timeline]) as executor:
            executor.submit(sleep, 4)
            executor.submit(sleep, 4)
            await anyio.sleep(2)
            lines = str(timeline).splitlines()
            assert lines[0].startswith("slot 0  [1===")
            assert lines[-2] == "1 slot, 2 jobs in 2 s: 2 unfinished"
            timeline.save_svg(tmp_path / "now.svg")
            timeline.save_trace(tmp_path / "now.json")

    timeline_of(main)
    assert "1 sleep: not finished" in (tmp_path / "now.svg").read_text()
    trace = json.loads((tmp_path / "now.json").read_text())["traceEvents"]
    assert [event["dur"] for event in trace if event["ph"] == "X"] == [2e6]


def test_executors_have_rows_of_their_own(tmp_path: Path) -> None:
    """One timeline serves several; their slots and lanes are kept apart, with or without names."""

    async def main(timeline: Timeline) -> None:
        for name in ("first", None):
            async with Executor(1, name=name, instruments=[timeline]) as executor:
                executor.submit(sleep, 1)

    timeline = timeline_of(main)
    lines = str(timeline).splitlines()
    assert [line.partition("[")[0].strip() for line in lines[:2]] == [
        "first slot 0",
        "executor 2 slot 0",
    ]
    timeline.save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["args"]["name"] for event in trace if event["name"] == "process_name"]
    assert names == ["first", "executor 2"]


# As a picture.

SVG = "{http://www.w3.org/2000/svg}"


def picture_of(timeline: Timeline, folder: Path) -> ElementTree.Element:
    timeline.save_svg(folder / "picture.svg")
    return ElementTree.parse(folder / "picture.svg").getroot()


def bars_of(picture: ElementTree.Element) -> dict[str, tuple[float, float, float]]:
    """The bars by the first line of their tooltips: x, y, width."""
    found = {}
    for group in picture.iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is not None and rect is not None:
            x, y, width = (float(rect.get(name) or 0) for name in ("x", "y", "width"))
            found[(title.text or "").partition("\n")[0]] = (x, y, width)
    return found


def test_a_picture_has_a_bar_for_each_job(tmp_path: Path) -> None:
    """In its slot's row, to scale; pointing at it shows the name, the wait and the run."""
    picture = picture_of(timeline_of(small), tmp_path)
    bars = bars_of(picture)
    assert list(bars) == [
        "1 sleep: succeeded",
        "4 sleep: succeeded",
        "2 fail: failed with ValueError",
        "3 sleep: cancelled",
    ]
    (x1, y1, width1), (x4, y4, width4), (x2, y2, width2), (x3, y3, _) = bars.values()
    assert (y1, y2) == (y4, y3)
    assert y1 < y2
    second = (x4 - x1) / 4
    assert (x1, x3) == pytest.approx((x2, x1 + 2 * second), abs=0.1)
    assert (width1, width4, width2) == pytest.approx((4 * second, 6 * second, 2 * second), abs=1.1)
    tips = [title.text for title in picture.iter(f"{SVG}title")]
    assert "4 sleep: succeeded\nlane: no lane\nwaited: 4 s\nran: 6 s, from 4 s to 10 s" in tips
    assert "5 sleep never ran: 1 cancelled" in tips


def test_what_failed_is_marked_by_shape(tmp_path: Path) -> None:
    """A cross on a failed job, an outline for a cancelled one, and both in the legend."""
    picture = picture_of(timeline_of(small), tmp_path)
    groups = [group for group in picture.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    by_title = {group[0].text or "": group for group in groups}
    crossed = [title for title, group in by_title.items() if group.find(f"{SVG}path") is not None]
    assert [title.partition(":")[0] for title in crossed] == ["2 fail"]
    hollow = [title for title, g in by_title.items() if "cancelled" in (g.get("class") or "")]
    assert [title.partition(":")[0] for title in hollow] == ["3 sleep"]
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"failed", "cancelled", "slot 0", "slot 1", "queue 3", "10 s"} <= set(texts)


def test_a_picture_is_complete_in_itself(tmp_path: Path) -> None:
    """It refers to nothing outside, has colors in hex, and a dark side."""
    timeline_of(small).save_svg(tmp_path / "picture.svg")
    source = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"']+", source) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in source
    assert not re.search(r"rgb|hsl|script|href|@import", source)


@pytest.mark.parametrize(
    ("jobs", "slots", "lanes"),
    [
        (10, 3, 2),
        (1000, 90, 1),
        (1000, 2, 12),
        pytest.param(10_000, 8, 12, marks=pytest.mark.unmeasured),
        pytest.param(10_000, 90, 1, marks=pytest.mark.unmeasured),
    ],
)
def test_labels_in_a_picture_never_overlap(
    jobs: int, slots: int, lanes: int, tmp_path: Path
) -> None:
    """At ten jobs and at ten thousand: no text covers another, none leaves its bar."""
    picture = picture_of(random_run(jobs, slots, lanes), tmp_path)
    lines: defaultdict[float, list[tuple[float, float]]] = defaultdict(list)
    for text in picture.iter(f"{SVG}text"):
        width = 6.4 * len(text.text or "") * float(text.get("font-size") or 11.5) / 11.5
        x, y = float(text.get("x") or 0), float(text.get("y") or 0)
        x -= {"end": width, "middle": width / 2}.get(text.get("text-anchor") or "", 0)
        assert x >= 0
        assert x + width <= WIDTH
        lines[y].append((x, x + width))
    for spans in lines.values():
        spans.sort()
        for (_, end), (begin, _) in pairwise(spans):
            assert end <= begin + 1
    margin = sorted(y for y, spans in lines.items() if spans[0][0] < 60)
    assert all(b - a >= 11 for a, b in pairwise(margin))
    for group in picture.iter(f"{SVG}g"):
        label, rect = group.find(f"{SVG}text"), group.find(f"{SVG}rect")
        if label is not None and rect is not None:
            right = float(rect.get("x") or 0) + float(rect.get("width") or 0)
            assert float(label.get("x") or 0) + 6 * len(label.text or "") <= right + 2


@pytest.mark.unmeasured
def test_a_picture_of_many_jobs_stays_small(tmp_path: Path) -> None:
    """Bars too narrow to be seen are drawn as one, which says how many they are."""
    picture = picture_of(random_run(10_000, 4, 12), tmp_path)
    assert (tmp_path / "picture.svg").stat().st_size < 1_000_000
    tips = [title.text or "" for title in picture.iter(f"{SVG}title")]
    assert any(re.match(r"\d+ jobs, .* to .*: \d+ \w+, ", tip) for tip in tips)
    assert any(re.match(r"\d+ jobs never ran: ", tip) for tip in tips)
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert any(re.fullmatch(r"\d+ other lanes", text) for text in texts)


def test_names_of_any_kind_are_drawn(tmp_path: Path) -> None:
    """Markup, control characters and great length do no harm."""
    name = "<&>\"'\0\ud800]]>" + "n" * 300

    async def main(timeline: Timeline) -> None:
        async with Executor(1, name=name, instruments=[timeline]) as executor:
            for lane in (name, "plain", *[f"{n}" + "w" * 20 for n in range(5)]):
                executor.lane(lane).submit(sleep, 100)
        async with Executor(1, instruments=[timeline]) as executor:
            executor.submit(sleep, 500)

    timeline = timeline_of(main)
    picture = picture_of(timeline, tmp_path)
    assert any((text.text or "").startswith("<&>") for text in picture.iter(f"{SVG}text"))
    timeline.save_trace(tmp_path / "trace.json")
    json.loads((tmp_path / "trace.json").read_text())
    assert str(timeline)


@pytest.mark.parametrize(
    ("duration", "tick", "said"),
    [
        (0.002, "1.5 ms", "2 ms"),
        (30, "15 s", "30 s"),
        (1800, "25 min", "30 min"),
        (40_000, "10 h", "11.1 h"),
    ],
)
def test_times_are_given_in_the_unit_that_suits_them(
    duration: float, tick: str, said: str, tmp_path: Path
) -> None:
    """Milliseconds to hours, in round steps."""
    now = 0.0
    timeline = Timeline(clock=lambda: now)

    async def main() -> None:
        nonlocal now
        async with Executor(1, instruments=[timeline]) as executor:
            executor.submit(sleep, 1)
            await anyio.sleep(0.5)
            now = duration

    run_in_virtual_time("asyncio", main)
    texts = [text.text for text in picture_of(timeline, tmp_path).iter(f"{SVG}text")]
    assert tick in texts
    assert f"in {said}: " in str(timeline)


@pytest.mark.unmeasured
def test_the_pictures_of_the_documentation_are_those_of_the_code(tmp_path: Path) -> None:
    """`docs/make_pictures.py` makes them, always the same; run it when a drawing changes."""
    docs = Path(__file__).parents[2] / "docs"
    command = [sys.executable, "-W", "error", docs / "make_pictures.py", tmp_path]
    subprocess.run(command, check=True, timeout=60)
    made = (tmp_path / "timeline.svg").read_text(encoding="utf-8")
    assert made == (docs / "timeline.svg").read_text(encoding="utf-8")
    still = (tmp_path / "terminal.svg").read_text(encoding="utf-8")
    assert "crawler" in still
    assert "url(http" not in still


# As a trace.


@in_virtual_time
def test_a_trace_has_a_thread_for_each_slot(backend: str, tmp_path: Path) -> None:
    """Runs are complete events in their slot's thread, waits asynchronous ones; all are valid."""
    timeline_of(small, backend).save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert Counter(event["ph"] for event in events) == {"M": 4, "X": 4, "b": 5, "e": 5}
    for event in events:
        assert isinstance(event["name"], str)
        assert {type(event["pid"]), type(event["tid"])} == {int}
        if event["ph"] != "M":
            assert event["ts"] >= 0
    threads = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    runs = [
        (threads[event["tid"]], event["name"], event["ts"], event["dur"], event["args"]["outcome"])
        for event in events
        if event["ph"] == "X"
    ]
    assert runs == [
        ("slot 0", "sleep", 0, 4e6, "succeeded"),
        ("slot 0", "sleep", 4e6, 6e6, "succeeded"),
        ("slot 1", "fail", 0, 2e6, "failed"),
        ("slot 1", "sleep", 2e6, 4e6, "cancelled"),
    ]
    waits: defaultdict[int, list[float]] = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            waits[event["id"]].append(event["ts"])
    assert dict(waits) == {1: [0, 0], 2: [0, 0], 3: [0, 2e6], 4: [0, 4e6], 5: [0, 3e6]}
    [failed] = [args for event in events if (args := event.get("args", {})).get("error")]
    assert failed == {
        "job": 2,
        "lane": "",
        "wait_s": 0.0,
        "outcome": "failed",
        "error": "ValueError",
    }


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """`OSError`, as of any other file."""
    for save in (Timeline().save_svg, Timeline().save_trace):
        with pytest.raises(OSError, match="no-such-folder"):
            save(tmp_path / "no-such-folder" / "file")
