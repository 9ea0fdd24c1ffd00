"""The tests that docs/guarantees.md and docs/pitfalls.md name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
PAGES = ["guarantees.md", "pitfalls.md"]

NAMED = sorted(
    {
        named
        for page in PAGES
        for named in re.findall(
            r"`(test_\w+\.py)(?:::(test_\w+))?`", (DOCS / page).read_text(encoding="utf-8")
        )
    }
)


def rows(page: str) -> list[str]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.match(r"\| (?!Promise|What broke)", line)]


@pytest.mark.parametrize(("module", "test"), NAMED)
def test_a_named_test_exists(module: str, test: str) -> None:
    """Whoever follows a page to a test finds it."""
    path = TESTS / module
    if test:
        assert re.search(rf"def {test}\(", path.read_text(encoding="utf-8"))
    else:
        assert path.exists()


@pytest.mark.parametrize(("page", "least"), [("guarantees.md", 30), ("pitfalls.md", 60)])
def test_each_row_names_a_test(page: str, least: int) -> None:
    """A promise without a test is none, and a bug without one may come back."""
    assert len(rows(page)) > least
    assert [row for row in rows(page) if "`test_" not in row] == []
