"""`fairquectl doctor` on real servers, and what a daemon says of its server when it starts."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import redis

from fairqued.connection import make_client
from fairqued.doctor import deep
from fairqued.doctor.deep import deep_findings
from fairqued.doctor.finding import Severity
from fairqued.doctor.server import server_findings
from tests.daemon.conftest import StartDaemon
from tests.support.ctl import Terminal, ctl
from tests.support.daemon import LATE, Daemon
from tests.support.process_tasks import work
from tests.support.servers import RedisServer, ServerBinary

pytestmark = pytest.mark.process

StartServer = Callable[..., RedisServer]


def complaints(document: dict[str, Any]) -> dict[str, str]:
    """Severity by code of what is not ok, but for what is the fault of this machine's server."""
    bad = {found["code"]: found["severity"] for found in document["findings"] if found["severity"] != "ok"}
    return {code: severity for code, severity in bad.items() if code != "lua-security"}


def wait_until_done(daemon: Daemon, count: int) -> None:
    with closing(daemon.queue()) as queue:
        for handle in queue.enqueue_many(work.task(0.0) for _ in range(count)):
            handle.result(timeout_seconds=LATE)


def test_a_sound_daemon_is_told_so_and_damage_is_found(start_daemon: StartDaemon, start_server: StartServer) -> None:
    server = start_server(persist=True)
    daemon: Daemon = start_daemon(server.url)
    wait_until_done(daemon, 5)
    answer = ctl("doctor", "--deep", "--json", "-c", daemon.config)
    document = json.loads(answer.out)
    assert (answer.err, complaints(document)) == ("", {})
    assert answer.code == (1 if document["warnings"] else 0)
    assert document["findings"][0].keys() == {"severity", "code", "what", "advice"}
    assert document["errors"] == 0
    assert len(daemon.messages("What to do")) == document["warnings"]
    with redis.Redis.from_url(server.url) as client:
        client.hset(f"{{{daemon.namespace}}}:running", "eve", 7)
        client.set(f"{{{daemon.namespace}}}:inv\x1bented", 1)
    terminal = Terminal()
    answer = ctl("doctor", "--deep", "-c", daemon.config, stderr=terminal)
    assert answer.code == 1
    worst, second = answer.out.splitlines()[1:3]
    assert worst.split()[:2] == ["error", "keys_are_in_the_table"]
    assert r"key inv\x1bented is in no key table" in worst
    assert "give that one a namespace of its own" in worst
    assert second.split()[:2] == ["error", "running_counts_are_right"]
    assert "running: eve has 7, expected none" in second
    lines = ctl("doctor", "-o", "jsonl", "-c", daemon.config).out.splitlines()
    assert {json.loads(line)["code"] for line in lines}.isdisjoint({"keys_are_in_the_table", "deep"})


def test_an_unsafe_server_is_told_by_doctor_and_daemon(
    start_daemon: StartDaemon, start_server: StartServer, namespace: str
) -> None:
    server = start_server(options=("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"))
    daemon: Daemon = start_daemon(server.url)
    answer = ctl("doctor", "--json", "-c", daemon.config)
    assert answer.code == 1
    assert complaints(json.loads(answer.out)) == {"persistence": "warning", "eviction": "warning"}
    assert len(daemon.messages("the append-only file is off")) == 1
    assert len(daemon.messages("maxmemory-policy is allkeys-lru")) == 1
    with redis.Redis.from_url(server.url) as client:
        rules = ("on", ">pw", f"~{{{namespace}}}:*", "+@all", "-info", "-config", "-zadd", "-unlink")
        client.execute_command("ACL", "SETUSER", "narrow", *rules)
    url = f"{server.url}?username=narrow&password=pw"
    answer = ctl("doctor", "--json", "--redis", url, "--namespace", namespace)
    document = json.loads(answer.out)
    assert (answer.code, complaints(document)) == (1, {"rights": "error", "info": "warning"})
    assert "user narrow may not send UNLINK, ZADD to" in answer.out
    with redis.Redis.from_url(server.url) as client:
        assert client.exists(f"{{{namespace}}}:none") == 0
    answer = ctl("doctor", "--deep", "--json", "--redis", url, "--namespace", "another")
    assert (answer.code, complaints(json.loads(answer.out))) == (
        1, {"rights": "error", "info": "warning", "namespace": "warning"}
    )  # fmt: skip


