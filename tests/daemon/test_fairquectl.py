import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from fairqued import TaskQueue
from fairqued.ctl.control import ask
from fairqued.daemon.config import load
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LATE = 30
BIN = Path(sys.executable).parent
CHECKOUT = Path(__file__).parents[2]
CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.startswith(("FAIRQUED", "XDG_", "STATE_"))}
DEAD_URL = "redis://:hunter2@127.0.0.1:1/0"

JOBS = """
from fairqued import task

@task
def hold(fifo):
    open(fifo).read()
"""


@dataclass
class Site:
    """A folder with a configuration, task modules and a state directory, and the daemon that may run on it."""

    home: Path
    namespace: str
    redis_url: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.home / "fairqued.yaml"

    @property
    def fifo(self) -> Path:
        return self.home / "fifo"

    def write(self, **changes: Any) -> None:
        settings = {
            "redis": {"url": self.redis_url},
            "namespace": self.namespace,
            "state_dir": str(self.home / "state"),
            "python_path": [str(self.home)],
            "imports": ["jobs"],
            "pools": [{"name": "main", "processes": 1, "threads": 2}],
            "worker": {"drain_seconds": 1},
            "users": {"alice": {"max_running": 1}},
            "metrics": {"listen": None},
        }
        self.config.write_text(yaml.safe_dump(settings | changes))

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "fairqued", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=CLEAN_ENV,
            )
        wait_until(lambda: ctl("ping", "--config", self.config).code == 0, LATE, f"daemon of {self.home} answers")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(LATE)

    def status(self) -> dict[str, Any]:
        answer = ctl("status", "--config", self.config, "--json")
        document: dict[str, Any] = json.loads(answer.out)
        return document


@dataclass
class Answer:
    code: int
    out: str
    err: str


