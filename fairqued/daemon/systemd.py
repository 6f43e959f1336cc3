"""What systemd is told about this daemon: the datagrams of sd_notify(3), sent to the socket that it named."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import MutableMapping

_MOST_STATUS_BYTES = 1000
"""systemd throws away datagrams of more than 4096 bytes."""
_BEATS_A_WATCHDOG = 3


class Systemd:
    """The service manager that started this process; without one every call does nothing.

    It is news only: what cannot be sent at once is dropped, and no call ever raises. Made once, early: its variables
    leave `environ`, so that workers, tasks and what those start do not speak for the daemon.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        self._watchdog_seconds = _watchdog_seconds(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        self._next_beat = 0.0
        self._is_ready = False
        self._told = ""

    def needs_time(self, seconds: float) -> None:
        """This start, reload or stop may take that long from now on, if the unit allows less."""
        self._send(_extension(seconds))

    def ready(self, status: str) -> None:
        """The daemon is up, or a reload is over. Where that was told already it is but a status."""
        if self._is_ready:
            self.status(status)
        else:
            self._is_ready = self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` tells its end. It may take as long as `alive` is called."""
        self._is_ready = False
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", _status("reloading"))

    def stopping(self, status: str, within_seconds: float = 0.0) -> None:
        """The daemon ends, within that time even if the unit allows less."""
        self._send("STOPPING=1", _status(status), _extension(within_seconds))

    def status(self, text: str) -> None:
        """What `systemctl status` shows; sent only where it changed."""
        line = _status(text)
        if line != self._told:
            self._send(line)

    def alive(self) -> None:
        """The supervise loop made progress. Call it as often as you like: a third of WatchdogSec lies between two."""
        if self._watchdog_seconds == 0 or (now := time.monotonic()) < self._next_beat:
            return
        if self._send("WATCHDOG=1", _extension(0.0 if self._is_ready else self._watchdog_seconds)):
            self._next_beat = now + self._watchdog_seconds / _BEATS_A_WATCHDOG

    def _send(self, *lines: str) -> bool:
        """Whether it could be sent."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
                talk.settimeout(0)
                talk.sendto("\n".join(filter(None, lines)).encode(), self._address)
        except OSError:
            return False
        self._told = next((line for line in lines if line.startswith("STATUS=")), self._told)
        return True


def _address(named: str) -> bytes:
    """The address of the socket: a path, or `@name` in the abstract namespace; empty if it is neither."""
    if named[:1] not in ("/", "@"):
        return b""
    path = os.fsencode(named)
    return b"\0" + path[1:] if named[0] == "@" else path


def _watchdog_seconds(microseconds: str, pid: str) -> float:
    """How long the service manager waits for a sign of life of this process; 0 if it does not."""
    is_ours = pid in ("", str(os.getpid()))
    return int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0


def _status(text: str) -> str:
    """One line: a line break would begin another variable."""
    line = " ".join(text.split()).encode(errors="replace")
    return "STATUS=" + line[:_MOST_STATUS_BYTES].decode(errors="ignore")


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}" if seconds > 0 else ""
