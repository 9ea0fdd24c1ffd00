"""A timeline as a picture.

It's as wide as the text of a page of documentation, so that its labels can be read there, and lies
on a card of its own: light or dark as the reader prefers, it's legible on either.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from xml.sax.saxutils import escape

from ._record import Job
from ._snapshot import PALETTE, Limit, Snapshot, Span, plural, seconds

WIDTH, EDGE, QUEUE, LIMITS = 760, 16, 60, 56
MOST_LINES = 200
"""With more retries than this, attempts aren't joined by lines."""

STYLE = """
svg{color-scheme:light dark;font:12.5px system-ui,-apple-system,"Segoe UI",sans-serif}
.card{fill:#ffffff;stroke:#d1d9e0}text{fill:#1f2328}.quiet{fill:#59636e}.grid{stroke:#e3e8ed}
.queue{fill:#8c959f;fill-opacity:.35;stroke:#59636e}.mark{stroke:#1f2328}.halo{stroke:#ffffff}
.bar text{fill:#000000;font-size:11.5px;pointer-events:none}.c0 text{fill:#ffffff}
.cancelled rect{fill-opacity:.25;stroke-dasharray:3 2}.cancelled text{fill:#1f2328}
.idle{fill:url(#anyslots-idle)}.hatch{stroke:#b6bfc8}.again{stroke:#59636e;stroke-dasharray:1 3}
.limit{stroke:#1f2328;stroke-width:1.6}path{fill:none}
@media (prefers-color-scheme:dark){.card{fill:#0d1117;stroke:#3d444d}text{fill:#e6edf3}
.quiet{fill:#9198a1}.grid{stroke:#2a313a}.queue{stroke:#9198a1}.mark{stroke:#e6edf3}
.halo{stroke:#0d1117}.cancelled text{fill:#e6edf3}.hatch{stroke:#4a535e}.again{stroke:#9198a1}
.limit{stroke:#e6edf3}}
"""

HATCH = (
    '<defs><pattern id="anyslots-idle" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6" stroke-width="2"/></pattern>'
    "</defs>"
)


def draw(picture: Snapshot) -> str:
    """The whole file."""
    drawing = _Drawing(picture)
    return "\n".join([*drawing.parts(), "</svg>\n"])


