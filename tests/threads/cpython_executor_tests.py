"""CPython's own tests of executors, on `BlockingExecutor`: a program, started by
test_cpythons_tests.py: ``python cpython_executor_tests.py BACKEND``.
"""

from __future__ import annotations

import importlib
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anyslots import BlockingExecutor

NOT_SHIPPED = 77


def find(module: str, name: str) -> Any:
    """A class of tests; where it lives depends on the version of Python."""
    for place in (f"test.test_concurrent_futures.{module}", "test.test_concurrent_futures"):
        try:
            return getattr(importlib.import_module(place), name)
        except (ImportError, AttributeError):
            pass
    print("this Python doesn't ship its tests")
    sys.exit(NOT_SHIPPED)


def cases(backend: str, module: str, name: str) -> type[unittest.TestCase]:
    class Tests(find(module, name), unittest.TestCase):  # type: ignore[misc]
        worker_count = 5

        @staticmethod
        def executor_type(max_workers: int) -> BlockingExecutor:
            return BlockingExecutor(max_workers, backend=backend)

        def setUp(self) -> None:
            self.executor = self.executor_type(max_workers=self.worker_count)

        def tearDown(self) -> None:
            self.executor.shutdown(wait=True)
            del self.executor

        def test_max_workers_negative(self) -> None:
            # The one difference: the argument has another name.
            for number in (0, -1):
                with pytest.raises(ValueError, match="slots must be an int from 1"):
                    self.executor_type(max_workers=number)

    return Tests


CLASSES = {
    "executor": "ExecutorTest",
    "test_wait": "ThreadPoolWaitTests",
    "test_as_completed": "AsCompletedTests",
}

if __name__ == "__main__":
    classes = [cases(sys.argv[1], module, name) for module, name in CLASSES.items()]
    tests = [
        test for each in classes for test in unittest.defaultTestLoader.loadTestsFromTestCase(each)
    ]
    with ThreadPoolExecutor(8) as threads:  # they mostly sleep
        results = list(threads.map(lambda test: test.run(), tests))
    problems = [found for result in results for found in result.errors + result.failures]
    for test, traceback in problems:
        print(test, traceback)
    print(len(tests), "tests")
    sys.exit(bool(problems))
