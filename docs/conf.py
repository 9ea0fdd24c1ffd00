"""How Sphinx builds these pages: `nox -s docs`, without a network."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from sphinx.ext.intersphinx import missing_reference
from sphinx.pycode import ModuleAnalyzer

from anyslots import __version__

# The one place that names the repository and its owner.
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]

project = "anyslots"
author = "The anyslots authors"
project_copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "notfound.extension",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "anyslots"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
html_baseurl = os.environ.get(
    "READTHEDOCS_CANONICAL_URL", PROJECT["urls"]["Documentation"] + "/en/stable/"
)
html_theme_options = {
    "source_repository": PROJECT["urls"]["Source"] + "/",
    "source_branch": "main",
    "source_directory": "docs/",
}

# What a link to these pages looks like elsewhere.
ogp_site_url = html_baseurl
ogp_image = "_static/card.png"
ogp_image_alt = "anyslots: bounded concurrency with futures, for asyncio, uvloop and trio"
ogp_social_cards = {"enable": False}

# Docstrings say `Executor.submit` and mean it: a name that doesn't exist fails the build.
default_role = "py:obj"
nitpicky = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
# Type variables are private names of our modules, and of no use on a page of their own.
TYPE_VARIABLES = r"(anyslots\.[\w.]+\.)?(T|Ts|T_co|P|P\.args|P\.kwargs|A\d|K|V|VT|_?VT_co)"
nitpick_ignore_regex = [("py:.*", TYPE_VARIABLES)]
# In annotations, what their docstrings describe.
nitpick_ignore = [
    ("py:class", "anyslots._blocking.BlockingLane"),
    ("py:class", "anyslots._scheduling.job.Status"),
    ("py:class", "anyslots.httpx.SlotLane"),
    ("py:class", "anyslots.instruments._snapshot.Snapshot"),
]

# The build has no network, so it comes with the inventories of what docstrings refer to: that of
# CPython as a whole, and for others the names that are used, in the textual first version of the
# format.
intersphinx_mapping = {
    name: (url, f"inventories/{name}.inv")
    for name, url in {
        "python": "https://docs.python.org/3",
        "anyio": "https://anyio.readthedocs.io/en/stable",
        "trio": "https://trio.readthedocs.io/en/stable",
        "rich": "https://rich.readthedocs.io/en/stable",
        "opentelemetry": "https://opentelemetry-python.readthedocs.io/en/latest",
        "prometheus": "https://prometheus.github.io/client_python",
    }.items()
}


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find what a reference means that isn't a documented name as it stands."""
    name = node["reftarget"]
    python = env.get_domain("py")
    # In our other modules; a method, wherever it's meant; and what `concurrent.futures` defines in
    # a private module.
    for ours in (f"anyslots.{name}", f"anyslots.Executor.{name}", f"anyslots.Future.{name}"):
        where = (node["refdoc"], app.builder, "obj", ours, node, content)
        if found := python.resolve_xref(env, *where):
            return found
    node["reftarget"] = "concurrent.futures." + name.removeprefix("concurrent.futures._base.")
    try:
        return missing_reference(app, env, node, content)
    finally:
        node["reftarget"] = name


def forget_overloads(app: Any) -> None:
    """Show one signature, not one for each number of iterables."""
    for module in ("_amap", "_collect", "_handles", "_map_method"):
        analyzer = ModuleAnalyzer.for_module(f"anyslots.{module}")  # kept, and used by autodoc
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Any) -> None:
    app.connect("builder-inited", forget_overloads)
    app.connect("missing-reference", resolve)
