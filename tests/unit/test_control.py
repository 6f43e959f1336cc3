import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from fairqued.daemon.config import Config, RedisSettings, WorkerSettings
from fairqued.daemon.control import ControlServer, Refusal, Request
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.reload import load_again
from fairqued.daemon.watch import SourceFiles
from fairqued.errors import ConfigError

LATE = 10


@contextmanager
def serving(path: Path, orders: Callable[[Request], None]) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """A control socket; yields what asks it."""

    def ask(line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(LATE)
            talk.connect(str(path))
            talk.sendall(line + b"\n")
            answer: dict[str, Any] = orjson.loads(talk.makefile("rb").readline())
            return answer

    with ControlServer(path) as server:
        server.start(ForkGate(), lambda: {"pid": 1}, orders)
        yield ask


def in_a_loop(carry_out: Callable[[Request], dict[str, Any]]) -> Callable[[Request], None]:
    """Requests are answered by another thread, as by the master's loop."""
    return lambda request: threading.Thread(target=request.answer, args=(lambda: carry_out(request),)).start()


def refuse(error: Exception) -> Callable[[Request], dict[str, Any]]:
    def carry_out(_: Request) -> dict[str, Any]:
        raise error

    return carry_out


def test_requests_are_carried_out_elsewhere(tmp_path: Path) -> None:
    with serving(tmp_path / "c", in_a_loop(lambda request: {"did": request.said})) as ask:
        assert ask(b'{"command":"status"}') == {"ok": {"pid": 1}}
        assert ask(b'{"command":"ping"}') == {"ok": "pong"}
        for command in ("reload", "drain", "scale"):
            said = {"command": command, "pool": "main"}
            assert ask(orjson.dumps(said)) == {"ok": {"did": said}}


@pytest.mark.parametrize("error", [Refusal("fairqued is stopping"), ConfigError("two\nlines")])
def test_a_refusal_is_told(tmp_path: Path, error: Exception) -> None:
    with serving(tmp_path / "c", in_a_loop(refuse(error))) as ask:
        assert ask(b'{"command":"reload"}') == {"error": str(error)}


def test_a_bug_is_told_too() -> None:
    request = Request({"command": "reload"})
    with pytest.raises(ZeroDivisionError):
        request.answer(lambda: refuse(ZeroDivisionError("oops"))(request))
    assert request.wait() == {"error": "ZeroDivisionError: oops"}


def test_a_loop_that_does_not_answer_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairqued.daemon.control._ANSWER_SECONDS", 0.05)
    with serving(tmp_path / "c", lambda _: None) as ask:
        assert "busy" in ask(b'{"command":"reload"}')["error"]


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b"3", b'"reload"', b"{}", b'{"command":"fly"}'])
def test_nonsense_gets_an_error(tmp_path: Path, line: bytes) -> None:
    with serving(tmp_path / "c", in_a_loop(lambda _: {})) as ask:
        assert list(ask(line)) == ["error"]


def config(**settings: Any) -> Config:
    return Config(**{"redis": RedisSettings(url="redis://localhost"), "state_dir": Path("/s"), **settings})


def test_most_settings_may_change() -> None:
    new = config(worker=WorkerSettings(drain_seconds=1))
    assert load_again(lambda: new, config()) is new


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"namespace": "other"}, "namespace"),
        ({"redis": RedisSettings(url="redis://elsewhere")}, "redis"),
        ({"redis": RedisSettings(url="embedded")}, "redis"),
        ({"redis": RedisSettings(url="redis://localhost", server_binary="/x")}, "redis.server_binary"),
        ({"state_dir": Path("/t")}, "state_dir, control.socket"),
        ({"partitions": 2}, "partitions"),
    ],
)
def test_what_a_running_daemon_cannot_change(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(Refusal) as caught:
        load_again(lambda: config(**changes), config())
    assert str(caught.value).startswith(f"{names}: ")


def test_changed_sources_are_noticed(tmp_path: Path) -> None:
    for name in ("a.py", "b.txt", ".hidden/c.py", "package/d.py", "venv/e.py", "__pycache__/f.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    files = SourceFiles([str(tmp_path)])
    assert files.changed() == []
    for name in ("b.txt", ".hidden/c.py", "venv/e.py", "__pycache__/f.py"):
        (tmp_path / name).write_text("22")
    assert files.changed() == []
    (tmp_path / "package/d.py").write_text("22")
    (tmp_path / "new.py").write_text("")
    (tmp_path / "a.py").unlink()
    assert files.changed() == [tmp_path / "a.py", tmp_path / "new.py", tmp_path / "package/d.py"]
    assert files.changed() == []
