"""Fixtures that yield an executor, as the how-to page has them, under the plugins themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "jupyter-and-pytest.md"
BLOCKS = re.findall(r"^```py(?:thon)?\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
(PLAIN,) = [block for block in BLOCKS if block.startswith("@pytest.fixture")]
(HELD,) = [block for block in BLOCKS if block.startswith("@pytest_asyncio.fixture")]

START = """
import asyncio
import anyio, pytest
from anyslots import Executor
"""
TESTS = """
async def double(number):
    await anyio.sleep(0)
    return 2 * number

async def test_one(executor):
    assert await executor.submit(double, 1) == 2

async def test_another(executor):
    assert await executor.map(double, [1, 2]) == [2, 4]
    executor.submit(double, 3)
"""

pytestmark = [pytest.mark.engines, pytest.mark.real_time]


def run(folder: Path, program: str, plugin: str) -> str:
    (folder / "test_it.py").write_text(START + program + TESTS)
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *plugin.split(), folder / "test_it.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": ""},
    )
    return done.stdout


def test_anyio_plugin(tmp_path: Path) -> None:
    output = run(tmp_path, f"pytestmark = pytest.mark.anyio\n{PLAIN}", "-p no:asyncio")
    assert re.search(r"^(4|6) passed in", output, re.MULTILINE), output


@pytest.mark.parametrize(("fixture", "works"), [(HELD, True), (PLAIN, False)])
def test_pytest_asyncio(tmp_path: Path, fixture: str, works: bool) -> None:
    pytest.importorskip("pytest_asyncio")
    fixture = fixture.replace("@pytest.fixture", "@pytest_asyncio.fixture")
    program = f"import pytest_asyncio\npytestmark = pytest.mark.asyncio\n{fixture}"
    output = run(tmp_path, program, "-p no:anyio -p no:trio")
    assert bool(re.search(r"^2 passed in", output, re.MULTILINE)) is works, output
