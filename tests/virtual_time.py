"""What tests of this project need of virtual time: `anyslots.testing` by its backend's name."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from anyslots import testing
from anyslots.testing import _VirtualLoop as VirtualLoop

__all__ = ("VIRTUAL_BACKENDS", "VirtualLoop", "run_in_virtual_time", "tally", "virtual")

T = TypeVar("T")

tally: Counter[str] = Counter()
"""How much random work was done, for soak.py to tell."""

VIRTUAL_BACKENDS = ("asyncio", "trio")


def run_in_virtual_time(backend: str, fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run ``fn(*args)`` from time 0."""
    return testing.run(fn, *args, backend=backend)


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Have an async test run in virtual time, on each backend; it may ask for ``backend``."""
    parameters = inspect.signature(test).parameters

    @functools.wraps(test)
    def run(backend: str, **arguments: Any) -> None:
        if "backend" in parameters:
            arguments["backend"] = backend
        run_in_virtual_time(backend, functools.partial(test, **arguments))

    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(each for each in parameters.values() if each.name != "backend"), backend]
    )
    return pytest.mark.parametrize("backend", VIRTUAL_BACKENDS)(run)
