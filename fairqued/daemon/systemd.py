"""What systemd is told: the notification protocol of sd_notify(3), spoken without its library.

Outside systemd (`$NOTIFY_SOCKET` is not set) every call does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Systemd:
    """The service manager of this process."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        place = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + place[1:] if place.startswith("@") else place
        self.watchdog_seconds = _watchdog_seconds(environ)
        """How often at least `alive` has to be called; None where nobody watches."""
        self._fed_at = 0.0

    def ready(self, status: str) -> None:
        """The service is up."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def reloading(self) -> None:
        """A new configuration is being applied; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The service goes down in good order."""
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_one_line(status)}")

    def alive(self) -> None:
        """Feed the watchdog, at most twice in its time. Call this only where real progress was made."""
        now = time.monotonic()
        if self.watchdog_seconds is not None and now - self._fed_at >= self.watchdog_seconds / 2:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as talk:
            talk.connect(self._address)
            talk.send(message.encode())


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
