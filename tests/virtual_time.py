"""Running a coroutine in a clock that jumps: no test waits, and times come out exact."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import trio
import trio.testing

T = TypeVar("T")

tally: Counter[str] = Counter()
"""How much random work was done, for soak.py to tell."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock forward instead of waiting, unless something is ready."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready if ready or timeout is not None else super().select(None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time, from 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-12

    def time(self) -> float:
        return self._jumping.now


VIRTUAL_BACKENDS = ("asyncio", "trio")


def run_in_virtual_time(backend: str, fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run ``fn(*args)`` from time 0."""

    async def from_zero() -> T:
        assert anyio.current_time() == 0
        return await fn(*args)

    if backend == "trio":
        return trio.run(from_zero, clock=trio.testing.MockClock(autojump_threshold=0))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(from_zero())
