"""The package as a whole: its names, its documentation, its types, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import os
import pkgutil
import subprocess
import sys
import typing
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mutants import MUTANTS
from runners import HAS_GIL

import anyslots

PUBLIC = {name: getattr(anyslots, name) for name in anyslots.__all__}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}

# What exists already of the names that the contract fixes.
CONTRACT = {
    "Executor",
    "ExecutorClosed",
    "Future",
    "JobCancelled",
    "Lane",
    "NotDone",
    "gather",
}


def python(code: str) -> str:
    """What a fresh interpreter prints that turns warnings into errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def public_members(cls: type) -> dict[str, Any]:
    """What users call and read of a class: its functions and properties, by name."""
    members = {}
    for base in cls.__mro__:
        if base.__module__.startswith("anyslots"):
            for name, thing in vars(base).items():
                if isinstance(thing, classmethod | staticmethod):
                    thing = thing.__func__
                is_ours = isinstance(thing, property) or inspect.isfunction(thing)
                if is_ours and not name.startswith("_"):
                    members.setdefault(f"{cls.__name__}.{name}", thing)
    return members


MEMBERS = {name: f for cls in CLASSES.values() for name, f in public_members(cls).items()}


def test_all_is_complete() -> None:
    """`__all__` names just what the package has to offer: nothing is missing, nothing is extra."""
    offered = {
        name
        for name, thing in vars(anyslots).items()
        if not name.startswith("_") and not isinstance(thing, ModuleType)
    }
    assert set(anyslots.__all__) == offered


def test_all_is_sorted() -> None:
    """`__all__` has constants first, then classes, then functions, each by name, none twice."""

    def rank(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), not name[0].isupper(), name

    assert list(anyslots.__all__) == sorted(set(anyslots.__all__), key=rank)


def test_names_of_the_contract_are_there() -> None:
    """The names that users rely on are public."""
    assert set(anyslots.__all__) >= CONTRACT


def test_errors_have_the_bases_that_users_catch() -> None:
    """The errors are caught by the classes that one would catch without knowing anyslots."""
    import concurrent.futures

    assert issubclass(anyslots.ExecutorClosed, RuntimeError)
    assert issubclass(anyslots.NotDone, concurrent.futures.InvalidStateError)
    assert issubclass(anyslots.JobCancelled, concurrent.futures.CancelledError)


@pytest.mark.parametrize("name", ["Executor", "Future"])
def test_classes_that_users_do_not_subclass_are_final(name: str) -> None:
    """Type checkers are told that these classes are final."""
    assert getattr(CLASSES[name], "__final__", False)


def test_executor_is_a_lane() -> None:
    assert issubclass(anyslots.Executor, anyslots.Lane)


@pytest.mark.parametrize(
    "path",
    sorted(Path(anyslots.__path__[0]).rglob("*.py")),
    ids=lambda p: p.relative_to(anyslots.__path__[0]).as_posix(),
)
def test_modules_say_what_is_in_them(path: Path) -> None:
    """Every module begins with a paragraph on what lives there."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("thing", [*CLASSES.values(), *FUNCTIONS.values()])
def test_public_names_have_docstrings(thing: Any) -> None:
    """Every public class and function says what it's for."""
    assert thing.__doc__


@pytest.mark.parametrize("name", MEMBERS)
def test_public_methods_have_docstrings(name: str) -> None:
    """Every public method and property says what it's for, or what it overrides does."""
    assert inspect.getdoc(MEMBERS[name])


@pytest.mark.parametrize("name", MEMBERS)
def test_type_hints_of_methods_resolve(name: str) -> None:
    """`typing.get_type_hints` works on every public method and property, and finds them all."""
    member = MEMBERS[name]
    fn = member.fget if isinstance(member, property) else member
    hints = typing.get_type_hints(fn)
    parameters = inspect.signature(fn).parameters
    assert {*parameters, "return"} - {"self"} == set(hints)


@pytest.mark.parametrize("fn", FUNCTIONS.values())
def test_type_hints_of_functions_resolve(fn: Any) -> None:
    assert set(typing.get_type_hints(fn)) == {*inspect.signature(fn).parameters, "return"}


@pytest.mark.parametrize("cls", CLASSES.values())
def test_type_hints_of_classes_resolve(cls: Any) -> None:
    typing.get_type_hints(cls)


@pytest.mark.parametrize("name", ["Executor", "Statistics"])
def test_type_hints_of_constructors_resolve(name: str) -> None:
    init = CLASSES[name].__init__
    assert set(inspect.signature(init).parameters) - {"self"} <= set(typing.get_type_hints(init))


