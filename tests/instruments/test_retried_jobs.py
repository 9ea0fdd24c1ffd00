"""Retries as instruments show them."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import prometheus_client
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from played import Play, PlayedLane
from rich.console import Console

from anyslots.instruments import Logging, OpenTelemetry, Progress, Prometheus, Timeline

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture
def api() -> PlayedLane:
    return PlayedLane(PlayedLane(name="crawler", slots=2), "api")


def test_logging_has_a_line_for_each_attempt(
    play: Play, api: PlayedLane, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed attempt at INFO, with the wait and the error; the end says which attempt it was."""
    play.instruments = [Logging(clock=play.clock)]
    with caplog.at_level(logging.DEBUG, "anyslots"):
        play.retried_job(api)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "INFO",
            "job fetch of api failed in slot 0 after 1.000 s, having waited 1.000 s; "
            "retrying in 3.000 s: ConnectionError('try later')",
        ),
        ("DEBUG", "job fetch of api succeeded in slot 1 after 2.000 s, on attempt 2"),
    ]


def test_logging_says_how_many_attempts_a_cancelled_job_had(
    play: Play, api: PlayedLane, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is cancelled between attempts was in the queue; below its level it has no line."""
    play.instruments = [Logging(clock=play.clock)]
    with caplog.at_level(logging.INFO, "anyslots"):
        cancel_between_attempts(play, api)
    cancelled = "job fetch of api cancelled in the queue, after 2.000 s and 1 attempt"
    assert caplog.messages[-1] == cancelled
    caplog.clear()
    with caplog.at_level(logging.ERROR, "anyslots"):
        cancel_between_attempts(play, api)
    assert caplog.messages == []


def cancel_between_attempts(play: Play, lane: PlayedLane) -> None:
    future = play.submit(lane)
    play.start(future)
    play.now += 1
    play.retry(future, ConnectionError(), 5.0)
    play.now += 1
    play.finish(future, "cancelled")


def test_progress_counts_a_retried_job_once(play: Play, api: PlayedLane) -> None:
    """It doesn't run between attempts, and is done once."""
    console = Console(file=io.StringIO(), width=100)
    progress = Progress(console=console, clock=play.clock)
    play.instruments = [progress]
    future = play.submit(api)
    for shown in ("1 running", "0 running", "1 running"):
        if shown == "0 running":
            play.retry(future, ConnectionError(), 1.0)
        else:
            play.start(future)
        console.print(progress)
        assert f"0/1 {shown}" in console.file.getvalue().splitlines()[-1]
    play.finish(future)
    cancel_between_attempts(play, api)
    console.print(progress)
    assert re.search("1/2 0 running .* 1 cancelled", console.file.getvalue().splitlines()[-1])


def test_prometheus_counts_retries(play: Play, api: PlayedLane) -> None:
    """One wait, a run for each attempt; the gauges are at zero at the end."""
    registry = prometheus_client.CollectorRegistry()
    play.instruments = [Prometheus(registry=registry, clock=play.clock)]
    play.retried_job(api)
    cancel_between_attempts(play, api)

    def value(name: str, **labels: str) -> float | None:
        labels |= {"executor": "crawler", "lane": "api"}
        return registry.get_sample_value(f"anyslots_{name}", labels)

    assert value("job_retries_total") == 2
    assert (value("job_run_seconds_count"), value("job_run_seconds_sum")) == (3, 4)
    waits = value("job_queue_wait_seconds_count"), value("job_queue_wait_seconds_sum")
    assert waits == (2, 1)
    assert (value("jobs_queued"), value("jobs_running")) == (0, 0)
    outcomes = [value("jobs_total", outcome=outcome) for outcome in ("succeeded", "cancelled")]
    assert outcomes == [1, 1]


def test_opentelemetry_has_a_span_for_each_attempt(play: Play, api: PlayedLane) -> None:
    """Each under the submitter's span; the failed one has its error, and retries are counted."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    instrument = OpenTelemetry(tracer_provider=tracers, meter_provider=meters, clock=play.clock)
    play.instruments = [instrument]
    with tracers.get_tracer("tests").start_as_current_span("submitter") as submitter:
        play.retried_job(api)
        cancel_between_attempts(play, api)
    *spans, _ = exporter.get_finished_spans()
    keys = ("executor.job.attempt", "executor.job.outcome", "error.type", "executor.slot")
    assert [tuple((span.attributes or {}).get(key) for key in keys) for span in spans] == [
        (None, "retried", "ConnectionError", 0),
        (2, "succeeded", None, 1),
        (None, "retried", "ConnectionError", 0),
        (None, "cancelled", None, None),
    ]
    assert spans[0].status.status_code is trace.StatusCode.ERROR
    assert {span.parent and span.parent.span_id for span in spans} == {
        submitter.get_span_context().span_id
    }
    data: Any = reader.get_metrics_data()
    [scope] = data.resource_metrics[0].scope_metrics
    values = {
        metric.name: sum(
            point.count if hasattr(point, "count") else point.value
            for point in metric.data.data_points
        )
        for metric in scope.metrics
    }
    assert values == {
        "executor.slot.max": 2,
        "executor.slot.count": 0,
        "executor.job.pending": 0,
        "executor.job.wait_time": 2,
        "executor.job.duration": 3,
        "executor.job.retries": 2,
    }


def test_a_timeline_shows_each_attempt_and_the_wait(
    play: Play, api: PlayedLane, tmp_path: Path
) -> None:
    """A bar for each attempt, joined by a line; between them the job is queued."""
    timeline = Timeline(clock=play.clock)
    play.instruments = [timeline]
    play.retried_job(api)
    lines = str(timeline).splitlines()
    assert re.fullmatch(r"slot 0 +\[1x+\]", lines[0])
    assert re.fullmatch(r"slot 1 +\[1=+\]", lines[1])
    assert re.fullmatch(r"queue   #+\.? +:#+:", lines[2])
    assert "2 slots, 1 job in 7 s: 1 succeeded, 1 retry" in lines
    timeline.save_svg(tmp_path / "retries.svg")
    picture = ElementTree.parse(tmp_path / "retries.svg")
    tips = [title.text for title in picture.iter(f"{SVG}title")]
    assert (
        "1 fetch: failed with ConnectionError\nattempt 1 of 2\nlane: api\nwaited: 1 s\n"
        "ran: 1 s, from 1 s to 2 s\nretried after 3 s"
    ) in tips
    assert (
        "1 fetch: succeeded\nattempt 2 of 2\nlane: api\nwaited: 1 s\nran: 2 s, from 5 s to 7 s"
    ) in tips
    assert len([path for path in picture.iter(f"{SVG}path") if path.get("class") == "again"]) == 1


def test_a_trace_has_an_event_for_each_attempt_and_wait(
    play: Play, api: PlayedLane, tmp_path: Path
) -> None:
    """Attempts are numbered; the failed one has its error."""
    timeline = Timeline(clock=play.clock)
    play.instruments = [timeline]
    play.retried_job(api)
    cancel_between_attempts(play, api)
    timeline.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    runs = [event["args"] for event in events if event["ph"] == "X" and event["args"]["job"] == 1]
    assert [(run["attempt"], run["outcome"], run.get("error")) for run in runs] == [
        (1, "failed", "ConnectionError"),
        (2, "succeeded", None),
    ]
    waits = [
        (event["id"], event["ph"], event["ts"] / 1e6) for event in events if event["ph"] in "be"
    ]
    assert waits == [
        (1, "b", 0),
        (1, "e", 1),
        (1, "b", 2),
        (1, "e", 5),
        (2, "b", 7),
        (2, "e", 7),
        (2, "b", 8),
        (2, "e", 9),
    ]
