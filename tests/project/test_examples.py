"""The examples, run as their users would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.parametrize(("backend", "slots"), [("asyncio", 4), ("trio", 1)]),
    pytest.mark.real_time,
    pytest.mark.unmeasured,
]


def run_example(name: str, *arguments: object) -> list[str]:
    """The lines that an example prints; with every warning an error."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


def test_crawler_finds_every_page_once(backend: str, slots: int) -> None:
    """It gets to each page of its site, and says which link is dead."""
    *pages, summary = run_example("crawler.py", "--backend", backend, "--slots", slots)
    found = sorted((page[:3], page.partition("//")[2].partition("/")[2]) for page in pages)
    assert found == [
        ("200", ""),
        ("200", "books"),
        ("200", "books/1"),
        ("200", "books/2"),
        ("200", "films"),
        ("404", "lost"),
    ]
    assert summary == "6 pages, 1 dead"


def test_directory_size_adds_up(backend: str, slots: int, tmp_path: Path) -> None:
    """Each directory is as large as the files in it and below it."""
    for name, length in {"a/one": 1000, "a/b/c/two": 200, "a/b/three": 30, "four": 4}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * length)
    lines = run_example("directory_size.py", "--backend", backend, "--slots", slots, tmp_path)
    assert [tuple(line.split()) for line in lines] == [
        ("1,234", "."),
        ("1,230", "a"),
        ("230", str(Path("a/b"))),
        ("200", str(Path("a/b/c"))),
    ]


def test_downloader_gets_every_file(backend: str, slots: int) -> None:
    """Each file of its own site comes at the second attempt, and is counted."""
    lines = run_example("downloader.py", "--backend", backend, "--slots", slots)
    assert [line.split()[0] for line in lines] == [f"{number}/6" for number in range(1, 7)]
    assert sorted(line.rpartition("/")[2] for line in lines) == [
        f"file{number} 600 bytes" for number in range(6)
    ]


def test_bot_shows_whole_answers(backend: str, slots: int) -> None:
    """Each chat's message grows until the answer is complete."""
    lines = run_example("bot.py", "--backend", backend, "--answers", slots, "--chats", 2)
    for chat in ("chat-0", "group-1"):
        texts = [line.partition(": ")[2] for line in lines if f" {chat}: " in line]
        assert texts == sorted(texts, key=len)
        assert len(texts) > 2
        assert texts[-1].endswith("depends on what you want to know ")


def test_pools_finds_the_longest_sequence(backend: str, slots: int) -> None:
    lines = run_example("pools.py", "--backend", backend, "--slots", slots, "--until", 10_000)
    assert lines[-1] == "below 10,000, 6,171 takes the most: 261"
