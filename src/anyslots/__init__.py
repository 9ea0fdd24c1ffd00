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
from ._handles import Future, KeyedLanes, Lane
from ._map import Results
from ._runtime.charging import charge
from ._runtime.lend_slot import lend_slot
from ._scheduling.adaptive import Adaptive
from ._scheduling.rates import Rate
from ._scheduling.retries import Retry
from ._scheduling.statistics import Statistics

__all__ = (
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Adaptive",
    "BlockingExecutor",
    "Executor",
    "ExecutorClosed",
    "Future",
    "JobCancelled",
    "KeyedLanes",
    "Lane",
    "NotDone",
    "QueueTimeout",
    "Rate",
    "Results",
    "Retry",
    "Statistics",
    "amap",
    "as_completed",
    "charge",
    "first_result",
    "gather",
    "lend_slot",
    "wait",
)

__version__ = "0.1.0"
