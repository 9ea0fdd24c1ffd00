"""Logging, progress, OpenTelemetry and Prometheus, with the real packages."""

from __future__ import annotations

import gc
import io
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import prometheus_client
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from played import Play, PlayedLane
from rich.console import Console
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, instruments
from anyslots.instruments import Logging, OpenTelemetry, Progress, Prometheus, Timeline

in_virtual_time = pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)

# A program of all outcomes, in virtual time.


async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


async def fail() -> None:
    raise ValueError("no luck\nat all")


async def all_outcomes(instrument: object) -> None:
    """One slot. Jobs of 2 s and of 1 s; one is cancelled after 1.5 s, and one in the queue.

    In the lane "api", one fails, one waits too long, and one lends its slot for 1 s.
    """
    executor = Executor(1, name="crawler", on_error="log", instruments=[instrument])
    api, hasty = executor.lane("api"), executor.lane("api", queue_timeout=1)

    async def nest() -> None:
        await executor.submit(sleep, 1)

    async with executor:
        await executor.submit(sleep, 2)
        cancelled = executor.submit(sleep, 9)
        queued = executor.submit(sleep, 9)
        late = hasty.submit(sleep, 9)
        failed = api.submit(fail)
        nested = api.submit(nest)
        await anyio.sleep(1.5)
        cancelled.cancel()
        queued.cancel()
        await nested
        for future in (late, failed):
            assert future.exception() is not None


# Logging.


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


@pytest.fixture
def lines() -> Any:
    handler, logger = Lines(), logging.getLogger("anyslots")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@in_virtual_time
def test_logging_logs_a_line_for_each_job(backend: str, lines: list[str]) -> None:
    """It says what became of the job, where, and how long it waited and ran; its level, how bad."""
    run_in_virtual_time(backend, all_outcomes, Logging(clock=anyio.current_time))
    ours = [line for line in lines if not line.startswith("ERROR")]
    late = "job sleep was queued for 1 seconds"
    name = "all_outcomes.<locals>.nest"
    assert ours == [
        "DEBUG: job sleep of crawler succeeded in slot 0 after 2.000 s, having waited 0.000 s",
        f"WARNING: job sleep of api failed in the queue, after 1.000 s: QueueTimeout('{late}')",
        "INFO: job sleep of crawler cancelled in the queue, after 1.500 s",
        "INFO: job sleep of crawler cancelled in slot 0 after 1.500 s, having waited 0.000 s",
        "WARNING: job fail of api failed in slot 0 after 0.000 s, having waited 1.500 s: "
        r"ValueError('no luck\nat all')",
        "DEBUG: job sleep of crawler succeeded in slot 0 after 1.000 s, having waited 0.000 s",
        f"DEBUG: job {name} of api succeeded in slot 0 after 1.000 s, having waited 1.500 s",
    ]


@in_virtual_time
def test_logging_is_quiet_below_the_loggers_level(backend: str, lines: list[str]) -> None:
    """What the logger's level leaves out isn't made."""
    logger = logging.getLogger("anyslots.tests")
    logger.setLevel(logging.WARNING)
    run_in_virtual_time(backend, all_outcomes, Logging(logger, clock=anyio.current_time))
    assert [line.partition(":")[0] for line in lines] == ["WARNING"] * 2


@pytest.mark.anyio
async def test_a_logged_failure_is_still_raised(anyio_backend, lines: list[str]) -> None:
    """An instrument that reads a job's error doesn't retrieve it."""
    with pytest.raises(ExceptionGroup):
        async with Executor(1, instruments=[Logging()]) as executor:
            executor.submit(fail)
    assert len(lines) == 1


# Progress.


def progress_of(backend: str, **options: Any) -> str:
    """What `Progress` prints of a run of all outcomes."""
    out = io.StringIO()
    console = Console(file=out, width=100, **options)

    async def main() -> None:
        with Progress(console=console, interval=1, clock=anyio.current_time) as progress:
            await all_outcomes(progress)

    run_in_virtual_time(backend, main)
    return out.getvalue()


