"""The inputs of a `map`: taking them from their sources as they are needed."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

import anyio

A = TypeVar("A")
AnyIterable: TypeAlias = Iterable[A] | AsyncIterable[A]


class Inputs:
    """The sources of a `map`, iterated over together; the shortest counts.

    Code of users runs here, in ``context``, that in which `map` was called: whatever it raises ends
    the inputs, and is kept in ``error``.
    """

    __slots__ = ("_iterators", "are_sync", "context", "error", "exhausted")

    def __init__(self, iterables: Iterable[AnyIterable[Any]], context: Context) -> None:
        self._iterators: list[Any] = [iterator_of(iterable) for iterable in iterables]
        self.context = context
        self.are_sync = not any(isinstance(each, AsyncIterator) for each in self._iterators)
        self.exhausted = False
        self.error: BaseException | None = None

    def take_now(self) -> tuple[Any, ...] | None:
        """Take the next input of synchronous sources, in their context; None if there's none."""
        if self.exhausted:
            return None
        try:
            return tuple([next(iterator) for iterator in self._iterators])
        except StopIteration:
            pass
        except BaseException as exc:
            self.error = exc
        self.end()
        return None

    async def take(self) -> tuple[Any, ...] | None:
        """Wait for the next input; None if there's none. A cancellation comes out as it is."""
        args: list[Any] = []
        for iterator in self._iterators:
            try:
                if isinstance(iterator, AsyncIterator):
                    args.append(await anext(iterator))
                else:
                    args.append(next(iterator))
            except (StopIteration, StopAsyncIteration):
                return None
        return tuple(args)

    def end(self) -> None:
        """Take no more; close generators that are synchronous."""
        self.exhausted = True
        iterators, self._iterators = self._iterators, []
        for iterator in iterators:
            try:
                if inspect.isgenerator(iterator):
                    self.context.copy().run(iterator.close)
            except BaseException as exc:
                self.error = self.error or exc

    async def aclose(self) -> None:
        """Close asynchronous sources, whatever cancels that; a failure is the inputs' error."""
        with anyio.CancelScope(shield=True):
            for iterator in self._iterators:
                try:
                    if isinstance(iterator, AsyncIterator) and hasattr(iterator, "aclose"):
                        await iterator.aclose()
                except BaseException as exc:
                    if self.error is None:
                        self.error = exc
        self.end()


def iterator_of(iterable: Any) -> Any:
    """An iterator over an iterable, whether it's an asynchronous one or not."""
    if isinstance(iterable, AsyncIterable):
        return aiter(iterable)
    if isinstance(iterable, Iterable) or hasattr(type(iterable), "__getitem__"):
        return iter(iterable)
    raise TypeError(f"map takes iterables or asynchronous iterables, not {iterable!r}")
