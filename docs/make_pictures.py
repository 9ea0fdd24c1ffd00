"""Makes the pictures of the documentation: a crawl in virtual time, the same each time; drawings.

`python docs/make_pictures.py [FOLDER]` writes `timeline.svg` and `terminal.svg`, and the drawings
into `_static`; it needs what the tests need.
"""

from __future__ import annotations

import io
import random
import re
import sys
from pathlib import Path

import anyio
from rich.console import Console

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from drawings import DRAWINGS  # noqa: E402
from virtual_time import run_in_virtual_time  # noqa: E402

from anyslots import Executor, Rate  # noqa: E402
from anyslots.instruments import Progress, Timeline  # noqa: E402


async def fetch(seconds: float, status: int) -> None:
    """Stands for a download: it takes its time, and may fail."""
    await anyio.sleep(seconds)
    if status != 200:
        raise ConnectionError(status)


async def crawl(instruments: list[object]) -> None:
    """Forty pages of three hosts through six slots; one host allows three starts a second."""
    chance = random.Random(7)
    async with Executor(6, name="crawler", on_error="log", instruments=instruments) as executor:
        lanes = [
            executor.lane("docs.example", slots=3),
            executor.lane("api.example", rate=Rate(3, per=1), queue_timeout=2.5),
            executor.lane("images.example", slots=2, priority=1),
        ]
        futures = []
        for number in range(40):
            status = 503 if chance.random() < 0.1 else 200
            lane = lanes[number % 3]
            futures.append(lane.submit(fetch, chance.uniform(0.15, 1.2), status))
            futures[-1].add_done_callback(lambda future: future.cancelled() or future.exception())
            await anyio.sleep(chance.uniform(0.0, 0.07))
        futures[14].cancel()  # it runs
        futures[20].cancel()  # it waits
        for future in futures:
            await future.wait()


def main(folder: Path) -> None:
    timeline = Timeline(clock=anyio.current_time)
    console = Console(
        record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    progress = Progress(console=console, clock=anyio.current_time)
    run_in_virtual_time("asyncio", crawl, [timeline, progress])
    timeline.save_svg(folder / "timeline.svg")
    console.print(progress)
    console.print()
    console.print(timeline)
    still = console.export_svg(title="Progress and Timeline", unique_id="still")
    # Complete in itself: whatever font of even width the reader has.
    still = re.sub(r"@font-face \{.*?\}", "", still, flags=re.DOTALL)
    still = re.sub(r"[ \t]+$", "", still, flags=re.MULTILINE)
    (folder / "terminal.svg").write_text(still, encoding="utf-8")
    (folder / "_static").mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (folder / "_static" / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
