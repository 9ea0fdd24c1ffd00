"""A timeline as a picture."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from xml.sax.saxutils import escape

from ._timeline import PALETTE, Job, Piece, Snapshot, plural, seconds

WIDTH, RIGHT, QUEUE = 1200, 24, 72
STYLE = """
svg{color-scheme:light dark;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.back{fill:#ffffff}text{fill:#1f2328}.quiet{fill:#59636e}.grid{stroke:#d1d9e0}
.queue{fill:#8c959f;fill-opacity:.35;stroke:#59636e}.mark{stroke:#1f2328}.halo{stroke:#ffffff}
.bar text{fill:#000000;font-size:11px;pointer-events:none}.c0 text{fill:#ffffff}
.cancelled rect{fill-opacity:.25;stroke-dasharray:3 2}.cancelled text{fill:#1f2328}
path{fill:none}
@media (prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#3d444d}.queue{stroke:#9198a1}.mark{stroke:#e6edf3}.halo{stroke:#0d1117}
.cancelled text{fill:#e6edf3}}
"""


def draw(picture: Snapshot) -> str:
    """The whole file."""
    left = 20 + wide(max([*picture.labels, "queue 00,000"], key=len))
    across = (WIDTH - left - RIGHT) / picture.length
    step = min(max(560 / max(len(picture.rows), 1), 2.0), 26.0)
    legend, top = _legend(picture, left)
    floor = top + step * len(picture.rows)
    base = floor + 24 + QUEUE
    paints = enumerate(PALETTE)
    colours = "".join(f".c{n} rect{{fill:{paint};stroke:{paint}}}" for n, paint in paints)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {base + 34:.0f}" role="img" '
        f'width="{WIDTH}" style="max-width:100%;height:auto"><title>{text(picture.title)}</title>',
        f'<style>{STYLE}{colours}</style><rect class="back" width="100%" height="100%"/>',
        f'<text x="{left}" y="26" font-size="15" font-weight="600">{text(picture.title)}</text>',
        *legend,
        *_axis(picture, left, across, top - 4, base),
    ]
    every = math.ceil(14 / step)
    for n, (label, pieces) in enumerate(zip(picture.labels, picture.rows.values(), strict=True)):
        y, height = top + n * step, step * 0.84
        if n % every == 0:
            parts.append(label_at(left - 10, y + height / 2 + 4, label))
        parts += (
            _bar(group, picture, left, across, y, height) for group in grouped(pieces, across)
        )
    parts += _queue(picture, left, base)
    parts += _never_ran(picture, left, across, base - QUEUE)
    return "\n".join([*parts, "</svg>\n"])


def _legend(picture: Snapshot, left: float) -> tuple[list[str], float]:
    """What the colours and shapes say, in as many lines as it takes, and where those end."""
    parts, x, y = [], left, 50.0
    keys = list(zip(range(len(PALETTE) - 1), picture.lane_names, strict=False))
    if len(picture.lanes) > len(keys):
        keys.append((len(PALETTE) - 1, plural(len(picture.lanes) - len(keys), "other lane")))
    items = [(f"c{n}", name) for n, name in keys] if len(picture.lanes) > 1 else []
    items += [
        (f"c0 {what}", what) for what in ("failed", "cancelled") if f" {what}" in picture.title
    ]
    for kind, name in items:
        if x + 34 + wide(name) > WIDTH - RIGHT:
            x, y = left, y + 20
        cross = _cross(x + 7, y - 5, 4) if "failed" in kind else ""
        square = f'<rect x="{x:.0f}" y="{y - 11}" width="14" height="12"/>'
        parts.append(f'<g class="bar {kind}">{square}{cross}</g>')
        parts.append(f'<text x="{x + 20:.0f}" y="{y}">{text(short(name))}</text>')
        x += 40 + wide(name)
    return parts, y + (20 if items else -6)


def _axis(picture: Snapshot, left: float, across: float, top: float, base: float) -> Iterator[str]:
    """Lines at round times."""
    unit, scale = next(unit[:2] for unit in UNITS if picture.length >= unit[2])
    rough = picture.length / scale / 8
    size = 10.0 ** math.floor(math.log10(rough))
    tick = size * next(n for n in (1, 2, 5, 10) if n * size >= rough)
    for n in range(int(picture.length / scale / tick * 1.0001) + 1):
        x = left + n * tick * scale * across
        yield f'<path class="grid" d="M{x:.1f} {top:.1f}V{base:.1f}"/>'
        place = f'x="{x:.1f}" y="{base + 18:.1f}" text-anchor="middle"'
        yield f'<text class="quiet" {place}>{n * tick:.6g} {unit}</text>'


UNITS = (("h", 3600.0, 14_400.0), ("min", 60.0, 600.0), ("s", 1.0, 1.0), ("ms", 0.001, 0.0))
"""A unit of time, how many seconds it has, and from how many on it's used."""


def grouped(pieces: list[Piece], across: float) -> Iterator[list[Piece]]:
    """Pieces of one row, those together that would be too narrow to be seen by themselves."""
    group: list[Piece] = []
    for piece in pieces:
        narrow = (piece.end - piece.begin) * across < 3
        near = group and (piece.begin - group[-1].end) * across < 1
        if group and not (narrow and near and (piece.end - group[0].begin) * across < 4):
            yield group
            group = []
        group.append(piece)
    yield group


def _bar(
    group: list[Piece], picture: Snapshot, left: float, across: float, y: float, height: float
) -> str:
    x = left + group[0].begin * across
    width = max((group[-1].end - group[0].begin) * across, 1.0)
    outcomes = Counter(piece.job.outcome for piece in group)
    colour = Counter(picture.colours[piece.job.lane] for piece in group).most_common(1)[0][0]
    kind = " cancelled" if outcomes["cancelled"] == len(group) else ""
    inside = ""
    room = width - 8 - (16 if outcomes["failed"] else 0)
    if len(group) == 1 and height >= 12:
        number = str(group[0].job.number)
        names = (f"{number} {group[0].job.name}", number)
        fitting = next((name for name in names if wide(name) * 0.92 <= room), "")
        inside = (
            f'<text x="{x + 5:.1f}" y="{y + height / 2 + 4:.1f}">{text(fitting)}</text>'
            * bool(fitting)
        )
    if outcomes["failed"]:
        size = min(max(height * 0.26, 1.5), max(width * 0.4, 2.2), 4.5)
        inside += _cross(x + max(width - 10, width / 2), y + height / 2, size)
    # A hair's breadth between neighbours, where there's room for one.
    gap = 1.0 if width > 4 else 0.0
    return (
        f'<g class="bar c{colour}{kind}"><title>{text(_tip(group, picture))}</title><rect '
        f'x="{x:.2f}" y="{y:.2f}" width="{width - gap:.2f}" height="{height:.2f}" '
        f'rx="{2 if height > 9 < width else 0}" stroke-width="{1 if kind else 0}"/>{inside}</g>'
    )


def _tip(group: list[Piece], picture: Snapshot) -> str:
    """What pointing at a bar shows."""
    if len(group) > 1:
        span = f"{seconds(group[0].begin)} to {seconds(group[-1].end)}"
        outcomes = Counter(piece.job.outcome or "unfinished" for piece in group)
        told = ", ".join(f"{count} {what}" for what, count in outcomes.most_common())
        return f"{plural(len(group), 'job')}, {span}: {told}"
    begin, end, job = group[0]
    parts = len(job.pieces)
    which = "" if parts == 1 else f" (one of {parts} parts: it lent its slot)"
    lines = [
        f"{job.number} {job.name}: {_became(job)}",
        f"lane: {picture.lane_names[[lane for lane, _ in picture.lanes].index(job.lane)]}",
        f"waited: {seconds(picture.at(job.left_queue) - picture.at(job.submitted))}",
        f"ran: {seconds(end - begin)}, from {seconds(begin)} to {seconds(end)}{which}",
    ]
    return "\n".join(lines)


def _became(job: Job) -> str:
    return f"failed with {job.error}" if job.error else job.outcome or "not finished"


def _cross(x: float, y: float, size: float) -> str:
    d, full = 2 * size, max(size / 2.2, 0.9)
    path = f"M{x - size:.1f} {y - size:.1f}l{d:.1f} {d:.1f}m0 {-d:.1f}l{-d:.1f} {d:.1f}"
    return (
        f'<path class="halo" stroke-width="{full + 1.4:.1f}" d="{path}"/>'
        f'<path class="mark" stroke-width="{full:.1f}" d="{path}"/>'
    )


def _queue(picture: Snapshot, left: float, base: float) -> list[str]:
    """The curve of the queue's length, a step a pixel."""
    lengths = picture.queue_in(int(WIDTH - left - RIGHT))
    most = math.ceil(max(*lengths, 1.0))
    steps = "".join(f"V{base - n / most * QUEUE:.1f}h1" for n in lengths)
    tip = f"<title>longest queue: {plural(picture.longest, 'job')}</title>"
    return [
        f'<path class="queue" d="M{left:.1f} {base:.1f}{steps}V{base:.1f}z">{tip}</path>',
        label_at(left - 10, base - QUEUE + 8, f"queue {most:,}"),
        label_at(left - 10, base + 2, "0"),
    ]


def _never_ran(picture: Snapshot, left: float, across: float, y: float) -> Iterator[str]:
    """Above the curve, where jobs left the queue without having run."""
    places: dict[int, list[Job]] = {}
    for job in picture.jobs:
        if job.ended < math.inf and not job.pieces:
            places.setdefault(round(picture.at(job.ended) * across / 8), []).append(job)
    for place, jobs in places.items():
        x = left + place * 8
        outcomes = Counter(_became(job) for job in jobs).most_common()
        told = ", ".join(f"{count} {what}" for what, count in outcomes)
        one = f"{jobs[0].number} {jobs[0].name}" if len(jobs) == 1 else plural(len(jobs), "job")
        ring = f'<circle class="mark" cx="{x}" cy="{y - 8:.1f}" r="3.5" fill="none"/>'
        failed = any(job.error for job in jobs)
        shape = _cross(x, y - 8, 3) if failed else ring
        yield f"<g><title>{text(f'{one} never ran: {told}')}</title>{shape}</g>"


def label_at(x: float, y: float, label: str) -> str:
    words = text(short(label))
    return f'<text class="quiet" x="{x:.1f}" y="{y:.1f}" text-anchor="end">{words}</text>'


def short(words: str) -> str:
    return words if len(words) <= 28 else words[:27] + "…"


def wide(words: str) -> float:
    """About as wide as a text is drawn, in pixels, if it's shortened."""
    return 7 * len(short(words))


def text(words: str) -> str:
    """As it may stand in XML, which has no place for most control characters."""
    return escape(re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", words))
