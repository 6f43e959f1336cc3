"""Waiting: for a task that ended here, for a signal, or for the bell of a queue in Redis, all at once.

The bell is a one-member marker ZSET; an idle worker blocks on it with BZPOPMIN over a connection of its own, and looks
at that socket together with its local wake-up pipe (the marker is BullMQ's idea).
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from fairqued.connection import Connection

BLOCK_SECONDS = 2.5
_GRACE_SECONDS = 0.25
"""Together they bound how long a dead connection keeps an idle worker from its work."""


class Waker:
    """Wakes a thread out of `wait_any`; safe to ring from threads and signal handlers."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.settimeout(0)
        self._write.settimeout(0)
        self.is_awaited = False
        """Set by the sleeper, for `nudge`."""

    def fileno(self) -> int:
        """What to look at."""
        return self._read.fileno()

    def ring(self) -> None:
        """Wake the sleeper, now or when it next sleeps; nothing once it is closed."""
        with suppress(OSError):  # it may be full of wake-ups already
            self._write.send(b"!")

    def nudge(self) -> None:
        """Wake the sleeper if it sleeps; once is enough for all that happens meanwhile."""
        if self.is_awaited:
            self.is_awaited = False
            self.ring()

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        with suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._read.close()
        self._write.close()


class Bell:
    """A blocking BZPOPMIN on the bells of some queues, that does not block its caller."""

    def __init__(self, connection: Connection, keys: Sequence[str]) -> None:
        self._owner, self._keys = connection, list(keys)
        self._connection: Any = None
        self._armed_until: float | None = None

    @property
    def is_armed(self) -> bool:
        """Whether a BZPOPMIN is under way."""
        return self._armed_until is not None

    def arm(self, seconds: float) -> None:
        """Start to listen for at most `seconds`. Raises FairquedError or RedisError; call `reset` then."""
        block = max(0.01, min(seconds, BLOCK_SECONDS))
        self._owner.once(lambda _client: self._start(block))
        self._armed_until = time.monotonic() + block

    def _start(self, block_seconds: float) -> None:
        if self._connection is None:
            self._connection = self._owner.apart()
        self._connection.send_command("BZPOPMIN", *self._keys, f"{block_seconds:.3f}")

    def fileno(self) -> int:
        """The socket to look at while armed."""
        return int(self._connection._sock.fileno())  # noqa: SLF001 - redis-py has no public name for it

    def answer(self) -> bool:
        """Read the reply that has arrived: True if the bell rang, False if the time was over.

        Raises FairquedError or RedisError; call `reset` then.
        """
        self._armed_until = None
        return self._owner.once(lambda _client: self._connection.read_response()) is not None

    @property
    def overdue_at(self) -> float:
        """When the server should have answered (monotonic): later the connection counts as dead."""
        return math.inf if self._armed_until is None else self._armed_until + _GRACE_SECONDS

    def reset(self) -> None:
        """Drop the connection, and with it a BZPOPMIN under way."""
        self._armed_until = None
        if self._connection is not None:
            with suppress(RedisError, OSError):
                self._connection.disconnect()
            self._connection = None


def wait_any(sources: Sequence[Waker | Bell], timeout_seconds: float = math.inf) -> list[Waker | Bell]:
    """Those of `sources` that have something to read, after at most `timeout_seconds`."""
    by_descriptor = {source.fileno(): source for source in sources}
    poll = select.poll()  # `select` cannot look at descriptors above 1023, and tasks may open many
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    ready = poll.poll(None if timeout_seconds == math.inf else max(0.0, timeout_seconds) * 1000)
    return [by_descriptor[descriptor] for descriptor, _ in ready]
