"""Have pyright, ty and pyrefly check this directory: they find the marked mistakes, and no others.

A mark is mypy's ``# type: ignore[...]``, with the error that mypy itself must find there. The other
checkers get to see the files without these comments. Run as ``python check.py``, after mypy.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MARK = re.compile(r"  # type: ignore\[.*\]$")
ERROR = re.compile(r"(\w+\.py):(\d+):\d+(?: -|:) error|^ERROR (\w+\.py):(\d+):")

CHECKERS = {
    "pyright": ["pyright", "--pythonpath", sys.executable],
    "ty": ["ty", "check", "--output-format", "concise", "--python", sys.prefix],
    "pyrefly": [
        *("pyrefly", "check", "--output-format", "min-text"),
        # Its default without a configuration finds hardly anything.
        *("--preset", "strict", "--python-interpreter-path", sys.executable),
    ],
}


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        marked: set[tuple[str, int]] = set()
        for path in HERE.glob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            marked |= {(path.name, n) for n, line in enumerate(lines, 1) if MARK.search(line)}
            text = "\n".join(MARK.sub("", line) for line in lines)
            Path(directory, path.name).write_text(text + "\n", encoding="utf-8")
        Path(directory, "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        for name, command in CHECKERS.items():
            done = subprocess.run(
                [*command, "."], cwd=directory, capture_output=True, text=True, check=False
            )
            found: set[tuple[str, int]] = set()
            for line in done.stdout.splitlines():
                if match := ERROR.search(line):
                    place = match[1] or match[3], int(match[2] or match[4])
                    found.add(place)
                    if place not in marked:
                        print(f"{name}: {line}")
            for file, number in sorted(marked - found):
                print(f"{name} doesn't find the mistake in {HERE / file}:{number}")
            if not found:
                print(done.stdout, done.stderr, sep="\n")
            print(f"{name}: {len(found & marked)} of {len(marked)} mistakes found")
            failed = failed or found != marked
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
