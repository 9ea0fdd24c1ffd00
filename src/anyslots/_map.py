"""What `map` returns: results as they come, of inputs that are taken as they're needed."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

from ._errors import ExecutorClosed, JobCancelled
from ._future import BaseFuture, exception_of
from ._lane import node_of, runtime_of
from ._map_inputs import AnyIterable, Inputs
from ._runtime.lending import TaskWaiter
from ._scheduling.job import CANCELLED, SUCCEEDED, Job, mark_retrieved

T = TypeVar("T")

BATCH_SIZE = 1000
"""How many inputs are taken, or results given out, before other tasks have a turn in any case."""


class Results(Generic[T]):
    """The results of a `map`, to be awaited as a list or iterated over as they come.

    Nothing happens before the first of that. Then inputs are taken and jobs run whether results
    are asked for or not, until ``slots + buffer`` inputs have been taken ahead of what was given
    out. A job's failure comes out at its place, and the rest is cancelled; an error of the inputs
    comes out as itself, after the results of those before. Leaving an ``async with`` block, and
    `aclose`, cancel what's left. Cancelled while it waits, a loop loses nothing: another goes on
    from there. Several tasks may take results from one object.

    ::

        async with executor.map(fetch, urls) as pages:
            async for page in pages:
                if good(page):
                    break
    """

    def __init__(
        self,
        lane: Any,
        fn: Callable[..., Awaitable[T]],
        iterables: tuple[AnyIterable[Any], ...],
        *,
        ordered: bool,
        buffer: float | None,
        return_exceptions: bool,
    ) -> None:
        self._lane = lane
        self._node = node_of(lane)
        self._runtime = runtime_of(lane)
        self._fn = fn
        self._ordered = ordered
        self._buffer = buffer
        self._return_exceptions = return_exceptions
        self._inputs = Inputs(iterables, copy_context())
        self._is_single = len(iterables) == 1
        # Of each input that was taken, if pairs are wanted; by its future.
        self._input_of: dict[Job[Any], Any] | None = None
        self._started = self._closed = False
        # What's to be given out, from the left: in the order of the inputs, or as they're done; and
        # in the second case, what isn't done. `_taken` counts both, and an input being submitted.
        self._futures: deque[BaseFuture[T]] = deque()
        self._unfinished: dict[BaseFuture[T], None] = {}
        self._taken = 0
        # How often a result was asked for since others had a turn for sure.
        self._in_a_row = 0
        # The task that takes inputs where a consumer can't, the job that it's for, and its scope.
        self.task: object = None
        self.job: Job[Any] | None = None
        self._producing = False
        self._scope = anyio.CancelScope()
        # What consumers wait for besides a future, and what the producer waits for.
        self._waiters: dict[TaskWaiter, None] = {}
        self._capacity: anyio.Event | None = None

    def items(self) -> Results[tuple[Any, T]]:
        """Have results come in pairs with their inputs: ``(input, result)``.

        To be awaited, iterated over and entered like the results alone. With several iterables the
        input is a tuple. Raises `RuntimeError` once results were asked for.

        ::

            async for url, page in executor.map(fetch, urls, ordered=False).items():
                print(url, len(page))
        """
        if self._started:
            raise RuntimeError("items() is called before the first result is asked for")
        self._input_of = {}
        return self  # type: ignore[return-value]

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._list().__await__()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """The next result, or the exception of its job."""
        if not await self._ready(by_task=True):
            raise StopAsyncIteration
        try:
            return self._give()
        except BaseException:
            await self._close(failed=True)
            raise

    async def __aenter__(self) -> Self:
        if not self._started:
            await self._start(by_task=True)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self.aclose()
        else:
            await self._close()

    async def aclose(self) -> None:
        """Take no more inputs, close their sources, and cancel the jobs whose results are left.

        Returns once all that has been done and the jobs have unwound, even if it's cancelled.
        Raises what a source raises as it's closed; a block that an exception leaves doesn't.
        """
        known = self._inputs.error
        await self._close()
        error, self._inputs.error = self._inputs.error, None
        if error is not known and error is not None:
            try:
                raise error
            finally:
                del error

    async def _close(self, *, failed: bool = False) -> None:
        self._check_not_source()
        self._closed = True
        self._scope.cancel()
        left = self._drop_jobs(failed=failed)
        # Other consumers find that nothing is left.
        self._notify()
        with anyio.CancelScope(shield=True):
            if not self._producing:
                self._started = True
                await self._inputs.aclose()
                self._notify()
            while self._producing:
                await self._wait_for_change()
            for future in [*left, *self._drop_jobs(failed=failed)]:
                if not future.is_done:
                    await future.wait()

    def _drop_jobs(self, *, failed: bool) -> list[BaseFuture[T]]:
        """Cancel the jobs that are left, whose results none will take; return them.

        ``failed``: whether what else has failed counts as retrieved.
        """
        futures = [*self._futures, *self._unfinished]
        self._futures.clear()
        self._unfinished.clear()
        for future in futures:
            if failed and future.is_done:
                mark_retrieved(future)
            elif failed:
                future.add_listener(mark_retrieved)
            if not future.is_done:
                future.cancel("its result isn't wanted any more")
        return futures

    async def _list(self) -> list[T]:
        results: list[T] = []
        futures = self._futures
        try:
            while await self._ready(by_task=False):
                results.append(self._give())
                while futures and futures[0].status is SUCCEEDED:
                    results.append(self._give())
        except BaseException:
            await self._close(failed=True)
            raise
        if not results:
            await self._runtime.backend.checkpoint()
        return results

    def _give(self) -> T:
        """Give out the first result, or raise the exception in its place."""
        self._taken -= 1
        future = self._futures.popleft()
        if self._capacity is not None:
            self._capacity.set()
            self._capacity = None
        given = None if self._input_of is None else self._input_of.pop(future)
        if self._return_exceptions and future.status is not SUCCEEDED:
            result: Any = exception_of(future)
        else:
            result = future.result()
        return result if self._input_of is None else (given, result)  # type: ignore[return-value]

    async def _ready(self, *, by_task: bool) -> bool:
        """Wait until there's a result to give; if there's none left, False or the inputs' error."""
        self._check_not_source()
        if not self._started:
            await self._start(by_task=by_task)
        # A loop that takes all that's there to give lets others run now and then.
        self._in_a_row += 1
        if self._in_a_row == BATCH_SIZE:
            self._in_a_row = 0
            await anyio.lowlevel.checkpoint()
        futures = self._futures
        while not (futures and futures[0].is_done):
            if not self._producing and self._take_now() and not (futures and futures[0].is_done):
                await self._runtime.backend.checkpoint()
            elif futures:
                if not futures[0].is_done:
                    await futures[0].wait()
            elif self._unfinished or self._producing or not self._inputs.exhausted:
                await self._wait_for_change()
            elif self._inputs.error is not None:
                await anyio.lowlevel.checkpoint_if_cancelled()
                error, self._inputs.error = self._inputs.error, None
                try:
                    raise error
                finally:
                    del error
            else:
                return False
        if futures[0].status is CANCELLED:
            # Perhaps by what cancels this task, too: that comes first.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return bool(futures) or await self._ready(by_task=by_task)
        return True

    async def _wait_for_change(self) -> None:
        lender = self._runtime.current_lender()
        waiter = TaskWaiter(self._runtime.backend.park(), [] if lender is None else [lender])
        self._waiters[waiter] = None
        try:
            await waiter.wait()
        finally:
            self._waiters.pop(waiter, None)

    def _notify(self, _: object = None) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.wake()

    def _finished(self, future: Any) -> None:
        """A job is done, whose place in the order doesn't matter."""
        if future in self._unfinished:  # it was dropped otherwise
            del self._unfinished[future]
            self._futures.append(future)
            self._notify()

    # Taking inputs.

    async def _start(self, *, by_task: bool) -> None:
        """Begin to take inputs: in a task, unless the consumers can do it as well."""
        if self._node.thread is None or self._node.thread != self._runtime.thread:
            self._runtime.check_thread("submit to", self._lane)
            # If it's closed since it was cancelled, together with the task that asks for results.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._runtime.check_open(self._node, self._lane)
        if self._started:
            return
        self._started = True
        if by_task or not self._inputs.are_sync or self._node.bounded:
            self._producing = True
            self.job = self._runtime.own_job()
            self._runtime.producers.add(self)
            start = self._runtime.backend.start_task
            group = self._runtime.task_group
            self._inputs.context.run(start, group, self._produce, "anyslots producer of a map")

    def _bound(self) -> float:
        """How many inputs may be taken ahead of the results that were given out."""
        slots: float = min(lane.slots for lane in self._node.path())
        return slots + (slots if self._buffer is None else self._buffer)

    def _take_now(self) -> bool:
        return self._inputs.context.run(self._take_batch)

    def _take_batch(self) -> bool:
        """Submit the next inputs, as long as there's room for their results.

        But only so many at once; whether to let others run now, and then go on.
        """
        inputs, submit, fn, bound = self._inputs, self._lane.submit, self._fn, self._bound()
        enough = min(bound, self._taken + BATCH_SIZE)
        while not (inputs.exhausted or self._closed) and self._taken < enough:
            if (args := inputs.take_now()) is not None:
                self._taken += 1
                try:
                    self._expect(submit(fn, *args), args)
                except Exception as exc:
                    inputs.error = exc
                    inputs.end()
        if inputs.exhausted:
            self._notify()
        return not inputs.exhausted and self._taken < bound

    def _expect(self, future: BaseFuture[T], args: tuple[Any, ...]) -> None:
        """A job was submitted: keep its future for whatever asks for results."""
        if self._input_of is not None:
            self._input_of[future] = args[0] if self._is_single else args
        if self._ordered:
            self._futures.append(future)
            if self._waiters:
                self._notify()
        else:
            self._unfinished[future] = None
            if future.is_done:
                self._finished(future)
            else:
                future.add_listener(self._finished)

    async def _produce(self) -> None:
        """Take inputs as there's room for their results, until there are none."""
        inputs = self._inputs
        self.task = self._runtime.backend.current_task()
        try:
            with self._scope:
                if inputs.are_sync and not self._node.bounded:
                    while not (inputs.exhausted or self._closed):
                        if self._take_now():
                            await self._let_others_run()
                        else:
                            await self._wait_for_room()
                else:
                    while not (inputs.exhausted or self._closed):
                        await self._produce_one()
        except self._runtime.backend.cancelled:
            pass
        finally:
            if not (inputs.exhausted or self._closed or inputs.error):
                inputs.error = ExecutorClosed(f"{self._lane!r} ended before the inputs did")
            await inputs.aclose()
            self._producing = False
            self._runtime.producers.discard(self)
            self._notify()

    async def _let_others_run(self) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except self._runtime.backend.cancelled:
            if not await self._runtime.outlives_cancellation(self._scope):
                raise

    async def _produce_one(self) -> None:
        await self._wait_for_room()
        if self._closed:
            return  # it was woken by what has closed it, and takes no input more
        try:
            args = await self._inputs.take()
        except self._runtime.backend.cancelled as exc:
            cancels = self._runtime.backend.cancel_count()
            is_native = cancels is not None and cancels() > 0
            if not await self._runtime.outlives_cancellation(self._scope):
                raise
            args = None
            # Else it's the source's own.
            self._inputs.error = exc
            if is_native:
                self._inputs.error = JobCancelled(
                    "the task that takes the inputs of a map was cancelled"
                )
        except BaseException as exc:
            args = None
            self._inputs.error = exc
        if args is None:
            await self._inputs.aclose()
            return
        self._taken += 1
        while True:
            try:
                self._expect(await self._lane.enqueue(self._fn, *args), args)
            except self._runtime.backend.cancelled:
                if not await self._runtime.outlives_cancellation(self._scope):
                    raise
                continue  # the input isn't to be lost
            except Exception as exc:
                self._inputs.error = exc
                await self._inputs.aclose()
            return

    async def _wait_for_room(self) -> None:
        while self._taken >= self._bound() and not self._inputs.exhausted:
            self._capacity = anyio.Event()
            self._runtime.resize_listeners.add(self._resized)
            try:
                await self._capacity.wait()
            except self._runtime.backend.cancelled:
                if not await self._runtime.outlives_cancellation(self._scope):
                    raise
            finally:
                self._runtime.resize_listeners.discard(self._resized)

    def _resized(self) -> None:
        if self._capacity is not None:
            self._capacity.set()

    def stop(self) -> None:
        """The executor ends."""
        self._scope.cancel()

    def _check_not_source(self) -> None:
        if self.task is not None and self._runtime.backend.current_task() is self.task:
            raise RuntimeError("a source of a map can't wait for the results of that map")
