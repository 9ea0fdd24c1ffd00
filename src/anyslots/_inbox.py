"""What other threads hand to an executor, until its event loop's thread takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from ._errors import ExecutorClosed


class Handed(Protocol):
    def take(self) -> None:
        """Submit it. In the event loop's thread; never raises."""

    def refuse(self, error: Exception) -> None:
        """Nobody will take it. Never raises."""


class Inbox:
    """Open while its executor is entered: everything put in is then either taken or refused."""

    __slots__ = ("_items", "_lock", "_post")

    def __init__(self) -> None:
        self._lock = Lock()
        self._items: deque[Handed] | None = None
        self._post: Callable[[Callable[[], object]], object]

    def open(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._items = deque()
        self._post = post

    def put(self, item: Handed) -> None:
        """Hand something in, from any thread; `ExecutorClosed` if nobody is there to take it."""
        with self._lock:
            if self._items is not None:
                try:
                    self._items or self._post(self.take)
                except RuntimeError:
                    pass  # the event loop is closed, and the executor was never left
                else:
                    self._items.append(item)
                    return
        raise ExecutorClosed("the executor takes no more jobs")

    def take(self) -> bool:
        """Take what there is; say whether there was anything. In the event loop's thread."""
        with self._lock:
            items, self._items = self._items, None if self._items is None else deque()
        for item in items or ():
            item.take()
        return bool(items)

    def close(self) -> None:
        with self._lock:
            items, self._items = self._items, None
        for item in items or ():
            item.refuse(ExecutorClosed("the executor ended before it took the job"))