@in_virtual_time
def test_progress_prints_plain_lines_where_there_is_no_terminal(backend: str) -> None:
    """A line for each lane at the end, and before that one when there's news after a while."""
    assert progress_of(backend).splitlines() == [
        "crawler: 1/1 done, 0 running, 0.5/s",
        "crawler / api: 1/3 done, 0 running, 1 failed, 1.0/s",
        "crawler: 1/3 done, 1 running, 1 cancelled, 0.5/s",
        "crawler: 2/4 done, 0 running, 2 cancelled, 0.4/s",
        "crawler / api: 3/3 done, 0 running, 2 failed, 1.2/s",
        "crawler: 2/4 done, 0 running, 2 cancelled, 0.4/s",
        "crawler / api: 3/3 done, 0 running, 2 failed, 1.2/s",
    ]


@in_virtual_time
def test_progress_draws_a_bar_for_each_lane_in_a_terminal(backend: str) -> None:
    """The bars say how many of all are done, how many run and have failed, and the rate."""
    drawn = progress_of(backend, force_terminal=True, legacy_windows=False, no_color=True)
    crawler, api = re.sub(r"\x1b\[[\d;?]*\w", "", drawn).replace("\r", "\n").splitlines()[-2:]
    assert re.search(r"crawler  .*━.* 2/4 +0 running +0\.4/s +2 cancelled", crawler)
    assert re.search(r"crawler / api .*━.* 3/3 +0 running +1\.2/s +2 failed", api)


@pytest.mark.anyio
async def test_progress_has_one_bar_for_each_of_several_new_lanes(anyio_backend) -> None:
    """Lanes that have come since the last refresh, of a display that's on."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    async with Executor(2, instruments=[progress := Progress(console=console)]) as executor:
        with progress:
            for name in ("one", "two", "three"):
                executor.lane(name).submit(anyio.sleep, 0)
            lines = [str(line) for line in console.render_lines(progress)]
            await executor.join()
    assert len(lines) == 3


def test_progress_can_be_part_of_another_display() -> None:
    """Printed like anything that rich draws, it's the bars as they are now."""

    async def main() -> None:
        progress = Progress(clock=anyio.current_time)
        async with Executor(1, name="downloads", instruments=[progress]) as executor:
            await executor.submit(anyio.sleep, 1)
            executor.submit(anyio.sleep, 1)
            console = Console(file=io.StringIO(), width=80)
            console.print(progress)
            assert re.search(r"downloads .* 1/2 ", console.file.getvalue())

    run_in_virtual_time("asyncio", main)


def test_progress_counts_what_happens_outside_of_its_block() -> None:
    """Nothing is shown then; what began before is in the bars."""
    out = io.StringIO()
    progress = Progress(console=Console(file=out), interval=0, clock=anyio.current_time)

    async def main() -> None:
        async with Executor(1, instruments=[progress]) as executor:
            await executor.submit(sleep, 1)
            assert out.getvalue() == ""
            with progress:
                await executor.submit(sleep, 1)
            assert out.getvalue() == "jobs: 2/2 done, 0 running, 1.0/s\n" * 2

    run_in_virtual_time("asyncio", main)


def test_progress_is_shown_again() -> None:
    """A second block goes on with the bars of the first."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True, no_color=True)
    progress = Progress(console=console)

    async def main() -> None:
        async with Executor(1, instruments=[progress]) as executor:
            for _ in range(2):
                with progress:
                    await executor.submit(checkpoint)

    run_in_virtual_time("asyncio", main)
    assert "2/2" in console.file.getvalue()


def test_progress_has_so_many_bars_at_most() -> None:
    """Lanes beyond the first twenty are one."""
    out = io.StringIO()

    async def main() -> None:
        with Progress(console=Console(file=out, width=80), clock=anyio.current_time) as progress:
            async with Executor(1, instruments=[progress]) as executor:
                for number in range(30):
                    executor.lane(f"host-{number}").submit(checkpoint)

    run_in_virtual_time("asyncio", main)
    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[-1].startswith("other lanes: 10/10 done")


def test_progress_of_an_instant_has_no_rate() -> None:
    """Jobs that took no time at all are counted."""
    out = io.StringIO()

    async def main() -> None:
        with Progress(console=Console(file=out), clock=anyio.current_time) as progress:
            async with Executor(1, instruments=[progress]) as executor:
                executor.submit(checkpoint)

    run_in_virtual_time("asyncio", main)
    assert out.getvalue() == "jobs: 1/1 done, 0 running\n"


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is left to the program."""

    async def main() -> None:
        with Progress() as progress:
            async with Executor(1, instruments=[progress]) as executor:
                executor.submit(checkpoint)

    run_in_virtual_time("asyncio", main)
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("jobs: 1/1 done")


