"""How Sphinx builds these pages: `nox -s docs`, without a network."""

from __future__ import annotations

import sys
from pkgutil import resolve_name
from types import BuiltinFunctionType, ModuleType
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
TYPE_VARIABLES = r"(anyslots\.[\w.]+\.)?(T|Ts|T_co|P|P\.args|P\.kwargs|A\d)"
nitpick_ignore_regex = [("py:.*", TYPE_VARIABLES)]

# What others document, by package. Sphinx's way to link it, inventories, takes a network or copies
# of them in here; our docstrings refer to a few names only.
ELSEWHERE = {
    "anyio": "https://anyio.readthedocs.io/en/stable/api.html#{name}",
    "opentelemetry": "https://opentelemetry-python.readthedocs.io/",
    "prometheus_client": "https://prometheus.github.io/client_python/",
    "rich": "https://rich.readthedocs.io/en/stable/reference.html",
}


def standard_library(name: str) -> str | None:
    """Where the standard library describes ``name``; None for what it doesn't have."""
    for qualified in (name, f"builtins.{name}", f"concurrent.futures.{name}"):
        if qualified.partition(".")[0] not in sys.stdlib_module_names:
            continue
        try:
            thing = resolve_name(qualified)
        except (AttributeError, ImportError, ValueError):
            continue
        module, _, last = qualified.rpartition(".")
        if module == "builtins" and isinstance(thing, BuiltinFunctionType):
            page = f"functions.html#{last}"
        elif module == "builtins":  # for its types, Sphinx wants no link
            if not (isinstance(thing, type) and issubclass(thing, BaseException)):
                continue
            page = f"exceptions.html#{last}"
        elif isinstance(thing, ModuleType):
            page = f"{qualified}.html"
        else:
            page = f"{module}.html#{qualified}"
        return f"https://docs.python.org/3/library/{page}"
    return None


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find what a reference means that isn't a documented name as it stands."""
    # The standard library's futures are defined in a private module.
    name = node["reftarget"].replace("concurrent.futures._base.", "concurrent.futures.")
    python = env.get_domain("py")
    # In our other modules; of an executor, which is a lane, too; and `map`, wherever it's meant.
    for ours in (f"anyslots.{name}", f"anyslots.Lane.{name.removeprefix('Executor.')}"):
        where = (node["refdoc"], app.builder, "obj", ours, node, content)
        if found := python.resolve_xref(env, *where):
            return found
    package = name.partition(".")[0]
    url = ELSEWHERE[package].format(name=name) if package in ELSEWHERE else standard_library(name)
    return None if url is None else nodes.reference("", "", content, refuri=url, internal=False)


def forget_overloads(app: Any) -> None:
    """Show one signature, not one for each number of iterables."""
    for module in ("_amap", "_collect", "_lane"):
        analyzer = ModuleAnalyzer.for_module(f"anyslots.{module}")  # kept, and used by autodoc
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Any) -> None:
    app.connect("builder-inited", forget_overloads)
    app.connect("missing-reference", resolve)
