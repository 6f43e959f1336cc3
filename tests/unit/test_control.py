import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from fairqued.daemon.config import Config, RedisSettings, WorkerSettings, redis_url
from fairqued.daemon.control import ControlServer, Refusal, Request
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.reload import load_again
from fairqued.daemon.watch import SourceFiles
from fairqued.errors import ConfigError
from tests.support.wait import wait_until

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
    talk, other = socket.socketpair()
    request = Request(b'{"command":"reload"}', talk)
    with pytest.raises(ZeroDivisionError):
        request.answer(lambda: refuse(ZeroDivisionError("oops"))(request))
    assert other.makefile("rb").read() == b'{"error":"ZeroDivisionError: oops"}\n'
    other.close()


def test_whoever_has_gone_is_no_trouble() -> None:
    talk, other = socket.socketpair()
    other.close()
    Request(b'{"command":"drain"}', talk).answer(lambda: {"drain_seconds": 1})


def test_a_loop_that_is_busy_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    waiting: list[Request] = []
    with serving(tmp_path / "c", waiting.append) as ask:
        askers = [threading.Thread(target=ask, args=(b'{"command":"reload"}',)) for _ in range(10)]
        for asker in askers:
            asker.start()
        wait_until(lambda: len(waiting) == 10, LATE, "all have asked")
        assert ask(b'{"command":"status"}') == {"ok": {"pid": 1}}
        for request in waiting:
            request.answer(lambda: {"round": 1})
        for asker in askers:
            asker.join(LATE)


def test_whoever_speaks_slowly_is_not_heard_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairqued.daemon.control._TALK_SECONDS", 0.3)
    with serving(tmp_path / "c", lambda _: None) as ask, socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(tmp_path / "c"))
        over = threading.Event()
        speaker = threading.Thread(target=speak_until, args=(over, slow))
        speaker.start()
        try:
            assert ask(b'{"command":"ping"}') == {"ok": "pong"}
        finally:
            over.set()
            speaker.join(LATE)


def speak_until(over: threading.Event, talk: socket.socket) -> None:
    """Say a bit every now and then."""
    with suppress(OSError):
        while not over.wait(0.05):
            talk.send(b" ")


def test_it_goes_on_after_descriptors_have_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept, failures = socket.socket.accept, [OSError(errno.EMFILE, "Too many open files")] * 2

    def accept_later(listening: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    with serving(tmp_path / "c", lambda _: None) as ask:
        assert ask(b'{"command":"ping"}') == {"ok": "pong"}
    assert failures == []


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b"3", b'"reload"', b"{}", b'{"command":"fly"}'])
def test_nonsense_gets_an_error(tmp_path: Path, line: bytes) -> None:
    with serving(tmp_path / "c", in_a_loop(lambda _: {})) as ask:
        assert list(ask(line)) == ["error"]


def config(**settings: Any) -> Config:
    return Config(**{"redis": RedisSettings(url="redis://localhost"), "state_dir": Path("/s"), **settings})


def test_most_settings_may_change() -> None:
    new = config(worker=WorkerSettings(drain_seconds=1))
    assert load_again(lambda: new, config(), "redis://localhost") is new


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
        load_again(lambda: config(**changes), config(), "redis://localhost")
    assert str(caught.value).startswith(f"{names}: ")


def test_a_new_password_needs_a_restart(tmp_path: Path) -> None:
    """The daemon goes on with the old one, and so would new workers."""
    file = tmp_path / "password"
    same = config(redis=RedisSettings(url="redis://localhost", password_file=file))
    file.write_text("old")
    url = redis_url(same)
    assert load_again(lambda: same, same, url) is same
    file.write_text("new")
    with pytest.raises(Refusal, match="redis: cannot be changed"):
        load_again(lambda: same, same, url)


def test_an_embedded_redis_stays_where_it_is() -> None:
    embedded = config(redis=RedisSettings(url="embedded"))
    assert load_again(lambda: embedded, embedded, "unix:///s/redis.sock") is embedded


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