class _Drawing:
    """Where things are: the rows from `top` to `floor`, the queue on `base`, limits below."""

    def __init__(self, picture: Snapshot) -> None:
        self.picture = picture
        self.left = EDGE + 8 + width_of(max([*picture.labels, "queue 0,000"], key=len))
        self.across = (WIDTH - self.left - EDGE) / picture.length
        self.step = min(max(560 / max(len(picture.rows), 1), 2.0), 26.0)
        self.height = self.step * 0.84
        self.idle = picture.idle(int(WIDTH - self.left) // 4)
        self.limits = picture.limits()
        self.legend, self.top = self._legend()
        self.floor = self.top + self.step * len(picture.rows)
        self.base = self.floor + 24 + QUEUE
        self.bottom = self.base + (24 + LIMITS) * bool(self.limits)
        self.row_of = {row: n for n, row in enumerate(picture.rows)}

    def parts(self) -> Iterator[str]:
        picture, total = self.picture, f"{self.bottom + 34:.0f}"
        bars = "".join(
            f".c{n}.s{k} rect{{fill:{shade};stroke:{paint}}}"
            for n, paint in enumerate(PALETTE)
            for k, shade in enumerate(shades_of(n))
        )
        lines = "".join(f".l{n}{{stroke:{paint}}}" for n, paint in enumerate(PALETTE))
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img" '
            f'width="{WIDTH}" style="max-width:100%;height:auto"><title>{text(picture.title)}'
            f"</title>"
        )
        yield f"<style>{STYLE}{bars}{lines}</style>{HATCH}"
        yield '<rect class="card" x="0.5" y="0.5" rx="8" '
        yield f'width="{WIDTH - 1}" height="{self.bottom + 33:.0f}"/>'
        yield f'<text x="{EDGE}" y="26" font-size="14.5" font-weight="600">{text(picture.title)}'
        yield "</text>"
        yield from self.legend
        yield from self._axis()
        yield from self._idle_slots()
        yield from self._attempts()
        every = math.ceil(15 / self.step)
        for n, (label, spans) in enumerate(zip(picture.labels, picture.rows.values(), strict=True)):
            y = self.top + n * self.step
            if n % every == 0:
                yield label_at(self.left - 8, y + self.height / 2 + 4, label)
            for group in grouped(spans, self.across):
                yield self._bar(group, y)
        yield from self._queue()
        yield from self._never_ran()
        if self.limits:
            yield from self._limit_lines()

    def _legend(self) -> tuple[list[str], float]:
        """What colors and shapes say, in as many lines as it takes, and where those end."""
        picture = self.picture
        parts, x, y = [], float(EDGE), 50.0
        keys = list(zip(range(len(PALETTE) - 1), picture.lane_names, strict=False))
        if len(picture.lanes) > len(keys):
            keys.append((len(PALETTE) - 1, plural(len(picture.lanes) - len(keys), "other lane")))
        items = [(f"bar c{n} s0", name) for n, name in keys] if len(picture.lanes) > 1 else []
        outcomes = [what for what in ("failed", "cancelled") if what in picture.drawn_outcomes]
        items += [(f"bar c0 s0 {what}", what) for what in outcomes]
        items += [("idle", "idle while jobs wait")] * bool(self.idle)
        for kind, name in items:
            if x + 26 + width_of(name) > WIDTH - EDGE:
                x, y = float(EDGE), y + 20
            cross = _cross(x + 7, y - 5, 4) if "failed" in kind else ""
            square = f'x="{x:.0f}" y="{y - 11}" width="14" height="12" rx="2"'
            parts.append(f'<g class="{kind}"><rect {square}/>{cross}</g>')
            parts.append(f'<text x="{x + 20:.0f}" y="{y}">{text(short(name))}</text>')
            x += 36 + width_of(name)
        return parts, y + (16 if items else -8)

    def _axis(self) -> Iterator[str]:
        """Lines at round times."""
        picture = self.picture
        unit, scale = next(unit[:2] for unit in UNITS if picture.length >= unit[2])
        rough = picture.length / scale / 7
        size = 10.0 ** math.floor(math.log10(rough))
        tick = size * next(n for n in (1, 2, 5, 10) if n * size >= rough)
        for n in range(int(picture.length / scale / tick * 1.0001) + 1):
            x = self.left + n * tick * scale * self.across
            yield f'<path class="grid" d="M{x:.1f} {self.top - 4:.1f}V{self.bottom:.1f}"/>'
            words = f"{n * tick:.6g} {unit}"
            anchor = "middle"
            if x + width_of(words) / 2 > WIDTH - EDGE / 2:
                x, anchor = WIDTH - EDGE / 2, "end"
            place = f'x="{x:.1f}" y="{self.bottom + 18:.1f}" text-anchor="{anchor}"'
            yield f'<text class="quiet" {place}>{words}</text>'

    def _idle_slots(self) -> Iterator[str]:
        for one in self.idle:
            if (one.end - one.begin) * self.across < 3:
                continue
            tip = f"idle from {seconds(one.begin)} to {seconds(one.end)}\n{one.reason}"
            y = self.top + self.row_of[one.row] * self.step
            x, width = self.left + one.begin * self.across, (one.end - one.begin) * self.across
            yield (
                f'<g><title>{text(tip)}</title><rect class="idle" x="{x + 1:.1f}" y="{y:.1f}" '
                f'width="{width - 2:.1f}" height="{self.height:.1f}"/></g>'
            )

    def _attempts(self) -> Iterator[str]:
        """Lines from each attempt to the next."""
        middle = self.top + self.height / 2
        lines = [
            f'<path class="again" d="M{self.left + one.end * self.across:.1f} '
            f"{middle + row * self.step:.1f}L{self.left + other.begin * self.across:.1f} "
            f'{middle + next_row * self.step:.1f}"/>'
            for row, one, next_row, other in self.picture.retried()
        ]
        yield from lines if len(lines) <= MOST_LINES else ()

    def _bar(self, group: list[Span], y: float) -> str:
        picture, height, job = self.picture, self.height, group[0].job
        x = self.left + group[0].begin * self.across
        width = max((group[-1].end - group[0].begin) * self.across, 1.0)
        outcomes = Counter(span.outcome for span in group)
        colors = Counter(picture.colors[span.job.lane.key] for span in group)
        color, shade = colors.most_common(1)[0][0], picture.shades[job.number]
        kind = " cancelled" if outcomes["cancelled"] == len(group) else ""
        inside = ""
        room = width - 7 - (15 if outcomes["failed"] else 0)
        if len(group) == 1 and height >= 12:
            number = str(job.number)
            names = (f"{number} {job.name}", number)
            fitting = next((name for name in names if width_of(name) * 0.92 <= room), "")
            place = f'x="{x + 4:.1f}" y="{y + height / 2 + 4:.1f}"'
            inside = f"<text {place}>{text(fitting)}</text>" * bool(fitting)
        if outcomes["failed"]:
            size = min(max(height * 0.26, 1.5), max(width * 0.4, 2.2), 4.5)
            inside += _cross(x + max(width - 9, width / 2), y + height / 2, size)
        # A hair's breadth between neighbors, where there's room for one.
        gap = 1.0 if width > 4 else 0.0
        return (
            f'<g class="bar c{color} s{shade}{kind}"><title>{text(tip_of(group, picture))}</title>'
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width - gap:.2f}" height="{height:.2f}" '
            f'rx="{2 if height > 9 < width else 0}" stroke-width="{1 if kind else 0}"/>{inside}</g>'
        )

    def _queue(self) -> Iterator[str]:
        """The curve of the queue's length, a step a pixel."""
        lengths = self.picture.queue_in(int(WIDTH - self.left - EDGE))
        most = math.ceil(max(*lengths, 1.0))
        steps = "".join(f"V{self.base - n / most * QUEUE:.1f}h1" for n in lengths)
        tip = f"<title>longest queue: {plural(self.picture.longest, 'job')}</title>"
        outline = f"M{self.left:.1f} {self.base:.1f}{steps}V{self.base:.1f}z"
        yield f'<path class="queue" d="{outline}">{tip}</path>'
        yield label_at(self.left - 8, self.base - QUEUE + 8, f"queue {most:,}")
        yield label_at(self.left - 8, self.base + 2, "0")

    def _limit_lines(self) -> Iterator[str]:
        """The numbers of slots over time, as steps."""
        finite = [n for limit in self.limits for _, n in limit.steps if n < math.inf]
        most = max(finite, default=1)
        for limit in self.limits:
            yield self._limit_line(limit, most)
        yield label_at(self.left - 8, self.bottom - LIMITS + 8, f"slots {most:,}")
        yield label_at(self.left - 8, self.bottom + 2, "0")

    def _limit_line(self, limit: Limit, most: float) -> str:
        path = ""
        for when, slots in limit.steps:
            x = self.left + when * self.across
            y = self.bottom - min(slots / most, 1.0) * LIMITS
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f} {y:.1f}"
        kind = "limit" if limit.color < 0 else f"limit l{limit.color}"
        tip = text(f"slots of {limit.label}: {', '.join(str(n) for _, n in limit.steps[:40])}")
        end = f"H{WIDTH - EDGE}"
        return f'<path class="{kind}" d="{path}{end}"><title>{tip}</title></path>'

    def _never_ran(self) -> Iterator[str]:
        """Above the curve, where jobs left the queue without having run."""
        places: dict[int, list[Job]] = {}
        for job in self.picture.never_ran():
            place = round(self.picture.at(job.ended) * self.across / 8)
            places.setdefault(place, []).append(job)
        for place, jobs in places.items():
            x, y = self.left + place * 8, self.base - QUEUE - 8
            outcomes = Counter(became(job) for job in jobs).most_common()
            listed = ", ".join(f"{count} {what}" for what, count in outcomes)
            one = f"{jobs[0].number} {jobs[0].name}" if len(jobs) == 1 else plural(len(jobs), "job")
            ring = f'<circle class="mark" cx="{x}" cy="{y:.1f}" r="3.5" fill="none"/>'
            shape = _cross(x, y, 3) if any(job.error for job in jobs) else ring
            yield f"<g><title>{text(f'{one} never ran: {listed}')}</title>{shape}</g>"


