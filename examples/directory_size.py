"""How much is in a directory and in each of those inside it: one job per directory.

    python examples/directory_size.py [--backend trio] [--slots 8] [DIRECTORY]

A directory's job waits for those of its subdirectories, and lends them its slot meanwhile; so the
slots bound how many directories are read at once, however deep they are.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import anyio
import anyio.to_thread

from anyslots import Executor, gather


def read(directory: Path) -> tuple[int, list[Path]]:
    """The size of the files that are directly in a directory, and its subdirectories."""
    size, inside = 0, []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inside.append(Path(entry.path))
            else:
                size += entry.stat(follow_symlinks=False).st_size
    return size, sorted(inside)


async def measure(executor: Executor, directory: Path) -> dict[Path, int]:
    """The size of a directory, which comes first, and of each one below it."""
    size, inside = await anyio.to_thread.run_sync(read, directory)
    below = await gather(*(executor.submit(measure, executor, path) for path in inside))
    sizes = {directory: size + sum(tree[path] for path, tree in zip(inside, below, strict=True))}
    for tree in below:
        sizes.update(tree)
    return sizes


async def main(directory: Path, slots: int) -> None:
    async with Executor(slots) as executor:
        for path, size in (await executor.submit(measure, executor, directory)).items():
            print(f"{size:>12,}  {path.relative_to(directory)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a directory and those inside it.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path())
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    anyio.run(main, options.directory, options.slots, backend=options.backend)
