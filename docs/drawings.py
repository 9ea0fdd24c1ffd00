"""The drawings of the documentation, which `make_pictures.py` saves.

They are part of their pages, and take text and lines from the colors of the page, so that they
follow its light or dark mode; alone, they follow that of the system.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"

STYLE = """
.drawing{--ink:var(--color-foreground-primary,#1f2328);--quiet:var(--color-foreground-secondary,#59636e);
--line:var(--color-foreground-border,#8c959f);--card:var(--color-background-secondary,#f6f8fa);
font:14px system-ui,-apple-system,"Segoe UI",sans-serif}
@media(prefers-color-scheme:dark){.drawing{--ink:var(--color-foreground-primary,#e6edf3);
--quiet:var(--color-foreground-secondary,#9198a1);--card:var(--color-background-secondary,#161b22)}}
.drawing text{fill:var(--ink);text-anchor:middle}.drawing .quiet{fill:var(--quiet);font-size:12.5px}
.drawing .left{text-anchor:start}.drawing .strong{font-weight:600}
.drawing .card{fill:var(--card);stroke:var(--line)}
.drawing .line{fill:none;stroke:var(--line);stroke-width:1.5}
.drawing .way{fill:none;stroke-width:4;stroke-linecap:round}
.drawing .head{fill:var(--line)}
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def box(
    x: float, y: float, width: float, height: float, color: str = "", *, fill: float = 1
) -> str:
    """A box of a color; without one, a card."""
    look = f'fill="{color}" fill-opacity="{fill}" stroke="{color}"' if color else 'class="card"'
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" {look}/>'


def line(points: str, kind: str = "line", color: str = "") -> str:
    stroke = f' stroke="{color}"' if color else ""
    return f'<path d="{points}" class="{kind}"{stroke}/>'


def arrow(points: str) -> str:
    return line(points).replace("/>", ' marker-end="url(#arrow)"/>')


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    head = (
        '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" class="head"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" aria-label="{escape(title)}">\n'
        f"<style>{STYLE}</style>\n<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def slots() -> str:
    """Jobs queue in lanes, run in slots, and settle futures."""
    parts = [
        text(150, 24, "lanes", "strong"),
        text(400, 24, "slots", "strong"),
        text(620, 24, "futures", "strong"),
        box(340, 40, 120, 218),
    ]
    lanes = [
        ("api", "rate: 500 a minute", BLUE, 5),
        ("crawler", "slots=1", ORANGE, 4),
        ("urgent", "priority=1", GREEN, 0),
    ]
    for row, (name, options, color, queued) in enumerate(lanes):
        y = 46 + row * 76
        parts += [
            box(20, y, 260, 54),
            text(32, y + 23, name, "left strong"),
            text(32, y + 42, options, "left quiet"),
            *(box(250 - 22 * place, y + 18, 16, 18, color) for place in range(queued)),
            arrow(f"M282 {y + 27}H332"),
        ]
    for row, color in enumerate([GREEN, BLUE, BLUE, ORANGE]):
        y = 52 + row * 51
        parts.append(box(356, y, 88, 38, color))
        parts.append(
            f'<text x="400" y="{y + 24}" style="fill:{"#000" if color == ORANGE else "#fff"}">'
            f"slot {row}</text>"
        )
        parts.append(arrow(f"M462 {y + 19}H522"))
    settled = [
        ("a result", BLUE),
        ("an exception", ORANGE),
        ("a result", BLUE),
        ("cancelled", GREEN),
    ]
    for row, (outcome, color) in enumerate(settled):
        y = 52 + row * 51
        parts += [box(532, y, 190, 38, color, fill=0.15), text(627, y + 24, outcome)]
    return picture(760, 270, "Jobs wait in lanes, run in slots and settle futures", parts)


def tree() -> str:
    """Lanes in lanes, and the way of one job."""
    nodes = {
        "executor": (300, 16, "executor", "slots=100"),
        "model": (120, 106, "model", "tokens per minute"),
        "hosts": (480, 106, "hosts", "keyed"),
        "acme": (30, 196, "acme", "slots=8"),
        "initech": (210, 196, "initech", "slots=2"),
        "a.example": (390, 196, "a.example", "slots=2"),
        "b.example": (570, 196, "b.example", "slots=2"),
    }
    inside = {
        "model": "executor",
        "hosts": "executor",
        "acme": "model",
        "initech": "model",
        "a.example": "hosts",
        "b.example": "hosts",
    }
    width, height = 160, 54
    parts = []
    for name, outer in inside.items():
        (x, y, *_), (to_x, to_y, *_) = nodes[name], nodes[outer]
        points = f"M{x + width / 2} {y}L{to_x + width / 2} {to_y + height}"
        on_the_way = name in ("acme", "model")
        parts.append(line(points, "way", BLUE) if on_the_way else line(points))
    for name, (x, y, title, options) in nodes.items():
        if name in ("executor", "model", "acme"):
            parts.append(box(x, y, width, height))
            parts.append(box(x, y, width, height, BLUE, fill=0.25))
        elif name == "hosts":
            # A mapping, not a lane.
            shape = box(x, y, width, height)
            parts.append(shape.replace("/>", ' stroke-dasharray="4 4"/>'))
        else:
            parts.append(box(x, y, width, height))
        parts += [
            text(x + width / 2, y + 23, title, "strong"),
            text(x + width / 2, y + 42, options, "quiet"),
        ]
    parts.append(
        text(30, 276, "A job of acme takes a slot of each lane on its way up.", "left quiet")
    )
    return picture(760, 290, "A tree of lanes, and the way of one job to its root", parts)


def job() -> str:
    """What becomes of a job."""
    parts = [
        box(20, 80, 120, 50),
        text(80, 110, "queued", "strong"),
        box(230, 80, 120, 50),
        text(290, 110, "permitted", "strong"),
        box(440, 80, 120, 50, BLUE, fill=0.25),
        text(500, 110, "running", "strong"),
        box(440, 190, 120, 50),
        text(500, 220, "lent", "strong"),
        box(640, 20, 110, 40, GREEN, fill=0.25),
        text(695, 45, "succeeded"),
        box(640, 85, 110, 40, ORANGE, fill=0.25),
        text(695, 110, "failed"),
        box(640, 150, 110, 40),
        text(695, 175, "cancelled"),
        text(80, 22, "submit", "quiet"),
        arrow("M80 32V76"),
        arrow("M142 105H226"),
        text(184, 96, "a slot", "quiet"),
        arrow("M352 105H436"),
        text(394, 96, "claimed", "quiet"),
        arrow("M562 96L636 44"),
        arrow("M562 105H636"),
        arrow("M562 114L636 166"),
        # Waiting for the executor's own jobs, and going on.
        arrow("M485 132V186"),
        arrow("M515 186V132"),
        text(425, 164, "waits for jobs", "quiet"),
        # Another attempt.
        arrow("M500 78C480 26 120 26 100 76"),
        text(300, 30, "failed: another attempt, after a delay", "quiet"),
        # Never run.
        arrow("M80 132C90 296 600 296 690 194"),
        text(330, 282, "cancelled: never runs", "quiet"),
    ]
    return picture(760, 290, "The states of a job, and what leads from one to another", parts)


def card() -> str:
    """What links to the documentation show; its PNG is made of this by a browser, 1200 by 630."""
    parts = ['<rect width="760" height="399" fill="#fff"/>']
    for row, color in enumerate([BLUE, BLUE, ORANGE, GREEN]):
        y = 250 + row * 26
        for place in range(8 - row):
            shade = 1 if place < 3 else 0.35
            parts.append(box(60 + place * 80 + row * 17, y, 72, 18, color, fill=shade))
    for y, size, weight, words in [
        (120, 64, 600, "anyslots"),
        (168, 26, 400, "Bounded concurrency with futures,"),
        (202, 26, 400, "for asyncio, uvloop and trio"),
    ]:
        style = f"fill:#1f2328;text-anchor:start;font-size:{size}px;font-weight:{weight}"
        parts.append(f'<text x="60" y="{y}" style="{style}">{words}</text>')
    return picture(760, 399, "anyslots", parts)


DRAWINGS: dict[str, Callable[[], str]] = {"slots": slots, "tree": tree, "job": job, "card": card}
