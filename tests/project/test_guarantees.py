"""The numbers of docs/guarantees.md and docs/pitfalls.md, and the tests that are named for each."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
PAGES = ["guarantees.md", "pitfalls.md"]


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def tables() -> Iterator[tuple[str, list[str]]]:
    """Each number with the files that are named for it, relative to `tests` or a folder of it."""
    for page in PAGES:
        with (DOCS / "maintainers" / page).with_suffix(".csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield row["number"], row["test files"].split()


NAMED = dict(tables())
FILES = sorted({name for names in NAMED.values() for name in names})


@pytest.mark.parametrize("name", FILES)
def test_a_named_file_exists_once(name: str) -> None:
    [path] = TESTS.rglob(name)
    assert "def test_" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("guarantees.md", 50), ("pitfalls.md", 60)])
def test_each_promise_names_its_tests(page: str, least: int) -> None:
    """A promise without a test is none, and a bug without one may come back."""
    numbers = re.findall(r"^- \*\*([A-Z]\d+)\*\* ", read(page), re.MULTILINE)
    assert len(numbers) > least
    assert len(set(numbers)) == len(numbers)
    assert [number for number in numbers if not NAMED.get(number)] == []


def test_each_number_is_explained() -> None:
    """The table has no number that the pages don't."""
    explained = {
        number for page in PAGES for number in re.findall(r"\*\*([A-Z]\d+)\*\*", read(page))
    }
    assert set(NAMED) == explained
