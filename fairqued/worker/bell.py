"""Waiting: for a task that ended here, for a signal, or for the bell of a queue in Redis, all at once.

The bell is a one-member marker ZSET; an idle worker blocks on it with BZPOPMIN over a connection of its own, and looks
at that socket together with its local wake-up pipe (the marker is BullMQ's idea).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from redis.connection import AbstractConnection
from redis.exceptions import RedisError

from fairqued.connection import Connection

BLOCK_SECONDS = 3.0
_GRACE_SECONDS = 3.0


class Waker:
    """A pipe that wakes a thread out of `select`; safe to ring from threads and signal handlers."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    @property
    def write_fd(self) -> int:
        """For `signal.set_wakeup_fd`."""
        return self._write

    def ring(self) -> None:
        """Wake the sleeper, now or when it next sleeps."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # it is full of wake-ups already

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Bell:
    """A blocking BZPOPMIN on the bells of some queues, that does not block its caller."""

    def __init__(self, connection: Connection, keys: Sequence[str]) -> None:
        self._owner, self._keys = connection, list(keys)
        self._connection: AbstractConnection | None = None
        self._armed_until: float | None = None

    @property
    def is_armed(self) -> bool:
        """Whether a BZPOPMIN is under way."""
        return self._armed_until is not None

    def arm(self, seconds: float) -> None:
        """Start to listen for at most `seconds`. Raises RedisError or OSError; call `reset` then."""
        if self._connection is None:
            self._connection = self._owner.client.connection_pool.make_connection()
            self._connection.connect()
        block = max(0.01, min(seconds, BLOCK_SECONDS))
        self._connection.send_command("BZPOPMIN", *self._keys, f"{block:.3f}")
        self._armed_until = time.monotonic() + block

    def fileno(self) -> int:
        """The socket to look at while armed."""
        assert self._connection is not None
        return int(self._connection._sock.fileno())  # noqa: SLF001 - redis-py has no public name for it

    def answer(self) -> bool:
        """Read the reply that has arrived: True if the bell rang, False if the time was over.

        Raises RedisError or OSError; call `reset` then.
        """
        assert self._connection is not None
        self._armed_until = None
        return self._connection.read_response() is not None

    @property
    def is_overdue(self) -> bool:
        """Whether the server should have answered long ago: the connection is dead."""
        return self._armed_until is not None and time.monotonic() > self._armed_until + _GRACE_SECONDS

    def reset(self) -> None:
        """Drop the connection, and with it a BZPOPMIN under way."""
        self._armed_until = None
        if self._connection is not None:
            try:
                self._connection.disconnect()
            except (RedisError, OSError):
                pass
            self._connection = None


def wait_any(sources: Sequence[Waker | Bell], timeout_seconds: float | None) -> list[Waker | Bell]:
    """Those of `sources` that have something to read, after at most `timeout_seconds`."""
    ready, _, _ = select.select(sources, (), (), timeout_seconds)
    return list(ready)
