"""CPython's own tests: of executors on `BlockingExecutor`, of asyncio as jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cpython_executor_tests import NOT_SHIPPED

pytestmark = [pytest.mark.unmeasured, pytest.mark.real_time]

PROGRAM = Path(__file__).parent / "cpython_executor_tests.py"
ASYNCIO_PROGRAM = Path(__file__).parent / "cpython_asyncio_tests.py"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cpythons_own_tests(backend: str) -> None:
    """CPython's tests of executors, of `wait` and of `as_completed` pass."""
    command = [sys.executable, "-W", "error", PROGRAM, backend]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if run.returncode == NOT_SHIPPED:
        pytest.skip(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(run.stdout.split()[-2]) > 20


@pytest.mark.engines
@pytest.mark.parametrize(("what", "least"), [("bodies", 150), ("tasks", 170)])
def test_cpythons_own_tests_of_asyncio_as_jobs(what: str, least: int) -> None:
    """Tests of timeouts, groups, locks, queues and `wait_for` pass as jobs."""
    command = [sys.executable, "-W", "error", ASYNCIO_PROGRAM, what]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if run.returncode == NOT_SHIPPED:
        pytest.skip(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(run.stdout.split()[-2]) > least
