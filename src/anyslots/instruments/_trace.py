"""A timeline as Chrome's trace events."""

from __future__ import annotations

import json
import math
from typing import Any

from ._snapshot import Snapshot


def events(picture: Snapshot) -> str:
    """JSON with a process for each executor and a thread for each slot; times in microseconds."""
    found: list[dict[str, Any]] = []
    for n in sorted({job.lane.executor for job in picture.jobs}):
        found.append(_name("process_name", n, 0, picture.executors[n]))
        found.append(_name("thread_name", n, 0, "queue"))
    for executor, slot in picture.rows:
        found.append(_name("thread_name", executor, slot + 1, f"slot {slot}"))
    for (executor, slot), spans in picture.rows.items():
        for span in spans:
            job = span.job
            wait = picture.at(job.left_queue) - picture.at(job.submitted)
            args = {"job": job.number, "lane": job.lane.name, "wait_s": wait}
            args |= {"outcome": span.outcome or "unfinished"}
            args |= {"error": span.error} if span.error else {}
            args |= {"attempt": span.attempt} if job.retries else {}
            thread = {"pid": executor, "tid": slot + 1}
            times = {"ts": span.begin * 1e6, "dur": (span.end - span.begin) * 1e6}
            found.append(
                {"ph": "X", "cat": "job", "name": job.name, **thread, **times, "args": args}
            )
    for job in picture.jobs:
        wait_of = {"cat": "queue", "id": job.number, "pid": job.lane.executor, "tid": 0}
        for begin, end in job.waits():
            found.append({"ph": "b", **wait_of, "name": job.name, "ts": picture.at(begin) * 1e6})
            found.append({"ph": "e", **wait_of, "name": job.name, "ts": picture.at(end) * 1e6})
    for limit in picture.limits():
        for time, slots in limit.steps:
            if slots < math.inf:
                name = f"slots of {limit.label}"
                counter = {"ph": "C", "name": name, "pid": limit.executor, "tid": 0}
                found.append({**counter, "ts": time * 1e6, "args": {"slots": slots}})
    return json.dumps({"traceEvents": found, "displayTimeUnit": "ms"})


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
