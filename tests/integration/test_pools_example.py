"""The example that computes: on processes, and on a real Dask cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "pools.py"

pytestmark = [pytest.mark.engines, pytest.mark.real_time, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def run(*arguments: str) -> list[str]:
    command = [sys.executable, EXAMPLE, "--until=30000", *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_same_program_on_processes_and_on_a_cluster(scheduler: str, backend: str) -> None:
    for where in ([], [f"--scheduler={scheduler}"]):
        *found, last = run(f"--backend={backend}", *where)
        assert found[-1] == "26,623 takes 307 steps"
        assert last == "below 30,000, 26,623 takes the most: 307"
