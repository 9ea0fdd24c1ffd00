"""What users hold: the handles of jobs and of lanes."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import Any, ParamSpec, TypeVar, final, overload

import anyio
import anyio.lowlevel

from ._errors import ExecutorClosed
from ._future import BaseFuture
from ._lane import BaseLane, checked_options, node_of, runtime_of
from ._map_method import Maps
from ._runtime.charging import note_costs
from ._runtime.keyed_nodes import KeyedNodes
from ._runtime.occupancy import Occupation
from ._runtime.submitting import Submitter
from ._scheduling.adaptive import Adaptive
from ._scheduling.job import QUEUED
from ._scheduling.lane_state import LaneState
from ._scheduling.options import LaneOptions
from ._scheduling.rates import Rate
from ._scheduling.retries import Retry
from ._validation import check_name

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K", bound=Hashable)


@final
class Future(BaseFuture[T_co]):
    """The handle of one submitted job; `Executor.submit` makes it.

    Await it from any task of the executor's event loop, and from as many as you like: each gets
    the job's return value, or the exception that the job raised. Cancelling a task that awaits
    a future leaves the job alone; `cancel` cancels the job. A job that awaits its own future gets
    a `RuntimeError`. What it says can be read from any thread.

    ``status`` is a string enum: ``"queued"``, ``"running"``, ``"succeeded"``, ``"failed"`` or
    ``"cancelled"``. ``slot`` is the number of the slot that the job runs or ran in, from 0; None if
    it hasn't started, or waits for another attempt.

    ::

        future = executor.submit(fetch, url)
        page = await future
    """

    __slots__ = ()

    @property
    def lane(self) -> Lane:
        """The lane that the job was submitted to; the executor itself for `Executor.submit`."""
        return lane_of(self.node)


class Lane(BaseLane, Maps):
    """A FIFO queue of jobs with limits of its own, inside an executor or another lane.

    `Lane.lane` makes one; the executor is the root of the tree that lanes form. A job counts
    against each lane on its way to the root. A lane that nothing refers to and that has no jobs
    left is collected.
    """

    __slots__ = ()

    # `Any`: types that aren't public, in the signature of a class that is.
    def __init__(self, runtime: Any, node: Any) -> None:
        self._runtime = runtime
        self._node = node
        node.handle = weakref.ref(self)

    def __del__(self) -> None:
        # In any thread, and at any time.
        if not self._node.is_keyed:
            self._runtime.scheduler.tree.dropped.append(self._node)

    def submit(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` run as soon as it may; return its future at once.

        ``fn`` is called in its slot, in a copy of the present context. It returns an awaitable: a
        coroutine or, under asyncio, also a Task or a Future; a job's failure, a result that can't
        be awaited included, is kept in its future. Jobs start in the order of their submission.

        Works wherever the event loop's thread is, in a plain callback of the loop, too. Raises
        `anyio.WouldBlock` if the queue is full, `TypeError` if ``fn`` isn't callable,
        `ExecutorClosed` if no more jobs are taken, and `RuntimeError` if the executor has not been
        entered or this is another thread than its event loop's; and what the ``cost`` of a rate
        raises, or `ValueError` for a cost that can't be. Then nothing was queued.

        ::

            future = executor.submit(fetch, url, retries=3)
        """
        node = self._node
        if get_ident() != node.thread:
            self._runtime.check_open(node, self)
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; submit(fn, *args), not submit(fn())")
        job: Future[T] = Future()
        job.node = node
        job.fn = partial(fn, **kwargs) if kwargs else fn
        job.args = args
        job.context = copy_context()
        job.status = QUEUED
        job.listeners = job.value = job.slot = job.holder = job.attempt = None
        if not node.fast_path or node.transaction.busy:
            scheduler = self._runtime.scheduler
            self._prepare(job)
            if not scheduler.may_submit(job):
                raise anyio.WouldBlock
            scheduler.submit(job)
            return job
        queue = node.queue
        queue.jobs.append(job)
        if not queue.is_ready:
            self._runtime.scheduler.queue_added(node)
        return job

    async def enqueue(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit like `submit`, but wait until there's capacity in the queue.

        Waiters are admitted in FIFO order. If ``max_pending`` is 0, this waits until a slot takes
        the job. Cancelled while it waits, the job never runs; if it has begun, its future is
        returned, and the next checkpoint is cancelled. (Before Python 3.13, a job of this executor
        that is cancelled natively under asyncio while it waits for its own slot cancels the job
        that it has submitted.) Raises `ExecutorClosed` if the lane or its executor is closed
        meanwhile, or the executor begins to shut down and this isn't one of its own jobs, and else
        what `submit` raises but `anyio.WouldBlock`.

        ::

            async for url in urls:
                await executor.enqueue(fetch, url)
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; enqueue(fn, *args)")
        self._check_thread("submit to")
        # Before the job is queued: cancelled here, it never was. A task that's cancelled together
        # with the executor learns that, and not that the executor is closed.
        is_own = self._runtime.stepped is not None
        await self._runtime.backend.checkpoint()
        job: Future[T] = self._make_job(partial(fn, **kwargs) if kwargs else fn, args)
        scheduler = self._runtime.scheduler
        if scheduler.may_submit(job):
            scheduler.submit(job)
            return job
        submitter = Submitter(self._runtime, job, is_own=is_own)
        try:
            await submitter.wait()
        except BaseException as error:
            backend = self._runtime.backend
            # Its job may have been taken before a cancellation came, and have begun.
            has_begun = submitter.served and job.status is not QUEUED
            is_late = has_begun and isinstance(error, backend.cancelled)
            if not (is_late and backend.defer_cancel(error)):
                self._runtime.cancel_job(job, None)
                raise
        if not submitter.served:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise ExecutorClosed(f"{self!r} was closed before there was capacity for the job")
        return job

    def slot(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[Future[None], None]:
        """Have the current task itself occupy a slot, for ``async with``.

        For what can't be a job: a streamed response, a websocket, a transaction. The block queues,
        starts, counts and is observed like a job of this lane, in FIFO order with jobs; a full
        queue makes it wait like `enqueue`. ``as`` gives its future, named after the task. The
        arguments are for the ``cost`` of rates.

        Inside a job of the same executor, the job's own slot is lent for the whole block, so that
        one slot suffices. Inside the block, waiting for the executor lends the block's slot.

        `Future.cancel`, `cancel` of a lane and ``timeout`` cancel the block as a cancel scope does;
        it raises `JobCancelled` or `TimeoutError` then. ``retry`` doesn't apply. An exception that
        leaves the block goes on as it is; its future fails with it, and ``on_error`` isn't
        concerned. Cancelled while it waits, it takes nothing. Raises what `enqueue` raises, and
        `QueueTimeout`.

        ::

            async with model.slot(prompt), client.stream("POST", url, json=prompt) as response:
                async for chunk in response.aiter_bytes():
                    ...
        """
        self._check_thread("occupy a slot of")

        def make_job(fn: Any) -> Future[None]:
            return self._make_job(fn, args)

        return Occupation(self._runtime, make_job, kwargs)

    # The tree.

    def lane(
        self,
        name: str | None = None,
        *,
        slots: float | Adaptive = float("inf"),
        priority: float = 0,
        max_pending: float = float("inf"),
        rate: Rate | Iterable[Rate] | None = None,
        gate: Callable[[], Awaitable[object]] | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        retry: Retry | bool | None = None,
    ) -> Lane:
        """Make a lane inside: a queue of jobs of its own, within this one's limits.

        A job takes a slot, a place in the queue and a start of each rate of every lane on its way
        to the executor, in one step or none; while it waits it holds nothing, and doesn't hold up
        others. Every option can be read and set later.

        ``slots``: how many of its jobs may run at once; an int from 1, `math.inf`, or `Adaptive`.

        ``priority``: among the lanes inside one that may start a job, the highest number goes
        first; equal ones take turns, lane by lane. A lane's own jobs compete with the lanes inside
        it as a lane of priority 0.

        ``max_pending``: how many jobs may be queued; an int from 0, or `math.inf`. `submit` raises
        `anyio.WouldBlock` beyond that, and `enqueue` waits.

        ``rate``: how much may start in how much time: a `Rate`, or several, which all hold. A
        queued job that's cancelled uses up nothing.

        ``gate``: an async function without arguments that is awaited before each start; one return
        admits one job. For limits that are kept elsewhere. It's called outside of slots, when
        nothing else holds up the job at the head, one call at a time. An exception of it fails that
        job.

        ``timeout``: how many seconds a job may run, each attempt. Then it's cancelled and, once it
        has unwound, its future fails with `TimeoutError`; a job that catches the cancellation and
        returns a value has succeeded. A `TimeoutError` of the job's own is passed on as it is.

        ``queue_timeout``: how many seconds a job may be queued before its first start. Then it
        never runs, and its future fails with `QueueTimeout` at that moment, free slot or not.

        ``retry``: a `Retry`, for jobs that fail. For these three, None stands for what is in force
        in this lane; `math.inf`, and False for ``retry``, for none.

        Works before the executor is entered. Raises `TypeError` or `ValueError` for any other
        argument, and then no lane was made.

        ::

            model = executor.lane("model", rate=[Rate(500, per=60), tokens])
            tenant = model.lane("acme", slots=2)
        """
        options = checked_options(
            slots=slots,
            priority=priority,
            max_pending=max_pending,
            rate=rate,
            gate=gate,
            timeout=timeout,
            queue_timeout=queue_timeout,
            retry=retry,
        )
        return Lane(self._runtime, self._runtime.add_lane(self._node, check_name(name), options))

    @overload
    def keyed(self, function: None = None, /, **options: Any) -> KeyedLanes[Any]: ...
    @overload
    def keyed(self, function: Callable[[K], Mapping[str, Any]], /) -> KeyedLanes[K]: ...
    def keyed(
        self, function: Callable[[Any], Mapping[str, Any]] | None = None, /, **options: Any
    ) -> KeyedLanes[Any]:
        """Make a lane inside for each key on demand: per host, per tenant, per user.

        ``options``: those of `lane`, the same for every key; or one function of the key that
        returns them in a mapping, called when the key's lane is made. Raises `TypeError` or
        `ValueError` for wrong options, those of a function when it's called.

        ::

            hosts = executor.keyed(slots=2, rate=Rate(1, per=1))
            hosts["example.org"].submit(fetch, url)
        """
        if function is None:
            return KeyedLanes(self, checked_options(**options))
        if options:
            raise TypeError("keyed takes options by name, or else one function of the key")
        if not callable(function):
            raise TypeError(f"keyed takes a function of the key, not {function!r}")
        ask = function
        return KeyedLanes(self, lambda key: checked_options(**ask(key)))

    @property
    def executor(self) -> Lane:
        """The executor that it belongs to: the root of its tree."""
        return lane_of(self._runtime.root)

    @property
    def parent(self) -> Lane | None:
        """The lane that it's inside of; None for an executor."""
        return None if self._node.parent is None else lane_of(self._node.parent)

    @property
    def children(self) -> tuple[Lane, ...]:
        """The lanes inside that have jobs or that something refers to, in the order of making."""
        nodes = [node for node in list(self._node.children) if not node.is_forgettable()]
        return tuple(lane_of(node) for node in nodes)

    # Submitting.

    def _make_job(self, fn: Any, args: tuple[Any, ...]) -> Future[Any]:
        """A job to be queued, unless this raises what `submit` does."""
        node = self._node
        if get_ident() != node.thread:
            self._runtime.check_open(node, self)
        job: Future[Any] = Future()
        job.node = node
        job.fn = fn
        job.args = args
        job.context = copy_context()
        job.status = QUEUED
        job.listeners = job.value = job.slot = job.holder = job.attempt = None
        if not node.fast_path:
            self._prepare(job)
        return job

    def _prepare(self, job: Future[Any]) -> None:
        """Note what a job costs, if its lane's rates want to know."""
        node = self._node
        if node.has_costs:
            note_costs(job)
            # The functions that it has asked may have closed the lane.
            if get_ident() != node.thread:
                self._runtime.check_open(node, self)


@final
class KeyedLanes(Mapping[K, Lane]):
    """The lanes of a mapping by key, each made on demand; `Lane.keyed` makes one.

    The same key gives the same limits for as long as they matter: a key's lane is forgotten once
    it's idle, nothing refers to it, it's neither paused nor closed, and the windows of its rates
    have passed. Length, iteration and ``in`` are about the keys until then; ``in`` and `get` make
    none. Looking up a key works from any thread, for `from_thread.submit`. Once nothing refers to
    the mapping itself, its lanes are forgotten like any others.

    ::

        async with Executor(100) as executor:
            tenants = executor.keyed(lambda tenant: {"slots": limits[tenant]})
            await tenants["acme"].enqueue(handle, request)
    """

    __slots__ = ("_lane", "_nodes")

    def __init__(self, lane: Lane, options: LaneOptions | Callable[[K], LaneOptions]) -> None:
        self._lane = lane
        self._nodes: KeyedNodes[K] = KeyedNodes(runtime_of(lane), node_of(lane), options)

    def __del__(self) -> None:
        self._nodes.release()

    def __getitem__(self, key: K) -> Lane:
        return self._nodes.look_up(key, lane_of)

    @overload
    def get(self, key: K, /) -> Lane | None: ...
    @overload
    def get(self, key: K, /, default: Lane) -> Lane: ...
    @overload
    def get(self, key: K, /, default: T) -> Lane | T: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """The lane of a key that's known, else ``default``."""
        node = self._nodes.find(key)
        return default if node is None else lane_of(node)

    def __contains__(self, key: object) -> bool:
        return self._nodes.find(key) is not None

    def __iter__(self) -> Iterator[K]:
        return iter(self._nodes.live_keys())

    def __len__(self) -> int:
        return len(self._nodes.live_keys())

    def __repr__(self) -> str:
        return f"<KeyedLanes of {self._lane!r} with {len(self)} keys>"


def lane_of(node: LaneState) -> Lane:
    """The handle of a lane: the one that users hold, or a new one."""
    lane: Lane | None = None if node.handle is None else node.handle()
    if lane is None:
        if node.forgotten:
            node.runtime.scheduler.tree.recall(node)
        lane = Lane(node.runtime, node)
    return lane
