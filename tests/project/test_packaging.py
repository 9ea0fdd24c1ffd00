"""What is built, what is in it, and that it's the built package which these tests run against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import anyslots

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "anyslots"


def build(project: Path, target: Path) -> dict[str, bytes]:
    """The sdist and the wheel of a project, by file name."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", target]
    env = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(command, cwd=project, env=env, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this checkout's sdist and wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


def the_files(folder: Path) -> set[str]:
    """The names of the files of a package, but for what Python leaves there."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths if path.suffix != ".pyc"}


def test_builds_are_reproducible(built: Path, tmp_path: Path) -> None:
    """Building again from the sdist, elsewhere and later, gives the same two files to the byte."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = tmp_path.iterdir()
    for path in project.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    again = build(project, tmp_path / "dist")
    assert len(again) == 2
    assert again == {path.name: path.read_bytes() for path in built.iterdir()}


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """The wheel has the package's modules, the marker `py.typed` and the licence."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        licence = next(name for name in names if name.endswith("licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    about = f"anyslots-{anyslots.__version__}.dist-info"
    described = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    files = the_files(SOURCE)
    assert {name for name in files if not name.endswith(".py")} == {
        "py.typed",
        "instruments/timeline.html",
    }
    assert names == {f"anyslots/{name}" for name in files} | {f"{about}/{n}" for n in described}


def test_sdist_holds_what_the_tests_need(built: Path) -> None:
    """Whoever packages anyslots for a distribution can build it, and run its tests."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/*.py")}
    assert names >= tests | {f"src/anyslots/{name}" for name in the_files(SOURCE)}
    assert names >= {"CHANGELOG.md", "LICENSE", "README.md", "noxfile.py", "pyproject.toml"}
    assert not [name for name in names if name.startswith((".ci", ".github", ".nox", ".venv"))]


def test_the_version_is_in_one_place() -> None:
    """What's installed calls itself what `__version__` says."""
    assert metadata.version("anyslots") == anyslots.__version__


def test_the_installed_package_is_tested() -> None:
    """These tests import the installed wheel's files, which are those of the checkout."""
    distribution = metadata.distribution("anyslots")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("installed with -e: the checkout itself is tested")
    package = Path(anyslots.__file__).resolve().parent
    assert package == Path(str(distribution.locate_file("anyslots"))).resolve()
    assert package != SOURCE.resolve()
    assert the_files(package) == the_files(SOURCE)
    for name in the_files(SOURCE):
        assert (package / name).read_bytes() == (SOURCE / name).read_bytes(), name
