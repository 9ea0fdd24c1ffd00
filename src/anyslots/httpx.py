"""A transport for httpx and httpx2 whose requests occupy slots: their clients keep to lanes.

The extra ``anyslots[httpx]`` brings httpx; where httpx2 is installed, alone or with it, the same
class serves its clients. Clients built on either, those of OpenAI and Anthropic among them, take
one with this transport.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, final

from anyio import CancelScope, Event

from . import JobCancelled, Lane
from ._runtime.occupancy import Occupation

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Transport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport): ...  # type: ignore[misc]

else:
    # Neither library asks for its class at run time, and some clients refuse whatever is of the
    # other's; so nothing is imported here, either.
    _Transport = object

_LIBRARIES = ("httpx", "httpx2")

if all(find_spec(name) is None for name in _LIBRARIES):
    raise ModuleNotFoundError(
        "anyslots.httpx needs httpx or httpx2, neither of which is installed:"
        " pip install 'anyslots[httpx]'",
        name="httpx",
    )

__all__ = ("LimitedTransport", "Overloaded", "retry_after")

T = TypeVar("T")


def retry_after(response: Any, default: float = 1.0) -> float:
    """Return for how many seconds a server asks to be left alone, by its header ``Retry-After``.

    The header is a number of seconds or a date (RFC 9110, section 10.2.3), which is taken by this
    machine's clock. ``default``: what to return without it, or if it's neither; never below 0.

    ::

        if response.status_code == 429:
            lane.pause(retry_after(response))
    """
    value = response.headers.get("retry-after", "")
    try:
        date = parsedate_tz(value)
        seconds = float(value) if date is None else mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
        return default
    return max(0.0, seconds) if seconds < float("inf") else default


@final
class Overloaded(Exception):
    """The exception that ends the slot of a request whose server was overloaded.

    The slot's future fails with it, and `Adaptive` sees it there: ``Adaptive(on=Overloaded)``. The
    client isn't concerned: it gets the response, as it does without the transport.
    """

    def __init__(self, status_code: int, seconds: float | None) -> None:
        super().__init__(status_code, seconds)
        self.status_code = status_code
        self.seconds = seconds
        """How long the lane was paused for it; None: it wasn't."""

    def __str__(self) -> str:
        pause = "" if self.seconds is None else f"; the lane pauses for {self.seconds} seconds"
        return f"the server answered {self.status_code}{pause}"


@final
class LimitedTransport(_Transport):
    """Send each request in a slot of a lane, held until its response is closed.

    ``lane`` is a `Lane`, an `Executor`, or a function that is called with the request and returns
    one of these. A request waits for its slot in FIFO order with the lane's jobs, and counts
    against its limits and rates, whose ``cost`` is called with the request. Each hop of a redirect
    is a request of its own. Requests are sent by ``transport``; by default, by one with default
    options.

    ``overloaded`` is called with each response, before its body is read, and says whether the
    server is overloaded: a bool, or a number, which means yes and pauses the lane for so many
    seconds, at once. Once the response is closed, the slot ends with `Overloaded`.

    Within a job of the lane's executor, the job's own slot is lent until the response is closed.

    What cancels the slot (its lane's ``timeout``, ``cancel``, ``shutdown``) closes the response,
    and is raised by the request or the read that is under way, or by the next read: as
    `TimeoutError` or `JobCancelled`. It doesn't cancel the code that uses the response. What
    `Lane.slot` raises, such as `QueueTimeout` or `ExecutorClosed`, comes out of the request.

    The slot is occupied by a task of the event loop's own, not by the one that makes the request.
    So a response may be read and closed in another task, and outlive cancel scopes and timeouts
    in which it was requested. A response that is never closed keeps its
    slot until it's collected, which is a `ResourceWarning`, or until the client is closed.

    ::

        def overloaded(response):
            if response.status_code == 429:
                return retry_after(response)
            return response.status_code == 503

        lane = executor.lane(slots=Adaptive(on=Overloaded), rate=Rate(600, per=60))
        transport = LimitedTransport(lane, overloaded=overloaded)
        async with httpx.AsyncClient(transport=transport) as client:
            ...
    """

    def __init__(
        self,
        lane: Lane | Callable[[Any], Lane],
        transport: Any = None,
        *,
        overloaded: Callable[[Any], bool | float | None] | None = None,
    ) -> None:
        if not isinstance(lane, Lane) and not callable(lane):
            raise TypeError(f"lane must be a lane or a function of the request, not {lane!r}")
        if transport is not None and not hasattr(transport, "handle_async_request"):
            raise TypeError(f"transport must be an async transport or None, not {transport!r}")
        if overloaded is not None and not callable(overloaded):
            raise TypeError(f"overloaded must be a function or None, not {overloaded!r}")
        self._lane = lane
        self._transport = transport
        self._overloaded = overloaded
        self._open: set[_Slot] = set()  # those whose response isn't closed

    async def __aenter__(self) -> LimitedTransport:
        if self._transport is not None:
            await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self._end_slots()
        finally:
            if self._transport is not None:
                await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        try:
            await self._end_slots()
        finally:
            if self._transport is not None:
                await self._transport.aclose()

    async def _end_slots(self) -> None:
        for slot in list(self._open):
            await slot.end()

    async def handle_async_request(self, request: Any) -> Any:
        library = _library_of(request)
        if self._transport is None:
            self._transport = library.AsyncHTTPTransport()
        lane = self._lane if isinstance(self._lane, Lane) else self._lane(request)
        if not isinstance(lane, Lane):
            raise TypeError(f"lane must return a lane, not {lane!r}")
        slot = _Slot(self._open, lane, request)
        await slot.begin()
        try:
            response = await slot.run(self._transport.handle_async_request, request)
            slot.keep(response.stream)
            response.request = request
            slot.outcome = self._judge(lane, response)
            if response.is_closed:  # one that was made up, with its content
                await slot.end()
                return response
        except BaseException as error:
            slot.fail(error)
            if isinstance(error, GeneratorExit):  # it can await nothing
                slot.registry.discard(slot)
            else:
                await slot.end()
            raise
        response.stream = _stream_class(library)(slot)
        return response

    def _judge(self, lane: Lane, response: Any) -> Overloaded | None:
        verdict = None if self._overloaded is None else self._overloaded(response)
        if verdict is None or verdict is False:
            return None
        if verdict is True:
            return Overloaded(response.status_code, None)
        if not isinstance(verdict, (int, float)):
            raise TypeError(f"overloaded must return a bool, seconds or None, not {verdict!r}")
        lane.pause(verdict)
        return Overloaded(response.status_code, verdict)


