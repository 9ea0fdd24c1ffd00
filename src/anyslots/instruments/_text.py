"""A timeline in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._snapshot import PALETTE, Snapshot, Span, plural, seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

STROKES = {"failed": "x", "cancelled": "~"}


def plain_lines(picture: Snapshot) -> Iterator[str]:
    for label, cells in rows(picture, 80, ".:-=#"):
        yield (label + "".join(char for char, _ in cells)).rstrip()
    yield from legend(picture)


def colored_lines(picture: Snapshot, console: Console, options: ConsoleOptions) -> Iterator[Text]:
    from rich.text import Text

    ramp = ".:-=#" if options.ascii_only else "▁▂▃▄▅▆▇█"
    colored = console.color_system is not None and not console.no_color
    plain = {} if not colored or options.ascii_only else str.maketrans("[=]", "  ▕")
    for label, cells in rows(picture, options.max_width, ramp):
        line = Text(label, "bold", no_wrap=True)
        for char, span in cells:
            if span is None:
                line.append(char)
            else:
                line.append(char.translate(plain), style(picture.colors[span.job.lane.key]))
        yield line
    for words in legend(picture):
        yield Text(words)
    if len(picture.lanes) > 1:
        keys = enumerate(picture.lane_names[: len(PALETTE) - 1])
        yield Text("  ").join(Text.assemble(("  ", style(n)), f" {name}") for n, name in keys)


def rows(
    picture: Snapshot, width: int, ramp: str
) -> Iterator[tuple[str, list[tuple[str, Span | None]]]]:
    """The lines of a drawing: a label, and for each column a character and whose it is."""
    margin = max(map(len, [*picture.labels, "queue"])) + 2
    columns = max(width - margin, 10)
    scale = columns / picture.length
    for label, spans in zip(picture.labels, picture.rows.values(), strict=True):
        cells: list[tuple[str, Span | None]] = [(" ", None)] * columns
        for span in spans:
            start = min(int(span.begin * scale), columns - 1)
            size = max(int(span.end * scale) - start, 1)
            stroke = STROKES.get(span.outcome, "=")
            # At least one stroke after the number, unless it has no meaning.
            number = str(span.job.number) + stroke * (stroke != "=")
            bar = f"[{number}".ljust(size - 1, stroke) + "]"
            for place, char in enumerate(bar if len(bar) == size else stroke * size, start):
                # What failed isn't hidden by what follows it in the same column.
                if cells[place][0] not in STROKES.values() or size > 1:
                    cells[place] = (char, span)
        yield label.ljust(margin), cells
    lengths = picture.queue_in(columns)
    most = max(*lengths, 1.0)
    steps = (max(round(n / most * len(ramp)), n > 0.05) for n in lengths)
    yield "queue".ljust(margin), [((" " + ramp)[step], None) for step in steps]
    axis = "0" + seconds(picture.length).rjust(columns - 1)
    yield " " * margin, [(char, None) for char in axis]


def style(color: int) -> str:
    """A bar's colors in a terminal."""
    return f"{'#ffffff' if color == 0 else '#000000'} on {PALETTE[color]}"


def legend(picture: Snapshot) -> list[str]:
    marks = [
        f"{stroke}: {what}" for what, stroke in STROKES.items() if what in picture.drawn_outcomes
    ]
    limits = [
        f"slots{'' if limit.color < 0 else ' of ' + limit.label}: {_range(limit.steps)}"
        for limit in picture.limits()
    ]
    queue = f"longest queue: {plural(picture.longest, 'job')}"
    return [picture.title, "; ".join([*marks, queue, *limits])]


def _range(steps: list[tuple[float, float]]) -> str:
    counts = [count for _, count in steps]
    return f"{min(counts)} to {max(counts)}, at the end {counts[-1]}"
