"""What instruments read of a future without being seen to look at its exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .._handles import Future

Clock: TypeAlias = Callable[[], float]


def error(future: Future[Any]) -> BaseException | None:
    """Why a job has failed. `Future.exception` would count as looking, and hide it from others."""
    return future.error


def outcome(future: Future[Any]) -> str:
    """``"succeeded"``, ``"failed"`` or ``"cancelled"``, once the job is done."""
    return str(future.status)


def labels(future: Future[Any]) -> tuple[str, str]:
    """The names of a job's executor and of its lane; "" for what has no name, or no lane."""
    executor, lane = future.lane.executor, future.lane
    return executor.name or "", "" if lane is executor else lane.name or ""