@in_virtual_time
def test_progress_counts_up_to_a_total(backend: str) -> None:
    """With one bar it's that bar's total; more jobs than expected are shown, too."""
    out = io.StringIO()

    async def main() -> None:
        console = Console(file=out)
        with Progress(5, console=console, interval=1, clock=anyio.current_time) as progress:
            async with Executor(1, name="crawler", instruments=[progress]) as executor:
                await executor.submit(sleep, 1)
                progress.total = 1
                await executor.submit(sleep, 1)

    run_in_virtual_time(backend, main)
    assert out.getvalue().splitlines() == [
        "crawler: 1/5 done, 0 running, 1.0/s",
        "crawler: 2/2 done, 0 running, 1.0/s",
        "crawler: 2/2 done, 0 running, 1.0/s",
    ]


@in_virtual_time
def test_progress_has_a_bar_for_the_total_of_several_lanes(backend: str) -> None:
    """It comes first, and counts what all lanes have done."""
    out = io.StringIO()

    async def main() -> None:
        progress = Progress(total=40, console=Console(file=out), clock=anyio.current_time)
        with progress:
            await all_outcomes(progress)

    run_in_virtual_time(backend, main)
    assert out.getvalue().splitlines() == [
        "all lanes: 5/40 done, 0 running, 2 failed, 2 cancelled, 1.1/s",
        "crawler: 2/4 done, 0 running, 2 cancelled, 0.4/s",
        "crawler / api: 3/3 done, 0 running, 2 failed, 1.2/s",
    ]


def test_progress_shows_cancelled_jobs_as_not_done() -> None:
    """After Ctrl-C, 10 of 40 downloads are 10 of 40, and the bar isn't full."""
    console = Console(file=io.StringIO(), width=100)

    async def main() -> None:
        progress = Progress(clock=anyio.current_time)
        async with Executor(1, name="downloads", instruments=[progress]) as executor:
            for _ in range(40):
                executor.submit(sleep, 1)
            await anyio.sleep(10.5)
            executor.cancel()
        console.print(progress)

    run_in_virtual_time("asyncio", main)
    assert re.search(r"downloads .* 10/40 0 running .* 30 cancelled", console.file.getvalue())


@pytest.mark.parametrize("total", [-1, 2.5, "3", True])
def test_a_total_is_a_number_of_jobs(total: Any) -> None:
    """Anything but None and an int from 0 is refused by name, and changes nothing."""
    progress = Progress(7)
    with pytest.raises((TypeError, ValueError), match="total must be None or an int from 0"):
        progress.total = total
    assert progress.total == 7
    with pytest.raises((TypeError, ValueError), match="total must be None or an int from 0"):
        Progress(total=total)


# OpenTelemetry.


class Telemetry:
    """The real SDK, with its exporters in memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.instrument = OpenTelemetry(
            tracer_provider=self.tracers, meter_provider=self.meters, clock=clock
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> list[tuple[str, str, Any]]:
        """Each point of a metric: lane, outcome or error, and its value or count and sum."""
        data: Any = self.reader.get_metrics_data()
        [resource] = data.resource_metrics
        metrics = resource.scope_metrics[0].metrics
        found = []
        for metric in metrics:
            for point in metric.data.data_points if metric.name == name else ():
                attributes = point.attributes
                assert attributes["executor.name"] == "crawler"
                what = attributes.get("error.type", attributes.get("executor.job.outcome", ""))
                value = (point.count, point.sum) if hasattr(point, "sum") else point.value
                found.append((attributes.get("executor.lane.name"), what, value))
        return sorted(found, key=str)


@in_virtual_time
def test_opentelemetry_makes_a_span_for_each_job(backend: str) -> None:
    """Errors are recorded, cancellations aren't errors, and what never ran has its span, too."""
    telemetry = Telemetry(anyio.current_time)
    run_in_virtual_time(backend, all_outcomes, telemetry.instrument)
    found = [
        (
            span.name.rpartition(".")[2],
            (span.attributes or {}).get("executor.lane.name"),
            (span.attributes or {}).get("executor.job.outcome"),
            (span.attributes or {}).get("executor.slot"),
            (span.attributes or {}).get("executor.job.wait_time"),
            span.status.description,
        )
        for span in telemetry.spans
    ]
    assert found == [
        ("process sleep", "", "succeeded", 0, 0.0, None),
        ("process sleep", "api", "failed", None, None, "QueueTimeout"),
        ("process sleep", "", "cancelled", None, None, None),
        ("process sleep", "", "cancelled", 0, 0.0, None),
        ("process fail", "api", "failed", 0, 1.5, "ValueError"),
        ("process sleep", "", "succeeded", 0, 0.0, None),
        ("nest", "api", "succeeded", 0, 1.5, None),
    ]
    failed = telemetry.spans[4]
    assert failed.status.status_code is trace.StatusCode.ERROR
    [event] = failed.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "no luck\nat all"
    assert "fail" in str(event.attributes["exception.stacktrace"])


