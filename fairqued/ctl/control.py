"""The client of the control socket: one JSON line out, one JSON line in."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import orjson

from fairqued.ctl.exits import DaemonNotRunning
from fairqued.errors import FairquedError

_TALK_SECONDS = 3.0
ORDER_SECONDS = 15.0
"""For what the daemon's loop has to carry out."""
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class NobodyListens(DaemonNotRunning):
    """Nobody listens on the control socket."""


def ask(path: Path, command: str, *, within_seconds: float = _TALK_SECONDS, **details: Any) -> Any:
    """What the daemon that listens on `path` answers to a command.

    Raises:
        DaemonNotRunning: nobody answers there.
        FairquedError: it does not know the command, or its answer cannot be read.
    """
    try:
        line = _talk(path, orjson.dumps({"command": command, **details}) + b"\n", within_seconds)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NobodyListens(f"daemon not running: nobody listens on {path}") from None
    except TimeoutError:
        raise DaemonNotRunning(f"daemon does not answer on {path} within {within_seconds:g} s") from None
    except PermissionError:
        raise DaemonNotRunning(f"daemon cannot be asked: {path}: permission denied; use its user, or root") from None
    except OSError as error:
        raise DaemonNotRunning(f"daemon cannot be asked: {path}: {error.strerror or error}") from None
    return _read(path, line)


def _talk(path: Path, request: bytes, within_seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(within_seconds)
        talk.connect(str(path))
        talk.sendall(request)
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) < _MAX_ANSWER_BYTES:
            more = talk.recv(65_536)
            if not more:
                break
            answer += more
    return bytes(answer)


def _read(path: Path, line: bytes) -> Any:
    if not line:
        raise DaemonNotRunning(f"daemon on {path} closed the connection: it is stopping")
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
        raise FairquedError(f"{path}: the answer is none of fairqued's: {line[:100]!r}")
    if "error" in answer:
        raise FairquedError(f"the daemon refused: {answer['error']}")
    return answer["ok"]
