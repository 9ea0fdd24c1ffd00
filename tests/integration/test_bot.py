"""The bot example keeps to the chat service's limits, in virtual time."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from anyslots.testing import run

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import bot


def most(times: list[float], seconds: float) -> int:
    """How many there are at most in any window."""
    return max(sum(start <= time < start + seconds - 1e-9 for time in times) for start in times)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_limits_are_kept_and_every_answer_is_complete(backend: str) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    chats = [f"group-{number}" for number in range(3)] + [f"chat-{number}" for number in range(40)]
    questions = [(chat, f"{chat} {words}") for chat in chats]
    questions += [("group-0", f"again {number} {words}") for number in range(25)]
    log = run(bot.main, questions, 100, backend=backend)
    by_chat = defaultdict(list)
    for time, chat, _ in log:
        by_chat[chat].append(time)
    assert most([time for time, _, _ in log], 1) == 30
    assert all(most(times, 1) == 1 for times in by_chat.values())
    assert most(by_chat["group-0"], 60) == 20
    shown = {text for _, _, text in log}
    assert {f"{question} " for _, question in questions} <= shown
