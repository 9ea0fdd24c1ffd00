"""The lanes of a mapping, by key, for as long as they matter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from threading import Lock, get_ident
from typing import Any, Generic, TypeVar

from .._scheduling.lane_state import NEVER, LaneState
from .._scheduling.options import LaneOptions
from .runtime import Runtime

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

SWEPT = 2
"""How many old keys are looked at for each new one."""


class KeyedNodes(Generic[K]):
    """Holds at all times: each key of `nodes` is once in `keys`, which is swept from the left.

    So the keys that don't matter any more are found, a few for each new key, and there are at most
    about twice as many of them as of the others.
    """

    __slots__ = ("_lock", "keys", "keys_owed", "nodes", "options", "parent", "runtime")

    def __init__(
        self,
        runtime: Runtime,
        parent: LaneState,
        options: LaneOptions | Callable[[K], LaneOptions],
    ) -> None:
        self.runtime = runtime
        self.parent = parent
        self.options = options
        self.nodes: dict[K, LaneState] = {}
        self.keys: deque[K] = deque()
        # How many of them are to be looked at for new ones that other threads have asked for.
        self.keys_owed = 0
        # Keys may be looked up in any thread.
        self._lock = Lock()

    def look_up(self, key: K, make_handle: Callable[[LaneState], T]) -> T:
        """The handle of a key's lane, which is made if there's none."""
        options = self.options
        with self._lock:
            node = self.nodes.get(key)
            if node is None and isinstance(options, LaneOptions):
                node = self._add(key, options)
            if node is not None:
                return make_handle(node)
        assert not isinstance(options, LaneOptions)
        made = options(key)  # it may look up keys, too
        with self._lock:
            node = self.nodes.get(key)
            return make_handle(self._add(key, made) if node is None else node)

    def _add(self, key: K, options: LaneOptions) -> LaneState:
        is_own_thread = self._sweep(SWEPT)
        name = key if isinstance(key, str) else repr(key)
        # Not by `Runtime.add_lane`: the mapping holds the parent, and sweeps by itself.
        node = self.nodes[key] = LaneState(self.parent, name, options)
        node.is_keyed = True
        if not is_own_thread:
            node.catch_up()
        self.keys.append(key)
        return node

    def release(self) -> None:
        """The mapping is gone: its lanes end as others do. In any thread, and at any time."""
        for node in list(self.nodes.values()):  # the event loop's thread may sweep meanwhile
            node.is_keyed = False
            self.runtime.scheduler.tree.dropped.append(node)

    def find(self, key: Any) -> LaneState | None:
        with self._lock:
            node = self.nodes.get(key)
            if node is None or not self._is_over(node):
                return node
            return None

    def live_keys(self) -> list[K]:
        with self._lock:
            self._sweep(len(self.keys))
            return [key for key, node in self.nodes.items() if not self._is_over(node)]

    def _sweep(self, most: int) -> bool:
        """Look at the oldest keys; False if that's left to the event loop's thread."""
        runtime = self.runtime
        if runtime.thread not in (None, get_ident()):
            self._ask_for_sweep()
            return False
        scheduler = runtime.scheduler
        if scheduler.transaction.busy:
            return True  # this isn't the time to change the tree
        tree = scheduler.tree
        if tree.dropped:
            tree.sweep()
        keys = self.keys
        for _ in range(most):
            if not keys:
                break
            key = keys.popleft()
            node = self.nodes[key]
            if self._is_over(node):
                del self.nodes[key]
                tree.forget(node)
            else:
                keys.append(key)
        return True

    def _ask_for_sweep(self) -> None:
        """Have the event loop's thread sweep, as this is another one."""
        self.keys_owed += SWEPT
        if self.keys_owed == SWEPT:
            try:
                self.runtime.backend.post(self._sweep_what_is_owed)
            except RuntimeError:
                pass  # the event loop is closed

    def _sweep_what_is_owed(self) -> None:
        with self._lock:
            owed, self.keys_owed = self.keys_owed, 0
            self._sweep(owed)

    def _is_over(self, node: LaneState) -> bool:
        """Whether a new lane in its place would do the same."""
        if node.handle is not None and node.handle() is not None:
            return False
        if node.closed is not self.parent.closed or node.paused or node.paused_until > NEVER:
            return False
        if node.children or node.held or node.busy or node.ready.count or node.putting:
            return False
        for window in node.windows:
            # Before the executor is entered there's no clock, and nothing has started.
            if window.charges or window.reserved:
                now = self.runtime.current_time()
                return all(window.is_empty(now) for window in node.windows)
        return True