def test_who_is_away_is_told_after_all_else(make_daemon: StartDaemon, start_server: StartServer) -> None:
    server = start_server()
    daemon: Daemon = make_daemon(server.url)
    answer = ctl("doctor", "-c", daemon.write_config())
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert "daemon not running" in answer.err
    assert "warning   persistence" in answer.out
    server.stop()
    answer = ctl("doctor", "--json", "-c", daemon.config)
    assert (answer.code, answer.err.count("\n")) == (5, 2)
    assert {found["code"] for found in json.loads(answer.out)["findings"]} == {
        "control", "redis", "state-dir", "disk-kind", "disk-space", "open-files",
    }  # fmt: skip


def test_every_command_is_tried_and_leaves_nothing(server_binary: ServerBinary, redis_url: str, namespace: str) -> None:
    with make_client(redis_url, LATE) as client:
        by_code = {finding.code: finding for finding in server_findings(client, namespace)}
        assert client.keys(f"{{{namespace}}}*") == []
    assert by_code["rights"].severity is by_code["writes"].severity is Severity.OK
    assert by_code["version"].what.endswith(server_binary.name.partition("-")[2])
    if server_binary.name == "redis-6.2.14":  # known to be without the fixes, from its package
        assert by_code["lua-security"].severity is Severity.WARNING


def test_a_server_that_takes_no_writes_is_refused(start_server: StartServer) -> None:
    primary = start_server(tcp=True)
    replica = start_server(options=("--replicaof", "127.0.0.1", str(primary.port)))
    with make_client(replica.url, LATE) as client:
        by_code = {finding.code: finding for finding in server_findings(client)}
    assert by_code["role"].severity is Severity.ERROR
    assert f"replica of 127.0.0.1:{primary.port}" in by_code["role"].what
    with make_client(primary.url, LATE) as client:
        client.config_set("min-replicas-to-write", 3)
        by_code = {finding.code: finding for finding in server_findings(client)}
    assert by_code["writes"].severity is Severity.ERROR
    assert "NOREPLICAS" in by_code["writes"].what


def test_tasks_on_their_way_are_not_taken_for_damage(
    redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a namespace too large to be read at once: what is not there in every look was on its way."""
    key = f"{{{namespace}}}:depth"
    monkeypatch.setattr(deep, "AT_ONCE_KEYS", 0)
    with make_client(redis_server.url, LATE) as client:
        client.hset(key, mapping={"gone": 1, "stays": 1})
        pauses: list[Any] = []
        monkeypatch.setattr(time, "sleep", lambda _: pauses.append(client.hdel(key, "gone")))
        confirmed, moving = deep_findings(client, namespace)
        client.delete(key)
    assert len(pauses) == deep.LOOKS - 1
    assert (confirmed.severity, confirmed.what) == (Severity.ERROR, "depth: stays has 1, expected none")
    assert moving.severity is Severity.OK
    assert moving.what.startswith("of what the first look found 1 were not there in each of 4")


def test_a_busy_namespace_is_sound(start_daemon: StartDaemon) -> None:
    """Looked at while tasks come and go, nothing is taken for damage."""
    daemon: Daemon = start_daemon()
    with closing(daemon.queue()) as queue, make_client(daemon.redis_url, LATE) as client:
        queue.enqueue_many(work.task(0.0) for _ in range(1000))
        looks = []
        while (stats := queue.stats()).depth or stats.started:
            looks.append(deep_findings(client, daemon.namespace))
    assert len(looks) >= 3
    assert {finding.code for look in looks for finding in look} == {"deep"}
