"""The promises of docs/guarantees.md, and the tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"

TEXT = PAGE.read_text(encoding="utf-8")

NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", TEXT)))


@pytest.mark.parametrize(("module", "test"), NAMED)
def test_a_named_test_exists(module: str, test: str) -> None:
    """Whoever follows the page to a test finds it."""
    source = (TESTS / module).read_text(encoding="utf-8")
    assert not test or re.search(rf"def {test}\(", source)


def test_each_promise_names_a_test() -> None:
    """A row without a test is no promise."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| Promise")]
    assert len(promises) > 30
    assert [row for row in promises if "`test_" not in row] == []
