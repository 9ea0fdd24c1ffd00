"""The record of one submitted call: what the scheduler, its worker and its future share."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from contextvars import Context
from types import FunctionType, TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Listener: TypeAlias = Callable[[Any], object]
"""Is called with the job that's done."""


class Status(enum.StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


QUEUED = Status.QUEUED
RUNNING = Status.RUNNING
SUCCEEDED = Status.SUCCEEDED
FAILED = Status.FAILED
CANCELLED = Status.CANCELLED


class Holder(Protocol):
    """What runs a job: a worker, or a task that occupies a slot itself."""

    def cancel(self, reason: str | None) -> None:
        """Cancel the job that it runs now."""

    def gave_up(self) -> bool:
        """Of a task that waits for a slot: whether it was cancelled, to the very step."""


class Permit:
    """Stands for the holder of a job that has all it needs to start, until a worker claims it."""

    __slots__ = ()

    def cancel(self, reason: str | None) -> None:
        raise AssertionError("a permitted job is queued, and cancelled by the scheduler")

    def gave_up(self) -> bool:
        return False


PERMIT = Permit()


class Retrieval(Protocol):
    """What waits for the exception of a failed job to be retrieved."""

    def mark_retrieved(self, job: Job[Any]) -> None: ...


class Failure:
    """Why a job failed; ``retrieval`` until the exception was retrieved."""

    __slots__ = ("exception", "retrieval", "traceback")

    def __init__(
        self,
        exception: BaseException,
        traceback: TracebackType | None,
        retrieval: Retrieval | None,
    ) -> None:
        self.exception: BaseException = exception
        self.traceback: TracebackType | None = traceback
        self.retrieval: Retrieval | None = retrieval


class Cancellation:
    """How a job was cancelled that wasn't asked to: by an exception with a message and a cause."""

    __slots__ = ("cause", "message")

    def __init__(self, message: str | None, cause: BaseException | None) -> None:
        self.message = message
        self.cause = cause

    @staticmethod
    def of(exception: BaseException) -> Cancellation:
        while isinstance(exception, BaseExceptionGroup):
            exception = exception.exceptions[0]
        arguments = exception.args
        message = arguments[0] if arguments and isinstance(arguments[0], str) else None
        if message is not None and message.startswith("Cancelled via cancel scope "):
            message = None  # anyio's own
        return Cancellation(message, exception.__cause__)


class Attempts:
    """What rates, gates, retries and adaptive slots need to know of a job, once they do."""

    __slots__ = (
        "backs_off", "charges", "costs", "count", "epochs", "first_start", "number", "overloaded",
    )  # fmt: skip

    def __init__(self) -> None:
        # Starts so far; when the first of them was, and its place among those of all jobs: the
        # job's age in its lane, as first starts are in FIFO order there.
        self.count: int = 0
        self.first_start: float = 0.0
        self.number: int = 0
        # Whether it waits for the time of its next attempt, in no queue.
        self.backs_off: bool = False
        # By window: what a start uses up of those whose rate has a cost, and what was charged.
        self.costs: dict[Any, float] | None = None
        self.charges: Sequence[tuple[Any, list[float]]] = ()
        # The adaptive limits on the path, each with its epoch at the last start; and which of them
        # take the failure for an overload.
        self.epochs: Sequence[tuple[Any, int]] = ()
        self.overloaded: Sequence[Any] = ()


class Job(Generic[T_co]):
    """One submitted call.

    ``queued -> running -> succeeded | failed | cancelled``; ``queued -> failed | cancelled``; and
    ``running -> queued`` for another attempt. Each change is a transition of the scheduler.

    Until it's done, ``fn``, ``args`` and ``context`` are the call. Afterwards ``fn`` is just the
    function's name, so that a future that's kept keeps neither function nor arguments alive.
    """

    __slots__ = (
        "__weakref__", "args", "attempt", "context", "fn", "holder", "listeners", "node", "slot",
        "status", "value",
    )  # fmt: skip

    # The `LaneState` of the lane that it was submitted to; the root's for the executor.
    node: Any
    status: Status
    fn: Callable[..., Any] | str | None
    args: tuple[Any, ...] | None
    context: Context | None
    # Queued: PERMIT, once it holds all that it needs to start. Running: what runs it.
    holder: Holder | None
    # The number of the slot that it runs, or ran, in.
    slot: int | None
    # The return value, the `Failure`, or the reason of the cancellation (None, a string or a
    # `Cancellation`), as the status says. Of a running job with a time limit or retries: its number
    # by age.
    value: Any
    # Called in turn, with the job, in the middle of the transition that ends it: none of them may
    # raise, or run code of users. One by itself, as it mostly is, or several in a dict, for its
    # order and to remove one in one step.
    listeners: Listener | dict[Listener, None] | None
    # Only where its lane needs it.
    attempt: Attempts | None

    @property
    def name(self) -> str:
        """The qualified name of the submitted function."""
        return function_name(self.fn)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.status is not QUEUED and self.status is not RUNNING

    def settle(self, status: Status, value: Any) -> None:
        """End the job: let go of the call, and call the listeners. For the scheduler."""
        self.value = value
        self.status = status
        fn = self.fn
        self.fn = fn.__qualname__ if type(fn) is FunctionType else function_name(fn)
        self.args = self.context = self.holder = None
        if self.listeners is not None:
            self.call_listeners()

    def call_listeners(self) -> None:
        """Tell the listeners that the job is done."""
        listeners, self.listeners = self.listeners, None
        if isinstance(listeners, dict):
            for listener in listeners:
                listener(self)
        elif listeners is not None:
            listeners(self)

    def add_listener(self, listener: Listener) -> None:
        """Have a listener called when the job is done."""
        if self.listeners is None:
            self.listeners = listener
        elif isinstance(self.listeners, dict):
            self.listeners[listener] = None
        else:
            self.listeners = {self.listeners: None, listener: None}

    def remove_listener(self, listener: Listener) -> None:
        """Have a listener not called any more."""
        if isinstance(self.listeners, dict):
            self.listeners.pop(listener, None)
        elif self.listeners == listener:
            self.listeners = None


def function_name(fn: object) -> str:
    """How to call ``fn`` in a message: its qualified name, through partials, or its type's."""
    if isinstance(fn, str):
        return fn
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = getattr(fn, "__qualname__", None)
    except Exception:
        name = None
    return name if isinstance(name, str) else type(fn).__qualname__


def mark_retrieved(job: Job[Any]) -> None:
    """Have the exception of a job, if it has failed, count as retrieved."""
    if job.status is FAILED and job.value.retrieval is not None:
        job.value.retrieval.mark_retrieved(job)
        job.value.retrieval = None
