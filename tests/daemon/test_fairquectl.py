import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from fairqued import TaskQueue
from fairqued.ctl import exits
from fairqued.ctl.main import cli
from fairqued.daemon.config import load
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import CHECKOUT, LATE, Daemon
from tests.support.process_tasks import hold
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

PROGRAM = str(Path(sys.executable).parent / "fairquectl")
CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.startswith(("FAIRQUED", "XDG_", "STATE_"))}
DEAD_URL = "redis://:hunter2@127.0.0.1:1/0"


@dataclass(frozen=True)
class Answer:
    """What a run of fairquectl said."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


def ctl(*words: object, env: dict[str, str] | None = None) -> Answer:
    command = [PROGRAM, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=CLEAN_ENV | (env or {}), timeout=LATE, cwd="/"
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def ctl_on_a_terminal(*words: object) -> bytes:
    ours, theirs = pty.openpty()
    env = CLEAN_ENV | {"TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen([PROGRAM, *map(str, words)], stdout=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while more := _read_terminal(ours):
            shown += more
    os.close(ours)
    assert process.returncode == 0
    return shown


def _read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # the other side was closed
        return b""


def status_of(daemon: Daemon) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ctl("status", "--config", daemon.config, "--json").out)
    return document


@pytest.fixture
def hostile(redis_server: RedisServer, namespace: str) -> Iterator[tuple[str, ...]]:
    """A namespace with users and queues as nobody could enqueue them, but anybody with access to Redis could write."""
    prefix = f"{{{namespace}}}:"
    names = {b"default": b"[bold]\x1b]0;owned\x07", b"q\x1b[2J": b"\xff\x1b[31m\xe2\x80\xae"}
    with redis.Redis.from_url(redis_server.url) as client:
        for queue, user in names.items():
            client.hset(prefix + "depth", queue.decode(), "1")
            client.zadd(f"{prefix}ready:{queue.decode()}", {user: 1})
        yield "--redis", redis_server.url, "--namespace", namespace
        client.delete(prefix + "depth", *(f"{prefix}ready:{queue.decode()}" for queue in names))


def test_status_shows_daemon_workers_users_and_counters(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(users={"carol": {"max_running": 1}})
    queue.enqueue_many((hold.task("gate") for _ in range(3)), user_id="carol")
    wait_until(lambda: [user["parked"] for user in status_of(daemon)["users"]] == [True], LATE, "carol is parked")
    queue.enqueue_many((hold.task("gate") for _ in range(2)), user_id="bob")
    status = wait_until(
        lambda: (now := status_of(daemon))["tasks"]["started"] == 2 and now, LATE, "both slots are in use"
    )
    about, worker = status["daemon"], status["workers"][0]
    assert (about["running"], about["pid"], about["phase"]) == (True, daemon.pid, "running")
    assert about["redis"]["reachable"]
    assert status["redis"] == {"reachable": True, "url": daemon.redis_url, "namespace": daemon.namespace}
    assert (worker["title"], worker["phase"], worker["held"], worker["queues"]) == ("main/1", "ready", 2, ["default"])
    assert worker["pid"] == daemon.worker_pids()[0]
    assert 0 < worker["lease_seconds"] <= 15
    assert worker["age_seconds"] > 0
    assert status["queues"] == [{"queue": "default", "waiting": 3}]
    assert sorted(status["users"], key=lambda user: str(user["user_id"])) == [
        {"queue": "default", "user_id": "bob", "waiting": 1, "running": 1, "parked": False},
        {"queue": "default", "user_id": "carol", "waiting": 2, "running": 1, "parked": True},
    ]
    assert status["counters"] == {"enqueued": 5, "started": 2}
    daemon.open_gate("gate")


def test_status_as_a_table_is_plain_when_piped(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    queue.enqueue_many((hold.task("gate") for _ in range(5)), user_id="carol")
    wait_until(lambda: status_of(daemon)["tasks"]["started"] == 2, LATE, "both slots are in use")
    answer = ctl("-c", daemon.config, "status")
    assert (answer.code, answer.err) == (0, "")
    assert answer.rows[0][:2] == ["daemon", "running"]
    assert answer.rows[1][:2] == ["redis", "reachable"]
    assert ["WORKER", "PID", "PHASE", "AGE", "HELD", "LEASE"] in answer.rows
    assert ["default", "3"] in answer.rows
    assert ["carol", "default", "3", "2", "no"] in answer.rows
    assert ["queued", "3", "5"] in answer.rows
    assert ["started", "2", "2"] in answer.rows
    assert "\x1b" not in answer.out
    wide = ctl("status", "-c", daemon.config, "-o", "wide").out
    [worker_id] = ctl("status", "-c", daemon.config, "-o", "id").out.split()
    assert worker_id not in answer.out
    assert worker_id in wide
    daemon.open_gate("gate")


def test_status_as_json_lines_names_the_kind_of_each(start_daemon: StartDaemon) -> None:
    lines = ctl("status", "-c", start_daemon().config, "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["daemon", "redis", "tasks", "counters", "worker"]


def test_status_shows_why_a_worker_cannot_boot(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(imports=["no_such_module"]).start()
    wait_until(lambda: any(worker.get("trouble") for worker in daemon.status().get("workers", [])), LATE, "a reason")
    answer = ctl("status", "-c", daemon.config)
    assert answer.code == 0
    assert "main/1  cannot boot  ModuleNotFoundError: No module named 'no_such_module'" in answer.out


def test_a_daemon_that_is_not_running_is_told_and_redis_shown(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon()
    config = daemon.write_config()
    queue.enqueue(hold.task("gate"), user_id="carol")
    for form in ("table", "json"):
        answer = ctl("status", "-c", config, "-o", form)
        assert answer.code == 4
        assert answer.err == f"fairquectl: daemon not running: nobody listens on {daemon.state_dir}/control.sock\n"
        assert "carol" in answer.out
    assert ctl("ping", "-c", config).code == 4


def test_a_daemon_that_hangs_does_not_answer(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert ctl("ping", "-c", daemon.config).code == 0
    daemon.send(signal.SIGSTOP)
    answer = ctl("ping", "-c", daemon.config, "--json")
    assert answer.code == 4
    assert "daemon does not answer" in answer.err
    parties = json.loads(answer.out)
    assert (parties["daemon"]["answers"], parties["redis"]["answers"]) == (False, True)


def test_without_redis_the_daemon_is_still_shown(start_daemon: StartDaemon) -> None:
    with RedisServer() as server:
        daemon = start_daemon(server.url)
        server.stop()
        wait_until(lambda: not daemon.status()["redis"]["reachable"], LATE, "the daemon notices")
        answer = ctl("status", "-c", daemon.config)
        assert answer.code == 5
        assert answer.rows[0][:2] == ["daemon", "running"]
        assert "has not reached Redis for" in answer.out
        assert answer.err.count("\n") == 1
        assert "cannot be reached" in answer.err
        assert ctl("ping", "-c", daemon.config).code == 5


def test_an_embedded_redis_is_found_and_missed_with_its_daemon(make_daemon: StartDaemon) -> None:
    daemon = make_daemon("embedded")
    answer = ctl("status", "-c", daemon.write_config())
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    daemon.start_and_wait()
    assert ctl("status", "--redis", daemon.url).rows[0][:2] == ["daemon", "running"]
    assert ctl("ping", env={"FAIRQUED_REDIS_URL": daemon.url}).code == 0
    assert ctl("ping", "-c", daemon.config).code == 0


def test_a_daemon_may_use_the_embedded_redis_of_another(start_daemon: StartDaemon) -> None:
    owner = start_daemon("embedded")
    guest = start_daemon(owner.url)
    assert ctl("ping", "-c", guest.config, env={"FAIRQUED_REDIS_URL": owner.url}).code == 0
    assert {worker["pid"] for worker in status_of(guest)["workers"]} == {*owner.worker_pids(), *guest.worker_pids()}
    assert len(guest.children()) == len(guest.worker_pids()), "it starts no server of its own"


def test_a_redis_alone_needs_no_daemon(hostile: tuple[str, ...]) -> None:
    _, url, _, namespace = hostile
    for answer in (
        ctl("status", "--json", *hostile),
        ctl("status", "--json", env={"FAIRQUED_REDIS_URL": url, "FAIRQUED_NAMESPACE": namespace}),
    ):
        assert (answer.code, answer.err) == (0, "")
        document = json.loads(answer.out)
        assert document["daemon"] is None
        assert [row["waiting"] for row in document["queues"]] == [1, 1]
    assert ctl("ping", "--redis", url).code == 0


def test_workers_of_other_hosts_are_listed(queue: TaskQueue, redis_server: RedisServer, namespace: str) -> None:
    with queue.lease(["mail"]):
        answer = ctl("status", "--redis", redis_server.url, "--namespace", namespace, "-o", "wide")
    row = next(row for row in answer.rows if str(os.getpid()) in row)
    assert {"registered", "mail", os.uname().nodename} <= set(row)


def test_a_redis_that_does_not_answer_is_named_without_its_password() -> None:
    for command in ("status", "ping"):
        answer = ctl(command, "--redis", DEAD_URL)
        assert answer.code == 5
        assert answer.err.startswith("fairquectl: Redis at redis://:***@127.0.0.1:1/0 cannot be reached")
        assert answer.err.count("\n") == 1
        assert "hunter2" not in answer.out + answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "no configuration: give --config FILE"),
        (["status", "-c", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["status", "--redis", "http://example.org"], "expected redis://"),
        (["status", "--redis", DEAD_URL, "--namespace", "a b"], "namespace 'a b': expected"),
        (["status", "--namespace", "ours"], "--namespace needs a Redis"),
        (["status", "-c", "x", "--redis", DEAD_URL], "not both"),
        (["status", "-o", "xml"], "'xml' is not one of"),
        (["ping", "--redis", DEAD_URL, "-o", "id"], "-o id: this command knows table, json, jsonl"),
        (["config", "--redis", DEAD_URL], "give --config"),
        (["print", "nothing"], "'nothing' is not one of"),
        (["stauts"], "No such command 'stauts'"),
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], said: str) -> None:
    answer = ctl(*words)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert "hunter2" not in answer.err


def test_what_a_terminal_would_act_upon_is_never_printed(hostile: tuple[str, ...]) -> None:
    for form in ("table", "wide", "json", "jsonl", "id"):
        answer = ctl("status", *hostile, "-o", form)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.replace("\n", "").isprintable() or not answer.out
    table = ctl("status", *hostile).out
    assert r"[bold]\x1b]0;owned\x07" in table
    assert r"\xff\x1b[31m\u202e" in table
    users = json.loads(ctl("status", *hostile, "--json").out)["users"]
    assert {user["user_id"] for user in users} == {"[bold]\x1b]0;owned\x07", "\\xff\x1b[31m\u202e"}


def test_a_terminal_gets_colours_but_no_foreign_escapes(hostile: tuple[str, ...]) -> None:
    shown = ctl_on_a_terminal("status", *hostile)
    assert b"\x1b[1m" in shown
    assert rb"[bold]\x1b]0;owned\x07" in shown
    assert b"\x1b]0;owned" not in shown
    assert b"\x1b[2J" not in shown


def test_config_prints_a_configuration_that_means_the_same(make_daemon: StartDaemon, tmp_path: Path) -> None:
    schedule = {"id": "s", "cron": "0 9 * * *", "task": "jobs:run", "args": ["$${HOME}"], "user_id": "é"}
    config = make_daemon(schedules=[schedule], users={"carol": {"weight": 2}}).write_config()
    env = {"FAIRQUED__POOLS__0__THREADS": "5"}
    answer = ctl("config", "-c", config, env=env)
    assert (answer.code, answer.err) == (0, "")
    (tmp_path / "printed.yaml").write_text(answer.out)
    assert load([tmp_path / "printed.yaml"], {}) == load([config], env)
    assert json.loads(ctl("config", "-c", config, "--json").out)["users"] == {"carol": {"weight": 2.0}}


@pytest.mark.parametrize("url", ["redis://:hunter2@localhost/0", "unix:///run/redis.sock?password=hunter2&db=1"])
def test_config_masks_passwords(make_daemon: StartDaemon, url: str) -> None:
    config = make_daemon(url).write_config()
    for form in ("table", "json"):
        answer = ctl("config", "-c", config, "-o", form)
        assert answer.code == 0
        assert "***" in answer.out
        assert "hunter2" not in answer.out


def test_a_password_file_opens_the_door(make_daemon: StartDaemon, start_server: Callable[..., RedisServer]) -> None:
    server = start_server(tcp=True)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "hunter2")
    daemon = make_daemon(server.tcp_url)
    password_file = daemon.directory / "password"
    password_file.write_text("hunter2\n")
    answer = ctl("status", "-c", daemon.write_config(redis={"password_file": str(password_file)}))
    assert (answer.code, answer.rows[1][:2]) == (4, ["redis", "reachable"])
    answer = ctl("ping", "-c", daemon.write_config())
    assert answer.code == 5
    assert "refused" in answer.err


def test_the_reference_names_every_command_and_exit_code() -> None:
    _, _, reference = (CHECKOUT / "docs/operations.md").read_text().partition("\n## fairquectl\n")
    first_cells = [line.split("|")[1] for line in reference.splitlines() if line.startswith("| ")]
    named = {command for cell in first_cells for command in re.findall(r"`(\w+)[^`]*`", cell)}
    assert set(cli.commands) <= named
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes == {int(cell) for cell in first_cells if cell.strip().isdecimal()}
    assert codes == {int(code) for code in re.findall(r"\b(\d) ", exits.IN_WORDS)}


def test_print_writes_out_the_shipped_files() -> None:
    assert ctl("print", "unit").out == (CHECKOUT / "systemd/fairqued.service").read_text()
    assert ctl("print", "config").out == (CHECKOUT / "etc/fairqued.yaml").read_text()


def test_help_names_the_exit_codes_and_version_the_version() -> None:
    for words in ([], ["status"], ["ping"]):
        answer = ctl(*words, "--help")
        assert answer.code == 0
        assert "5 Redis not reachable" in " ".join(answer.out.split())
    assert ctl("version").out.split()[-1] == json.loads(ctl("version", "--json").out)["fairqued"]
