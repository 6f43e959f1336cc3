"""How long a thread waits for Redis, whatever Redis does meanwhile.

The timeouts of redis-py begin anew with each address, each step of a greeting and each few bytes that arrive, so a
server that trickles holds a call for ever. Here a thread says how long it waits, and its connections keep to that.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis

T = TypeVar("T")

_SHORTEST_CONNECT_SECONDS = 0.01
_SHORT_OF = 0.9


class _Patience(threading.local):
    until = math.inf


_patience = _Patience()


def patiently(seconds: float, work: Callable[[], T]) -> T:
    """Call `work`: meanwhile this thread waits at most so long for Redis, and no longer than an outer call allows.

    No context manager: the interruption of a task would land as its `__exit__` begins, and the thread never wait again.
    """
    before = _patience.until
    until = min(before, time.monotonic() + seconds)
    try:
        _patience.until = until
        return work()
    finally:
        _patience.until = before


def _at_most(seconds: float | None) -> float | None:
    """What is left of `seconds`, a timeout in the sense of sockets."""
    left = _patience.until - time.monotonic()
    if left == math.inf:
        return seconds
    if left <= 0:
        raise TimeoutError("timed out")
    return left if seconds is None else min(seconds, left)


class _Socket:
    """A connected socket that waits as long as its own timeout and the thread that uses it allow.

    Setting the timeout of a socket is a system call: one that is only a little too short stays.
    """

    def __init__(self, connected: Any) -> None:
        self._socket: Any = connected
        self._timeout_seconds: float | None = connected.gettimeout()
        self._set_seconds = self._timeout_seconds

    def settimeout(self, seconds: float | None) -> None:
        self._timeout_seconds = seconds

    def recv(self, *args: Any) -> bytes:
        received: bytes = self._in_time().recv(*args)
        return received

    def recv_into(self, *args: Any) -> int:
        received: int = self._in_time().recv_into(*args)
        return received

    def sendall(self, data: bytes) -> None:
        self._in_time().sendall(data)

    def _in_time(self) -> Any:
        longest, present = _at_most(self._timeout_seconds), self._set_seconds
        if longest is None:
            is_right = present is None
        else:
            is_right = present is not None and _SHORT_OF * longest <= present <= longest
        if not is_right:
            self._set_seconds = None if longest is None else longest * (1 + _SHORT_OF) / 2
            self._socket.settimeout(self._set_seconds)
        return self._socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Punctual:
    """What makes a connection of redis-py keep to the patience of its thread."""

    _socket_connect_timeout: float | None

    @property
    def socket_connect_timeout(self) -> float:
        """At most half of what is left: the next address of the host gets a chance, too."""
        assert self._socket_connect_timeout is not None, "a client of ours sets it"
        half = (_patience.until - time.monotonic()) / 2
        return max(_SHORTEST_CONNECT_SECONDS, min(self._socket_connect_timeout, half))

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        self._socket_connect_timeout = seconds

    def _connect(self) -> Any:
        library: Any = super()
        return _Socket(library._connect())  # noqa: SLF001 - the one place where redis-py makes a socket


class _TcpConnection(_Punctual, redis.Connection):  # type: ignore[misc]  # what is a property there differs
    pass


class _UnixConnection(_Punctual, redis.UnixDomainSocketConnection):  # type: ignore[misc]
    pass


class _TlsConnection(_Punctual, redis.SSLConnection):  # type: ignore[misc]
    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        before = sock.gettimeout()
        sock.settimeout(_at_most(before))  # for the whole handshake
        library: Any = super()
        wrapped = library._wrap_socket_with_ssl(sock)  # noqa: SLF001 - as above
        wrapped.settimeout(before)
        return wrapped


CONNECTION_CLASSES = {"redis": _TcpConnection, "rediss": _TlsConnection, "unix": _UnixConnection}
"""By the scheme of the URL."""
