"""How Sphinx builds these pages: `nox -s docs`, without a network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer

from anyslots import __version__

project = "anyslots"
author = "The anyslots authors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "anyslots"
html_copy_source = False
myst_heading_anchors = 3

# Docstrings say `Executor.submit` and mean it: a name that doesn't exist fails the build.
default_role = "py:obj"
nitpicky = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
# Type variables are private names of our modules, and of no use on a page of their own.
nitpick_ignore_regex = [("py:.*", r"(anyslots\._\w+\.)?(T|T_co|P|P\.args|P\.kwargs|A\d)")]

# What of others' documentation our docstrings refer to. Inventories would have to be downloaded, or
# kept here; a build must need no network, and these few names are all that's needed.
PYTHON = "https://docs.python.org/3/library/"
ELSEWHERE = {
    "AsyncIterable": f"{PYTHON}collections.abc.html#collections.abc.AsyncIterable",
    "Awaitable": f"{PYTHON}collections.abc.html#collections.abc.Awaitable",
    "Callable": f"{PYTHON}collections.abc.html#collections.abc.Callable",
    "Iterable": f"{PYTHON}collections.abc.html#collections.abc.Iterable",
    "anyio.WouldBlock": "https://anyio.readthedocs.io/en/stable/api.html#anyio.WouldBlock",
    "concurrent.futures": f"{PYTHON}concurrent.futures.html",
    "concurrent.futures._base.CancelledError": (
        f"{PYTHON}concurrent.futures.html#concurrent.futures.CancelledError"
    ),
    "concurrent.futures._base.InvalidStateError": (
        f"{PYTHON}concurrent.futures.html#concurrent.futures.InvalidStateError"
    ),
    "math.inf": f"{PYTHON}math.html#math.inf",
    "repr": f"{PYTHON}functions.html#repr",
}


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find what a reference means that isn't one of our documented names."""
    name = node["reftarget"]
    if url := ELSEWHERE.get(name.removeprefix("collections.abc.")):
        return nodes.reference("", "", content, refuri=url, internal=False)
    if node.get("py:class") == "Executor" or name.startswith("Executor."):
        # An executor is a lane, too: what they share is described there.
        inherited = f"anyslots.Lane.{name.removeprefix('Executor.')}"
        python = env.get_domain("py")
        return python.resolve_xref(
            env, node["refdoc"], app.builder, "obj", inherited, node, content
        )
    return None


def forget_overloads(app: Any) -> None:
    """Show one signature, not one for each number of iterables."""
    for module in ("_amap", "_collect", "_lane"):
        analyzer = ModuleAnalyzer.for_module(f"anyslots.{module}")  # kept, and used by autodoc
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Any) -> None:
    app.connect("builder-inited", forget_overloads)
    app.connect("missing-reference", resolve)
