"""A timeline as a page to zoom into."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

from ._snapshot import PALETTE, Snapshot, plural
from ._svg import became, shades_of, text, tip_of

COLUMNS = 400
"""How many times are examined to explain idle slots."""


def page(picture: Snapshot) -> str:
    """The whole file: the page's own code, with the data in its place."""
    template = files(__package__).joinpath("timeline.html").read_text(encoding="utf-8")
    # In a script, only `<` could end the data before its end.
    data = json.dumps(data_of(picture), separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("__TITLE__", text(picture.title)).replace("__DATA__", data)


def data_of(picture: Snapshot) -> dict[str, Any]:
    """What the page draws; times in seconds from the timeline's begin."""
    row_of = {row: n for n, row in enumerate(picture.rows)}
    drawn = len(PALETTE) - 1
    lanes = [[name, n] for n, name in enumerate(picture.lane_names[:drawn])]
    if len(picture.lanes) > drawn:
        lanes.append([plural(len(picture.lanes) - drawn, "other lane"), drawn])
    return {
        "title": picture.title,
        "length": picture.length,
        "colors": [shades_of(color) for color in range(len(PALETTE))],
        "lanes": lanes if len(picture.lanes) > 1 else [],
        "rows": [
            {
                "label": label,
                "spans": [
                    [
                        round(span.begin, 9),
                        round(span.end, 9),
                        f"{span.job.number} {span.job.name}",
                        picture.colors[span.job.lane.key],
                        picture.shades[span.job.number],
                        span.outcome,
                        tip_of([span], picture),
                        span.job.number,
                    ]
                    for span in spans
                ],
            }
            for label, spans in zip(picture.labels, picture.rows.values(), strict=True)
        ],
        "idle": [
            [row_of[one.row], round(one.begin, 9), round(one.end, 9), one.reason]
            for one in picture.idle(COLUMNS)
        ],
        "again": [
            [row, round(one.end, 9), next_row, round(other.begin, 9)]
            for row, one, next_row, other in picture.retried()
        ],
        "never": [
            [
                round(picture.at(job.ended), 9),
                f"{job.number} {job.name} never ran: {became(job)}",
                bool(job.error),
            ]
            for job in picture.never_ran()
        ],
        "queue": [[round(when, 9), count] for when, count in picture.queue],
        "limits": [
            [
                limit.label,
                limit.color,
                [
                    [round(when, 9), slots if slots < math.inf else None]
                    for when, slots in limit.steps
                ],
            ]
            for limit in picture.limits()
        ],
    }
