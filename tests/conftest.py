"""Every async test runs on asyncio (in debug mode), uvloop and trio; ``--backend`` chooses.

`anyio_backend` runs a test in real time; ``virtual_time.py`` has clocks that jump.
"""

from __future__ import annotations

import gc
import logging
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from runners import HAS_UVLOOP
from virtual_time import tally

settings.register_profile(
    "ci", max_examples=100, stateful_step_count=80, deadline=None, derandomize=True
)
# For soak.py, where the seed alone says which programs are run.
settings.register_profile(
    "soak",
    max_examples=int(os.environ.get("SOAK_EXAMPLES", "500")),
    stateful_step_count=200,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
# For the session `coverage`, where every line takes several times as long.
settings.register_profile("few", settings.get_profile("ci"), max_examples=20)
# For mutants.py, which needs no small examples of what's wrong.
settings.register_profile(
    "mutants",
    max_examples=100,
    stateful_step_count=80,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
IN_SOAK = settings.get_current_profile_name() == "soak"

# Of debug mode's, on a busy machine: no test is about them.
logging.getLogger("asyncio").addFilter(lambda record: "took %.3f seconds" not in str(record.msg))

REAL_TIME: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if not HAS_UVLOOP:
    del REAL_TIME["uvloop"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=[*REAL_TIME, "all"],
        help="run async tests on this backend; may be given again (default: all)",
    )


def chosen_backends(config: pytest.Config) -> list[str]:
    chosen = config.getoption("backend") or ["all"]
    return list(REAL_TIME) if "all" in chosen else [name for name in REAL_TIME if name in chosen]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames:
        names = chosen_backends(metafunc.config)
        metafunc.parametrize("anyio_backend", names, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that use no backend run once: with asyncio. Those in real time may run again."""
    for item in items:
        if item.get_closest_marker("real_time"):
            item.add_marker(pytest.mark.flaky(reruns=2))
        if IN_SOAK:  # takes as long as it takes
            item.add_marker(pytest.mark.timeout(0))
    if "asyncio" in chosen_backends(config):
        return
    keep = [item for item in items if "anyio_backend" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(keep)])
    items[:] = keep


@settings(max_examples=1, database=None)
@given(st.none())
def start_hypothesis(_: None) -> None:
    """Run a first example, for which Hypothesis makes what it keeps."""


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that's there to stay; dozens of tests have it run."""
    # From Python 3.14 on, `gc.get_referrers` doesn't look at what is frozen, and Hypothesis would
    # warn of a random generator to which it finds no reference.
    start_hypothesis()
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if IN_SOAK:
        for what, count in tally.items():
            terminalreporter.write_line(f"ran {count} {what}")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return REAL_TIME[request.param]


@pytest.fixture
def loop_name(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """``"asyncio"``, ``"uvloop"`` or ``"trio"``."""
    name, options = anyio_backend
    return "uvloop" if options.get("use_uvloop") else name


@pytest.fixture
def asyncio_only(loop_name: str) -> None:
    if loop_name == "trio":
        pytest.skip("asyncio's own")


@pytest.fixture
def in_soak() -> bool:
    return IN_SOAK


@pytest.fixture
def no_collector():
    """Whatever is freed in this test is freed by reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