UNITS = (("h", 3600.0, 14_400.0), ("min", 60.0, 600.0), ("s", 1.0, 1.0), ("ms", 0.001, 0.0))
"""A unit of time, how many seconds it has, and from how many on it's used."""


def grouped(spans: list[Span], across: float) -> Iterator[list[Span]]:
    """Spans of one row, those together that would be too narrow to be seen by themselves."""
    group: list[Span] = []
    for span in spans:
        narrow = (span.end - span.begin) * across < 3
        near = group and (span.begin - group[-1].end) * across < 1
        if group and not (narrow and near and (span.end - group[0].begin) * across < 4):
            yield group
            group = []
        group.append(span)
    yield group


def tip_of(group: list[Span], picture: Snapshot) -> str:
    """What pointing at a bar shows."""
    if len(group) > 1:
        times = f"{seconds(group[0].begin)} to {seconds(group[-1].end)}"
        outcomes = Counter(span.outcome or "unfinished" for span in group)
        listed = ", ".join(f"{count} {what}" for what, count in outcomes.most_common())
        return f"{plural(len(group), 'job')}, {times}: {listed}"
    span = group[0]
    job = span.job
    parts = sum(attempt == span.attempt for *_, attempt in job.runs)
    which = "" if parts == 1 else f" (one of {parts} parts: it lent its slot)"
    lines = [
        f"{job.number} {job.name}: {became(span)}",
        f"lane: {picture.lane_name(job)}",
        f"waited: {seconds(picture.at(job.left_queue) - picture.at(job.submitted))}",
        f"ran: {seconds(span.end - span.begin)}, from {seconds(span.begin)} to "
        f"{seconds(span.end)}{which}",
    ]
    if job.retries:
        lines.insert(1, f"attempt {span.attempt} of {len(job.retries) + 1}")
        if span.attempt <= len(job.retries):
            lines.append(f"retried after {seconds(job.retries[span.attempt - 1].delay)}")
    return "\n".join(lines)


