"""What instruments read of a future without being seen to look at its exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .._future import FAILED, Future

Clock: TypeAlias = Callable[[], float]


def error(future: Future[Any]) -> BaseException | None:
    """Why a job has failed. `Future.exception` would count as looking, and hide it from others."""
    failed = future._status is FAILED
    exception: BaseException | None = future._value.exception if failed else None
    return exception


def outcome(future: Future[Any]) -> str:
    """``"succeeded"``, ``"failed"`` or ``"cancelled"``, once the job is done."""
    return str(future._status.value)


def labels(future: Future[Any]) -> tuple[str, str]:
    """The names of a job's executor and of its lane; "" for what has no name, or no lane."""
    executor, lane = future.lane._executor, future.lane
    return executor.name or "", "" if lane is executor else lane.name or ""
