"""The comparison with peers runs: tiny, and without a word about its figures."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from runners import needs_uvloop

pytestmark = pytest.mark.engines

COMPARE = Path(__file__).parents[2] / "benchmarks" / "compare.py"


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop), "trio"])
def test_each_row_runs_all_its_jobs(loop: str, tmp_path: Path) -> None:
    """It counts the jobs that ran, so one that leaves any out stops it."""
    figures, table = tmp_path / "figures.json", tmp_path / "table.md"
    arguments = ["--loop", loop, "--jobs", "40", "--rounds", "1", "--many", "1000"]
    command = [sys.executable, COMPARE, *arguments, "--json", figures, "--table", table]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))["figures"][loop]
    assert all(figure["ratio"] > 0 for figure in found)
    rows = {figure["row"] for figure in found}
    assert {
        "one checkpoint",
        "gather",
        "ten lanes of twenty places",
        "HTTP through 20 slots",
    } <= rows
    assert len(table.read_text(encoding="utf-8").splitlines()) == len(found) + 4


def test_each_row_across_threads_runs_all_its_calls() -> None:
    command = [sys.executable, COMPARE.parent / "threads.py", "--jobs", "40", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert len(done.stdout.splitlines()) == 2 + 3


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_each_program_whose_instructions_are_counted_runs(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without valgrind, which counts them, and for a few jobs."""
    monkeypatch.syspath_prepend(COMPARE.parent)
    import instructions

    try:
        for name in instructions.rows(loop).keys() - instructions.PARTS:
            anyio.run(instructions.run, name, loop, 5, backend=loop)
    finally:
        gc.enable()  # each run switches it off
    if loop == "asyncio":
        command = [sys.executable, instructions.__file__, "--run", "submit", "--jobs", "5"]
        subprocess.run(command, check=True, timeout=100)
