"""`reload`, `scale` and `drain` against a control socket that answers as told."""

import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairqued.ctl import steer
from tests.support.ctl import Answer, Terminal, ctl

Reply = dict[str, Any]
WORKERS = [{"title": "main/1", "queues": ["default"]}, {"title": "main/2", "queues": ["default"]},
           {"title": "main/2", "queues": ["default"]}, {"title": "main/default!", "queues": ["default!"]}]  # fmt: skip


def status(number: int, left: int, trouble: str = "", phase: str = "running") -> Reply:
    return {"ok": {"pid": os.getpid(), "state_dir": "/state", "phase": phase, "workers": WORKERS,
                   "rollout": {"round": number, "left": left, "trouble": trouble}}}  # fmt: skip


class FakeDaemon:
    """Answers each command with the next of its replies; the last one again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[dict[str, Any]] = []
        self._replies: dict[str, list[Reply]] = {}
        self._last: tuple[str, int] = ("", 0)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def will_say(self, command: str, *replies: Reply) -> None:
        self._replies[command] = list(replies)

    def ends_after(self, command: str, times: int = 1) -> None:
        """Be gone once it has answered this command so often."""
        self._last = command, times

    def orders(self) -> list[dict[str, Any]]:
        return [said for said in self.heard if said["command"] not in ("status", "ping")]

    def _serve(self) -> None:
        while True:
            try:
                talk, _ = self._socket.accept()
            except OSError:
                return
            with talk:
                line = talk.makefile("rb").readline()
                if not line:
                    return
                said = json.loads(line)
                self.heard.append(said)
                talk.sendall(json.dumps(self._reply(said["command"])).encode() + b"\n")
            command, times = self._last
            if [each["command"] for each in self.heard].count(command) >= times > 0:
                self._be_gone()
                return

    def _reply(self, command: str) -> Reply:
        replies = self._replies.get(command, [{"ok": "pong"}])
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def _be_gone(self) -> None:
        self.path.unlink(missing_ok=True)
        self._socket.close()

    def close(self) -> None:
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(self.path))
        self._thread.join()
        self._be_gone()


@pytest.fixture
def config() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fq-", dir="/tmp") as folder:
        path = Path(folder, "fairqued.yaml")
        path.write_text(yaml.safe_dump({"redis": {"url": "redis://127.0.0.1:1"}, "state_dir": folder}))
        yield path


@pytest.fixture
def daemon(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setattr(steer, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(steer, "_PATIENCE_SECONDS", 0.02)
    daemon = FakeDaemon(config.parent / "control.sock")
    yield daemon
    daemon.close()


@pytest.fixture
def order(config: Path) -> Callable[..., Answer]:
    return lambda *words, **options: ctl(*words, "-c", config, **options)


Order = Callable[..., Answer]


def test_reload_waits_until_all_workers_are_replaced(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 3}})
    daemon.will_say("status", status(2, 0), status(3, 2), status(3, 1), status(3, 0))
    terminal = Terminal()
    answer = order("reload", stderr=terminal)
    assert (answer.code, answer.out) == (0, "2 workers replaced\n")
    shown = [part for part in answer.err.split("\r\x1b[K") if part]
    assert shown == ["an earlier reload goes on", "0 of 2 workers replaced", "1 of 2 workers replaced",
                     "2 of 2 workers replaced"]  # fmt: skip
    assert answer.err.endswith("\r\x1b[K")
    assert daemon.orders() == [{"command": "reload"}]


def test_progress_is_for_terminals_alone(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.will_say("status", status(1, 2), status(1, 0))
    answer = order("reload", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == {"round": 1, "replaced": 2}


def test_reload_without_waiting(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 3}})
    assert json.loads(order("reload", "--no-wait", "--json").out) == {"round": 3}
    assert [said["command"] for said in daemon.heard] == ["reload"]


def test_a_configuration_that_the_daemon_refuses_is_told_as_it_says(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"error": "f.yaml:1: namespace: cannot be changed\nf.yaml:2: x: unknown"})
    answer = order("reload")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        "fairquectl: the daemon refused: f.yaml:1: namespace: cannot be changed\nf.yaml:2: x: unknown\n"
    )


def test_a_worker_that_cannot_boot_ends_the_waiting(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.will_say("status", status(1, 2, "worker main/1 cannot boot: ImportError: no x"))
    answer = order("reload")
    assert answer.code == 1
    assert "worker main/1 cannot boot: ImportError: no x\n2 workers are still to be replaced" in answer.err


def test_a_trouble_that_passes_is_waited_for(daemon: FakeDaemon, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_PATIENCE_SECONDS", 20)
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.will_say("status", status(1, 2, "Redis is away"), status(1, 1), status(1, 0))
    assert order("reload").code == 0


def test_a_round_that_was_overtaken_is_over(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.will_say("status", status(2, 2))
    assert order("reload").code == 0


def test_a_round_whose_turn_never_comes_is_asked_for_again(daemon: FakeDaemon, order: Order) -> None:
    """It had to wait for an earlier one, and was refused afterwards, when nobody was told why."""
    daemon.will_say("reload", {"ok": {"round": 2}}, {"error": "f.yaml:1: bad"})
    daemon.will_say("status", status(1, 1), status(1, 0))
    answer = order("reload")
    assert (answer.code, answer.err) == (1, "fairquectl: the daemon refused: f.yaml:1: bad\n")


def test_a_daemon_that_stops_replaces_nobody(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.will_say("status", status(1, 2, phase="stopping"))
    answer = order("reload")
    assert answer.code == 1
    assert "the daemon is stopping" in answer.err


def test_a_daemon_that_dies_while_it_reloads_is_missed(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("reload", {"ok": {"round": 1}})
    daemon.ends_after("reload")
    assert order("reload").code == 4


def test_a_configuration_that_is_bad_here_is_not_sent(daemon: FakeDaemon, order: Order, config: Path) -> None:
    config.write_text("redis: {url: redis://127.0.0.1:1}\npols: []\n")
    answer = order("reload")
    assert answer.code == 2
    assert "pools" in answer.err
    assert answer.err.endswith("The daemon was not asked, and goes on as it is.\n")
    assert daemon.heard == []


def test_scale_tells_the_new_count(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("scale", {"ok": {"pool": "main", "processes": 3}}, {"error": "there is no pool 'x'"})
    assert order("scale", "main", 3).out == "pool main: 3 worker processes until the next reload\n"
    answer = order("scale", "x", 3)
    assert (answer.code, answer.err) == (1, "fairquectl: the daemon refused: there is no pool 'x'\n")
    assert daemon.orders()[0] == {"command": "scale", "pool": "main", "processes": 3}
    assert order("scale", "main", 0).code == 2


def test_drain_asks_first(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("status", status(1, 0))
    answer = order("drain")
    assert answer.code == 1
    assert f"Stop the daemon with pid {os.getpid()} (/state)?" in answer.err
    assert "--yes does not ask" in answer.err
    assert order("drain", typed="n\n").code == 1
    assert daemon.orders() == []


def test_drain_waits_for_the_end(daemon: FakeDaemon, order: Order) -> None:
    daemon.will_say("status", status(1, 0))
    daemon.will_say("drain", {"ok": {"drain_seconds": 10}})
    daemon.ends_after("ping", 3)
    terminal = Terminal()
    answer = order("drain", typed="y\n", stderr=terminal)
    assert answer.code == 0
    assert answer.out.startswith("the daemon has stopped, after ")
    assert "stopping for 0 s of 10" in answer.err
    assert [said["command"] for said in daemon.heard] == ["status", "drain", "ping", "ping", "ping"]


def test_drain_waits_for_the_process_too(daemon: FakeDaemon, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next daemon finds the state directory free."""
    monkeypatch.setattr(steer, "_PATIENCE_SECONDS", 20)
    daemon.ends_after("drain")
    daemon.will_say("drain", {"ok": {"drain_seconds": 10}})
    with subprocess.Popen(["sleep", "0.3"]) as process:
        daemon.will_say("status", {"ok": status(1, 0)["ok"] | {"pid": process.pid}})
        assert order("drain", "--yes").code == 0
        assert process.poll() == 0


def test_a_daemon_that_does_not_end_is_told(daemon: FakeDaemon, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_LAST_STEPS_SECONDS", 0.01)
    daemon.will_say("status", status(1, 0))
    daemon.will_say("drain", {"ok": {"drain_seconds": 0}})
    answer = order("drain", "--yes")
    assert answer.code == 1
    assert "is still there" in answer.err


@pytest.mark.parametrize("words", [("reload",), ("scale", "main", "2"), ("drain", "--yes"), ("drain",)])
def test_without_a_daemon_every_order_ends_with_4(config: Path, words: tuple[str, ...]) -> None:
    answer = ctl(*words, "-c", config)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err == f"fairquectl: daemon not running: nobody listens on {config.parent}/control.sock\n"
