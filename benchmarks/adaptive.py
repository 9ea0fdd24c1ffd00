"""Show how `Adaptive` slots find the capacity of a server, in a simulation of both.

`python benchmarks/adaptive.py [FILE]` prints a table of figures and draws the limit over time to
`docs/adaptive.svg`, or to FILE. The simulation is the one that the tests use, and gives the same
figures each time.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "scheduling")]

from simulation import Server, efficiency, simulate  # noqa: E402

from anyslots._scheduling.adaptive import Adaptive, AdaptiveLimit  # noqa: E402

TABLE: list[tuple[str, Server, int]] = [
    *(
        (f"capacity {capacity}, {kind}", Server(capacity, spread=spread), jobs)
        for capacity, jobs in ((2, 1000), (20, 8000), (100, 20_000), (500, 60_000))
        for kind, spread in (("fixed service time", 0.0), ("varying", 0.5))
    ),
    ("capacity 100, latency doubles with load", Server(100, spread=0.5, slowdown=1), 20_000),
    ("capacity 100, refusals as slow as jobs", Server(100, spread=0.5, refusal=1), 20_000),
    ("capacity 100, swings by 30 %", Server(100, spread=0.5, wobble=0.3), 20_000),
    ("capacity 100, 0.1 % fail whatever the load", Server(100, spread=0.5, flaky=1e-3), 20_000),
    ("capacity 20, then 100", Server(20, later=100, spread=0.5), 20_000),
    ("capacity 100, then 20", Server(100, later=20, spread=0.5), 20_000),
    ("capacity 20, 300 jobs", Server(20, spread=0.5), 300),
]
PANELS = [
    ("The capacity rises from 20 to 100", Server(20, later=100, spread=0.5), 6000),
    ("The capacity falls from 100 to 20", Server(100, later=20, spread=0.5), 6000),
]

LEFT, TOP, WIDTH, HEIGHT, GAP = 52, 56, 700, 150, 62
MOST = 120
"""The limit at the top of a panel."""
STYLE = """
svg{color-scheme:light dark;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.back{fill:#ffffff}text{fill:#1f2328}.quiet{fill:#59636e}path{fill:none}.grid{stroke:#d1d9e0}
.limit{stroke:#0072b2;stroke-width:1.5}.capacity{stroke:#d55e00;stroke-dasharray:6 4}
@media (prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#3d444d}.limit{stroke:#56b4e9}.capacity{stroke:#e69f00}}
"""


def new_limit() -> AdaptiveLimit:
    """Return the controller of a lane whose slots are ``Adaptive(on=...)``."""
    return AdaptiveLimit(Adaptive(on=Exception))


def print_table() -> None:
    """Print the figures as a Markdown table."""
    print("| Server | Jobs | Throughput, of the best limit's | Overloads after 200 jobs |")
    print("|---|--:|--:|--:|")
    for name, server, jobs in TABLE:
        share, run = efficiency(new_limit(), server, jobs)
        print(f"| {name} | {jobs:,} | {share:.1%} | {run.overload_share:.2%} |")


def steps(history: list[tuple[float, int]], seconds: float) -> str:
    """Return a curve of steps as the data of a path.

    In each pixel column it shows the last value, and the extremes on the way there.
    """
    columns: dict[int, list[int]] = {}
    for time, value in history:
        columns.setdefault(round(time / seconds * WIDTH), []).append(
            round(HEIGHT * (1 - min(value, MOST) / MOST))
        )
    x, y = 0, columns[0][0]
    data = [f"M0 {y}"]
    for column, heights in columns.items():
        if column > x:
            data.append(f"h{column - x}")
            x = column
        for height in (min(heights), max(heights), heights[-1]):
            if height != y:
                data.append(f"v{height - y}")
                y = height
    return "".join([*data, f"H{WIDTH}"])


def panel(title: str, server: Server, jobs: int) -> Iterator[str]:
    """Draw the limit over one run, and the server's capacity."""
    run = simulate(new_limit(), server, jobs)
    capacity = [(0.0, server.capacity), (run.halfway, server.later or server.capacity)]
    yield f'<text x="0" y="-12" font-weight="600">{title}</text>'
    counts = f"{jobs:,} jobs, {run.overloads} overloads"
    yield f'<text class="quiet" x="{WIDTH}" y="-12" text-anchor="end">{counts}</text>'
    for value in range(0, MOST + 1, 20):
        y = round(HEIGHT * (1 - value / MOST))
        yield f'<path class="grid" d="M0 {y}H{WIDTH}"/>'
        if value % 40 == 0:
            yield f'<text class="quiet" x="-8" y="{y + 4}" text-anchor="end">{value}</text>'
    every = 10 ** math.floor(math.log10(run.seconds)) // 2
    for time in range(0, math.floor(run.seconds) + 1, every):
        x = round(time / run.seconds * WIDTH)
        yield f'<text class="quiet" x="{x}" y="{HEIGHT + 17}" text-anchor="middle">{time}</text>'
    yield f'<path class="capacity" d="{steps(capacity, run.seconds)}"/>'
    yield f'<path class="limit" d="{steps(run.history, run.seconds)}"/>'


def draw() -> str:
    """Return the picture: a panel for each change of capacity."""
    height = TOP + len(PANELS) * (HEIGHT + GAP)
    width = LEFT + WIDTH + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'width="{width}" style="max-width:100%;height:auto">'
        "<title>Adaptive slots: the limit over time, as the capacity rises and as it falls</title>",
        f'<style>{STYLE}</style><rect class="back" width="100%" height="100%"/>',
        f'<path class="limit" d="M{LEFT} 16h24"/><text x="{LEFT + 30}" y="20">limit</text>',
        f'<path class="capacity" d="M{LEFT + 78} 16h24"/>'
        f'<text x="{LEFT + 108}" y="20">capacity of the server</text>',
        f'<text class="quiet" x="{LEFT + WIDTH}" y="20" text-anchor="end">'
        "time, in service times of a job</text>",
    ]
    for number, (title, server, jobs) in enumerate(PANELS):
        lines.append(f'<g transform="translate({LEFT} {TOP + number * (HEIGHT + GAP)})">')
        lines.extend(panel(title, server, jobs))
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "docs" / "adaptive.svg")
    file: Path = parser.parse_args().file
    print_table()
    file.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
