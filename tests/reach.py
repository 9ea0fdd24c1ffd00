"""Which tests run a line, and how long each takes; `mutants.py` runs those, the fastest first.

Also the pytest plugin that measures it, and keeps that order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "anyslots"

CHOSEN = [
    *("-q", "--backend=asyncio", "--backend=trio", "-p", "reach", "-p", "no:cacheprovider"),
    # They see that the checkout is what's tested; a copy of it never is.
    f"--ignore-glob={TESTS}/**/test_packaging.py",
]
"""What pytest is called with."""
MEASURED = ["-m", "not engines and not unmeasured"]
REST = ["-m", "unmeasured and not engines"]
"""What tracing would disturb."""


def environment(folder: Path, package_folder: Path) -> dict[str, str]:
    paths = f"{package_folder}{os.pathsep}{TESTS}"
    return os.environ | {
        "PYTHONPATH": paths,
        "REACH": str(folder),
        "COVERAGE_FILE": str(folder / "lines"),
        "HYPOTHESIS_PROFILE": "mutants",
    }


class Reach:
    """What a run of the tests has shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = coverage.CoverageData(str(folder / "lines"))
        self.data.read()
        self.by_line: dict[str, dict[int, list[str]]] = {}
        self.durations: dict[str, float] = json.loads((folder / "durations").read_text())

    def tests_of(self, file: str, line: int) -> list[str]:
        """The tests that run a line of the package, or the one above if it's within a statement."""
        if file not in self.by_line:  # paths are relative, as pyproject.toml has it
            self.by_line[file] = self.data.contexts_by_lineno(f"src/anyslots/{file}")
        by_line = self.by_line[file]
        reached = max((each for each in by_line if each <= line), default=line)
        tests = [test for test in by_line.get(reached, ()) if test in self.durations]
        return sorted(tests, key=self.durations.__getitem__)


def known(folder: Path) -> Reach:
    """Run the tests once, all of them, unless that's known; `RuntimeError` if one fails."""
    if (folder / "durations").exists():
        return Reach(folder)
    folder.mkdir(exist_ok=True)
    tests = ["-m", "pytest", "-n", "auto", "--dist", "loadgroup", *CHOSEN, *MEASURED]
    root = TESTS.parent
    env = environment(folder, PACKAGE.parent)
    if subprocess.call([sys.executable, "-m", "coverage", "run", *tests], cwd=root, env=env):
        raise RuntimeError("tests fail without any bug")
    subprocess.check_call([sys.executable, "-m", "coverage", "combine", "-q"], cwd=root, env=env)
    return Reach(folder)


# The plugin.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(item.nodeid)
    return (yield)


durations: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    durations[report.nodeid] = durations.get(report.nodeid, 0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if coverage.Coverage.current() is not None and not hasattr(session.config, "workerinput"):
        (Path(os.environ["REACH"]) / "durations").write_text(json.dumps(durations))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = Path(os.environ["REACH"]) / "durations"
    if coverage.Coverage.current() is None and known.exists():
        seconds = json.loads(known.read_text())
        items.sort(key=lambda item: seconds.get(item.nodeid, 0))
