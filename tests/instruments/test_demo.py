"""The demo, run as its users run it: as a command, over real HTTP, to its exit status.

The tests call `main` in this process where nothing but the process would differ.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from runners import HAS_UVLOOP

import anyslots
from anyslots import _demo
from anyslots.__main__ import main

pytestmark = pytest.mark.real_time

BACKENDS = ["asyncio", *["uvloop"] * HAS_UVLOOP, "trio"]
all_backends = pytest.mark.parametrize("demo_backend", BACKENDS)
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

EVENT = re.compile(r" *(\d+\.\d\d) s  slot (\d+)  job +(\d+) (starts|finished|failed): (.*)")


class Site(ThreadingHTTPServer):
    """Answers /interrupt by a Ctrl-C, /missing by 404, and every other path by its own name."""

    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.address = f"http://127.0.0.1:{self.server_port}"


class SiteHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/interrupt":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            self.rfile.read()  # until the client has gone
            return
        content = self.path.encode()
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A URL whose port is taken, so that no other program gets it, and where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep asyncio's debug output out of the children's stderr, and proxies off loopback."""
    for name in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def command(*args: object) -> list[str]:
    """What starts the demo in another process, and shows there what it leaves open."""
    python = [sys.executable, "-W", "always::ResourceWarning"]
    return [*python, "-m", "anyslots", "demo", *(str(arg) for arg in args)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def url_file(folder: Path, *lines: str) -> str:
    path = folder / "urls.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def events(output: str) -> list[tuple[int, int, str, str]]:
    """Slot, job, what happened, and the rest of the line."""
    matches = [match for line in output.splitlines() if (match := EVENT.fullmatch(line))]
    return [(int(m[2]), int(m[3]), m[4], m[5]) for m in matches]


def jobs_that(what: str, output: str) -> list[int]:
    return sorted(job for _, job, happened, _ in events(output) if happened == what)


def check_slots(output: str, slots: int) -> None:
    """Every job ends in the slot it started in, which it has for itself."""
    running: dict[int, int] = {}
    for slot, job, what, _ in events(output):
        if what == "starts":
            assert slot not in running
            running[slot] = job
        else:
            assert running.pop(slot) == job
        assert slot < slots
    assert not running


# A run of the demo.


@all_backends
def test_eleven_downloads_go_through_four_slots(demo_backend: str) -> None:
    """Without options, 11 jobs start and finish in 4 slots, and a chart says when and where."""
    result = run(command("--backend", demo_backend))
    assert (result.returncode, result.stderr) == (0, "")
    assert jobs_that("starts", result.stdout) == list(range(1, 12))
    assert jobs_that("finished", result.stdout) == list(range(1, 12))
    assert {slot for slot, *_ in events(result.stdout)} == {0, 1, 2, 3}
    check_slots(result.stdout, slots=4)
    check_chart(result.stdout)


def check_chart(output: str) -> None:
    """Each slot has its own jobs' bars, in proportion to their times, in 80 columns of ASCII."""
    assert output.isascii()
    lines = output.splitlines()
    assert max(len(line) for line in lines) <= 80
    rows = [line for line in lines if line.startswith("slot ")]
    assert [line[:7].strip() for line in rows] == [f"slot {slot}" for slot in range(len(rows))]
    times: dict[int, list[float]] = {}
    for line in lines:
        if match := EVENT.fullmatch(line):
            times.setdefault(int(match[3]), []).append(float(match[1]))
    scale = 72 / max(end for _, end in times.values())
    for slot, row in enumerate(rows):
        started = [job for s, job, what, _ in events(output) if s == slot and what == "starts"]
        bars = re.finditer(r"\[(\d+)=*\]", row[8:])
        for job, bar in zip(started, bars, strict=True):
            assert int(bar[1]) == job
            assert bar.start() == pytest.approx(times[job][0] * scale, abs=2)
            assert bar.end() == pytest.approx(times[job][1] * scale, abs=2)
    assert any(line.startswith("queue ") for line in lines)


@all_backends
def test_half_of_the_jobs_make_a_task_where_there_are_tasks(
    demo_backend: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under asyncio every other job is a function that creates a task; on trio there is none."""
    tasks = {}
    fetch_in_task = _demo.Download.fetch_in_task

    def noting(download: _demo.Download, client: object) -> asyncio.Task[int]:
        tasks[download.number] = fetch_in_task(download, client)  # type: ignore[arg-type]
        return tasks[download.number]

    monkeypatch.setattr(_demo.Download, "fetch_in_task", noting)
    path = url_file(tmp_path, *[f"{site.address}/{n}" for n in range(5)])
    assert main(["demo", "--backend", demo_backend, "--url-file", path]) == 0
    assert list(tasks) == ([] if demo_backend == "trio" else [2, 4])
    assert all(isinstance(task, asyncio.Task) for task in tasks.values())


def test_the_number_of_slots_is_kept(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one slot, jobs run one after another in slot 0, and the chart has one row."""
    path = url_file(tmp_path, *[f"{site.address}/{n}" for n in range(6)])
    assert main(["demo", "--slots", "1", "--url-file", path]) == 0
    output = capsys.readouterr().out
    assert [job for _, job, *_ in events(output)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    check_slots(output, slots=1)
    assert len(re.findall("^slot ", output, re.MULTILINE)) == 1


def test_the_demos_own_pages_need_no_proxy(
    unreachable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy in the environment doesn't come between the demo and its own server."""
    monkeypatch.setenv("HTTP_PROXY", unreachable)
    monkeypatch.delenv("NO_PROXY")
    assert main(["demo", "--slots", "50", "--jobs", "3"]) == 0
    output = capsys.readouterr().out
    assert jobs_that("finished", output) == [1, 2, 3]
    assert {slot for slot, *_ in events(output)} == {0, 1, 2}


# URLs of the user's own.


@all_backends
def test_a_failed_download_leaves_the_others_unharmed(
    demo_backend: str, site: Site, unreachable: str, tmp_path: Path
) -> None:
    """Status 1, a line on stderr for each failure, and all others finish."""
    good, missing = f"{site.address}/good", f"{site.address}/missing"
    path = url_file(
        tmp_path, "# some URLs", good, "", unreachable, f"  {missing} ", "nonsense", good
    )
    result = run(command("--backend", demo_backend, "--slots", 2, "--url-file", path))
    assert result.returncode == 1
    assert jobs_that("starts", result.stdout) == [1, 2, 3, 4, 5]
    assert jobs_that("finished", result.stdout) == [1, 5]
    assert jobs_that("failed", result.stdout) == [2, 3, 4]
    check_slots(result.stdout, slots=2)
    errors = result.stderr.splitlines()
    assert len(errors) == 3
    assert errors[0].startswith(f"anyslots demo: {unreachable} failed: ConnectError: ")
    assert errors[1].startswith(f"anyslots demo: {missing} failed: HTTPStatusError: ")
    assert "404 Not Found" in errors[1]
    assert errors[2].startswith("anyslots demo: nonsense failed: UnsupportedProtocol: ")


def test_failed_jobs_stand_out_in_the_chart(
    unreachable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bars of failed jobs are drawn with x, however short they are, and a line says so."""
    path = url_file(tmp_path, *["nonsense"] * 6, unreachable)
    assert main(["demo", "--slots", "1", "--url-file", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("slot 0"))
    assert "x" in row
    assert "=" not in row
    assert len(row) <= 80
    assert lines[-1].startswith("x: failed")


def test_jobs_limits_the_urls_of_a_file(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both options, the first URLs of the file are downloaded; a BOM isn't part of one."""
    path = url_file(tmp_path, f"\ufeff{site.address}/1", f"{site.address}/2", f"{site.address}/3")
    assert main(["demo", "--jobs", "2", "--url-file", path]) == 0
    output, errors = capsys.readouterr()
    started = {job: url for _, job, what, url in events(output) if what == "starts"}
    assert started == {1: f"{site.address}/1", 2: f"{site.address}/2"}
    assert errors == ""


def test_pictures_and_the_trace_are_saved(site: Site, tmp_path: Path) -> None:
    """`--svg`, `--html` and `--trace` write what ran when."""
    path = url_file(tmp_path, f"{site.address}/1", f"{site.address}/2")
    files = {kind: tmp_path / f"slots.{kind}" for kind in ("svg", "html", "trace")}
    args = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    assert main(["demo", "--slots", "1", "--url-file", path, *args]) == 0
    for kind in ("svg", "html"):
        assert "2 Download.fetch_in_task: succeeded" in files[kind].read_text(encoding="utf-8")
    trace = json.loads(files["trace"].read_text())
    runs = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [event["args"]["job"] for event in runs] == [1, 2]


@pytest.mark.parametrize("option", ["--svg", "--html", "--trace"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("no-such-folder/file", "No such file or directory"),
        (".", "Is a directory"),
        ("a\0b", "embedded null (byte|character)"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(
    option: str, place: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and one line, before anything runs."""
    path = str(tmp_path / place)
    with pytest.raises(SystemExit) as exit_info:
        main([option, path])
    assert exit_info.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    message = f"anyslots: argument {option}: cannot write {path!r}: "
    assert re.fullmatch(f"{re.escape(message)}{reason}\n", errors)


def test_checking_a_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    """What was there stays until the demo has run, and nothing is there that wasn't."""
    old, new = tmp_path / "old.svg", tmp_path / "new.svg"
    old.write_text("as it was")
    with pytest.raises(SystemExit):
        main(["--svg", str(old), "--html", str(new), "--slots", "0"])
    assert old.read_text() == "as it was"
    assert not new.exists()


@posix
def test_a_device_can_be_written_to(site: Site, tmp_path: Path) -> None:
    """What isn't a regular file isn't opened beforehand."""
    path = url_file(tmp_path, site.address)
    assert main(["--url-file", path, "--svg", os.devnull]) == 0


def test_a_file_that_cannot_be_saved_is_reported(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 and one line, if it can no longer be written once the downloads have ended."""

    def full(timeline: object, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_demo.Timeline, "save_svg", full)
    path, picture = url_file(tmp_path, site.address), str(tmp_path / "slots.svg")
    assert main(["--url-file", path, "--svg", picture]) == 1
    message = f"anyslots demo: cannot write {picture!r}: No space left on device\n"
    assert capsys.readouterr().err == message


# Where the output goes.


@posix
@all_backends
def test_a_terminal_shows_live_bars_and_a_timeline_in_color(demo_backend: str) -> None:
    """In a terminal, bars grow while it runs; the picture at its end is as wide as the terminal."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    arguments = command("--backend", demo_backend, "--jobs", 5, "--slots", 2)
    with subprocess.Popen(arguments, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        try:
            while some := os.read(ours, 10_000):
                output += some
        except OSError:  # what Linux says when the other side has gone
            pass
    os.close(ours)
    assert process.returncode == 0
    drawn = output.decode()
    assert "\x1b[?25l" in drawn  # no cursor while bars are drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    text = re.sub(r"\x1b\[[\d;?]*\w", "", drawn)
    assert re.search(r"downloads .*━.* 5/5 +0 running", text)
    assert "2 slots, 5 jobs in " in text
    assert " starts: " not in text


def test_output_that_cannot_be_encoded_is_escaped(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL that standard output's encoding doesn't have is shown, with escapes."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert main(["demo", "--url-file", url_file(tmp_path, f"{site.address}/\u00e9")]) == 0
    assert f"{site.address}/\\xe9".encode() in output.getvalue()


def test_no_standard_output_is_needed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started without standard output (`>&-`), the demo still says by its status how it went."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["demo", "--url-file", url_file(tmp_path, f"{site.address}/missing")]) == 1


def test_a_reader_that_goes_away_is_no_error(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `anyslots demo | head -1`: no error is reported, and the downloads go on."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="ascii") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["demo", "--url-file", url_file(tmp_path, site.address)]) == 0
    assert capsys.readouterr().err == ""


# What goes wrong before it begins.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--slots", "0"], "argument --slots: must be a whole number from 1, not '0'"),
        (["--slots", "-1"], "argument --slots: must be a whole number from 1, not '-1'"),
        (["--slots", "abc"], "argument --slots: must be a whole number from 1, not 'abc'"),
        (["--slots"], "argument --slots: expected one argument"),
        (["--jobs", "0"], "argument --jobs: must be a whole number from 1, not '0'"),
        (["--jobs", "2.5"], "argument --jobs: must be a whole number from 1, not '2.5'"),
        (["--backend", "curio"], "argument --backend: invalid choice: 'curio'"),
        (["--url-file", "no-such-file"], "argument --url-file: cannot read 'no-such-file': "),
        (["--url-file", "."], "argument --url-file: cannot read '.': "),
        (["--url-file", "nul\0"], r"argument --url-file: cannot read 'nul\x00': "),
        (["--url-file", sys.executable], "argument --url-file: cannot read "),
        (["--url-file", os.devnull], f"argument --url-file: {os.devnull!r} has no URL in it"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, one line on stderr that names the argument, and nothing starts."""
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *args])
    assert exit_info.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(rf"anyslots( demo)?: {re.escape(message)}.*\n", errors)


def test_an_unknown_command_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as for any bad argument."""
    with pytest.raises(SystemExit) as exit_info:
        main(["demolish"])
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert "'demolish'" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "args", "install"),
    [
        ("httpx", [], "'anyslots[demo]'"),
        ("rich", [], "'anyslots[demo]'"),
        ("trio", ["--backend", "trio"], "'anyslots[trio]'"),
        ("uvloop", ["--backend", "uvloop"], "uvloop"),
    ],
)
def test_a_missing_package_is_reported(
    module: str,
    args: list[str],
    install: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2, and one line that says how to install what is missing; so in any process."""
    message = f"anyslots demo: {module} is not installed: pip install {install}\n"
    result = run(without(module, *args))
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *args])
    assert exit_info.value.code == 2
    assert capsys.readouterr() == ("", message)


def test_asyncio_needs_no_trio(site: Site, tmp_path: Path) -> None:
    """The demo runs on asyncio where trio isn't installed."""
    result = run(without("trio", "--url-file", url_file(tmp_path, site.address)))
    assert (result.returncode, result.stderr) == (0, "")
    assert jobs_that("finished", result.stdout) == [1]


def without(module: str, *args: str) -> list[str]:
    """What runs the demo in an interpreter where ``module`` can't be imported."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from anyslots.__main__ import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, "demo", *args]


# Ctrl-C.


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C counts, here and in children, even if the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix
@all_backends
@pytest.mark.usefixtures("heeded")
def test_ctrl_c_ends_the_demo_quickly_with_one_line(demo_backend: str) -> None:
    """Status 130 and one line; what has run until then was shown as it happened."""
    with subprocess.Popen(
        command("--backend", demo_backend, "--jobs", 1000),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while " starts: " not in (line := process.stdout.readline()):
            assert line, "it ended before any job started"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=5)
    assert (process.returncode, errors) == (130, "anyslots: interrupted\n")
    assert "Traceback" not in rest
    assert "failed" not in rest
    assert "What ran" not in rest


@posix
@all_backends
@pytest.mark.usefixtures("heeded")
def test_ctrl_c_cancels_what_runs_and_what_is_queued(
    demo_backend: str, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No job begins after Ctrl-C, and the one that runs isn't shown as failed."""
    path = url_file(tmp_path, site.address, f"{site.address}/interrupt", site.address)
    args = ["--backend", demo_backend, "--slots", "1", "--url-file", path]
    assert main(["demo", *args]) == 130
    output, errors = capsys.readouterr()
    assert [(job, what) for _, job, what, _ in events(output)] == [
        (1, "starts"),
        (1, "finished"),
        (2, "starts"),
    ]
    assert errors == "anyslots: interrupted\n"


# The command itself.


def test_no_command_runs_the_demo(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m anyslots` does what `anyslots demo` does."""
    path = url_file(tmp_path, site.address)
    monkeypatch.setattr(sys, "argv", ["anyslots", "--url-file", path])
    monkeypatch.delitem(sys.modules, "anyslots.__main__")
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("anyslots", run_name="__main__")
    assert exit_info.value.code == 0
    output, errors = capsys.readouterr()
    assert jobs_that("finished", output) == [1]
    assert errors == ""


@pytest.mark.parametrize(
    ("option", "start"),
    [("--version", f"anyslots {anyslots.__version__}\n"), ("--help", "usage: anyslots")],
)
def test_version_and_help_are_printed(
    option: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, and nothing runs."""
    with pytest.raises(SystemExit) as exit_info:
        main([option])
    assert exit_info.value.code == 0
    output, errors = capsys.readouterr()
    assert output.startswith(start)
    assert errors == ""


def test_importing_the_package_imports_no_demo() -> None:
    modules = ["anyslots.__main__", "anyslots._demo", "http.server", "httpx", "trio"]
    code = f"import sys, anyslots; print([m for m in {modules!r} if m in sys.modules])"
    assert run([sys.executable, "-c", code]).stdout == "[]\n"
