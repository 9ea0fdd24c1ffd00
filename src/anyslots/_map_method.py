"""The method `map` of lanes and executors, with its types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from ._map import Results
from ._map_inputs import AnyIterable
from ._validation import check_count

T = TypeVar("T")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")


class Options(TypedDict, total=False):
    ordered: bool
    buffer: float | None


class Strict(Options, total=False):
    return_exceptions: Literal[False]


class Lenient(Options):
    return_exceptions: bool


class Maps:
    """What can `map`."""

    __slots__ = ()

    @overload
    def map(
        self, fn: Callable[[A1], Awaitable[T]], i1: AnyIterable[A1], /, **options: Unpack[Strict]
    ) -> Results[T]: ...
    @overload
    def map(
        self, fn: Callable[[A1], Awaitable[T]], i1: AnyIterable[A1], /, **options: Unpack[Lenient]
    ) -> Results[T | BaseException]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        /,
        **options: Unpack[Strict],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        /,
        **options: Unpack[Lenient],
    ) -> Results[T | BaseException]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        i3: AnyIterable[A3],
        /,
        **options: Unpack[Strict],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A1, A2, A3], Awaitable[T]],
        i1: AnyIterable[A1],
        i2: AnyIterable[A2],
        i3: AnyIterable[A3],
        /,
        **options: Unpack[Lenient],
    ) -> Results[T | BaseException]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        i1: AnyIterable[Any],
        i2: AnyIterable[Any],
        i3: AnyIterable[Any],
        i4: AnyIterable[Any],
        /,
        *iterables: AnyIterable[Any],
        **options: Unpack[Strict],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        i1: AnyIterable[Any],
        i2: AnyIterable[Any],
        i3: AnyIterable[Any],
        i4: AnyIterable[Any],
        /,
        *iterables: AnyIterable[Any],
        **options: Unpack[Lenient],
    ) -> Results[T | BaseException]: ...
    def map(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: AnyIterable[Any],
        ordered: bool = True,
        buffer: float | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Run ``fn`` over the items of iterables, as jobs of this lane; return their results.

        ``await executor.map(...)`` gives a list, ``async for`` each result as it comes: in the
        order of the inputs or, with ``ordered=False``, as the jobs end. `Results` says what
        happens on failure and when it's left early; `Results.items` gives inputs with results.

        The iterables, synchronous or asynchronous, may be huge or endless, and the shortest one
        counts: at most ``slots + buffer`` items are taken ahead of the results that were given
        out. ``buffer``: an int from 0, or `math.inf`; None for as many as there are slots. With
        ``buffer=0``, a slow consumer stops the jobs; a slow first job stops the others when the
        buffer is full.

        ``return_exceptions``: whether an exception takes the place of a result, `JobCancelled` for
        a cancelled job, and the rest goes on.

        Raises `TypeError` or `ValueError` for other arguments, and what `submit` raises when the
        results are first asked for.

        ::

            async for page in executor.map(fetch, urls, ordered=False):
                print(page)
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}; map(fn, *iterables)")
        if not iterables:
            raise TypeError("map needs at least one iterable: map(fn, *iterables)")
        for name, value in ("ordered", ordered), ("return_exceptions", return_exceptions):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, not {value!r}")
        if buffer is not None:
            check_count("buffer", buffer, least=0)
        return Results(
            self,
            fn,
            iterables,
            ordered=ordered,
            buffer=buffer,
            return_exceptions=return_exceptions,
        )
