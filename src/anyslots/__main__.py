"""The command ``anyslots``, the same as ``python -m anyslots``: its arguments and its errors.

What the demo does is in ``_demo``, which is imported, and httpx with it, only when it's asked for.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from . import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status.

    0: all is well; 1: a download failed; 130: interrupted. Raises `SystemExit` after printing
    help or the version (0), and for bad arguments, missing packages and files that can't be
    written (2); nothing has run then.
    """
    about = (
        "Run async functions with a concurrency limit. The demo downloads pages, a few at once, "
    )
    about += "and shows what ran when in which slot."
    parser = Parser(prog="anyslots", description=about)
    option = parser.add_argument
    option("command", nargs="?", choices=("demo",), default="demo", help="the default")
    option("--version", action="version", version=f"%(prog)s {__version__}")
    option("--backend", choices=tuple(BACKENDS), default="asyncio", help="default: asyncio")
    option("--slots", metavar="N", type=positive, default=4, help="downloads at once (4)")
    option("--jobs", metavar="N", type=positive, help="downloads (11, or the URLs in FILE)")
    option("--url-file", metavar="FILE", type=url_file, help="URLs to download, one a line")
    picture = "save what ran in which slot when, as "
    option("--svg", metavar="FILE", type=writable, help=f"{picture}a picture")
    option("--html", metavar="FILE", type=writable, help=f"{picture}a page to zoom into")
    option("--trace", metavar="FILE", type=writable, help=f"{picture}a trace for Perfetto")
    try:
        args = parser.parse_args(argv)
        parser.need("httpx", install="'anyslots[demo]'")
        parser.need("rich", install="'anyslots[demo]'")
        parser.need(args.backend, install=BACKENDS[args.backend])
        from ._demo import run

        return run(args)
    except KeyboardInterrupt:
        print("anyslots: interrupted", file=sys.stderr)
        return 130


BACKENDS = {"asyncio": "", "uvloop": "uvloop", "trio": "'anyslots[trio]'"}
"""What `pip` installs each with."""


class Parser(ArgumentParser):
    """Reports each error in one line, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def need(self, module: str, *, install: str) -> None:
        """Exit unless ``module`` can be imported."""
        try:
            import_module(module)
        except ImportError:
            self.exit(2, f"{self.prog} demo: {module} is not installed: pip install {install}\n")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def url_file(path: str) -> list[str]:
    """The URLs in a file, but for blank lines and those that begin with ``#``."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArgumentTypeError(f"cannot read {path!r}: {reason}") from None
    lines = [line.strip() for line in text.splitlines()]
    urls = [line for line in lines if line and not line.startswith("#")]
    if not urls:
        raise ArgumentTypeError(f"{path!r} has no URL in it")
    return urls


def writable(path: str) -> str:
    """Check that a file can be written, and leave it as it is: the demo writes it at its end."""
    try:
        existed = os.path.lexists(path)
        # What isn't a regular file may block, or show what's written to it.
        if not existed or Path(path).is_file() or Path(path).is_dir():
            with open(path, "ab"):
                pass
        if not existed:
            Path(path).unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArgumentTypeError(f"cannot write {path!r}: {reason}") from None
    return path


if __name__ == "__main__":
    sys.exit(main())