@in_virtual_time
def test_opentelemetry_measures(backend: str) -> None:
    """Slots, queue, waits, runs and timeouts, by executor and lane."""
    telemetry = Telemetry(anyio.current_time)
    run_in_virtual_time(backend, all_outcomes, telemetry.instrument)
    assert telemetry.points("executor.slot.max") == [(None, "", 1)]
    assert telemetry.points("executor.slot.count") == [("", "", 0), ("api", "", 0)]
    assert telemetry.points("executor.job.pending") == [("", "", 0), ("api", "", 0)]
    assert telemetry.points("executor.job.wait_time") == [("", "", (3, 0)), ("api", "", (2, 3))]
    assert telemetry.points("executor.job.duration") == [
        ("", "cancelled", (1, 1.5)),
        ("", "succeeded", (2, 3)),
        ("api", "ValueError", (1, 0)),
        ("api", "succeeded", (1, 1)),
    ]
    assert telemetry.points("executor.job.timeouts") == [("api", "", 1)]


@pytest.mark.anyio
async def test_opentelemetry_keeps_the_thread_of_spans(anyio_backend) -> None:
    """A job's span is under its submitter's; what's made in the job is under the job's."""
    telemetry = Telemetry(anyio.current_time)
    tracer = telemetry.tracers.get_tracer("tests")

    async def inner() -> None:
        with tracer.start_as_current_span("inside"):
            await checkpoint()

    async def outer() -> None:
        with tracer.start_as_current_span("outside"):
            await executor.submit(inner)
        assert trace.get_current_span() is not trace.INVALID_SPAN

    async with Executor(math_inf, instruments=[telemetry.instrument]) as executor:
        with tracer.start_as_current_span("submitter"):
            submitted = executor.submit(outer)
        with tracer.start_as_current_span("another"):
            await submitted
        assert trace.get_current_span() is trace.INVALID_SPAN
    by_id = {span.context.span_id: span.name for span in telemetry.spans if span.context}
    parents = {
        span.name.rpartition(".")[2]: by_id[span.parent.span_id] if span.parent else None
        for span in telemetry.spans
    }
    names = {name: name.rpartition(".")[2] for name in by_id.values()}
    assert {name: parent and names[parent] for name, parent in parents.items()} == {
        "submitter": None,
        "outer": "submitter",
        "outside": "outer",
        "inner": "outside",
        "inside": "inner",
        "another": None,
    }


math_inf = float("inf")


def test_a_span_is_current_only_until_its_job_ends() -> None:
    """If the job's context goes on after the job, as that of a block does, its span doesn't."""
    telemetry = Telemetry(lambda: 0.0)
    tracer = telemetry.tracers.get_tracer("tests")
    play = Play()
    play.instruments = [telemetry.instrument]
    with tracer.start_as_current_span("outside"):
        before = trace.get_current_span()
        future = play.submit(PlayedLane(name="crawler"), "block")
        play.start(future)
        assert trace.get_current_span() is not before
        play.finish(future)
        assert trace.get_current_span() is before


