"""What the tests run in pools. Worker processes import it, so it imports little itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def add(a: int, b: int) -> int:
    return a + b


def fail(message: str) -> None:
    raise LookupError(message)


def pid() -> int:
    return os.getpid()


def meet(port: int) -> str:
    """Say by a connection that this has begun, and stay until something comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        return connection.recv(100).decode()


def die(log: str) -> None:
    """End the worker's process, as a crash or the kernel's memory killer does."""
    with Path(log).open("a") as file:
        file.write("x")
    os._exit(1)
