"""The rules of `fairquectl print acl`: each role may do its work, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from fairqued import NotAllowed, Task, TaskQueue
from fairqued.connection import Connection, make_client
from fairqued.ctl import acl
from fairqued.ctl.acl import CLIENT, OPERATOR, READ_ONLY, ROLES, WORKER, Role
from fairqued.ctl.main import cli
from fairqued.doctor.snapshot import Snapshot, read_snapshot
from fairqued.keys import KEY_TABLE
from fairqued.store import Ended, Finished, Store
from tests.support.daemon import CHECKOUT
from tests.support.lua_source import libraries, scripts, with_callees, without_comments
from tests.support.roles import PASSWORD, role_url, with_login
from tests.support.servers import RedisServer, ServerBinary

LATE = 20
StartServer = Callable[..., RedisServer]


def connected(url: str, namespace: str) -> closing[TaskQueue]:
    """A client of alice's, for a `with` block."""
    return closing(TaskQueue(url, namespace=namespace, user_id="alice"))


# The lists and the scripts


def text_of(role: Role) -> str:
    """All code that runs when the scripts of a role are called."""
    return without_comments("\n".join(with_callees(scripts()[name]) for name in role.scripts))


def calls_in(text: str) -> set[str]:
    return set(re.findall(r"redis\.p?call\(\s*'(\w+)'", text))


def test_every_call_of_redis_is_seen() -> None:
    for name, text in {**scripts(), **libraries()}.items():
        plain = without_comments(text)
        named = re.findall(r"redis\.p?call\(\s*'\w+'", plain)
        assert plain.count("redis.call(") + plain.count("redis.pcall(") == len(named), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_may_do_what_its_scripts_do_and_no_more(role: Role) -> None:
    clock = calls_in(libraries()["lib/clock"])
    assert set(role.in_scripts.split()) == calls_in(text_of(role)) | clock


def test_a_client_has_the_keys_that_its_scripts_touch_and_no_more() -> None:
    words = set(re.findall(r"'(\w+)'", text_of(CLIENT)))
    names = {key.partition(":")[0] for key in KEY_TABLE} | {"none"}
    assert set(CLIENT.keys.split()) == words & names | {"result"}
    assert not {"worker", "workers", "claims", "dead", "functions"} & set(CLIENT.keys.split())


# What is printed


def printed(*words: str, env: dict[str, str] | None = None) -> list[str]:
    answer = CliRunner().invoke(cli, ["print", "acl", *words], env={"FAIRQUED_CONFIG": "", **(env or {})})
    assert answer.exit_code == 0, answer.output
    return answer.output.splitlines()


def test_the_namespace_is_that_of_the_options(tmp_path: Path) -> None:
    config = tmp_path / "fairqued.yaml"
    config.write_text("{redis: {url: 'redis://h'}, namespace: shop}")
    assert printed("--namespace", "shop") == printed("-c", str(config)) == acl.rules("shop")
    assert printed(env={"FAIRQUED_CONFIG": str(config)}) == acl.rules("shop")
    assert printed(env={"FAIRQUED_NAMESPACE": "shop"}) == acl.rules("shop")
    assert printed() == acl.rules("fairque")


def test_the_names_of_users_begin_as_told() -> None:
    lines = printed("--user-prefix", "shop:")
    assert [line.split()[1] for line in lines] == ["shop:client", "shop:worker", "shop:operator", "shop:readonly"]
    for bad in ("a b", "a\n", "ü"):
        answer = CliRunner().invoke(cli, ["print", "acl", "--user-prefix", bad])
        assert answer.exit_code == 2
        assert "user prefix" in answer.output


