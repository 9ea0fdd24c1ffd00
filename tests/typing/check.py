"""Have pyright, ty and pyrefly check this directory: they find the marked mistakes, and no others.

A mark is mypy's ``# type: ignore[...]``, with the error that mypy itself must find there. The other
checkers get to see the files without these comments. ``# beyond ty`` marks a line that's right, and
that ty gets wrong as yet: once it doesn't, the mark has to go. Run it as ``python check.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MARK = re.compile(r"  # type: ignore\[.*\](?:  # unseen by \w+)?$|  # beyond (\w+)$")
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
    expected: dict[str, set[tuple[str, int]]] = {checker: set() for checker in CHECKERS}
    with tempfile.TemporaryDirectory() as directory:
        for path in HERE.glob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines, 1):
                if mark := MARK.search(line):
                    for checker in [mark[1]] if mark[1] else CHECKERS:
                        if f"unseen by {checker}" not in line:
                            expected[checker].add((path.name, number))
            text = "".join(MARK.sub("", line) + "\n" for line in lines)
            Path(directory, path.name).write_text(text, encoding="utf-8")
        Path(directory, "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
        wrong = [
            checker for checker in CHECKERS if not agrees(checker, directory, expected[checker])
        ]
    return len(wrong)


def agrees(checker: str, directory: str, expected: set[tuple[str, int]]) -> bool:
    """Whether a checker finds errors in the expected lines of the files there, and nowhere else."""
    command = [*CHECKERS[checker], "."]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    found: set[tuple[str, int]] = set()
    for line in done.stdout.splitlines():
        if error := ERROR.search(line):
            place = error[1] or error[3], int(error[2] or error[4])
            found.add(place)
            if place not in expected:
                print(f"{checker}: {line}")
    for file, number in sorted(expected - found):
        print(f"{checker} finds nothing wrong in {HERE / file}:{number}")
    if not found:
        print(done.stdout, done.stderr, sep="\n")
    print(f"{checker}: {len(found & expected)} of {len(expected)} errors found")
    return found == expected


if __name__ == "__main__":
    sys.exit(main())
