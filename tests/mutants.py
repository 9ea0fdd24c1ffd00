"""Plant bugs, one at a time, and see the tests go red: ``nox -s mutants``.

Each known bug is a place in a function and what a tired colleague could have written there instead,
told by what it does: see `mutations.change`. First all tests run once, to learn which of them run
which lines; then, for each bug, those that run its line, the fastest first, against a copy of the
package that has it, and at last those that can't be measured. A bug that no test notices is
reported, and the exit status is 1.

``-- worker`` plants only those whose file name contains that word; ``-- worker --random 50`` plants
as many small changes instead, chosen by ``--seed``: read what survives, some of them do no harm.
``--measured FOLDER`` keeps what the first run has shown there, and takes it from there if it's
known.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import reach
from mutations import change, mutations


class Mutant(NamedTuple):
    """A known bug: ``right`` and ``wrong`` are patterns."""

    file: str
    function: str
    right: str
    wrong: str

    def planted(self) -> Planted:
        """`LookupError` if its place isn't there any more."""
        original = (reach.PACKAGE / self.file).read_text(encoding="utf-8")
        return Planted(self.file, *change(original, self.function, self.right, self.wrong))


class Planted(NamedTuple):
    file: str
    line: int
    right: str
    wrong: str
    source: str
    """The whole module, with the bug."""

    def __str__(self) -> str:
        right, wrong = (" ".join(code.split()) for code in (self.right, self.wrong))
        return f"{self.file}:{self.line}: {right} -> {wrong}"


def mutants_of(file: str, *described: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, *each) for each in described]


