"""Plant known bugs, one at a time, and see the tests go red: ``nox -s mutants``.

Each mutant is a piece of the source and what a tired colleague could have written instead. The
tests run against a copy of the package that has it; a mutant that no test notices is reported, and
the exit status is 1. ``-- worker`` plants only those whose file name contains that word;
``-- worker --random 50`` plants as many small changes that nobody has thought of. Some of these do
no harm that a test could see: read what survives.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mutations import mutations

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "anyslots"


class Mutant(NamedTuple):
    file: str
    right: str
    wrong: str


MUTANTS = [
    # Slots and places.
    Mutant("_schedule.py", "not self._turns and self.held < self.limit:", "not self._turns:"),
    Mutant("_schedule.py", "turns.special or not line.plain", "turns.special"),
    Mutant("_schedule.py", "or self.held > self.limit", "or False"),
    Mutant("_schedule.py", "if chosen.waiting == 1 or chosen.held >=", "if chosen.held >="),
    Mutant("_schedule.py", "if self.applying or self._returning or", "if self._returning or"),
    Mutant(
        "_schedule.py",
        "        line.held += 1\n        self.held += 1\n        if line.held >= line.limit:",
        "        line.held += 1\n        self.held += 1\n        if line.held > line.limit:",
    ),
    Mutant("_schedule.py", "if returner.line.held < returner.line.slots", "if True"),
    Mutant("_schedule.py", "        self._welcome_back()\n        while", "        while"),
    Mutant(
        "_schedule.py", "            line.void -= 1\n            return None", "            pass"
    ),
    Mutant("_schedule.py", "        line.void += 1\n", ""),
    Mutant("_schedule.py", "if not line.waiting or line.held >=", "if line.held >="),
    Mutant("_schedule.py", "        if not line.waiting:\n            self._revoke(line)\n", ""),
    Mutant("_schedule.py", "while line.granted and line.held > limit:", "while False:"),
    Mutant("_schedule.py", "while line.granted and self.held > limit:", "while False:"),
    # Turns, rates and time.
    Mutant("_turns.py", "rank.first = line.after", "pass"),
    Mutant("_turns.py", "(-line.priority, rank)", "(line.priority, rank)"),
    Mutant("_turns.py", "self._count == 1 and line.plain", "self._count == 1"),
    Mutant("_rate.py", "starts[0] + per <= now", "starts[0] + per < now"),
    Mutant("_rate.py", "len(starts) + self.reserved", "len(starts)"),
    Mutant("_schedule.py", "                meter.reserved -= 1\n", "                pass\n"),
    Mutant(
        "_schedule.py", "if future._status is QUEUED:\n                        exp", "if True: exp"
    ),
    Mutant("_schedule.py", "                line.alarmed = False\n", ""),
    Mutant("_schedule.py", "line.asleep = line.asleep and line.waiting > 0", "line.asleep"),
    # Room, ends and pauses.
    Mutant("_schedule.py", "line.waiting - line.applying < line.max", "line.waiting < line.max"),
    Mutant("_schedule.py", "elif application.waiter.is_waiting():", "elif True:"),
    Mutant("_schedule.py", "and first.applicants[0].number == number", "and True"),
    Mutant("_schedule.py", "if self.ending and not self.held:", "if False:"),
    Mutant("_schedule.py", "            future._status = CANCELLED\n", "            pass\n"),
    Mutant("_schedule.py", "if not line.applying and line is not self.line:", "if False:"),
    Mutant("_schedule.py", "len(line.queue) > 2 * (line.waiting + line.granted) + 32", "False"),
    # Jobs.
    Mutant(
        "_worker.py",
        "            self._spent = True\n            self._reason",
        "            self._reason",
    ),
    Mutant("_worker.py", "                self._spent = False\n", "                pass\n"),
    Mutant("_worker.py", "if self._spent or (native_cancels", "if False or (native_cancels"),
    Mutant(
        "_worker.py",
        "(native_cancels is not None and native_cancels()):\n                    self._pass",
        "False:\n                    self._pass",
    ),
    Mutant(
        "_worker.py",
        "                    schedule.stepping = None\n                    try",
        "                    try",
    ),
    Mutant(
        "_worker.py",
        "        self._stepper = self._make_stepper()\n        if outcome",
        "        if outcome",
    ),
    Mutant(
        "_worker.py", "                    yield from self._executor._backend.checkpoint()\n", ""
    ),
    Mutant("_worker.py", "returner.may_go_on or self._is_ending()", "returner.may_go_on"),
    Mutant(
        "_worker.py",
        "CancelScope(shield=True, deadline=self._scope.deadline)",
        "CancelScope(shield=True)",
    ),
    Mutant("_lending.py", "            worker.give_back()\n", "            pass\n"),
    Mutant(
        "_worker.py",
        "        if self._returner is not None:\n            self._returner.told.wake()",
        "        pass",
    ),
    Mutant(
        "_worker.py",
        "            await executor._backend.forgive()\n        return True",
        "        return True",
    ),
    Mutant("_staff.py", "if self._resting > schedule.slots + 1:", "if False:"),
    Mutant(
        "_staff.py",
        "        self._resting -= 1\n        self.hire()",
        "        self._resting -= 1",
    ),
    Mutant("_worker.py", "exception.__traceback__ = traceback\n", "pass\n"),
    Mutant("_worker.py", "                future = coro = None", "                pass"),
    Mutant("_worker.py", "self._scope.deadline = math.inf", "pass"),
    # Futures, and waiting for them.
    Mutant("_future.py", "failure.unseen = None", "pass"),
    Mutant(
        "_future.py", "failure.exception.with_traceback(failure.traceback)", "failure.exception"
    ),
    Mutant(
        "_future.py",
        "self._args = self._context = self._worker = None",
        "self._worker = None",
    ),
    Mutant("_future.py", "            if callback in callbacks:\n", "            if True:\n"),
    Mutant(
        "_future.py", "            self.context.run(self.fn, future)", "            self.fn(future)"
    ),
    Mutant(
        "_collect.py", "self._stopped_by = self._stopped_by or future", "self._stopped_by = future"
    ),
    Mutant("_collect.py", "    return list(dict.fromkeys(futures))", "    return futures"),
    Mutant(
        "_collect.py", "                    future._unwatch(finished)", "                    pass"
    ),
    Mutant(
        "_results.py", "while self._taken >= self._bound()", "while self._taken > self._bound()"
    ),
    Mutant("_results.py", "self._taken < bound", "self._taken <= bound"),
    Mutant(
        "_results.py",
        "            self._room.set()\n            self._room = None",
        "            pass",
    ),
    Mutant(
        "_results.py",
        "                await self._close_async_sources()\n            if not (exh",
        "                pass\n            if not (exh",
    ),
    Mutant("_results.py", "if not (exhausted or self._closed or self._error)", "if False"),
    # The executor.
    Mutant(
        "_executor.py",
        "        self._scope.cancel()\n        self._drain(reason)",
        "        self._drain(reason)",
    ),
    Mutant("_executor.py", "            worker.hurry()", "            pass"),
    Mutant("_executor.py", "                self._schedule.end()\n", ""),
    Mutant("_executor.py", "            self._backend.remind()", "            pass"),
    Mutant(
        "_staff.py",
        "while self._resting <= len(self._executor._schedule.grants)",
        "while self._resting < 1",
    ),
    Mutant("_executor.py", "            log_unseen(name, exception)", "            pass"),
]


# The tests that are likely to notice; whatever they don't, all tests get to see.
LIKELY = {
    "_schedule.py": ["schedule", "lanes", "rates", "enqueue", "pause_and_resize", "nested"],
    "_turns.py": ["lanes", "schedule"],
    "_rate.py": ["rates", "schedule"],
    "_worker.py": ["rare_ends", "nested", "submit", "cancellation", "native_cancellation"],
    "_staff.py": ["nested", "submit", "leaks", "native_cancellation", "rates"],
    "_lending.py": ["nested", "rare_ends"],
    "_future.py": ["future", "errors", "leaks"],
    "_collect.py": ["collect", "gather", "cancel_sweep"],
    "_results.py": ["map", "cancel_sweep"],
    "_executor.py": ["executor", "errors", "native_cancellation", "pause_and_resize"],
}


def killer_of(file: str, source: str) -> str | None:
    """The first test that fails with a bug planted; None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "anyslots"
        shutil.copytree(PACKAGE, package)
        (package / file).write_text(source, encoding="utf-8")
        likely = [f"tests/test_{name}.py" for name in LIKELY[file]]
        rest = ["-m", "not engines and not unmeasured"]
        return first_failure(folder, likely, 120) or first_failure(folder, rest, 300)


