"""Plant known bugs, one at a time, and see the tests go red: ``nox -s mutants``.

Each mutant is a place in a function and what a tired colleague could have written there instead,
told by what it does: see `mutations.change`. The tests run against a copy of the package that has
it; a mutant that no test notices is reported, and the exit status is 1. It's 2 if a test fails
without a bug.

``-- worker`` plants only those whose file name contains that word; ``-- worker --random 50`` plants
as many small changes, chosen by ``--seed``. Some of these do no harm that a test could see: read
what survives. ``--quick`` runs only the tests that are likely to notice, in one process; else all
tests get to see what those do not notice.
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

from mutations import change, mutations

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "src" / "anyslots"


class Mutant(NamedTuple):
    """A known bug: ``right`` and ``wrong`` are patterns, ``tests`` the files that should notice."""

    file: str
    function: str
    right: str
    wrong: str
    tests: str

    def source(self) -> str:
        """The file with the bug; `LookupError` if its place isn't there any more."""
        original = (PACKAGE / self.file).read_text(encoding="utf-8")
        return change(original, self.function, self.right, self.wrong).source


def mutants_of(file: str, tests: str, *described: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, *each, tests) for each in described]


MUTANTS = [
    # Slots, turns and queues.
    *mutants_of(
        "_scheduling/slots.py",
        "slots",
        ("Slots.acquire", "heapq.heappop(self.free)", "self.free.pop()"),
    ),
    *mutants_of(
        "_scheduling/ready_queue.py",
        "ready_queue",
        ("ReadyQueue.rotate", "self.first = _", "pass"),
        ("ReadyQueue.add", "_priority > _first.priority", "_priority < _first.priority"),
        ("ReadyQueue.remove", "self._highest() if _ else _", "None"),
    ),
    *mutants_of(
        "_scheduling/job_queue.py",
        "job_queue scheduler",
        ("JobQueue.discard", "self.dead > len(self) + 32", "False"),
        ("JobQueue.restore", "_attempt is not None and _attempt.count", "False"),
        ("JobQueue.pop", "self.dead", "False"),
    ),
    *mutants_of(
        "_scheduling/lane_tree.py",
        "scheduler transitions keyed lanes",
        ("LaneTree.take", "_lane.held < _lane.limit", "_lane.held <= _lane.limit"),
        ("LaneTree.take", "self.count_emptied(_)", "pass"),
        ("LaneTree.forget", "_parent.succeeded += _node.succeeded", "pass"),
        ("LaneTree.recall", "_parent.failed -= _node.failed", "pass"),
        ("LaneTree.check_idle", "_node.children or _node.putting", "_node.putting"),
    ),
    *mutants_of(
        "_scheduling/scheduler.py",
        "scheduler submit lanes",
        ("Scheduler.succeed", "self.loans.waiting", "False"),
        ("Scheduler.finish", "_.slots.release(_)", "pass"),
        ("Scheduler.drop", "_permitted or _backs_off", "_permitted"),
    ),
    *mutants_of(
        "_scheduling/permits.py",
        "scheduler submit lanes",
        ("Permits.hand_over", "_lane.held += 1", "pass"),
        ("Permits.hand_over", "_queue.pop() if _dead else _", "_queue.jobs.popleft()"),
        ("Permits.hand_over", "tree.count_emptied(_)", "pass"),
        ("Permits.select", "_.held < _.limit", "True"),
        ("Permits.claim", "_job.status is QUEUED", "True"),
        ("Permits.give_back", "self.tree.release(_)", "pass"),
        ("Permits.revoke", "self.tree.restore(_)", "pass"),
        ("Permits.revoke", "self.admission.join(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/start_limits.py",
        "rate_window rate_costs scheduler gate rates",
        ("StartLimits.unreserve", "_window.release(_)", "pass"),
        ("StartLimits.reserve", "_.gate.admissions -= 1", "pass"),
        ("StartLimits.may_start", "_costs.get(_, 1)", "1"),
        ("StartLimits.start_at_once", "_.has_room(_)", "True"),
        ("StartLimits.start_at_once", "_.holder is not None", "False"),
    ),
    # Time: rates, pauses, time limits, retries, adaptive limits.
    *mutants_of(
        "_scheduling/timers.py",
        "timers",
        ("Timers.next_deadline", "self.deadlines.get(_) == _", "True"),
    ),
    *mutants_of(
        "_scheduling/rates.py",
        "rate_window rate_costs",
        ("RateWindow.forget", "_c[0][0] + _p <= _now", "_c[0][0] + _p < _now"),
        ("RateWindow.reserve", "self.used += _", "pass"),
        ("RateWindow.release", "self.used -= _", "pass"),
        ("RateWindow.adjust", "_charge[1] = _", "pass"),
        ("RateWindow._exceeds", "abs(_) > _", "True"),
    ),
    *mutants_of(
        "_scheduling/lane_tree.py",
        "rate_window rate_costs scheduler gate rates",
        ("LaneTree.release", "self.lift_throttles(_)", "pass"),
        ("LaneTree.end_pauses", "self.update_limit(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/lane_control.py",
        "scheduler pauses deadlines pause_and_resize gate",
        ("LaneControl.pause", "max(_.paused_until, _until)", "_until"),
        ("LaneControl.pause", "_.revoke(_)", "pass"),
        ("LaneControl.resume", "_.paused_until = NEVER", "pass"),
        ("LaneControl.set_slots", "self.tree.loans.changed(_)", "pass"),
        ("LaneControl.set_max_pending", "self.scheduler.admission.recount()", "pass"),
        ("LaneControl.expire", "waits_to_start(_)", "True"),
        ("LaneControl.cancel_queued", "_job not in _putters", "True"),
        ("LaneControl.gate_failed", "_gate is _node.gate", "True"),
    ),
    *mutants_of(
        "_scheduling/retries.py",
        "retries",
        ("Retry.delay", "_ >= self.attempts", "_ > self.attempts"),
        ("Retry._usual_wait", "min(self.most, _usual)", "_usual"),
    ),
    *mutants_of(
        "_scheduling/adaptive.py",
        "adaptive",
        ("AdaptiveLimit.overloaded", "_ != self.epoch", "False"),
        ("AdaptiveLimit.succeeded", "not _saturated", "False"),
    ),
    # Capacity, loans, and what's told when.
    *mutants_of(
        "_scheduling/admission.py",
        "admission enqueue scheduler",
        ("Admission.has_capacity", "_.pending >= _.max_pending", "_.pending > _.max_pending"),
        ("Admission.changed", "_.gave_up()", "False"),
        ("Admission.remove", "_.putting -= 1", "pass"),
        ("Admission.leave", "self.changed(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/loans.py",
        "loans nested",
        ("Loans.remove", "self.waiting -= 1", "pass"),
        ("Loans.changed", "_.lenders.update()", "pass"),
    ),
    *mutants_of(
        "_scheduling/transaction.py",
        "transaction",
        ("Transaction.deliver", "if self.delivering: ...", "pass"),
        ("transition", "_.defer(_)", "change(self, *args, **kwargs)"),
    ),
    *mutants_of(
        "_scheduling/job.py",
        "future leaks",
        ("Job.settle", "self.args = self.context = self.holder = None", "self.holder = None"),
        ("Job.remove_listener", "self.listeners == _", "True"),
    ),
    # Workers and the event loop.
    *mutants_of(
        "_runtime/worker.py",
        "cancellation expendable_workers cancel_once deadlines errors submit",
        ("Worker.cancel", "self.is_detained = self.needs_care = True", "self.needs_care = True"),
        ("Worker._is_fit", "self.runtime.pool.replace_worker()", "pass"),
        ("Worker._end", "self.resume()", "pass"),
        ("Worker.deadline", "_.value != self.limited", "False"),
        ("Worker._end_interrupted", "self.stepper = self._make_stepper()", "pass"),
        ("Worker._run_jobs", "_swapped is None or not _swapped()", "False"),
        ("Worker._fail", "BaseException.with_traceback(_, _)", "pass"),
        ("Worker._run_jobs", "_ == INSTANT_JOBS", "False"),
    ),
    *mutants_of(
        "_runtime/worker_pool.py",
        "submit nested leaks gate rates deadlines",
        ("WorkerPool.spawn_workers", "self.idle <= len(_)", "self.idle < 1"),
        ("WorkerPool.claim_job", "self.idle > _.root.slots + 1", "False"),
        ("WorkerPool.keep_time", "self.runtime.control.expire()", "pass"),
        ("WorkerPool.keep_time", "self.time_limits.set(_, _)", "pass"),
        ("WorkerPool.wake_worker", "len(_) > self.searching", "len(_) > self.searching + 1"),
    ),
    *mutants_of(
        "_runtime/lending.py",
        "nested slot",
        ("Lender.resume", "self.host.scheduler.resume(_)", "pass"),
        ("TaskWaiter.wait", "_.lend()", "pass"),
        ("TaskWaiter.wake", "_.request_slot()", "pass"),
    ),
    *mutants_of(
        "_runtime/occupancy.py",
        "slot",
        ("Occupation.acquire", "_outer is not None and _outer.loan is None", "False"),
        ("Occupation._give_up", "self.go_on_at_once()", "pass"),
    ),
    *mutants_of(
        "_runtime/cancel_once.py",
        "cancel_once",
        ("OnceScope._delivered", "self._inner.shield = True", "pass"),
        ("OnceScope.cancel", "self._inner.shield = False", "pass"),
    ),
    *mutants_of(
        "_runtime/error_policy.py",
        "errors",
        ("HoldPolicy.mark_retrieved", "self._exceptions.pop(_, None)", "pass"),
        ("_Note.mark_retrieved", "self._exception = None", "pass"),
    ),
    *mutants_of(
        "_runtime/runtime.py",
        "executor errors",
        ("Runtime.abort", "self.scope.cancel()", "pass"),
        ("Runtime.abort", "self.close(_)", "pass"),
    ),
    *mutants_of(
        "_runtime/entry_queue.py",
        "from_thread",
        ("EntryQueue.close", "_.reject(_)", "pass"),
    ),
    *mutants_of(
        "_runtime/keyed_nodes.py",
        "keyed",
        ("KeyedNodes._is_over", "_node.children or _ or _", "_node.children"),
    ),
    # Façades.
    *mutants_of(
        "_handles.py",
        "enqueue submit rate_costs",
        ("Lane.enqueue", "self._runtime.cancel_job(_, None)", "pass"),
        ("Lane.submit", "not _.may_submit(_)", "False"),
        ("Lane._prepare", "self._runtime.check_open(_, _)", "pass"),
    ),
    *mutants_of(
        "_lane.py",
        "lanes executor nested",
        ("BaseLane.cancel", "self._runtime.cancel_running(_, _)", "pass"),
        ("BaseLane._check_wait", "_.node.is_inside(_)", "False"),
    ),
    *mutants_of(
        "_future.py",
        "future errors nested",
        ("BaseFuture.exception", "_.mark_retrieved(_)", "pass"),
        (
            "BaseFuture.exception",
            "BaseException.with_traceback(_failure.exception, _)",
            "_failure.exception",
        ),
        ("BaseFuture._wait_lending", "self.remove_listener(_)", "pass"),
        ("Callback.run", "self.context.run(self.fn, _job)", "self.fn(_job)"),
    ),
    *mutants_of(
        "_executor.py",
        "executor errors from_thread native_cancellation pauses",
        ("Executor._wait_for_jobs", "_.control.begin_shutdown()", "pass"),
        ("Executor._redeliver_cancel", "_.redeliver_cancel()", "pass"),
        ("Executor._outcome", "log_unretrieved(_, _)", "pass"),
        ("Executor.shutdown", "self.cancel(_)", "pass"),
    ),
    *mutants_of(
        "_map.py",
        "map",
        ("Results._wait_for_room", "self._taken >= self._bound()", "self._taken > self._bound()"),
        ("Results._give", "self._taken -= 1", "pass"),
        ("Results._finished", "self._notify()", "pass"),
        ("Results._take_batch", "_.end()", "pass"),
    ),
    *mutants_of(
        "_map_inputs.py",
        "map",
        ("Inputs.end", "self.context.copy().run(_.close)", "pass"),
    ),
    *mutants_of(
        "_collect.py",
        "collect gather lent_waits",
        ("_Collector._finished", "self._stopped_by or _future", "_future"),
        ("_Collector.wait", "_future.remove_listener(_)", "pass"),
        ("check_futures", "list(dict.fromkeys(_))", "_"),
    ),
    # Threads.
    *mutants_of(
        "_thread_future.py",
        "from_thread blocking",
        ("ThreadFuture._end", "self._drop()", "pass"),
        ("ThreadFuture.cancel", "_.backend.post(_)", "pass"),
        ("_Call.__call__", "self._future.begin()", "True"),
    ),
    *mutants_of(
        "_blocking.py",
        "blocking",
        ("LoopThread.stop", "self.executor.clear(_)", "pass"),
        ("BlockingLane.shutdown", "cf.wait(_)", "pass"),
    ),
]


# The tests that are likely to notice a random change; whatever they don't, all tests get to see.
LIKELY = {
    "_scheduling/": ["scheduling"],
    "_runtime/": ["runtime", "public", "test_submit", "test_nested", "test_cancellation"],
    "_executor.py": ["test_executor", "test_errors", "test_native_cancellation", "test_slot"],
    "_handles.py": ["test_submit", "test_enqueue", "test_lanes", "test_slot", "test_keyed"],
    "_lane.py": ["test_lanes", "test_executor", "test_pauses", "test_pause_and_resize"],
    "_future.py": ["test_future", "test_errors", "test_nested"],
    "_map": ["test_map", "test_cancel_sweep"],
    "_collect.py": ["test_collect", "test_gather", "test_cancel_sweep"],
    "_thread_future.py": ["test_from_thread", "test_blocking"],
    "_blocking.py": ["test_blocking"],
}


def find_tests(names: list[str]) -> list[str]:
    """The paths of test files, wherever they are, and of folders of them; each once."""
    found = []
    for name in names:
        paths = sorted(TESTS.rglob(f"{name}.py" if name.startswith("test_") else name))
        if not paths:
            raise LookupError(f"there's no {name} in {TESTS}")
        found += [path.relative_to(ROOT).as_posix() for path in paths]
    return list(dict.fromkeys(found))


class Planted(NamedTuple):
    file: str
    place: str
    right: str
    wrong: str
    source: str
    tests: list[str]


def known_ones(words: list[str]) -> Iterator[Planted]:
    for mutant in MUTANTS:
        if any(word in mutant.file for word in words):
            tests = find_tests([f"test_{name}" for name in mutant.tests.split()])
            place = f"{mutant.file}, {mutant.function}"
            right, wrong, source = mutant.right, mutant.wrong, mutant.source()
            yield Planted(mutant.file, place, right, wrong, source, tests)


def random_ones(words: list[str], count: int, seed: int) -> Iterator[Planted]:
    possible = [
        Planted(file, f"{file}:{line}", right, wrong, source, tests)
        for part, names in LIKELY.items()
        if (tests := find_tests(names))
        for path in sorted(PACKAGE.rglob("*.py"))
        if (file := path.relative_to(PACKAGE).as_posix()).startswith(part)
        if any(word in file for word in words)
        for line, right, wrong, source in mutations(path.read_text(encoding="utf-8"))
    ]
    yield from random.Random(seed).sample(possible, min(count, len(possible)))


def killer_of(planted: Planted, *, quick: bool) -> str | None:
    """The first test that fails with a bug planted; None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "anyslots"
        shutil.copytree(PACKAGE, package)
        (package / planted.file).write_text(planted.source, encoding="utf-8")
        if quick:
            return first_failure(folder, planted.tests, 240)
        parallel = ["-n", "auto"]
        rest = ["-m", "not engines and not unmeasured"]
        return first_failure(folder, [*parallel, *planted.tests], 120) or first_failure(
            folder, [*parallel, *rest], 300
        )


def failure_without_a_bug(chosen: list[Planted]) -> str | None:
    """A test that fails anyhow, and would seem to notice every bug."""
    tests = list(dict.fromkeys(test for planted in chosen for test in planted.tests))
    return first_failure(str(PACKAGE.parent), ["-n", "auto", *tests], 900)


def first_failure(folder: str, tests: list[str], seconds: float) -> str | None:
    """Of some tests, which take much less time than ``seconds`` if none of them hangs."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout=60"]
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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*", default=[""])
    parser.add_argument("--random", type=int, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.random is None:
        chosen = list(known_ones(options.words))
    else:
        chosen = list(random_ones(options.words, options.random, options.seed))
    if (failure := failure_without_a_bug(chosen)) is not None:
        print(f"without any bug: {failure} fails")
        return 2
    survivors = 0
    for planted in chosen:
        killer = killer_of(planted, quick=options.quick)
        survivors += killer is None
        fate = "SURVIVES" if killer is None else f"killed by {killer}"
        change = f"{' '.join(planted.right.split())} -> {' '.join(planted.wrong.split())}"
        print(f"{planted.place}: {change}\n    {fate}", flush=True)
    print(f"{survivors} of {len(chosen)} mutants survive")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