def ctl(*words: object, env: dict[str, str] | None = None) -> Answer:
    command = [str(BIN / "fairquectl"), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=CLEAN_ENV | (env or {}), timeout=LATE
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def ctl_on_a_terminal(*words: object) -> bytes:
    ours, theirs = pty.openpty()
    command = [str(BIN / "fairquectl"), *map(str, words)]
    with subprocess.Popen(
        command, stdout=theirs, env=CLEAN_ENV | {"TERM": "xterm-256color", "COLUMNS": "200"}
    ) as process:
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


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def make_site(namespace: str) -> Iterator[Callable[[str], Site]]:
    sites: list[Site] = []

    def make(redis_url: str) -> Site:
        site = Site(Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp")), namespace, redis_url)
        sites.append(site)
        (site.home / "jobs.py").write_text(JOBS)
        os.mkfifo(site.fifo)
        site.write()
        return site

    yield make
    for site in sites:
        site.stop()
        shutil.rmtree(site.home)


@pytest.fixture
def site(make_site: Callable[[str], Site], server: RedisServer) -> Site:
    return make_site(server.url)


@pytest.fixture
def queue(site: Site) -> TaskQueue:
    return TaskQueue(site.redis_url, namespace=site.namespace)


def hold(queue: TaskQueue, site: Site, user_id: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enqueue tasks that run until the end."""
    monkeypatch.syspath_prepend(str(site.home))
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    from jobs import hold as held  # type: ignore[import-not-found]  # noqa: PLC0415 - written by the test

    queue.enqueue_many([held.task(str(site.fifo)) for _ in range(count)], user_id=user_id)


def insert_hostile_names(site: Site) -> None:
    """Users and queues as nobody could enqueue them, but somebody with access to Redis can write."""
    prefix = f"{{{site.namespace}}}:"
    with redis.Redis.from_url(site.redis_url) as client:
        for queue, user in ((b"default", b"[bold]\x1b]0;owned\x07"), (b"q\x1b[2J", b"\xff\x1b[31m\xe2\x80\xae")):
            client.hset(prefix + "depth", queue.decode(), 1)
            client.zadd(f"{prefix}ready:{queue.decode()}", {user: 1})


def test_status_shows_daemon_workers_users_and_counters(
    site: Site, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.start()
    hold(queue, site, "alice", 3, monkeypatch)
    wait_until(lambda: site.status()["users"] and site.status()["users"][0]["parked"], LATE, "alice is parked")
    hold(queue, site, "bob", 2, monkeypatch)
    status = wait_until(lambda: (now := site.status())["tasks"]["started"] == 2 and now, LATE, "both slots are in use")
    assert site.process is not None
    daemon, worker = status["daemon"], status["workers"][0]
    assert (daemon["running"], daemon["pid"], daemon["phase"]) == (True, site.process.pid, "running")
    assert daemon["redis"]["reachable"]
    assert status["redis"] == {"reachable": True, "url": site.redis_url, "namespace": site.namespace}
    assert (worker["title"], worker["phase"], worker["held"], worker["queues"]) == ("main/1", "ready", 2, ["default"])
    assert 0 < worker["lease_seconds"] <= 15
    assert worker["age_seconds"] > 0
    assert status["queues"] == [{"queue": "default", "waiting": 3}]
    assert sorted(status["users"], key=lambda user: str(user["user_id"])) == [
        {"queue": "default", "user_id": "alice", "waiting": 2, "running": 1, "parked": True},
        {"queue": "default", "user_id": "bob", "waiting": 1, "running": 1, "parked": False},
    ]
    assert status["counters"] == {"enqueued": 5, "started": 2}


def test_status_as_a_table_is_plain_when_piped(site: Site, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    site.start()
    hold(queue, site, "carol", 5, monkeypatch)
    wait_until(lambda: site.status()["tasks"]["started"] == 2, LATE, "both slots are in use")
    answer = ctl("-c", site.config, "status")
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split() for line in answer.out.splitlines()]
    assert rows[0][:2] == ["daemon", "running"]
    assert rows[1][:2] == ["redis", "reachable"]
    assert ["WORKER", "PID", "PHASE", "AGE", "HELD", "LEASE"] in rows
    assert ["default", "3"] in rows
    assert ["carol", "default", "3", "2", "no"] in rows
    assert ["queued", "3", "5"] in rows
    assert ["started", "2", "2"] in rows
    assert "\x1b" not in answer.out
    wide = ctl("status", "-c", site.config, "-o", "wide").out
    [worker_id] = ctl("status", "-c", site.config, "-o", "id").out.split()
    assert worker_id not in answer.out
    assert worker_id in wide


def test_status_as_json_lines_names_the_kind_of_each(site: Site, queue: TaskQueue) -> None:
    site.start()
    lines = ctl("status", "-c", site.config, "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["daemon", "redis", "tasks", "counters", "worker"]


def test_status_shows_why_a_worker_cannot_boot(site: Site) -> None:
    site.write(imports=["no_such_module"])
    site.start()
    wait_until(lambda: site.status()["workers"][0]["trouble"], LATE, "the master knows why")
    answer = ctl("status", "-c", site.config)
    assert answer.code == 0
    assert "ModuleNotFoundError: No module named 'no_such_module'" in answer.out


def test_a_daemon_that_is_not_running_is_told_and_redis_shown(site: Site, queue: TaskQueue) -> None:
    insert_hostile_names(site)
    for form in ("table", "json"):
        answer = ctl("status", "-c", site.config, "-o", form)
        assert answer.code == 4
        assert answer.err == f"fairquectl: daemon not running: nobody listens on {site.home}/state/control.sock\n"
        assert "owned" in answer.out
    assert ctl("ping", "-c", site.config).code == 4


def test_a_daemon_that_hangs_does_not_answer(site: Site) -> None:
    site.start()
    assert site.process is not None
    site.process.send_signal(signal.SIGSTOP)
    answer = ctl("ping", "-c", site.config, "--json")
    assert answer.code == 4
    assert "daemon does not answer" in answer.err
    parties = json.loads(answer.out)
    assert (parties["daemon"]["answers"], parties["redis"]["answers"]) == (False, True)


def test_without_redis_the_daemon_is_still_shown(make_site: Callable[[str], Site]) -> None:
    with RedisServer() as own:
        site = make_site(own.url)
        site.start()
        own.stop()
        socket = site.home / "state/control.sock"
        wait_until(lambda: not ask(socket, "status")["redis"]["reachable"], LATE, "the daemon notices")
        answer = ctl("status", "-c", site.config)
        assert answer.code == 5
        assert answer.out.splitlines()[0].startswith("daemon  running")
        assert "has not reached Redis for" in answer.out
        assert answer.err.count("\n") == 1
        assert "cannot be reached" in answer.err
        assert ctl("ping", "-c", site.config).code == 5


def test_an_embedded_redis_is_found_and_missed_with_its_daemon(make_site: Callable[[str], Site]) -> None:
    site = make_site("embedded")
    assert ctl("status", "-c", site.config).code == 4
    site.start()
    beside = f"fairqued://{site.home}/state"
    assert ctl("status", "--redis", beside).out.startswith("daemon  running")
    assert ctl("ping", env={"FAIRQUED_REDIS_URL": beside}).code == 0


def test_a_redis_alone_needs_no_daemon(site: Site, queue: TaskQueue) -> None:
    insert_hostile_names(site)
    for answer in (
        ctl("status", "--json", "--redis", site.redis_url, "--namespace", site.namespace),
        ctl("status", "--json", env={"FAIRQUED_REDIS_URL": site.redis_url, "FAIRQUED_NAMESPACE": site.namespace}),
    ):
        assert (answer.code, answer.err) == (0, "")
        document = json.loads(answer.out)
        assert document["daemon"] is None
        assert [row["waiting"] for row in document["queues"]] == [1, 1]
    assert ctl("ping", "--redis", site.redis_url).code == 0


def test_workers_of_other_hosts_are_listed(site: Site, queue: TaskQueue) -> None:
    with queue.lease(["mail"]):
        answer = ctl("status", "--redis", site.redis_url, "--namespace", site.namespace, "-o", "wide")
    row = next(line.split() for line in answer.out.splitlines() if str(os.getpid()) in line)
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


def test_what_a_terminal_would_act_upon_is_never_printed(site: Site, queue: TaskQueue) -> None:
    insert_hostile_names(site)
    target = ("--redis", site.redis_url, "--namespace", site.namespace)
    for form in ("table", "wide", "json", "jsonl", "id"):
        answer = ctl("status", *target, "-o", form)
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.replace("\n", "").isprintable()
    table = ctl("status", *target).out
    assert r"[bold]\x1b]0;owned\x07" in table
    assert r"\xff\x1b[31m\u202e" in table
    users = json.loads(ctl("status", *target, "--json").out)["users"]
    assert {user["user_id"] for user in users} == {"[bold]\x1b]0;owned\x07", "\\xff\x1b[31m\u202e"}


def test_a_terminal_gets_colours_but_no_foreign_escapes(site: Site, queue: TaskQueue) -> None:
    insert_hostile_names(site)
    shown = ctl_on_a_terminal("status", "--redis", site.redis_url, "--namespace", site.namespace)
    assert b"\x1b[1m" in shown
    assert rb"[bold]\x1b]0;owned\x07" in shown
    assert b"\x1b]0;owned" not in shown
    assert b"\x1b[2J" not in shown


def test_config_prints_a_configuration_that_means_the_same(site: Site, tmp_path: Path) -> None:
    site.write(schedules=[{"id": "s", "cron": "0 9 * * *", "task": "jobs:hold", "args": ["$${HOME}"], "user_id": "é"}])
    env = {"FAIRQUED__POOLS__0__THREADS": "5"}
    answer = ctl("config", "-c", site.config, env=env)
    assert (answer.code, answer.err) == (0, "")
    (tmp_path / "printed.yaml").write_text(answer.out)
    assert load([tmp_path / "printed.yaml"], {}) == load([site.config], env)
    assert json.loads(ctl("config", "-c", site.config, "--json").out)["users"] == {"alice": {"max_running": 1}}


def test_config_masks_passwords(site: Site) -> None:
    for url in ("redis://:hunter2@localhost/0", "unix:///run/redis.sock?password=hunter2&db=1"):
        site.write(redis={"url": url})
        for form in ("table", "json"):
            answer = ctl("config", "-c", site.config, "-o", form)
            assert answer.code == 0
            assert "***" in answer.out
            assert "hunter2" not in answer.out


def test_a_password_file_opens_the_door(
    make_site: Callable[[str], Site], start_server: Callable[..., RedisServer]
) -> None:
    own = start_server(tcp=True)
    with redis.Redis.from_url(own.url) as client:
        client.config_set("requirepass", "hunter2")
    site = make_site(own.url)
    (site.home / "password").write_text("hunter2\n")
    site.write(redis={"url": own.tcp_url, "password_file": str(site.home / "password")})
    answer = ctl("status", "-c", site.config)
    assert answer.code == 4
    assert "redis   reachable" in answer.out
    site.write(redis={"url": own.tcp_url})
    answer = ctl("ping", "-c", site.config)
    assert answer.code == 5
    assert "refused" in answer.err


def test_print_writes_out_the_shipped_files() -> None:
    assert ctl("print", "unit").out == (CHECKOUT / "systemd/fairqued.service").read_text()
    assert ctl("print", "config").out == (CHECKOUT / "etc/fairqued.yaml").read_text()


def test_help_names_the_exit_codes_and_version_the_version() -> None:
    for words in ([], ["status"], ["ping"]):
        answer = ctl(*words, "--help")
        assert answer.code == 0
        assert "5 Redis not reachable" in " ".join(answer.out.split())
    assert ctl("version").out.split()[-1] == json.loads(ctl("version", "--json").out)["fairqued"]