def test_redis_takes_them_as_an_acl_file(
    start_server: StartServer, server_binary: ServerBinary, namespace: str, tmp_path: Path
) -> None:
    lines = [line.replace(">PASSWORD", f">{line.split()[1]}-pass") for line in printed("--namespace", namespace)]
    file = tmp_path / "users.acl"
    file.write_text("user default on nopass ~* &* +@all\n" + "".join(f"{line}\n" for line in lines))
    server = start_server(server_binary, options=["--aclfile", str(file)])
    url = with_login(server.url, "fairqued-client", "fairqued-client-pass")
    with connected(url, namespace) as client, make_client(server.url, LATE) as admin:
        assert client.get(client.enqueue(Task(payload=1)).task_id).payload == 1
        users: Any = admin.acl_users()
        assert sorted(users) == ["default", *sorted(line.split()[1] for line in lines)]
        for line in lines:
            rights: Any = admin.acl_getuser(line.split()[1])
            assert "+@all" not in rights["categories"]
            assert rights["channels"] == []
    with connected(with_login(server.url, "fairqued-client", "wrong"), namespace) as stranger:
        with pytest.raises(
            NotAllowed, match=r"^Redis at unix://fairqued-client:\*\*\*@.* refused: invalid username-password pair"
        ) as caught:
            stranger.get("1")
        assert "wrong" not in str(caught.value)


# What they let each role do


@pytest.fixture
def queue_of(redis_url: str, namespace: str) -> Iterator[Callable[[Role], TaskQueue]]:
    """A queue as the user of a role."""
    queues: list[TaskQueue] = []

    def make(role: Role) -> TaskQueue:
        queues.append(TaskQueue(role_url(redis_url, namespace, role), namespace=namespace, user_id="alice"))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()


QueueOf = Callable[[Role], TaskQueue]


def test_a_task_goes_its_way(queue_of: QueueOf) -> None:
    client, worker, watcher = queue_of(CLIENT), queue_of(WORKER), queue_of(READ_ONLY)
    handles = client.enqueue_many(Task(payload=number) for number in range(4))
    delayed = client.enqueue(Task(payload=4, task_id="delayed"), delay_seconds=3600)
    client.enqueue(Task(payload=5, task_id="delayed"), if_exists="replace", delay_seconds=3600)
    assert watcher.stats().depth == {"default": 4}
    with worker.lease() as lease:
        done, failed, *rest = lease.dequeue(4)
        lease.finish_task(done, {"a": 1})
        lease.fail_task(failed, "no luck")
        assert watcher.stats().workers[0].held == len(rest) == 2
    assert handles[0].result() == {"a": 1}
    assert watcher.handle(handles[0].task_id).result() == {"a": 1}
    assert client.get(handles[1].task_id).error_message == "no luck"
    assert (handles[1].retry(), delayed.cancel(), handles[2].cancel()) == (True, True, True)
    stats = queue_of(OPERATOR).stats()
    assert (stats.depth, stats.finished, stats.failed, stats.cancelled) == ({"default": 2}, 1, 0, 2)


def test_an_operator_may_look_at_everything_and_steer(queue_of: QueueOf, namespace: str) -> None:
    operator = queue_of(OPERATOR)
    assert operator.cancel(operator.enqueue(Task(payload=1)).task_id)
    operator._store.configure("digest", {"weight": 2}, {"alice": b'{"weight": {"value": 3, "origin": "yaml"}}'})
    found = read_snapshot(operator._store.connection.client, namespace)
    assert (len(found.tasks), list(found.hash("limits"))) == (1, ["alice"])
    url = operator._store.connection.url
    answer = CliRunner().invoke(cli, ["doctor", "--deep", "--redis", url, "--namespace", namespace, "--json"])
    assert "cannot be looked at" not in answer.output
    assert "are sound" in answer.output


# What they do not


ADMINISTRATIVE = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST", "ACL SETUSER x on",
    "SHUTDOWN", "SUBSCRIBE c", "PUBLISH c m", "SCRIPT FLUSH", "SCRIPT KILL", "BGSAVE", "REPLICAOF NO ONE",
    "MONITOR", "CLIENT LIST", "CLIENT KILL 1.1.1.1:1", "SWAPDB 0 1", "RANDOMKEY",
)  # fmt: skip
ELSEWHERE = (
    "GET {other}:task:1", "SET {other}:task:1 x", "GET plain", "DEL {NSx}:meta", "SET {NS x", "HSET meta a b",
    "EVAL return(redis.call('SET','{other}:x','1')) 1 {NS}:meta", "EVAL return(redis.call('FLUSHALL')) 1 {NS}:meta",
)  # fmt: skip


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_role_may_administer_or_look_elsewhere(redis_url: str, namespace: str, role: Role) -> None:
    with make_client(role_url(redis_url, namespace, role), LATE) as client:
        for line in (*ADMINISTRATIVE, *ELSEWHERE):
            words = line.replace("NS", namespace).split(" ")
            refusal = refused(client, words)
            assert refusal, f"{role.name} may {line}"


