"""What `map` returns: results as they come, of inputs that are taken as they're needed."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextvars import copy_context
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar, final

import anyio

from ._errors import ExecutorClosed
from ._future import SUCCEEDED, Future, Signal

if TYPE_CHECKING:
    from ._lane import Lane

T = TypeVar("T")
AnyIterable: TypeAlias = Iterable[T] | AsyncIterable[T]

AT_ONCE = 1000
"""How many inputs are taken, or results given out, before other tasks have a turn in any case."""


@final
class Results(Generic[T]):
    """The results of a `map`, to be awaited as a list or iterated over as they come.

    Nothing happens before the first of that. Then inputs are taken and jobs run whether anybody
    asks for results or not, until ``slots + buffer`` inputs have been taken ahead of what was given
    out. A job's failure comes out at its place, and the rest is cancelled; an error of the inputs
    comes out after the results of those before. Leaving an ``async with`` block, and `aclose`,
    cancel what's left. Cancelled while it waits, a loop loses nothing: another goes on from there.

    ::

        async with executor.map(fetch, urls) as pages:
            async for page in pages:
                if good(page):
                    break
    """

    def __init__(
        self,
        lane: Lane,
        fn: Callable[..., Awaitable[T]],
        iterables: tuple[AnyIterable[Any], ...],
        ordered: bool,
        buffer: float | None,
    ) -> None:
        self._lane = lane
        self._fn = fn
        self._ordered = ordered
        self._buffer = buffer
        self._iterators = [iterator_of(iterable) for iterable in iterables]
        self._context = copy_context()
        self._started = False
        # What's to be given out, from the left: in the order of the inputs, or as they're done; and
        # in the second case, what isn't done. `_taken` counts both, and an input being submitted.
        self._futures: deque[Future[T]] = deque()
        self._unfinished: dict[Future[T], None] = {}
        self._taken = 0
        # How often a result was asked for since others had a turn for sure.
        self._in_a_row = 0
        # The inputs, if neither they nor the lane ever make anybody wait. Whoever awaits the list
        # takes them then; who takes one result after the other needs a task to do it meanwhile.
        self._arguments: Iterator[tuple[Any, ...]] | None = None
        if not lane._line.bounded and not any(
            isinstance(iterator, AsyncIterator) for iterator in self._iterators
        ):
            self._arguments = zip(*self._iterators, strict=False)
        # That task, the job that it's for, and its scope.
        self._feeder: object = None
        self._job: Future[Any] | None = None
        self._feeding = anyio.CancelScope()
        # Whether the inputs have ended, whether on purpose, and how.
        self._fed = self._closed = False
        self._error: Exception | None = None
        # What the consumer waits for beside a future, and what the feeding task waits for.
        self._news: dict[Signal, None] = {}
        self._room: anyio.Event | None = None

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._list().__await__()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """The next result, or the exception of its job."""
        if not await self._ready():
            raise StopAsyncIteration
        try:
            return self._give()
        except BaseException:
            await self._close()
            raise

    async def __aenter__(self) -> Self:
        if not self._started:
            await self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await (self.aclose() if exc is None else self._close())

    async def aclose(self) -> None:
        """Take no more inputs, close their sources, and cancel the jobs whose results are left.

        Returns once all that has been done and the jobs have unwound, even if it's cancelled.
        Raises what a source raises as it's closed; a block that an exception leaves doesn't.
        """
        known = self._error
        await self._close()
        error, self._error = self._error, None
        if error is not known and error is not None:
            try:
                raise error
            finally:
                del error

    async def _close(self) -> None:
        self._closed = True
        self._feeding.cancel()
        self._cancel_jobs()
        with anyio.CancelScope(shield=True):
            if not self._started:
                self._started = True
                await self._close_async_sources()
                self._end_inputs()
            while not self._fed:
                await self._wait_for_news()
            for future in self._cancel_jobs():
                if not future.done():
                    await future.wait()
        self._futures.clear()
        self._unfinished.clear()

    def _cancel_jobs(self) -> list[Future[T]]:
        futures = [*self._futures, *self._unfinished]
        for future in futures:
            if not future.done():
                future.cancel("its result isn't wanted any more")
        return futures

    async def _list(self) -> list[T]:
        takes_itself = self._arguments is not None and not self._started
        if not self._started:
            await self._start(by_task=not takes_itself)
        results: list[T] = []
        try:
            futures = self._futures
            while True:
                while takes_itself and self._context.run(self._take_at_once):
                    await self._lane._executor._backend.checkpoint()
                    if futures and futures[0].done():
                        break
                if not await self._ready():
                    if not results:
                        await self._lane._executor._backend.checkpoint()
                    return results
                results.append(self._give())
                while futures and futures[0]._status is SUCCEEDED:
                    results.append(self._give())
        except BaseException:
            if takes_itself:
                self._end_inputs()
            await self._close()
            raise

    def _give(self) -> T:
        self._taken -= 1
        result = self._futures.popleft().result()
        if self._room is not None:
            self._room.set()
            self._room = None
        return result

    async def _ready(self) -> bool:
        """Wait until there's a result to give; if there's none left, False or the inputs' error."""
        if not self._started:
            await self._start()
        # A loop that takes all that's there to give lets others run now and then.
        self._in_a_row += 1
        if self._in_a_row == AT_ONCE:
            self._in_a_row = 0
            await anyio.lowlevel.checkpoint()
        while not (self._futures and self._futures[0].done()):
            if self._futures:
                await self._futures[0].wait()
            elif self._unfinished or not self._fed:
                await self._wait_for_news()
            elif self._error is not None:
                await anyio.lowlevel.checkpoint_if_cancelled()
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error
            else:
                return False
        if self._futures[0].cancelled():
            # Perhaps by what cancels this task, too: that comes first.
            await anyio.lowlevel.checkpoint_if_cancelled()
        return True

    async def _wait_for_news(self) -> None:
        signal = Signal([self._lane._schedule])
        self._news[signal] = None
        try:
            await signal.wait()
        finally:
            self._news.pop(signal, None)

    def _tell(self) -> None:
        news, self._news = self._news, {}
        for signal in news:
            signal.set()

    def _finished(self, future: Future[T]) -> None:
        """A job is done, whose place in the order doesn't matter."""
        del self._unfinished[future]
        self._futures.append(future)
        self._tell()

    # How much may be taken ahead.

    def _slots(self) -> float:
        return min(self._lane.slots, self._lane._executor.slots)

    def _bound(self) -> float:
        slots = self._slots()
        return slots + (slots if self._buffer is None else self._buffer)

    # Taking inputs.

    async def _start(self, *, by_task: bool = True) -> None:
        if get_ident() != self._lane._gate.thread:
            # If it's closed since it was cancelled, together with whoever asks for results.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._lane._check_gate()
        self._started = True
        if by_task:
            executor = self._lane._executor
            self._job = executor._own_job()
            executor._feeders.add(self)
            self._context.run(executor._task_group.start_soon, self._feed)

    def _take_at_once(self) -> bool:
        """Submit the next inputs, as long as there's room for their results.

        But only so many at once; whether to let others run now, and then go on.
        """
        submit, fn, bound = self._lane.submit, self._fn, self._bound()
        enough = min(bound, self._taken + AT_ONCE)
        try:
            while self._arguments is not None and self._taken < enough:
                args = next(self._arguments, None)
                if args is None:
                    self._end_inputs()
                else:
                    self._taken += 1
                    self._expect(submit(fn, *args))
        except Exception as exc:
            self._error = exc
            self._end_inputs()
        return self._arguments is not None and self._taken < bound

    def _end_inputs(self) -> None:
        self._arguments = None
        for iterator in self._iterators:
            try:
                if inspect.isgenerator(iterator):
                    iterator.close()
            except Exception as exc:
                self._error = self._error or exc
        self._iterators.clear()
        self._fed = True
        self._tell()

    async def _feed(self) -> None:
        exhausted = False
        self._feeder = self._lane._executor._backend.current_task()
        try:
            with self._feeding:
                while self._arguments is not None:
                    if self._take_at_once():
                        await anyio.lowlevel.checkpoint()
                    await self._wait_for_room()
                while not self._fed and (args := await self._take()) is not None:
                    self._taken += 1
                    self._expect(await self._lane.enqueue(self._fn, *args))
                exhausted = True
        except Exception as exc:
            self._error = exc
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_async_sources()
            if not (exhausted or self._closed or self._error):
                self._error = ExecutorClosed(f"{self._lane!r} ended before the inputs did")
            self._lane._executor._feeders.discard(self)
            self._end_inputs()

    async def _take(self) -> list[Any] | None:
        """Wait for room and take one item from each source; None if one has no more."""
        await self._wait_for_room()
        args = []
        for iterator in self._iterators:
            try:
                if isinstance(iterator, AsyncIterator):
                    args.append(await anext(iterator))
                else:
                    args.append(next(iterator))
            except (StopIteration, StopAsyncIteration):
                return None
        return args

    async def _wait_for_room(self) -> None:
        while self._taken >= self._bound() and not self._fed:
            self._room = anyio.Event()
            await self._room.wait()

    def _expect(self, future: Future[T]) -> None:
        """A job was submitted: keep its future for whoever asks for results."""
        if self._ordered:
            self._futures.append(future)
            if self._news:
                self._tell()
        else:
            self._unfinished[future] = None
            if future.done():
                self._finished(future)
            else:
                future._watch(self._finished)

    async def _close_async_sources(self) -> None:
        """Close what the inputs came from; a failure to is the inputs' error."""
        for iterator in self._iterators:
            try:
                if isinstance(iterator, AsyncIterator) and hasattr(iterator, "aclose"):
                    await iterator.aclose()
            except Exception as exc:
                self._error = self._error or exc


def iterator_of(iterable: Any) -> Any:
    """An iterator over an iterable, whether it's an asynchronous one or not."""
    if isinstance(iterable, AsyncIterable):
        return aiter(iterable)
    if isinstance(iterable, Iterable) or hasattr(type(iterable), "__getitem__"):
        return iter(iterable)
    raise TypeError(f"map takes iterables or asynchronous iterables, not {iterable!r}")
