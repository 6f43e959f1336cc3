"""What each check of the doctor says of what it is told, and that it asks for everything it has to."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fairqued.assets import read_text
from fairqued.doctor import host, namespace, rights, server
from fairqued.doctor.facts import Facts
from fairqued.doctor.finding import Finding, Severity
from fairqued.scripts import load_all

SOUND: dict[str, Any] = {
    "redis_version": "7.2.11", "aof_enabled": 1, "maxmemory": 0, "maxmemory_policy": "noeviction", "used_memory": 2**20,
    "role": "master", "cluster_enabled": 0, "connected_clients": 3, "maxclients": 10_000, "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok", "rdb_last_bgsave_status": "ok",
    "slave0": {"ip": "10.0.0.2", "port": 6379, "state": "online", "lag": 1},
}  # fmt: skip


def facts(*, info: dict[str, Any] | None = None, **others: Any) -> Facts:
    """A sound server, but for what is given."""
    known: dict[str, Any] = {"settings": {"appendfsync": "everysec"}, "user": "app", "has_locked_lua": True}
    return Facts(info=SOUND | (info or {}), **(known | others))


def complaints(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.OK]


def test_a_sound_server_is_praised_by_every_check() -> None:
    findings = server.judge(facts())
    assert complaints(findings) == []
    assert {finding.code for finding in findings} == {
        "version", "lua-security", "persistence", "eviction", "memory", "replicas", "clients", "writes", "rights",
        "latency", "clock",
    }  # fmt: skip


def test_a_policy_without_a_limit_evicts_nothing() -> None:
    assert complaints(server.judge(facts(info={"maxmemory_policy": "allkeys-lru"}))) == []


UNSOUND_INFO: dict[str, tuple[dict[str, Any], str, str]] = {
    "too old": ({"redis_version": "6.0.16"}, "error version", "Redis 6.0.16 is too old"),
    "no AOF": ({"aof_enabled": 0}, "warning persistence", "append-only file is off"),
    "eviction": ({"maxmemory": 2**30, "maxmemory_policy": "allkeys-lru", "evicted_keys": 7}, "warning eviction",
                 "throws away tasks, and has evicted 7 keys"),
    "eviction of results": ({"maxmemory": 2**30, "maxmemory_policy": "volatile-ttl"}, "warning eviction",
                            "throws away results"),
    "full": ({"maxmemory": 2**20}, "error memory", "full (1 MB of 1 MB)"),
    "nearly full": ({"maxmemory": 1.2 * 2**20}, "warning memory", "nearly full"),
    "AOF not written": ({"aof_last_write_status": "err"}, "error disk", "could not write"),
    "AOF not rewritten": ({"aof_last_bgrewrite_status": "err"}, "warning disk", "rewrite"),
    "no snapshot": ({"rdb_last_bgsave_status": "err"}, "error disk", "may refuse writes"),
    "replica": ({"role": "slave", "master_host": "db1", "master_port": 6379}, "error role", "replica of db1:6379"),
    "lagging replica": ({"slave0": {"ip": "h", "port": 1, "state": "online", "lag": 30}}, "warning replicas", "30 s"),
    "replica that loads": ({"slave0": {"ip": "h", "port": 1, "state": "send_bulk", "lag": 0}}, "warning replicas",
                           "send_bulk"),
    "cluster": ({"cluster_enabled": 1}, "error cluster", "cluster mode"),
    "too many clients": ({"connected_clients": 9_000}, "warning clients", "9000 of 10000"),
}  # fmt: skip


@pytest.mark.parametrize(("info", "how", "what"), UNSOUND_INFO.values(), ids=UNSOUND_INFO.keys())
def test_what_info_tells(info: dict[str, Any], how: str, what: str) -> None:
    assert_one_complaint(server.judge(facts(info=info)), how, what)


UNSOUND_FACTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no fsync": ({"settings": {"appendfsync": "no"}}, "warning persistence", "appendfsync is `no`"),
    "no writes": ({"no_writes": "MISCONF disk"}, "error writes", "MISCONF disk"),
    "no rights": ({"refused_commands": ["EVAL", "ZADD"]}, "error rights", "user app may not send EVAL, ZADD"),
    "no scripts": ({"broken_scripts": ["lua/pop.lua:3: no"]}, "error scripts", "lua/pop.lua:3: no"),
    "far away": ({"pings_ms": [20.0, 30.0, 500.0]}, "warning latency", "takes 30.0 ms, at most 500.0 ms"),
    "clock ahead": ({"clock_offset": 3.0}, "warning clock", "3.000 s ahead of this host's; only the server's counts"),
    "clock behind": ({"clock_offset": -3.0}, "warning clock", "3.000 s behind"),
}


@pytest.mark.parametrize(("others", "how", "what"), UNSOUND_FACTS.values(), ids=UNSOUND_FACTS.keys())
def test_what_trials_tell(others: dict[str, Any], how: str, what: str) -> None:
    assert_one_complaint(server.judge(facts(**others)), how, what)


def assert_one_complaint(findings: list[Finding], how: str, what: str) -> None:
    [complaint] = complaints(findings)
    assert f"{complaint.severity} {complaint.code}" == how
    assert what in complaint.what
    assert complaint.advice


@pytest.mark.parametrize(
    ("info", "is_locked", "is_well"),
    [
        ({"redis_version": "6.2.19"}, False, False),
        ({"redis_version": "6.2.20"}, None, True),
        ({"redis_version": "7.0.15"}, False, False),
        ({"redis_version": "7.0.15"}, True, True),
        ({"redis_version": "7.2.10"}, None, False),
        ({"redis_version": "7.4.6"}, None, True),
        ({"redis_version": "8.0.3"}, None, False),
        ({"redis_version": "8.2.2"}, None, True),
        ({"redis_version": "8.4.0"}, None, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.5"}, None, False),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, None, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0"}, None, True),
    ],
)
def test_holes_of_lua_are_told_by_release_and_by_trial(
    *, info: dict[str, Any], is_locked: bool | None, is_well: bool
) -> None:
    findings = server.judge(facts(info=info, has_locked_lua=is_locked))
    assert [f.severity for f in findings if f.code == "lua-security"] == [Severity.OK if is_well else Severity.WARNING]


def test_holes_of_lua_are_no_matter_where_nobody_else_comes() -> None:
    findings = server.judge(facts(info={"redis_version": "6.2.14"}, has_locked_lua=False), is_private=True)
    assert complaints(findings) == []


def test_without_info_the_rest_is_judged() -> None:
    unknown = Facts(info={}, settings={}, user="", has_locked_lua=None, refused_commands=["SADD"])
    assert [finding.code for finding in complaints(server.judge(unknown))] == ["rights", "info"]


def test_every_command_of_the_scripts_is_tried() -> None:
    used = {command for script in load_all().values() for command in re.findall(r"redis\.p?call\('(\w+)'", script.text)}
    tried = {call.split(" ")[0] for call in rights.IN_SCRIPTS}
    assert tried == used, "see fairqued/doctor/rights.py"


def test_the_schema_version_is_that_of_the_scripts() -> None:
    [version] = re.findall(r"SCHEMA = (\d+)", read_text("lua", "lib/meta.lua"))
    assert int(version) == namespace.SCHEMA


# The namespace

NOW = 1e15
LATE = NOW - 60e6
BUSY = namespace.Facts(
    now=NOW, schema=1, ticked=NOW - 1e6, depths={"default": 2, "default!": 1, "mail": 0}, leases={"w": NOW + 1e7},
    served=frozenset({"default"}), due=NOW + 5e6, open_by_place=5, open_by_counters=5,
)  # fmt: skip


def test_a_namespace_where_work_gets_on_is_praised() -> None:
    assert complaints(namespace.judge(BUSY)) == []
    empty = namespace.Facts(now=NOW, depths={}, leases={})
    assert complaints(namespace.judge(empty)) == []


STUCK: dict[str, tuple[dict[str, Any], str, str]] = {
    "newer": ({"schema": 99}, "error schema", "schema version 99"),
    "no daemon ever": ({"ticked": None}, "warning daemon", "no daemon has ever"),
    "no daemon now": ({"ticked": LATE}, "warning daemon", "for 60 s"),
    "dead workers": ({"leases": {"w": LATE, "v": NOW}}, "warning leases", "1 registered workers have no lease"),
    "queue without workers": ({"depths": {"mail": 7}}, "warning queues", "7 tasks wait in queue mail"),
    "hidden queue without workers": ({"depths": {"mail!": 7}}, "warning queues", "queue mail!"),
    "overdue": ({"due": LATE}, "warning scheduled", "due for 60 s"),
    "lost": ({"open_by_place": 4}, "warning counters", "5 tasks should be open by the counters, 4 are found"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "how", "what"), STUCK.values(), ids=STUCK.keys())
def test_what_keeps_work_from_getting_on(changes: dict[str, Any], how: str, what: str) -> None:
    known = {name: getattr(BUSY, name) for name in namespace.Facts.__dataclass_fields__}
    assert_one_complaint(namespace.judge(namespace.Facts(**(known | changes))), how, what)


def test_parked_users_are_named_without_blame() -> None:
    parked = namespace.Facts(now=NOW, depths={}, leases={}, parked=list("abcdef"), parked_count=900)
    [told] = [finding for finding in namespace.judge(parked) if finding.code == "parked"]
    assert told.severity is Severity.OK
    assert told.what.startswith("900 users")
    assert told.what.endswith("a, b, c, d, e, …")


# The host


def part(mountpoint: str, kind: str) -> SimpleNamespace:
    return SimpleNamespace(mountpoint=mountpoint, fstype=kind)


def lying_on(monkeypatch: pytest.MonkeyPatch, kind: str, place: Path) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [part("/", "ext4"), part(str(place), kind)])


def test_a_sound_host_is_praised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lying_on(monkeypatch, "xfs", tmp_path)
    for place in (tmp_path, tmp_path / "not" / "yet"):
        findings = host.host_findings(place, holds_data=False, daemon_pid=None)
        assert complaints(findings) == []
        assert [finding.code for finding in findings] == ["state-dir", "disk-kind", "disk-space", "open-files"]


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [finding] = host.state_dir_is_writable(tmp_path / "file" / "state")
    assert (finding.severity, finding.code) == (Severity.ERROR, "state-dir")
    (tmp_path / "program").touch(mode=0o700)
    [finding] = host.state_dir_is_writable(tmp_path / "program")
    assert "is no directory" in finding.what


@pytest.mark.parametrize(
    ("kind", "holds_data", "is_well"),
    [("nfs4", False, False), ("cifs", False, False), ("tmpfs", False, True), ("tmpfs", True, False)],
)
def test_a_disk_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str, holds_data: bool, is_well: bool
) -> None:
    lying_on(monkeypatch, kind, tmp_path)
    [finding] = host.disk_is_local(tmp_path / "state", holds_data=holds_data)
    assert (finding.severity is Severity.OK) is is_well
    assert kind in finding.what


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(free=500 * 2**20))
    assert complaints(list(host.disk_has_room(tmp_path, holds_data=False))) == []
    assert "500 MB" in complaints(list(host.disk_has_room(tmp_path, holds_data=True)))[0].what


@pytest.mark.parametrize(("opened", "most", "is_well"), [(10, 1024, True), (900, 1024, False), (None, 512, False)])
def test_open_files(monkeypatch: pytest.MonkeyPatch, *, opened: int | None, most: int, is_well: bool) -> None:
    monkeypatch.setattr(host, "_files_of", lambda _: (opened, most))
    assert (complaints(list(host.files_can_be_opened(1))) == []) is is_well
