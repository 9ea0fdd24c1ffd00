"""Logging, progress, OpenTelemetry and Prometheus, with the real packages."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
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
from rich.console import Console
from virtual_time import VIRTUAL_BACKENDS, run_in_virtual_time

from anyslots import Executor, instruments
from anyslots.instruments import Logging, OpenTelemetry, Progress, Prometheus

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
    ours = [line for line in lines if "nobody looked" not in line]
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
def test_logging_is_quiet_where_nobody_listens(backend: str, lines: list[str]) -> None:
    """What the logger's level leaves out isn't made."""
    logger = logging.getLogger("anyslots.tests")
    logger.setLevel(logging.WARNING)
    run_in_virtual_time(backend, all_outcomes, Logging(logger, clock=anyio.current_time))
    assert [line.partition(":")[0] for line in lines] == ["WARNING"] * 2


@pytest.mark.anyio
async def test_a_logged_failure_is_still_raised(anyio_backend, lines: list[str]) -> None:
    """That an instrument has read a job's error doesn't count as somebody's having looked."""
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
        "crawler: 2/3 done, 1 running, 1 cancelled, 0.6/s",
        "crawler: 4/4 done, 0 running, 2 cancelled, 0.9/s",
        "crawler / api: 3/3 done, 0 running, 2 failed, 1.2/s",
        "crawler: 4/4 done, 0 running, 2 cancelled, 0.9/s",
        "crawler / api: 3/3 done, 0 running, 2 failed, 1.2/s",
    ]


@in_virtual_time
def test_progress_draws_a_bar_for_each_lane_in_a_terminal(backend: str) -> None:
    """The bars say how many of all have ended, how many run and have failed, and the rate."""
    drawn = progress_of(backend, force_terminal=True, legacy_windows=False, no_color=True)
    crawler, api = re.sub(r"\x1b\[[\d;?]*\w", "", drawn).replace("\r", "\n").splitlines()[-2:]
    assert re.search(r"crawler  .*━.* 4/4 +0 running +0\.9/s +2 cancelled", crawler)
    assert re.search(r"crawler / api .*━.* 3/3 +0 running +1\.2/s +2 failed", api)


def test_progress_can_be_part_of_a_display_of_ones_own() -> None:
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
        with tracer.start_as_current_span("somebody else"):
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
        "somebody else": None,
    }


math_inf = float("inf")


@pytest.mark.anyio
async def test_opentelemetry_knows_the_submitter_of_a_job_let_in_later(anyio_backend) -> None:
    """Whoever waits in `enqueue` is the parent, whatever let the job in; cancelled at once, too."""
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