def _library_of(request: Any) -> Any:
    """Return the library that a request is of: httpx or httpx2."""
    roots = (base.__module__.partition(".")[0] for base in type(request).__mro__)
    return import_module(next(root for root in roots if root in _LIBRARIES))


@cache
def _stream_class(library: Any) -> Callable[[_Slot], _SlotStream]:
    """Return a class that's also of the library's own, which its client insists on."""
    return type("SlotStream", (_SlotStream, library.AsyncByteStream), {})


class _SlotStream:
    """The body of a response; ends the response's slot when it's closed."""

    def __init__(self, slot: _Slot) -> None:
        self._slot = slot

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts = self._slot.stream.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        try:
            part: bytes = await self._slot.run(self._parts.__anext__)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._slot.fail(error)
            raise
        return part

    async def aclose(self) -> None:
        await self._slot.end()

    def __del__(self) -> None:
        if not self._slot.closed:
            message = f"{self._slot.name}: response never closed"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            self._slot.registry.discard(self._slot)
            self._slot.occupation.abandon()


class _Slot:
    """The slot of one request, held by a task of its own from `begin` to `end`.

    A slot has a cancel scope, which must be left by the task that entered it, and before the scopes
    around it. Requesting and closing a response keep no such order.
    """

    def __init__(self, registry: set[_Slot], lane: Lane, request: Any) -> None:
        self.registry = registry
        self.name = f"{request.method} {request.url.host}"
        slot: Any = lane.slot(request)
        self.occupation: Occupation[Any] = slot
        self.stream: Any = None  # the response's, once it's there
        self.closed = False  # the stream is
        self.outcome: Exception | None = None  # what the slot is to end with
        self.error: BaseException | None = None  # what it has ended with by itself
        self.lost = False  # something but `end` ends it
        self.released = Event()
        self.ended = Event()
        self.operation: CancelScope | None = None  # of what uses the connection right now
        self.idle = Event()  # replaced by each operation, set when it's done

    async def begin(self) -> None:
        await self.occupation.acquire()
        self.occupation.spawn_holder(self._hold, self.name)

    def keep(self, stream: Any) -> None:
        self.stream = stream
        self.registry.add(self)

    async def _hold(self) -> None:
        release = self.occupation.release
        self.occupation.hold()
        try:
            await self.released.wait()
        except BaseException as error:
            self.lost = True
            # The slot isn't given away before the connection has been.
            with CancelScope(shield=True), suppress(Exception):
                if self.operation is not None:
                    self.operation.cancel()
                    await self.idle.wait()
                await self._close()
            self.error = release(type(error), error, error.__traceback__)
            if self.error is None:  # a cancellation of this very task
                raise
        else:
            # Not raised here: its traceback is that of the request's own task.
            outcome = self.outcome
            release(type(outcome) if outcome else None, outcome, None)
        finally:
            self.outcome = None
            self.ended.set()

    async def run(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await what uses the connection; raise what has ended the slot, if anything has."""
        if not self.lost:
            self.idle = Event()
            with CancelScope() as self.operation:
                try:
                    return await fn(*args)
                finally:
                    self.operation = None
                    self.idle.set()
        await self.ended.wait()
        raise self.error or self._cancelled()

    def fail(self, error: BaseException) -> None:
        """Have the slot's block end with an exception; a cancellation cancels it."""
        if self.ended.is_set() or self.outcome is not None:
            return
        if isinstance(error, Exception):
            self.outcome = error
        else:
            self.occupation.cancel(None)

    async def end(self) -> None:
        """Close the response, give the slot back, and go on in that of the job."""
        try:
            await self._close()
        finally:
            self.registry.discard(self)
            self.released.set()
            try:
                await self.ended.wait()
                await self.occupation.go_on()
            finally:
                self.occupation.go_on_at_once()
                self.error = None  # its traceback leads back here

    async def _close(self) -> None:
        if self.stream is not None and not self.closed:
            self.closed = True
            await self.stream.aclose()

    def _cancelled(self) -> JobCancelled:
        return JobCancelled(f"{self.name}: its slot was cancelled")
