"""The documentation: its Python blocks run, and its reference names all that's public.

Each page is one program, whose ``python`` blocks run from top to bottom with the same names. A
block with an `await` outside of functions runs in an event loop of its own. What a ``text`` block
right below says is what it prints. These comments are for us alone:

- ``<!-- given: ... -->`` runs where it stands, for what a reader has and the page doesn't show.
- ``<!-- check: ... -->`` also does, for what should hold then.
- ``<!-- on: asyncio -->`` says that the next block runs on that backend only.
- ``<!-- time: real -->``, for pages with threads: else time is virtual, and no block waits.

A ``py`` block is in somebody else's API: it's compiled, and never runs. No block talks to the
network: `OfflineClient` answers for all the world.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import signal
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import pytest
from virtual_time import run_in_virtual_time

import anyslots

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

TOKEN = re.compile(
    r"^<!-- (?P<comment>given|check|on|time):\s(?P<hidden>.*?)\s*-->$"
    r"|^```(?P<language>\w+)\n(?P<shown>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def steps(page: Path) -> Iterator[tuple[str, str, int]]:
    """What to do with a page: the kind of each block or comment, its text, and its first line."""
    text = page.read_text(encoding="utf-8")
    for match in TOKEN.finditer(text):
        kind = match["comment"] or match["language"]
        group = "hidden" if match["comment"] else "shown"
        yield kind, match[group], text.count("\n", 0, match.start(group)) + 1


def compiled(page: Path, source: str, line: int) -> Any:
    """A block's code, with the page's own line numbers for tracebacks; `run` is up to us."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    source = source.replace("anyio.run(", "run_page(")
    return compile("\n" * (line - 1) + source, str(page), "exec", flags, dont_inherit=True)


class OfflineClient(httpx.AsyncClient):
    """Gets an answer to each request after a tenth of a second, from nowhere."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"transport": offline_transport(), **options})

    @staticmethod
    async def answer(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(60 if "slow" in request.url.path else 0.1)
        if "missing" in request.url.path:
            return httpx.Response(404)
        return httpx.Response(200, text=f"the page {request.url.path}")


def offline_transport() -> httpx.MockTransport:
    return httpx.MockTransport(OfflineClient.answer)


class TerminatedAfterTenSeconds:
    """Stands for `anyio.open_signal_receiver`: somebody stops the program."""

    def __init__(self, *signals: signal.Signals) -> None:
        assert signal.SIGTERM in signals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> signal.Signals:
        await anyio.sleep(10)
        return signal.SIGTERM


def names(pages: list[Path], *kinds: str) -> Any:
    """Those pages that have a block of one of these kinds, for a test to run on each."""
    chosen = [page for page in pages if any(kind in kinds for kind, _, _ in steps(page))]
    ids = [page.relative_to(ROOT).as_posix() for page in chosen]
    return pytest.mark.parametrize("page", chosen, ids=ids)


@names(PAGES, "python")
def test_every_block_runs(
    page: Path,
    anyio_backend: tuple[str, dict[str, Any]],
    loop_name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What a reader copies works, and prints what the page says."""
    real_time = ("time", "real") in [step[:2] for step in steps(page)]
    if loop_name == "uvloop" and not real_time:
        pytest.skip("uvloop has no virtual time")

    def run(fn: Any, *args: Any, backend: str | None = None) -> Any:
        if not real_time:
            return run_in_virtual_time(backend or loop_name, fn, *args)
        name, options = (backend, {}) if backend else anyio_backend
        return anyio.run(fn, *args, backend=name, backend_options=options)

    monkeypatch.chdir(tmp_path)  # for what pages save
    monkeypatch.syspath_prepend(ROOT)  # for those that run an example
    monkeypatch.setattr(anyio, "open_signal_receiver", TerminatedAfterTenSeconds)
    monkeypatch.setattr(httpx, "AsyncClient", OfflineClient)
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", offline_transport)
    namespace: dict[str, Any] = {"__name__": "__main__", "run_page": run}
    only, output = loop_name, ""
    for kind, source, line in steps(page):
        if kind == "on":
            only = source
        elif kind in ("given", "python", "check") and only == loop_name:
            code = compiled(page, source, line)
            with redirect_stdout(io.StringIO()) as stdout:
                if code.co_flags & inspect.CO_COROUTINE:
                    run(eval, code, namespace)
                else:
                    exec(code, namespace)
            output = stdout.getvalue()
        elif kind == "text" and only == loop_name:
            assert output == source, f"{page.name}:{line}"
        if kind in ("python", "check"):
            only = loop_name


@names(PAGES, "python", "py")
def test_every_block_is_python(page: Path) -> None:
    """Blocks that don't run are at least free of mistakes in syntax, and none is too wide."""
    for kind, source, line in steps(page):
        if kind in ("python", "py"):
            compiled(page, source, line)
            too_wide = [row for row in source.splitlines() if len(row) > 100]
            assert not too_wide, f"{page.name}:{line}"


def test_drawings_are_up_to_date() -> None:
    """What `docs/drawings.py` draws is what the pages show."""
    spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    for name, draw in drawings.DRAWINGS.items():
        assert draw() == (DOCS / "_static" / f"{name}.svg").read_text(encoding="utf-8")


MODULES = [module.name for module in pkgutil.iter_modules(anyslots.__path__, "anyslots.")]
PUBLIC_MODULES = ["anyslots", *(name for name in MODULES if not name.startswith("anyslots._"))]


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_the_reference_names_all_that_is_public(module: str) -> None:
    """Each public name is in the reference, alone or with its whole module, and nothing else is."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    reference = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    if re.search(rf"^\.\. automodule:: {re.escape(module)}$", reference, re.MULTILINE):
        return
    pattern = rf"^\.\. auto(?!module)\w+:: {re.escape(module)}\.(\w+)(?!\.)\b"
    documented = re.findall(pattern, reference, re.MULTILINE)
    if module == "anyslots":
        documented += re.findall(r"^\.\. py:data:: (\w+)$", reference, re.MULTILINE)
    assert sorted(documented) == sorted(importlib.import_module(module).__all__)