MUTANTS = [
    # Slots, turns and queues.
    *mutants_of(
        "_scheduling/slots.py",
        ("Slots.acquire", "heapq.heappop(self.free)", "self.free.pop()"),
    ),
    *mutants_of(
        "_scheduling/ready_queue.py",
        ("ReadyQueue.rotate", "self.first = _", "pass"),
        ("ReadyQueue.add", "_priority > _first.priority", "_priority < _first.priority"),
        ("ReadyQueue.remove", "self._highest() if _ else _", "None"),
    ),
    *mutants_of(
        "_scheduling/job_queue.py",
        ("JobQueue.discard", "self.dead > len(self) + 32", "False"),
        ("JobQueue.restore", "_attempt is not None and _attempt.count", "False"),
        ("JobQueue.pop", "self.dead", "False"),
    ),
    *mutants_of(
        "_scheduling/lane_tree.py",
        ("LaneTree.recall", "_.is_keyed = False", "pass"),
        ("LaneTree.take", "_lane.held < _lane.limit", "_lane.held <= _lane.limit"),
        ("LaneTree.take", "self.count_emptied(_)", "pass"),
        ("LaneTree.forget", "_parent.succeeded += _node.succeeded", "pass"),
        ("LaneTree.recall", "_parent.failed -= _node.failed", "pass"),
        ("LaneTree.check_idle", "_node.children or _node.putting", "_node.putting"),
    ),
    *mutants_of(
        "_scheduling/scheduler.py",
        ("Scheduler.succeed", "self.loans.waiting", "False"),
        ("Scheduler.finish", "_.slots.release(_)", "pass"),
        ("Scheduler.drop", "_permitted or _backs_off", "_permitted"),
    ),
    *mutants_of(
        "_scheduling/permits.py",
        ("Permits.hand_over", "_lane.held += 1", "pass"),
        ("Permits.hand_over", "_queue.pop() if _dead else _", "_queue.jobs.popleft()"),
        ("Permits.hand_over", "tree.count_emptied(_)", "pass"),
        ("Permits.select", "_.held < _.limit", "True"),
        ("Permits.claim", "_job.status is QUEUED", "True"),
        ("Permits.claim", "_ not in _.unconfirmed", "True"),
        ("Permits.exchange", "_.status is not QUEUED", "False"),
        ("Permits.exchange", "_.permitted += 1", "pass"),
        ("Permits.give_back", "self.tree.release(_)", "pass"),
        ("Permits.revoke", "self.tree.restore(_)", "pass"),
        ("Permits.revoke", "self.admission.join(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/start_limits.py",
        ("StartLimits.unreserve", "_window.release(_)", "pass"),
        ("StartLimits.reserve", "_.gate.admissions -= 1", "pass"),
        ("StartLimits.may_start", "_costs.get(_, 1)", "1"),
        ("StartLimits.start_at_once", "_.has_room(_)", "True"),
        ("StartLimits.start_at_once", "_.holder is not None", "False"),
    ),
    # Time: rates, pauses, time limits, retries, adaptive limits.
    *mutants_of(
        "_scheduling/timers.py",
        ("Timers.next_deadline", "self.deadlines.get(_) == _", "True"),
    ),
    *mutants_of(
        "_scheduling/rates.py",
        ("RateWindow.forget", "_c[0][0] + _p <= _now", "_c[0][0] + _p < _now"),
        ("RateWindow.reserve", "self.used += _", "pass"),
        ("RateWindow.release", "self.used -= _", "pass"),
        ("RateWindow.adjust", "_charge[1] = _", "pass"),
        ("RateWindow._exceeds", "abs(_) > _", "True"),
    ),
    *mutants_of(
        "_scheduling/lane_tree.py",
        ("LaneTree.release", "self.lift_throttles(_)", "pass"),
        ("LaneTree.end_pauses", "self.update_limit(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/lane_control.py",
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
        ("Retry.delay", "_ >= self.attempts", "_ > self.attempts"),
        ("Retry._usual_wait", "min(self.most, _usual)", "_usual"),
    ),
    *mutants_of(
        "_scheduling/adaptive.py",
        ("AdaptiveLimit.overloaded", "_ != self.epoch", "False"),
        ("AdaptiveLimit.succeeded", "not _saturated", "False"),
    ),
    # Capacity, loans, and what's told when.
    *mutants_of(
        "_scheduling/admission.py",
        ("Admission.has_capacity", "_.pending >= _.max_pending", "_.pending > _.max_pending"),
        ("Admission.changed", "_.gave_up()", "False"),
        ("Admission.remove", "_.putting -= 1", "pass"),
        ("Admission.leave", "self.changed(_)", "pass"),
    ),
    *mutants_of(
        "_scheduling/loans.py",
        ("Loans.remove", "self.waiting -= 1", "pass"),
        ("Loans.changed", "_.lenders.update()", "pass"),
    ),
    *mutants_of(
        "_scheduling/transaction.py",
        ("Transaction.deliver", "if self.delivering: ...", "pass"),
        ("transition", "_.defer(_)", "change(self, *args, **kwargs)"),
    ),
    *mutants_of(
        "_scheduling/job.py",
        ("Job.settle", "self.args = self.context = self.holder = None", "self.holder = None"),
        ("Job.remove_listener", "self.listeners == _", "True"),
    ),
    # Workers and the event loop.
    *mutants_of(
        "_runtime/worker.py",
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
        ("WorkerPool.spawn_workers", "self.idle <= len(_)", "self.idle < 1"),
        ("WorkerPool.claim_job", "self.idle > _.root.slots + 1", "False"),
        ("WorkerPool.replace_worker", "self._notify()", "pass"),
        ("WorkerPool.keep_time", "self.runtime.control.expire()", "pass"),
        ("WorkerPool.keep_time", "self.time_limits.set(_, _)", "pass"),
        ("WorkerPool.wake_worker", "len(_) > self.searching", "len(_) > self.searching + 1"),
    ),
    *mutants_of(
        "_runtime/lending.py",
        ("Lender.resume", "self.host.scheduler.resume(_)", "pass"),
        ("TaskWaiter.wait", "_.lend()", "pass"),
        ("TaskWaiter.wake", "_.request_slot()", "pass"),
    ),
    *mutants_of(
        "_runtime/occupancy.py",
        ("Occupation.acquire", "_outer is not None and _outer.loan is None", "False"),
        ("Occupation._give_up", "self.go_on_at_once()", "pass"),
    ),
    *mutants_of(
        "_runtime/cancel_once.py",
        ("OnceScope._delivered", "self._inner.shield = True", "pass"),
        ("OnceScope.cancel", "self._inner.shield = False", "pass"),
    ),
    *mutants_of(
        "_runtime/error_policy.py",
        ("HoldPolicy.mark_retrieved", "self._exceptions.pop(_, None)", "pass"),
        ("_Note.mark_retrieved", "self._exception = None", "pass"),
    ),
    *mutants_of(
        "_runtime/runtime.py",
        ("Runtime.abort", "self.scope.cancel()", "pass"),
        ("Runtime.abort", "self.close(_)", "pass"),
    ),
    *mutants_of(
        "_runtime/entry_queue.py",
        ("EntryQueue.close", "_.reject(_)", "pass"),
    ),
    *mutants_of(
        "_runtime/keyed_nodes.py",
        ("KeyedNodes._is_over", "_ is not _ or _paused or _", "False"),
        ("KeyedNodes.release", "_node.is_keyed = False", "pass"),
    ),
    # Façades.
    *mutants_of(
        "_handles.py",
        ("Lane.enqueue", "self._runtime.cancel_job(_, None)", "pass"),
        ("Lane.submit", "not _.may_submit(_)", "False"),
        ("Lane._prepare", "self._runtime.check_open(_, _)", "pass"),
    ),
    *mutants_of(
        "_lane.py",
        ("BaseLane.cancel", "self._runtime.cancel_running(_, _)", "pass"),
        ("BaseLane._check_wait", "_.node.is_inside(_)", "False"),
    ),
    *mutants_of(
        "_future.py",
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
        ("Executor._wait_for_jobs", "_.control.begin_shutdown()", "pass"),
        ("Executor._redeliver_cancel", "_.redeliver_cancel()", "pass"),
        ("Executor._outcome", "log_unretrieved(_, _)", "pass"),
        ("Executor.shutdown", "self.cancel(_)", "pass"),
    ),
    *mutants_of(
        "_map.py",
        ("Results._wait_for_room", "self._taken >= self._bound()", "self._taken > self._bound()"),
        ("Results._give", "self._taken -= 1", "pass"),
        ("Results._finished", "self._notify()", "pass"),
        ("Results._take_batch", "_.end()", "pass"),
    ),
    *mutants_of(
        "_map_inputs.py",
        ("Inputs.end", "self.context.copy().run(_.close)", "pass"),
    ),
    *mutants_of(
        "_collect.py",
        ("_Collector._finished", "self._stopped_by or _future", "_future"),
        ("_Collector.wait", "_future.remove_listener(_)", "pass"),
        ("check_futures", "list(dict.fromkeys(_))", "_"),
    ),
    # Threads.
    *mutants_of(
        "_thread_future.py",
        ("ThreadFuture._end", "self._drop()", "pass"),
        ("ThreadFuture.cancel", "_.backend.post(_)", "pass"),
        ("_Call.__call__", "self._future.begin()", "True"),
    ),
    *mutants_of(
        "_blocking.py",
        ("LoopThread.stop", "self.executor.clear(_)", "pass"),
        ("BlockingLane.shutdown", "cf.wait(_)", "pass"),
    ),
]


# Written for people to look at, or run in processes of their own, where the lines aren't counted.
LEFT_OUT = ("_demo.py", "__main__.py", "instruments/", "httpx.py", "testing.py")


def random_ones(words: list[str], count: int, seed: int) -> list[Planted]:
    possible = [
        Planted(file, *mutation)
        for path in sorted(reach.PACKAGE.rglob("*.py"))
        if not (file := path.relative_to(reach.PACKAGE).as_posix()).startswith(LEFT_OUT)
        if any(word in file for word in words)
        for mutation in mutations(path.read_text(encoding="utf-8"))
    ]
    return random.Random(seed).sample(possible, min(count, len(possible)))


def killer_of(planted: Planted, tests: list[str], known: reach.Reach) -> str | None:
    """The first of some tests that fails with a bug planted; None if all pass."""
    seconds = 60 + 4 * sum(known.durations[test] for test in tests)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "anyslots"
        shutil.copytree(reach.PACKAGE, package)
        (package / planted.file).write_text(planted.source, encoding="utf-8")
        (arguments := Path(folder) / "tests").write_text("\n".join(tests), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "--timeout=60", *reach.CHOSEN]
        chosen = [*command, *reach.MEASURED, f"@{arguments}"]
        killer = first_failure(chosen, Path(folder), known, seconds) if tests else None
        return killer or first_failure([*command, *reach.REST], Path(folder), known, 300)


def first_failure(
    command: list[str], folder: Path, known: reach.Reach, seconds: float
) -> str | None:
    environment = reach.environment(known.folder, folder)
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command,
            cwd=reach.TESTS.parent,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
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
    parser.add_argument("--measured", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.random is None:
        asked = [mutant for mutant in MUTANTS if any(word in mutant.file for word in options.words)]
        chosen = [mutant.planted() for mutant in asked]
    else:
        chosen = random_ones(options.words, options.random, options.seed)
    with contextlib.ExitStack() as stack:
        folder = options.measured or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known = reach.known(folder)
        calls = [(each, known.tests_of(each.file, each.line), known) for each in chosen]
        threads = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        survivors = 0
        for planted, killer in zip(
            chosen, threads.map(lambda call: killer_of(*call), calls), strict=True
        ):
            survivors += killer is None
            fate = "SURVIVES" if killer is None else f"killed by {killer}"
            print(f"{planted}\n    {fate}", flush=True)
    print(f"{survivors} of {len(chosen)} mutants survive")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
