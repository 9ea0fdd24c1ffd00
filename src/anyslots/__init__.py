"""Run async functions with a limit on how many run at once, and a future for each."""

from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

from . import from_thread as from_thread
from . import to_pool as to_pool
from ._amap import amap
from ._blocking import BlockingExecutor
from ._collect import (
    as_completed,
    first_result,
    gather,
    wait,
)
from ._errors import ExecutorClosed, JobCancelled, NotDone, QueueTimeout
from ._executor import Executor
from ._future import Future
from ._lane import Lane
from ._lending import lend_slot
from ._rate import Rate
from ._results import Results
from ._statistics import Statistics

__all__ = (
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BlockingExecutor",
    "Executor",
    "ExecutorClosed",
    "Future",
    "JobCancelled",
    "Lane",
    "NotDone",
    "QueueTimeout",
    "Rate",
    "Results",
    "Statistics",
    "amap",
    "as_completed",
    "first_result",
    "gather",
    "lend_slot",
    "wait",
)

__version__ = "0.1.0"
