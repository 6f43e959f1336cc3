"""The control socket: one JSON line in, one JSON line out, for `fairquectl` on the same host."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from fairqued.daemon.gate import ForkGate
from fairqued.daemon.signals import leave_to_main_thread
from fairqued.daemon.sockets import check_socket_path
from fairqued.errors import ConfigError

logger = logging.getLogger("fairqued.control")

_MAX_REQUEST_BYTES = 65_536
_TALK_SECONDS = 2.0
_ANSWER_SECONDS = 0.5
_ERROR_PAUSE_SECONDS = 0.1

Answer = dict[str, Any]


class Refusal(Exception):
    """A request cannot be carried out: the reason, for people."""


class Request:
    """An order from the control socket, carried out by the master's loop, which also answers it."""

    def __init__(self, line: bytes, talk: socket.socket) -> None:
        """`line` is what came over the connection `talk`."""
        self.said, self._talk = _parsed(line), talk
        self.command = str(self.said.get("command", ""))
        """What to do; empty if the line is nonsense."""

    def answer(self, carry_out: Callable[[], Answer]) -> None:
        """Carry it out, and let whoever asked know how that went."""
        try:
            self.tell({"ok": carry_out()})
        except (Refusal, ConfigError) as refusal:
            self.tell({"error": str(refusal)})
        except BaseException as error:
            self.tell({"error": f"{type(error).__name__}: {error}"})
            raise

    def tell(self, answer: Answer) -> None:
        """Send the answer, and take leave. It is short: nobody can hold us up by not reading it."""
        with self._talk, suppress(OSError):  # whoever asked may be gone
            self._talk.settimeout(_ANSWER_SECONDS)
            self._talk.sendall(orjson.dumps(answer) + b"\n")


class ControlServer:
    """Answers on a Unix socket from a thread; each answer is made at the fork gate.

    The path is taken on entering the `with` block, and refuses connections until `start`.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the path is too long for a socket."""
        self._path = check_socket_path(path, "control.socket")
        self._socket = socket.socket(socket.AF_UNIX)
        self._is_closed = False

    def __enter__(self) -> Self:
        self._remove_stale()
        try:
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
        except OSError as error:
            raise ConfigError(f"control.socket {self._path}: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread out of `accept`
        self._socket.close()

    def start(self, gate: ForkGate, status: Callable[[], Answer], orders: Callable[[Request], None]) -> None:
        """Begin to answer. `orders` hands a request to the master's loop."""
        self._socket.listen(16)
        threading.Thread(target=self._serve, args=(gate, status, orders), name="control", daemon=True).start()

    def _remove_stale(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self._path)) == 0:
                raise ConfigError(f"control.socket {self._path}: another daemon listens there")
        if self._path.is_socket():
            self._path.unlink(missing_ok=True)

    def _serve(self, gate: ForkGate, status: Callable[[], Answer], orders: Callable[[Request], None]) -> None:
        leave_to_main_thread()
        while not self._is_closed:
            try:
                talk, _ = self._socket.accept()
            except OSError:
                if not self._is_closed:  # no descriptor is left, for a while
                    time.sleep(_ERROR_PAUSE_SECONDS)
                continue
            try:
                request = Request(_read_line(talk), talk)
                with gate.work():
                    answer = _answer(request, status, orders)
                if answer is not None:
                    request.tell(answer)
            except OSError:
                talk.close()  # whoever asked is gone
            except Exception:
                talk.close()
                with gate.work():
                    logger.exception("a request on the control socket failed")


def _answer(request: Request, status: Callable[[], Answer], orders: Callable[[Request], None]) -> Answer | None:
    """The answer; None if the master's loop is to give it."""
    match request.command:
        case "status":
            return {"ok": status()}
        case "ping":
            return {"ok": "pong"}
        case "reload" | "drain" | "scale":
            orders(request)
            return None
        case "":
            return {"error": 'expected one line of JSON: {"command": …}'}
        case unknown:
            return {"error": f"unknown command {unknown!r}"}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _read_line(talk: socket.socket) -> bytes:
    """What is asked. Raises OSError if that takes too long."""
    deadline, data = time.monotonic() + _TALK_SECONDS, b""
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST_BYTES:
        talk.settimeout(max(0.001, deadline - time.monotonic()))
        more = talk.recv(4096)
        if not more:
            break
        data += more
    return data
