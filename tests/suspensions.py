"""Acting at each suspension of a coroutine in turn, and looking at tasks on either backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

import trio


class Steps:
    """Drives a coroutine, counts its suspensions, and calls ``act`` at the k-th.

    As it suspends: the task isn't waiting yet, so ``act`` may cancel it, and do nothing else.
    As it resumes: what it waited for has happened. In between: from outside, while it waits.
    """

    def __init__(self, k: int, act: Callable[[], object], when: str = "suspends") -> None:
        self.k = k
        self.act = act
        self.when = when
        self.count = 0

    @coroutine
    def drive(self, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step, value = coro.send, None
        while True:
            try:
                value = step(value)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self.k and self.when == "suspends":
                self.act()
            elif self.count == self.k and self.when == "waits":
                call_soon(self.act)
            step = coro.send
            try:
                value = yield value
            except BaseException as thrown:
                step, value = coro.throw, thrown
            if self.count == self.k and self.when == "resumes":
                self.act()

    @property
    def reached(self) -> bool:
        return self.count >= self.k


def call_soon(fn: Callable[[], object]) -> None:
    if asyncio_task() is None:
        trio.lowlevel.current_trio_token().run_sync_soon(fn)
    else:
        asyncio.get_running_loop().call_soon(fn)


def asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def living_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living
