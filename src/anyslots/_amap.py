# ruff: noqa: ASYNC109 (a timeout of each job, not of the call)
"""The one-liner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, Required, TypedDict, TypeVar, Unpack, overload

from ._executor import Executor
from ._map_inputs import AnyIterable
from ._scheduling.adaptive import Adaptive
from ._scheduling.rates import Rate
from ._scheduling.retries import Retry

T = TypeVar("T")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")


class Options(TypedDict, total=False):
    slots: Required[float | Adaptive]
    rate: Rate | Iterable[Rate] | None
    timeout: float | None
    retry: Retry | bool | None


class Strict(Options, total=False):
    return_exceptions: Literal[False]


class Lenient(Options):
    return_exceptions: bool


@overload
async def amap(
    fn: Callable[[A1], Awaitable[T]], i1: AnyIterable[A1], /, **options: Unpack[Strict]
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1], Awaitable[T]], i1: AnyIterable[A1], /, **options: Unpack[Lenient]
) -> list[T | BaseException]: ...
@overload
async def amap(
    fn: Callable[[A1, A2], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    /,
    **options: Unpack[Strict],
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    /,
    **options: Unpack[Lenient],
) -> list[T | BaseException]: ...
@overload
async def amap(
    fn: Callable[[A1, A2, A3], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    i3: AnyIterable[A3],
    /,
    **options: Unpack[Strict],
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2, A3], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    i3: AnyIterable[A3],
    /,
    **options: Unpack[Lenient],
) -> list[T | BaseException]: ...
@overload
async def amap(
    fn: Callable[..., Awaitable[T]],
    i1: AnyIterable[Any],
    i2: AnyIterable[Any],
    i3: AnyIterable[Any],
    i4: AnyIterable[Any],
    /,
    *iterables: AnyIterable[Any],
    **options: Unpack[Strict],
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[..., Awaitable[T]],
    i1: AnyIterable[Any],
    i2: AnyIterable[Any],
    i3: AnyIterable[Any],
    i4: AnyIterable[Any],
    /,
    *iterables: AnyIterable[Any],
    **options: Unpack[Lenient],
) -> list[T | BaseException]: ...
async def amap(
    fn: Callable[..., Awaitable[T]],
    /,
    *iterables: AnyIterable[Any],
    slots: float | Adaptive,
    return_exceptions: bool = False,
    rate: Rate | Iterable[Rate] | None = None,
    timeout: float | None = None,
    retry: Retry | bool | None = None,
) -> list[Any]:
    """Run ``fn`` over the items of iterables, at most ``slots`` calls at once; list the results.

    The results come in the order of the inputs. The first failure, in that order, cancels the rest
    and is raised; with ``return_exceptions``, exceptions are listed among the results instead, and
    the rest goes on. A cancellation of this call cancels all.

    ``slots``, ``rate``, ``timeout`` (of each call) and ``retry``: as for `Executor`.

    ::

        pages = await amap(fetch, urls, slots=20, retry=Retry(3))
    """
    async with Executor(slots, rate=rate, timeout=timeout, retry=retry) as executor:
        return await executor.map(fn, *iterables, return_exceptions=return_exceptions)
