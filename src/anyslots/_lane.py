"""What users see and set of a lane: its options, pauses, ends and counts; all but submitting."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn

from ._runtime.charging import costs_of_queued
from ._runtime.runtime import Runtime
from ._scheduling.adaptive import Adaptive
from ._scheduling.lane_state import NEVER, LaneState
from ._scheduling.options import Inherited, LaneOptions
from ._scheduling.rates import Rate, check_rates
from ._scheduling.retries import Retry
from ._scheduling.statistics import Statistics
from ._validation import (
    check_count,
    check_gate,
    check_pause,
    check_priority,
    check_retry,
    check_seconds,
    check_slots,
)


class BaseLane:
    """A lane, without the ways into it."""

    # Without a `__dict__`, an attribute that's set by a wrong name is an error.
    __slots__ = ("__weakref__", "_node", "_runtime")

    _node: LaneState
    _runtime: Runtime

    @property
    def name(self) -> str | None:
        """The name that it was given."""
        return self._node.name

    # Options.

    @property
    def slots(self) -> float:
        """How many jobs may run at once: an int from 1, or `math.inf`; settable.

        More slots start jobs at once; with fewer, running jobs finish. With `Adaptive` slots, the
        present number; setting a number ends the adaptation.
        """
        return self._node.slots

    @slots.setter
    def slots(self, slots: float | Adaptive) -> None:
        checked = check_slots(slots)
        self._check_settable("resize")
        self._runtime.set_slots(self._node, checked)

    @property
    def priority(self) -> float:
        """Lanes with the highest number go first; equal ones take turns. Settable."""
        return self._node.priority

    @priority.setter
    def priority(self, priority: float) -> None:
        checked = check_priority(priority)
        self._check_settable("set the priority of")
        self._runtime.control.set_priority(self._node, checked)

    @property
    def max_pending(self) -> float:
        """How many jobs may be queued: an int from 0, or `math.inf`; settable."""
        return self._node.max_pending

    @max_pending.setter
    def max_pending(self, max_pending: float) -> None:
        checked = check_count("max_pending", max_pending, least=0)
        self._check_settable("bound")
        self._runtime.control.set_max_pending(self._node, checked)

    @property
    def rate(self) -> tuple[Rate, ...]:
        """How much may start in how much time; settable to a `Rate`, to several, or to None.

        New rates count what those they replace still remember. Queued jobs are charged by a new
        ``cost``; an exception of it comes out of the assignment, and leaves all as it was.
        """
        return tuple(window.rate for window in self._node.windows)

    @rate.setter
    def rate(self, rate: Rate | Iterable[Rate] | None) -> None:
        rates = check_rates(rate)
        self._check_settable("set the rate of")
        costs = costs_of_queued(self._runtime.scheduler, self._node, rates)
        self._runtime.control.set_rates(self._node, rates, costs)

    @property
    def gate(self) -> Callable[[], Awaitable[object]] | None:
        """The async function that admits jobs, one for each call; settable, None for none.

        A call of the one that's replaced is cancelled if it's under way.
        """
        return None if self._node.gate is None else self._node.gate.fn

    @gate.setter
    def gate(self, gate: Callable[[], Awaitable[object]] | None) -> None:
        check_gate(gate)
        self._check_settable("set the gate of")
        self._runtime.set_gate(self._node, gate)

    @property
    def timeout(self) -> float | None:
        """How many seconds an attempt of a job may run; settable, for jobs that start later.

        What's inherited reads as what is in force; None if nothing is. Setting None inherits again.
        """
        timeout: float | None = self._node.option("timeout")
        return timeout

    @timeout.setter
    def timeout(self, timeout: float | None) -> None:
        self._set_option("timeout", check_seconds("timeout", timeout))

    @property
    def queue_timeout(self) -> float | None:
        """How many seconds a job may be queued before its first start; settable, for later jobs.

        Inherited like `timeout`.
        """
        queue_timeout: float | None = self._node.option("queue_timeout")
        return queue_timeout

    @queue_timeout.setter
    def queue_timeout(self, queue_timeout: float | None) -> None:
        self._set_option("queue_timeout", check_seconds("queue_timeout", queue_timeout))

    @property
    def retry(self) -> Retry | bool | None:
        """Which failures of jobs are retried; settable, for failures from then on.

        False for none. Inherited like `timeout`.
        """
        retry: Retry | bool | None = self._node.option("retry")
        return retry

    @retry.setter
    def retry(self, retry: Retry | bool | None) -> None:
        self._set_option("retry", check_retry(retry))

    # Pauses and ends.

    def pause(self, seconds: float | None = None) -> None:
        """Start nothing new; running jobs go on, and jobs may still be submitted.

        ``seconds``: how long; a pause that goes on already is only extended. It holds while the
        executor's block is being left, too. 0 changes nothing. Without ``seconds``, until `resume`;
        such a pause also ends when the block is being left, or the executor shuts down, and nothing
        runs any more that could end it.

        Raises `TypeError` or `ValueError` for other arguments, and `RuntimeError` before the
        executor is entered and from another thread than its event loop's.

        ::

            api.pause(retry_after(response))  # of anyslots.httpx
        """
        checked = check_pause(seconds)
        self._check_thread("pause")
        if checked is None:
            self._runtime.control.pause(self._node)
        elif checked:
            self._runtime.control.pause(self._node, self._runtime.current_time() + checked)

    def resume(self) -> None:
        """End all pauses of this lane: what may start starts at once."""
        self._check_thread("resume")
        self._runtime.control.resume(self._node)

    @property
    def paused(self) -> bool:
        """Whether it's paused itself, whatever the lanes around it are."""
        node = self._node
        if node.paused or node.paused_until == NEVER:
            return node.paused
        # At its very end, what ends it may not have run yet.
        return node.paused_until > self._runtime.current_time()

    def cancel(self, reason: str | None = None) -> None:
        """Cancel every queued and running job of this lane and those inside; submitting goes on.

        Queued jobs never run; running ones are cancelled at their next checkpoint. ``reason``
        becomes part of the `JobCancelled` that asking for their results raises. Raises
        `RuntimeError` before the executor is entered and from another thread than its event loop's.
        """
        self._check_thread("cancel the jobs of")
        # First those that run: one that waits for a queued job meets its own cancellation.
        self._runtime.cancel_running(self._node, reason)
        self._runtime.control.cancel_queued(self._node, reason)

    def clear(self, reason: str | None = None) -> None:
        """Cancel the queued jobs of this lane and those inside, as `cancel` does."""
        self._check_thread("clear")
        self._runtime.control.cancel_queued(self._node, reason)

    def close(self) -> None:
        """Take no more jobs, here and in the lanes inside; those that are queued still run.

        Submitters that wait in `enqueue` get `ExecutorClosed`. Raises `RuntimeError` before the
        executor is entered and from another thread than its event loop's.
        """
        self._check_thread("close")
        self._runtime.close_lane(self._node)

    async def join(self) -> None:
        """Wait until no job of this lane, or of those inside, is queued or running.

        Cancelling this wait leaves the jobs alone. Raises `RuntimeError` inside one of the jobs
        that it would wait for.
        """
        self._check_wait("join")
        await self._runtime.backend.checkpoint()
        await self._runtime.wait_idle(self._node)

    def statistics(self) -> Statistics:
        """The counts of this moment, of this lane and those inside."""
        return self._node.statistics()

    # Checks.

    def _set_option(self, name: str, value: object) -> None:
        self._check_settable(f"set the {name} of")
        self._runtime.control.set_option(self._node, name, value)

    def _check_settable(self, doing: str) -> None:
        if self._runtime.thread is not None:
            self._check_thread(doing)

    def _check_thread(self, doing: str) -> None:
        self._runtime.check_thread(doing, self)

    def _check_wait(self, doing: str) -> None:
        self._check_thread(doing)
        if any(job.node.is_inside(self._node) for job in self._runtime.own_jobs()):
            raise RuntimeError(f"a job cannot {doing} {self!r}, its own: it would wait for itself")

    def _state_words(self) -> str:
        return "closed" if self._node.closed else "paused" if self.paused else ""

    def __repr__(self) -> str:
        counts = self.statistics()
        name = "" if self.name is None else repr(self.name)
        words = " ".join(filter(None, [type(self).__name__, name, self._state_words()]))
        return f"<{words} slots={counts.slots} running={counts.running} queued={counts.queued}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {self!r}")


def runtime_of(lane: BaseLane) -> Runtime:
    """The runtime of a lane's executor, for the package."""
    return lane._runtime  # noqa: SLF001


def node_of(lane: BaseLane) -> LaneState:
    """What the scheduler knows of a lane, for the package."""
    return lane._node  # noqa: SLF001


def checked_options(
    *,
    slots: object = math.inf,
    priority: object = 0,
    max_pending: object = math.inf,
    rate: Any = None,
    gate: object = None,
    timeout: object = None,
    queue_timeout: object = None,
    retry: object = None,
) -> LaneOptions:
    """The options of a new lane; `TypeError` or `ValueError` if wrong."""
    return LaneOptions(
        check_slots(slots),
        check_priority(priority),
        check_count("max_pending", max_pending, least=0),
        check_rates(rate),
        check_gate(gate),
        Inherited(
            check_seconds("timeout", timeout),
            check_seconds("queue_timeout", queue_timeout),
            check_retry(retry),
        ),
    )
