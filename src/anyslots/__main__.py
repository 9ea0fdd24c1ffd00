"""The command ``anyslots``, the same as ``python -m anyslots``: its arguments and its errors.

What the demo does is in ``_demo``, which is imported, and httpx with it, only when it's asked for.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status.

    0: all is well; 1: a download failed; 130: interrupted. Raises `SystemExit` after printing
    help (0), and for bad arguments and missing packages (2).
    """
    parser = Parser(prog="anyslots", description="Run async functions, so many at once.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    about = "download pages, a few at once, and show what ran when in which slot"
    demo = commands.add_parser("demo", help=about, description=about.capitalize())
    option = demo.add_argument
    option("--backend", choices=("asyncio", "trio"), default="asyncio", help="default: asyncio")
    option("--slots", metavar="N", type=positive, default=4, help="downloads at once (4)")
    option("--jobs", metavar="N", type=positive, help="downloads (11, or the URLs in FILE)")
    option("--url-file", metavar="FILE", type=url_file, help="URLs to download, one a line")
    option("--svg", metavar="FILE", help="save the picture of what ran in which slot when")
    option("--trace", metavar="FILE", help="save it as a trace for Perfetto or chrome://tracing")
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return 0
        demo.need("httpx", extra="demo")
        demo.need("rich", extra="demo")
        demo.need(args.backend, extra=args.backend)
        from ._demo import run

        return run(args)
    except KeyboardInterrupt:
        print("anyslots: interrupted", file=sys.stderr)
        return 130


class Parser(ArgumentParser):
    """Reports each error in one line, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def need(self, module: str, *, extra: str) -> None:
        """Exit unless ``module`` can be imported."""
        try:
            import_module(module)
        except ImportError:
            self.error(f"{module} is not installed: pip install 'anyslots[{extra}]'")


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


if __name__ == "__main__":
    sys.exit(main())