def first_failure(folder: str, tests: list[str], seconds: float) -> str | None:
    """Of some tests, which take much less time than ``seconds`` if none of them hangs."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "auto", "--timeout=60"]
    command += ["-p", "no:cacheprovider", "--backend=asyncio", "--backend=trio", *tests]
    # Those that see that the checkout is what's tested; a copy of it never is.
    command += ["--ignore=tests/test_packaging.py"]
    environment = os.environ | {"PYTHONPATH": folder, "HYPOTHESIS_PROFILE": "mutants"}
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, start_new_session=True
        ) as process,
    ):
        try:
            if process.wait(timeout=seconds) == 0:
                return None
            output.seek(0)
            failed = [line.split()[1] for line in output if line.startswith(("FAILED", "ERROR t"))]
            return failed[0] if failed else "a test process that died"
        except subprocess.TimeoutExpired:
            return "the time limit: a test hangs"
        finally:
            # A test that never ends may be left in one of its processes.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def planted(words: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """The known bugs: file, what's right, what's wrong, and the file with it."""
    for file, right, wrong in MUTANTS:
        if any(word in file for word in words):
            source = (PACKAGE / file).read_text(encoding="utf-8")
            yield file, right, wrong, source.replace(right, wrong)


def random_ones(words: list[str], count: int, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """The same of small changes to the files."""
    possible = [
        (f"{file}:{line}", right, wrong, source)
        for file in LIKELY
        if any(word in file for word in words)
        for line, right, wrong, source in mutations((PACKAGE / file).read_text(encoding="utf-8"))
    ]
    yield from random.Random(seed).sample(possible, min(count, len(possible)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", default=[""])
    parser.add_argument("--random", type=int, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.random is None:
        chosen = list(planted(options.words))
    else:
        chosen = list(random_ones(options.words, options.random, options.seed))
    survivors = 0
    for place, right, wrong, source in chosen:
        killer = killer_of(place.partition(":")[0], source)
        survivors += killer is None
        fate = "SURVIVES" if killer is None else f"killed by {killer}"
        change = f"{' '.join(right.split())} -> {' '.join(wrong.split()) or 'nothing'}"
        print(f"{place}: {change}\n    {fate}", flush=True)
    print(f"{survivors} of {len(chosen)} mutants survive")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
