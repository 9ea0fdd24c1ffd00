"""An admission that is decided elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class Gate:
    """Admits the jobs of one lane, one for each call of an async function.

    A job that's permitted uses up an admission. Holds at all times: at most one call is under way,
    and none begins while there's an admission left.
    """

    __slots__ = ("admissions", "fn", "is_awaited", "is_called")

    def __init__(self, fn: Callable[[], Awaitable[object]]) -> None:
        self.fn = fn
        self.admissions = 0
        # Whether a call is under way; whether the lane waits for it, as nothing else stops it.
        self.is_called = self.is_awaited = False