def test_opentelemetry_measures_the_limits_of_lanes() -> None:
    """A lane's slots, and the executor's, each time they have changed."""
    # Two, since older SDKs tell a gauge once for each time that it's set.
    telemetry, other = Telemetry(lambda: 0.0), Telemetry(lambda: 0.0)
    play = Play()
    play.instruments = [telemetry.instrument, other.instrument]
    executor = PlayedLane(name="crawler", slots=8)
    lane = PlayedLane(executor, "api", slots=2)
    for slots in (2, 4):
        lane.slots = slots
        future = play.submit(lane)
        play.start(future)
        play.finish(future)
        assert telemetry.points("executor.lane.slot.max") == [("api", "", slots)]
    assert other.points("executor.slot.max") == [(None, "", 8)]
    executor.slots, lane.slots = math_inf, 4
    play.start(play.submit(lane))
    lane.slots = math_inf
    play.start(play.submit(lane))
    assert other.points("executor.slot.max") in ([], [(None, "", 8)])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_errors_without_words_are_recorded(lines: list[str]) -> None:
    """An exception that can't be turned into a string takes no instrument out of service."""
    telemetry = Telemetry(lambda: 0.0)
    play = Play()
    play.instruments = [telemetry.instrument, Logging(clock=play.clock)]
    future = play.submit(PlayedLane(name="crawler"))
    play.start(future)
    play.finish(future, "failed", Unspeakable())
    [span] = telemetry.spans
    assert span.status.description == "Unspeakable"
    [event] = span.events
    assert (event.attributes or {})["exception.type"] == "Unspeakable"
    assert lines[0].endswith(": Unspeakable without a repr")


@pytest.mark.anyio
async def test_opentelemetry_knows_the_submitter_of_a_job_let_in_later(anyio_backend) -> None:
    """The span of the waiter in `enqueue` is the parent, whatever admitted the job."""
    telemetry = Telemetry(anyio.current_time)
    tracer = telemetry.tracers.get_tracer("tests")

    class Cancelling:
        def job_submitted(self, future: Any) -> None:
            if future.name == "checkpoint":
                future.cancel()

    async def enqueue() -> None:
        with tracer.start_as_current_span("submitter"):
            await executor.enqueue(sleep, 0)

    release = anyio.Event()
    instruments = [Cancelling(), telemetry.instrument]
    async with Executor(1, max_pending=0, instruments=instruments) as executor:
        executor.submit(release.wait)
        await wait_all_tasks_blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(enqueue)
            await wait_all_tasks_blocked()
            release.set()
        await executor.join()
        with tracer.start_as_current_span("canceller"):
            executor.submit(checkpoint)
    spans = {span.name: span for span in telemetry.spans}
    for name, parent in (("process sleep", "submitter"), ("process checkpoint", "canceller")):
        assert spans[name].parent == spans[parent].context


# Prometheus.


@in_virtual_time
def test_prometheus_measures(backend: str) -> None:
    """Counts and histograms by executor and lane; gauges are back at zero at the end."""
    registry = prometheus_client.CollectorRegistry()
    prometheus = Prometheus(registry=registry, clock=anyio.current_time)
    run_in_virtual_time(backend, all_outcomes, prometheus)

    def value(name: str, lane: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"executor": "crawler", "lane": lane, **labels})

    for lane, outcomes, waits, runs in (
        ("", {"succeeded": 2, "failed": None, "cancelled": 2}, (3, 0), (3, 4.5)),
        ("api", {"succeeded": 1, "failed": 2, "cancelled": None}, (2, 3), (2, 1)),
    ):
        for outcome, count in outcomes.items():
            assert value("anyslots_jobs_total", lane, outcome=outcome) == count
        for name, expected in (("queue_wait", waits), ("run", runs)):
            names = [f"anyslots_job_{name}_seconds_{what}" for what in ("count", "sum")]
            assert tuple(value(name, lane) for name in names) == expected
        assert value("anyslots_jobs_running", lane) == 0
        assert value("anyslots_jobs_queued", lane) == 0
    assert value("anyslots_slots_limit", "") == 1
    assert value("anyslots_slots_limit", "api") == math_inf


def test_prometheus_serves_several_processes(tmp_path: Path) -> None:
    """In the client's multiprocess mode, all metrics are in the files that it collects."""
    code = """
import anyio, prometheus_client.multiprocess as multiprocess
from prometheus_client import CollectorRegistry
from anyslots import Executor
from anyslots.instruments import Prometheus

def queued_and_running():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    names = ("anyslots_jobs_queued", "anyslots_jobs_running", "anyslots_jobs_total")
    return [(s.name, s.value) for m in registry.collect() for s in m.samples if s.name in names]

async def main():
    instruments = [Prometheus(registry=CollectorRegistry())]
    async with Executor(1, instruments=instruments) as executor:
        for _ in range(3):
            executor.submit(anyio.sleep_forever)
        await anyio.sleep(0.01)
        print(sorted(queued_and_running()))
        executor.cancel()
    print(sorted(queued_and_running()))

anyio.run(main)
"""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "[('anyslots_jobs_queued', 2.0), ('anyslots_jobs_running', 1.0)]",
        "[('anyslots_jobs_queued', 0.0), ('anyslots_jobs_running', 0.0), "
        "('anyslots_jobs_total', 3.0)]",
    ]


