"""Where running jobs are: the stacks of their coroutines, for finding one that's stuck."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from traceback import StackSummary
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from .._scheduling.job import RUNNING, Job
from .._scheduling.lane_state import NEVER, LaneState
from .runtime import Runtime
from .worker import Worker

WRAPPERS = {
    "anext_awaitable",
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
}
"""Types that the interpreter puts between an `await` and what it awaits."""


def format_stacks(runtime: Runtime, node: LaneState) -> str:
    """The stacks of the running jobs of a lane and those inside it, and what is queued there."""
    holders = running_holders(runtime)
    paragraphs = [
        f"{describe_job(runtime, holder)}\n{format_stack(runtime, holder, holders[holder])}"
        for holder in sorted(holders, key=rank)
        if holder.job.node.is_inside(node)
    ]
    queued = [line for lane in node.subtree() if (line := describe_queue(lane)) is not None]
    if queued:
        paragraphs.append("queued:\n" + "".join(f"  {line}\n" for line in queued))
    return "\n".join(paragraphs) or "no jobs\n"


def running_holders(runtime: Runtime) -> dict[Any, object]:
    """What runs a job at this moment, and the task of it unless it's a worker."""
    if runtime.thread is None:
        return {}
    holders: dict[Any, object] = dict.fromkeys(list(runtime.pool.workers))
    for task, job in list(runtime.occupants.items()):
        holder: Any = job.holder
        # A task that occupies several slots has the last of them here.
        while holder is not None and holder not in holders:
            holders[holder] = task
            holder = holder.enclosing
    return {each: task for each, task in holders.items() if is_running(each.job)}


def is_running(job: Job[Any] | None) -> bool:
    return job is not None and job.status is RUNNING


def rank(holder: Any) -> tuple[bool, int]:
    """By slot; jobs that have lent theirs come last."""
    return holder.loan is not None, holder.job.slot or 0


def describe_job(runtime: Runtime, holder: Any) -> str:
    job: Job[Any] = holder.job
    words = [f"job {job.name}"]
    if job.node.parent is not None:
        words.append(f"lane {job.node.name!r}")
    words.append("slot lent" if holder.loan is not None else f"slot {job.slot}")
    if job.attempt is not None and job.attempt.count:
        # Starts are noted a little late where the clock is coarse.
        seconds = max(0.0, runtime.current_time() - job.attempt.first_start)
        since = f"attempt {job.attempt.count}, the first " if job.attempt.count > 1 else ""
        words.append(f"{since}started {seconds:.1f} seconds ago")
    elif isinstance(job.holder, Worker) and job.value is not None:
        seconds = max(0.0, runtime.current_time() - job.holder.started)
        words.append(f"started {seconds:.1f} seconds ago")
    return ", ".join(words)


def describe_queue(lane: LaneState) -> str | None:
    """What is queued in a lane, those inside not counted, and what holds it up; None if nothing."""
    count = lane.permitted + len(lane.queue) + lane.backing_off - lane.putting
    if not count:
        return None
    reasons = {
        "paused": lane.is_paused(),
        "waits for its rate": lane.throttled_until > NEVER,
        "waits for its gate": lane.gate is not None and lane.gate.is_awaited,
    }
    words = [f"{count} in the executor itself" if lane.parent is None else f"{count} in lane "]
    if lane.parent is not None:
        words[0] += repr(lane.name)
    return ", ".join(words + [reason for reason, holds in reasons.items() if holds])


def format_stack(runtime: Runtime, holder: Any, task: object) -> str:
    frames = stack_of_worker(runtime, holder) if task is None else stack_of_task(runtime, task)
    summary = StackSummary.extract((frame, frame.f_lineno or 0) for frame in frames)
    return "".join(summary.format()) or "  nothing that can be read\n"


def stack_of_worker(runtime: Runtime, worker: Worker) -> list[FrameType]:
    """The frames of the job that a worker runs, the outermost first."""
    frames = list(frames_of(runtime, worker.stepper))[1:]
    for task in worker.tasks[1:]:
        frames += frames_of(runtime, runtime.backend.task_coroutine(task))
    return frames


def stack_of_task(runtime: Runtime, task: object) -> list[FrameType]:
    """The same of a task that occupies a slot: all of it or, inside of a job, no more than that."""
    frames: list[FrameType] = []
    for frame in frames_of(runtime, runtime.backend.task_coroutine(task)):
        frames.append(frame)
        worker = frame.f_locals.get("self") if frame.f_code.co_name == "_run_jobs" else None
        if isinstance(worker, Worker):
            return stack_of_worker(runtime, worker)
    return frames


def frames_of(runtime: Runtime, coroutine: object) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits, as far as that is known to Python."""
    outermost, is_running, following = look_into(coroutine)
    if is_running:
        yield from running_frames(runtime, outermost)
        return
    frame = outermost
    while frame is not None:
        yield frame
        while type(following).__name__ in WRAPPERS:
            following = next(filter(is_walkable, gc.get_referents(following)), None)
        frame, _, following = look_into(following)


def look_into(coroutine: object) -> tuple[FrameType | None, bool, object]:
    """The frame of a coroutine or generator, whether it runs, and what it awaits if it doesn't."""
    match coroutine:
        case CoroutineType():
            return coroutine.cr_frame, coroutine.cr_running, coroutine.cr_await
        case GeneratorType():
            return coroutine.gi_frame, coroutine.gi_running, coroutine.gi_yieldfrom
        case AsyncGeneratorType():
            # Not `ag_running`, which says that it's awaited.
            return coroutine.ag_frame, False, coroutine.ag_await
        case _:
            return None, False, None


def is_walkable(thing: object) -> bool:
    return look_into(thing)[0] is not None or type(thing).__name__ in WRAPPERS


def running_frames(runtime: Runtime, outermost: FrameType | None) -> list[FrameType]:
    """What the event loop's thread does, from a certain frame on; nothing if that has ended."""
    assert runtime.thread is not None
    frames = []
    frame = sys._current_frames().get(runtime.thread)  # noqa: SLF001 - documented all the same
    while frame is not None and frame is not outermost:
        if frame.f_code.co_filename != __file__:
            frames.append(frame)
        frame = frame.f_back
    return [] if frame is None else [frame, *reversed(frames)]
