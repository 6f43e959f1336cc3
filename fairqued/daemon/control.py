"""The control socket: one JSON line in, one JSON line out, for `fairquectl` on the same host."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from fairqued.daemon.gate import ForkGate
from fairqued.daemon.sockets import check_socket_path
from fairqued.errors import ConfigError

logger = logging.getLogger("fairqued.control")

_MAX_REQUEST_BYTES = 65_536
_TALK_SECONDS = 2.0
_ANSWER_SECONDS = 10.0

Answer = dict[str, Any]


class Refusal(Exception):
    """A request cannot be carried out: the reason, for people."""


class Request:
    """An order from the control socket, carried out by the master's loop."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self._answer: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    @property
    def command(self) -> str:
        """What to do."""
        return str(self.said.get("command"))

    def answer(self, carry_out: Callable[[], Answer]) -> None:
        """Carry it out, and let whoever asked know how that went."""
        try:
            self._answer.put({"ok": carry_out()})
        except (Refusal, ConfigError) as refusal:
            self._answer.put({"error": str(refusal)})
        except BaseException as error:
            self._answer.put({"error": f"{type(error).__name__}: {error}"})
            raise

    def wait(self) -> Answer:
        """The answer, in the thread that asked."""
        try:
            return self._answer.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            return {"error": "the daemon is busy and has not answered; look at its log"}


class ControlServer:
    """Answers on a Unix socket from a thread; each answer is made at the fork gate.

    The path is taken on entering the `with` block, and refuses connections until `start`.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the path is too long for a socket."""
        self._path = check_socket_path(path, "control.socket")
        self._socket = socket.socket(socket.AF_UNIX)

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
        while True:
            try:
                talk, _ = self._socket.accept()
            except OSError:
                return
            try:
                with talk:
                    talk.settimeout(_TALK_SECONDS)
                    said = _read_line(talk)
                    with gate.work():
                        answer = _answer(said, status, orders)
                    talk.sendall(_line(answer.wait() if isinstance(answer, Request) else answer))
            except OSError:
                pass  # whoever asked is gone
            except Exception:
                with gate.work():
                    logger.exception("a request on the control socket failed")


def _answer(said: bytes, status: Callable[[], Answer], orders: Callable[[Request], None]) -> Answer | Request:
    """The answer, or the request that waits for it."""
    try:
        request = Request(dict(orjson.loads(said)))
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return {"error": 'expected one line of JSON: {"command": …}'}
    match request.command:
        case "status":
            return {"ok": status()}
        case "ping":
            return {"ok": "pong"}
        case "reload" | "drain" | "scale":
            orders(request)
            return request
        case unknown:
            return {"error": f"unknown command {unknown!r}"}


def _read_line(talk: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST_BYTES:
        more = talk.recv(4096)
        if not more:
            break
        data += more
    return data


def _line(answer: Answer) -> bytes:
    return orjson.dumps(answer) + b"\n"