def became(what: Span | Job) -> str:
    """How a job or an attempt ended, as the end of a sentence."""
    return f"failed with {what.error}" if what.error else what.outcome or "not finished"


def _cross(x: float, y: float, size: float) -> str:
    d, full = 2 * size, max(size / 2.2, 0.9)
    path = f"M{x - size:.1f} {y - size:.1f}l{d:.1f} {d:.1f}m0 {-d:.1f}l{-d:.1f} {d:.1f}"
    return (
        f'<path class="halo" stroke-width="{full + 1.4:.1f}" d="{path}"/>'
        f'<path class="mark" stroke-width="{full:.1f}" d="{path}"/>'
    )


def shades_of(color: int) -> list[str]:
    """Three shades of a color, each with enough contrast to the text on it."""
    target = 0 if color == 0 else 255
    found = []
    for part in (0.0, 0.22, 0.44):
        channels = bytes.fromhex(PALETTE[color][1:])
        mixed = (round(channel + (target - channel) * part) for channel in channels)
        found.append("#" + bytes(mixed).hex())
    return found


def label_at(x: float, y: float, label: str) -> str:
    words = text(short(label))
    return f'<text class="quiet" x="{x:.1f}" y="{y:.1f}" text-anchor="end">{words}</text>'


def short(words: str) -> str:
    return words if len(words) <= 28 else words[:27] + "…"


def width_of(words: str) -> float:
    """About as wide as a text is drawn, in pixels, if it's shortened."""
    return 7 * len(short(words))


def text(words: str) -> str:
    """As it may stand in XML, which has no place for most control characters."""
    return escape(re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", words))
