"""A timeline as Chrome's trace events."""

from __future__ import annotations

import json
from typing import Any

from ._timeline import Snapshot


def events(picture: Snapshot) -> str:
    """JSON with a process for each executor and a thread for each slot; times in microseconds."""
    found: list[dict[str, Any]] = []
    for n in sorted({job.lane[0] for job in picture.jobs}):
        found.append(_name("process_name", n, 0, picture.executors[n]))
        found.append(_name("thread_name", n, 0, "queue"))
    for executor, slot in picture.rows:
        found.append(_name("thread_name", executor, slot + 1, f"slot {slot}"))
    for (executor, slot), pieces in picture.rows.items():
        for begin, end, job in pieces:
            wait = picture.at(job.left_queue) - picture.at(job.submitted)
            args = {"job": job.number, "lane": job.lane[1], "wait_s": wait}
            args |= {"outcome": job.outcome or "unfinished"}
            args |= {"error": job.error} if job.error else {}
            thread = {"pid": executor, "tid": slot + 1}
            times = {"ts": begin * 1e6, "dur": (end - begin) * 1e6}
            found.append(
                {"ph": "X", "cat": "job", "name": job.name, **thread, **times, "args": args}
            )
    for job in picture.jobs:
        wait_of = {"cat": "queue", "id": job.number, "pid": job.lane[0], "tid": 0, "name": job.name}
        found.append({"ph": "b", **wait_of, "ts": picture.at(job.submitted) * 1e6})
        found.append({"ph": "e", **wait_of, "ts": picture.at(job.left_queue) * 1e6})
    return json.dumps({"traceEvents": found, "displayTimeUnit": "ms"})


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
