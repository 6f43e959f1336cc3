"""The control socket: one JSON line in, one JSON line out, for `fairquectl` on the same host."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from fairqued.errors import ConfigError

if TYPE_CHECKING:
    from fairqued.daemon.master import Master

logger = logging.getLogger("fairqued.control")

_MAX_REQUEST_BYTES = 65_536
_TALK_SECONDS = 2.0
_MAX_SOCKET_PATH_BYTES = 100


class ControlServer:
    """Answers on a Unix socket from a thread; each answer is made at the fork gate."""

    def __init__(self, path: Path, master: Master) -> None:
        self._path, self._master = path, master
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def __enter__(self) -> Self:
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH_BYTES:
            raise ConfigError(f"control.socket {self._path}: longer than {_MAX_SOCKET_PATH_BYTES} bytes")
        with suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self._path))
        except OSError as error:
            raise ConfigError(f"control.socket {self._path}: {error.strerror}") from None
        self._path.chmod(0o600)
        listener.listen(16)
        self._socket = listener
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._path.unlink()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                talk, _ = self._socket.accept()
            except OSError:
                return
            with talk, suppress(OSError):
                talk.settimeout(_TALK_SECONDS)
                request = _read_line(talk)
                with self._master.gate.work():
                    answer = self._answer(request)
                talk.sendall(answer)

    def _answer(self, request: bytes) -> bytes:
        try:
            command = orjson.loads(request)["command"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _line({"error": 'expected one line of JSON: {"command": …}'})
        match command:
            case "status":
                return _line({"ok": self._master.status()})
            case "ping":
                return _line({"ok": "pong"})
            case _:
                return _line({"error": f"unknown command {command!r}"})


def _read_line(talk: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST_BYTES:
        more = talk.recv(4096)
        if not more:
            break
        data += more
    return data


def _line(answer: dict[str, Any]) -> bytes:
    return orjson.dumps(answer) + b"\n"