@pytest.mark.anyio
async def test_prometheus_is_scraped_over_http(anyio_backend) -> None:
    """What runs, waits and is lent at the moment can be fetched, in Prometheus' own format."""
    registry = prometheus_client.CollectorRegistry()
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def scrape() -> str:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as response:
            return str(response.read().decode())

    try:
        instrument = Prometheus(registry=registry)
        async with Executor(1, name="crawler", instruments=[instrument]) as executor:
            release = anyio.Event()

            async def nest() -> None:
                await executor.lane("api").submit(release.wait)

            executor.submit(nest)
            executor.submit(sleep, 0)
            await wait_all_tasks_blocked()
            page = await anyio.to_thread.run_sync(scrape)
            release.set()
        for line in (
            'anyslots_slots_limit{executor="crawler",lane=""} 1.0',
            'anyslots_jobs_running{executor="crawler",lane=""} 0.0',
            'anyslots_jobs_running{executor="crawler",lane="api"} 1.0',
            'anyslots_jobs_queued{executor="crawler",lane="api"} 0.0',
        ):
            assert line in page.splitlines()
        assert "nest" not in page
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.anyio
async def test_what_was_kept_of_a_dropped_lane_is_forgotten(anyio_backend) -> None:
    """An executor may have lanes that come and go: no instrument keeps them."""
    telemetry = Telemetry(anyio.current_time)
    progress = Progress()
    prometheus = Prometheus(registry=prometheus_client.CollectorRegistry())
    timeline = Timeline(limit=1)
    instruments = [progress, prometheus, telemetry.instrument, timeline]
    async with Executor(1, instruments=instruments) as executor:
        for _ in range(50):
            await executor.lane().submit(checkpoint)
        gc.collect()
        kept = (
            progress._counts_of,
            prometheus._series,
            telemetry.instrument._lanes,
            timeline._lanes,
        )
        assert max(len(lanes) for lanes in kept) <= 3


def test_a_registry_takes_one_prometheus() -> None:
    """A second one would count everything twice: `ValueError`."""
    registry = prometheus_client.CollectorRegistry()
    Prometheus(registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Prometheus(registry=registry)


# What's missing.


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("Progress", "rich", "progress"),
        ("OpenTelemetry", "opentelemetry", "opentelemetry"),
        ("Prometheus", "prometheus_client", "prometheus"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ModuleNotFoundError` says what to install; the other instruments do without."""
    monkeypatch.delitem(sys.modules, f"anyslots.instruments._{name.lower()}")
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        getattr(instruments, name)
    assert str(error.value) == (
        f"{name} needs {package}, which is not installed: pip install 'anyslots[{extra}]'"
    )
    assert instruments.Timeline
    assert instruments.Logging


def test_another_missing_module_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that is broken otherwise is shown as it is."""
    monkeypatch.delitem(sys.modules, "anyslots.instruments._prometheus")
    monkeypatch.setitem(sys.modules, "anyslots.instruments._reading", None)
    with pytest.raises(ModuleNotFoundError, match="_reading"):
        _ = instruments.Prometheus


def test_the_package_lists_its_instruments() -> None:
    """Names are offered before they are imported, and unknown ones are refused as ever."""
    assert set(instruments.__all__) <= set(dir(instruments))
    with pytest.raises(AttributeError, match="no attribute 'Radar'"):
        _ = instruments.Radar  # type: ignore[attr-defined]


def test_importing_the_package_imports_no_optional_dependency() -> None:
    """Each instrument brings only what it needs itself, when it's asked for."""
    code = (
        "import sys; from anyslots.instruments import Timeline, Logging; print(Timeline())\n"
        "names = ('rich', 'opentelemetry', 'prometheus_client')\n"
        "print([n for n in names if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