def refused(client: Any, words: list[str]) -> bool:
    """Whether Redis refuses a command for want of rights."""
    try:
        client.execute_command(*words)
    except redis.ResponseError as error:
        return any(
            part in str(error) for part in ("NOPERM", "no permissions", "can't run this command", "can't access")
        )
    return False


def snapshot(url: str, namespace: str) -> Snapshot:
    with make_client(url, LATE) as admin:
        return read_snapshot(admin, namespace)


WORKERS_CALLS: dict[str, Callable[[Store, str], object]] = {
    "register": lambda store, _: store.register("intruder", 10**7, b"{}", {"os:system": b"{}"}),
    "pop": lambda store, _: store.pop("w", 2, 1, ["default"]),
    "heartbeat": lambda store, _: store.heartbeat("w", 10**7, 1, {}),
    "finish": lambda store, held: store.exchange("w", [Finished(held, 1, b"7", 1000)], [], None, 0, []),
    "fail": lambda store, held: store.exchange("w", [], [Ended(held, 1, "fail", 1, b"{}")], None, 0, []),
    "reclaim": lambda store, _: store.reclaim("w", "death"),
    "stats": lambda store, _: store.stats(10),
}


def test_a_client_can_do_nothing_of_a_worker(redis_url: str, namespace: str, queue_of: QueueOf) -> None:
    client = queue_of(CLIENT)
    handles = client.enqueue_many(Task(payload=number) for number in range(2))
    worker = queue_of(WORKER)._store
    worker.register("w", 10**9, b"{}", {})
    worker.pop("w", 1, 1, ["default"])
    before = snapshot(redis_url, namespace)
    for name, call in WORKERS_CALLS.items():
        with pytest.raises(NotAllowed):
            call(client._store, handles[0].task_id)
        assert snapshot(redis_url, namespace) == before, name
    with make_client(client._store.connection.url, LATE) as plain:
        for line in ("ZPOPMIN {NS}:waiting:default:alice", "BZPOPMIN {NS}:bell:default 0.01", "HGETALL {NS}:worker:w",
                     "HSET {NS}:functions a b", "ZADD {NS}:workers 1 w"):  # fmt: skip
            assert refused(plain, line.replace("NS", namespace).split(" ")), line


def test_a_read_only_user_changes_nothing(redis_url: str, namespace: str, queue_of: QueueOf) -> None:
    handle = queue_of(CLIENT).enqueue(Task(payload=1))
    watcher = queue_of(READ_ONLY)
    before = snapshot(redis_url, namespace)
    for call in (
        lambda: watcher.enqueue(Task(payload=2)),
        lambda: watcher.cancel(handle.task_id),
        watcher.lease().__enter__,
    ):
        with pytest.raises(NotAllowed):
            call()
    assert watcher.get(handle.task_id).payload == 1
    assert snapshot(redis_url, namespace) == before


@pytest.mark.parametrize("odd", ["[a]*", "a?c", "a\\c"])
def test_a_namespace_is_no_pattern(redis_url: str, odd: str) -> None:
    url = role_url(redis_url, odd, WORKER)
    with connected(url, odd) as own, connected(url, "abc") as other:
        own.enqueue(Task(payload=1))
        with pytest.raises(NotAllowed):
            other.enqueue(Task(payload=1))


def test_the_password_of_these_tests_is_an_awkward_one(redis_url: str, namespace: str) -> None:
    url = role_url(redis_url, namespace, CLIENT)
    with pytest.raises(NotAllowed) as caught:
        Connection(url).call(lambda client: client.flushall())
    assert PASSWORD not in str(caught.value)
    assert ":***@" in str(caught.value)


SUITE = ("test_claims", "test_completions")


def test_the_tests_of_the_scripts_pass_as_these_users() -> None:
    """A part of them; the whole is `pytest tests/lua tests/daemon --acl`."""
    files = [f"tests/lua/{name}.py" for name in SUITE]
    command = [sys.executable, "-m", "pytest", "--acl", "-q", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:]
