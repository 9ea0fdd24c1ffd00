"""Draw docs/benchmarks.svg from docs/benchmarks.csv: what a job costs beside the alternatives.

Linear bars from zero, so that lengths may be compared; those beyond the end are cut, and say so.
"""

from __future__ import annotations

import csv
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
LEFT, WIDTH, ROW, TOP, MOST = 330, 330, 30, 58, 4.0
STYLE = """
svg{color-scheme:light dark;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.back{fill:#fff}text{fill:#1f2328}.quiet{fill:#59636e}.one{stroke:#1f2328;stroke-dasharray:3 3}
.asyncio{fill:#0072b2}.trio{fill:#d55e00}.grid{stroke:#d1d9e0}
@media (prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.quiet{fill:#9198a1}
.one{stroke:#e6edf3}.asyncio{fill:#56b4e9}.trio{fill:#e69f00}.grid{stroke:#3d444d}}
"""


def bar(loop: str, y: float, ratio: float) -> str:
    end = LEFT + WIDTH * min(ratio, MOST) / MOST
    cut = "\u2009\u203a" if ratio > MOST else ""
    return (
        f'<rect class="{loop}" x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="9"/>'
        f'<text class="quiet" x="{end + 5:.1f}" y="{y + 8}" font-size="10">{ratio:.2f}{cut}</text>'
    )


def draw(rows: list[dict[str, str]]) -> str:
    height = TOP + ROW * len(rows) + 12
    title = "Instructions beside the alternative, per job: below 1, anyslots takes fewer"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" '
        f'aria-label="{title}">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="720" height="{height}"/>',
        f'<text x="12" y="22" font-size="14">{title}</text>',
    ]
    for loop, x in (("asyncio", 12), ("trio", 90)):
        lines.append(f'<rect class="{loop}" x="{x}" y="34" width="9" height="9"/>')
        lines.append(f'<text x="{x + 14}" y="43">{loop}</text>')
    for mark in range(int(MOST) + 1):
        x = LEFT + WIDTH * mark / MOST
        kind = "one" if mark == 1 else "grid"
        lines.append(f'<path class="{kind}" d="M{x:.1f} {TOP - 4}V{height - 8}"/>')
        lines.append(f'<text class="quiet" x="{x - 3:.1f}" y="{TOP - 8}">{mark}</text>')
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        ours, other = (row[key].replace("`", "") for key in ("ours", "compared with"))
        lines.append(
            f'<text x="12" y="{y + 12}">{ours}</text>'
            f'<text class="quiet" x="12" y="{y + 24}" font-size="10">beside {other}</text>'
        )
        lines += [
            bar("asyncio", y + 3, float(row["asyncio"])),
            bar("trio", y + 13, float(row["trio"])),
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    with (DOCS / "benchmarks.csv").open(encoding="utf-8", newline="") as file:
        picture = draw(list(csv.DictReader(file)))
    (DOCS / "benchmarks.svg").write_text(picture, encoding="utf-8")