@pytest.mark.parametrize("thing", [*CLASSES.values(), *FUNCTIONS.values()])
def test_source_can_be_found(thing: Any) -> None:
    """`inspect.getsource` finds the source of everything that is re-exported."""
    assert f" {thing.__name__}" in inspect.getsource(thing)


def test_package_is_typed() -> None:
    """The marker that tells type checkers to look at the package is there."""
    assert (resources.files("anyslots") / "py.typed").is_file()


def test_version_is_a_version() -> None:
    """`__version__` is three numbers."""
    assert [part.isdecimal() for part in anyslots.__version__.split(".")] == [True] * 3


def test_import_is_light() -> None:
    """Importing anyslots imports no event loop that anyio doesn't, and no optional dependency."""
    code = """
import sys, anyio
before = set(sys.modules)
import anyslots
print(*sorted(set(sys.modules) - before))
"""
    modules = python(code).split()
    roots = {module.partition(".")[0] for module in modules}
    # anyio's modules for threads import sniffio where it's installed, and `traceback` of Python
    # 3.15 a module that `sys.stdlib_module_names` doesn't have.
    others = {"anyslots", "anyio", "sniffio", "_missing_stdlib_info"}
    assert roots <= {*others, *sys.stdlib_module_names}
    assert not roots & {"asyncio", "selectors", "socket", "ssl", "subprocess"}
    assert not [module for module in modules if module.startswith("anyio._backends")]


@pytest.mark.skipif(not HAS_GIL, reason="compared with how long builds with the GIL take")
@pytest.mark.unmeasured
@pytest.mark.real_time
@pytest.mark.skipif(sys.platform == "win32", reason="tells the processor's time in steps of 16 ms")
def test_import_takes_no_time(tmp_path: Path) -> None:
    """Importing anyslots after anyio takes 15 ms at most, where asyncio takes 25.

    Processor time, the least of several, and in relation to something else: so it hardly matters
    what else the machine does.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    env |= {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(first: str, then: str) -> float:
        clock = "time.process_time()"
        code = f"import time, {first}; start = {clock}; import {then}; print({clock} - start)"
        return float(subprocess.check_output([sys.executable, "-c", code], env=env))

    asyncio = min(seconds("sys", "asyncio") for _ in range(8))
    assert min(seconds("anyio", "anyslots") for _ in range(8)) < asyncio * 15 / 25


def test_using_it_on_asyncio_needs_no_trio() -> None:
    """Running jobs on asyncio doesn't import trio."""
    code = """
import sys, anyio, anyslots
async def main():
    async with anyslots.Executor(2) as executor:
        return await executor.submit(anyio.sleep, 0)
anyio.run(main)
print("trio" in sys.modules)
"""
    assert python(code) == "False\n"


@pytest.mark.parametrize("attributes", ["", "lowlevel = ModuleType('trio.lowlevel')"])
def test_another_thread_may_be_importing_trio(attributes: str) -> None:
    """An executor is entered while ``sys.modules`` has a part of trio."""
    code = f"""
import sys, anyio, anyslots
from types import ModuleType
trio = ModuleType("trio")
{attributes and "trio." + attributes}
sys.modules["trio"] = trio
async def main():
    async with anyslots.Executor(2) as executor:
        return await executor.submit(anyio.sleep, 0)
anyio.run(main)
print("ran")
"""
    assert python(code) == "ran\n"


def test_using_it_on_trio_imports_no_backend_for_asyncio() -> None:
    """Running jobs on trio needs neither anyio's backend for asyncio nor ours."""
    code = """
import sys, anyio, anyslots
async def main():
    async with anyslots.Executor(2) as executor:
        return await executor.submit(anyio.sleep, 0)
anyio.run(main, backend="trio")
print({"anyio._backends._asyncio", "anyslots._asyncio"} & set(sys.modules))
"""
    assert python(code) == "set()\n"


def test_every_module_can_be_imported_first() -> None:
    """No module needs another one to be imported before it."""
    names = [m.name for m in pkgutil.iter_modules(anyslots.__path__)]
    core = [name for name in names if name not in ("__main__", "_demo")]
    code = f"""
import sys, importlib
for name in {core}:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "anyslots"]:
        del sys.modules[loaded]
    importlib.import_module("anyslots." + name)
print("all")
"""
    assert python(code) == "all\n"


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_what_mutants_change_is_there(file: str) -> None:
    """Each bug that `nox -s mutants` plants has its place."""
    for mutant in MUTANTS:
        if mutant.file == file:
            compile(mutant.planted().source, file, "exec")
