"""The one-liner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from ._executor import Executor
from ._map_inputs import AnyIterable

T = TypeVar("T")
A1 = TypeVar("A1")
A2 = TypeVar("A2")
A3 = TypeVar("A3")
A4 = TypeVar("A4")
A5 = TypeVar("A5")


@overload
async def amap(
    fn: Callable[[A1], Awaitable[T]],
    i1: AnyIterable[A1],
    /,
    *,
    slots: float,
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    /,
    *,
    slots: float,
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2, A3], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    i3: AnyIterable[A3],
    /,
    *,
    slots: float,
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2, A3, A4], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    i3: AnyIterable[A3],
    i4: AnyIterable[A4],
    /,
    *,
    slots: float,
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[[A1, A2, A3, A4, A5], Awaitable[T]],
    i1: AnyIterable[A1],
    i2: AnyIterable[A2],
    i3: AnyIterable[A3],
    i4: AnyIterable[A4],
    i5: AnyIterable[A5],
    /,
    *,
    slots: float,
) -> list[T]: ...
@overload
async def amap(
    fn: Callable[..., Awaitable[T]],
    i1: AnyIterable[Any],
    i2: AnyIterable[Any],
    i3: AnyIterable[Any],
    i4: AnyIterable[Any],
    i5: AnyIterable[Any],
    i6: AnyIterable[Any],
    /,
    *iterables: AnyIterable[Any],
    slots: float,
) -> list[T]: ...
async def amap(
    fn: Callable[..., Awaitable[T]], /, *iterables: AnyIterable[Any], slots: float
) -> list[T]:
    """Run ``fn`` over the items of iterables, at most ``slots`` calls at once; list the results.

    The results come in the order of the inputs. The first failure, in that order, cancels the rest
    and is raised; so does a cancellation.

    ::

        pages = await amap(fetch, urls, slots=20)
    """
    async with Executor(slots) as executor:
        return await executor.map(fn, *iterables)
