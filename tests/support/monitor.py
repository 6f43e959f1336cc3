"""What clients ask of a Redis server, as MONITOR tells."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.support.servers import RedisServer

# 1700000000.123456 [0 127.0.0.1:40000] "EVALSHA" … ; commands of scripts come from "lua" instead of an address.
_LINE = re.compile(rb'\+[\d.]+ \[\d+ 127\.0\.0\.1:(\d+)\] "(\w+)"')


class Monitor:
    """Requests by the client's port, while it listens. Commands inside scripts are not requests."""

    def __init__(self, server: RedisServer) -> None:
        self._talk = socket.create_connection(("127.0.0.1", server.port))
        self._talk.sendall(b"MONITOR\r\n")
        self._lines = self._talk.makefile("rb")
        assert self._lines.readline() == b"+OK\r\n"
        self.requests: list[tuple[int, str]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for line in self._lines:
            if match := _LINE.match(line):
                self.requests.append((int(match[1]), match[2].decode()))

    def close(self) -> None:
        self._talk.shutdown(socket.SHUT_WR)  # the server ends it, so nothing is cut off
        self._thread.join()
        self._lines.close()
        self._talk.close()


@contextmanager
def monitor(server: RedisServer) -> Iterator[list[tuple[int, str]]]:
    """The requests made during the block: port and command."""
    watcher = Monitor(server)
    yield watcher.requests
    watcher.close()


def ports_of(pid: int, server: RedisServer) -> set[int]:
    """The local ports of a process's connections to a server."""
    connections = psutil.Process(pid).net_connections("tcp4")
    return {each.laddr[1] for each in connections if each.raddr[1:] == (server.port,)}
