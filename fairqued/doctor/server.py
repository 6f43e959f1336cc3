"""Whether a server can be trusted with tasks: each rule one small check of what it tells of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import isinf

import redis

from fairqued.doctor.facts import Facts, gather
from fairqued.doctor.finding import Finding, error, ok, warning
from fairqued.keys import DEFAULT_NAMESPACE

OLDEST = (6, 2)
LUA_FIXES = "CVE-2025-49844, CVE-2025-46817, CVE-2025-46818, CVE-2025-46819"
_FIXED_IN: dict[str, dict[tuple[int, int], int]] = {
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
_SLOW_MS, _FULL, _CLOCK_SECONDS, _LAG_SECONDS = 10.0, 0.8, 1.0, 10

Check = Callable[[Facts], Iterator[Finding]]


def server_findings(
    client: redis.Redis, namespace: str = DEFAULT_NAMESPACE, *, is_private: bool = False, pings: int = 9
) -> list[Finding]:
    """Everything that can be told of a server, good and bad, by a user who may do what workers do.

    A private one is reached by its own daemon and clients alone, such as an embedded one. Raises redis-py's errors
    where the server does not answer; a user that may not do something is a finding.
    """
    return judge(gather(client, namespace, pings=pings), is_private=is_private)


def judge(facts: Facts, *, is_private: bool = False) -> list[Finding]:
    """What is to be said of these facts."""
    checks = _OF_ALL + (_OF_INFO if facts.info else (info_is_denied,)) + (() if is_private else (lua_is_patched,))
    return [finding for check in checks for finding in check(facts)]


def info_is_denied(facts: Facts) -> Iterator[Finding]:
    """Without INFO most rules cannot be judged."""
    yield warning(
        "info", f"{_who(facts)} may not run INFO: persistence, memory, role and version of the server are not known",
        "let it: `ACL SETUSER … +info`, or check as another user",
    )  # fmt: skip


def version_is_supported(facts: Facts) -> Iterator[Finding]:
    """Scripts use what 6.2 has."""
    if _numbers(facts)[:2] < OLDEST:
        yield error("version", f"{facts.name} {facts.version} is too old: scripts need 6.2", "upgrade the server")
    else:
        yield ok("version", f"{facts.name} {facts.version}")


def lua_is_patched(facts: Facts) -> Iterator[Finding]:
    """Known holes of Lua let any user that may run scripts take over the server."""
    if _has_fixed_release(facts):
        yield ok("lua-security", "this release has the Lua security fixes of 2025")
    elif facts.has_locked_lua:
        yield ok("lua-security", "its distribution has patched the Lua security holes of 2025")
    elif facts.info or facts.has_locked_lua is False:
        fixed = ", ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in _FIXED_IN[facts.name].items())
        yield warning(
            "lua-security",
            f"{facts.name} {facts.version or 'of unknown version'} lacks the Lua security fixes of 2025 ({LUA_FIXES}), "
            "unless its distribution patched them: whoever may run scripts may take over the server",
            f"upgrade to {fixed} or newer, or to a patched package; until then let nobody else reach it",
        )


def server_is_no_cluster(facts: Facts) -> Iterator[Finding]:
    """A plain client is sent elsewhere by nodes of a cluster."""
    if facts.info.get("cluster_enabled"):
        yield error(
            "cluster", "the server runs in cluster mode, which this release does not support",
            "use a server outside of a cluster, with `cluster-enabled no`",
        )  # fmt: skip


def server_takes_writes(facts: Facts) -> Iterator[Finding]:
    """A replica, or a server that cannot save, refuses them."""
    if facts.info.get("role") == "slave":
        primary = f"{facts.info.get('master_host')}:{facts.info.get('master_port')}"
        yield error(
            "role", f"this is a replica of {primary}: tasks are neither accepted nor run here",
            "let redis.url name the primary",
        )  # fmt: skip
    elif facts.no_writes:
        yield error("writes", f"the server takes no writes: {facts.no_writes}", "its log tells more")
    else:
        yield ok("writes", "the server takes writes")


def tasks_are_persisted(facts: Facts) -> Iterator[Finding]:
    """What is only in memory is gone with the process."""
    policy = facts.settings.get("appendfsync")
    if not facts.info.get("aof_enabled"):
        yield warning(
            "persistence",
            "the append-only file is off: a crash of the server loses every task since its last snapshot",
            "set `appendonly yes` in its configuration, and now: `redis-cli CONFIG SET appendonly yes`",
        )
    elif policy == "no":
        yield warning(
            "persistence", "appendfsync is `no`: a machine that loses its power loses half a minute of tasks",
            "set `appendfsync everysec`",
        )  # fmt: skip
    else:
        yield ok("persistence", "the append-only file is on" + (f", appendfsync {policy}" if policy else ""))


def disk_takes_data(facts: Facts) -> Iterator[Finding]:
    """A server that cannot write its files refuses writes, or keeps nothing."""
    advice = "free space on its disk, and look into its log"
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        yield error("disk", "the server could not write to its append-only file", advice)
    if facts.info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield warning("disk", "the last rewrite of the append-only file failed: it grows on", advice)
    if facts.info.get("rdb_last_bgsave_status", "ok") != "ok":
        if facts.settings.get("stop-writes-on-bgsave-error", "yes") == "yes":
            yield error("disk", "the last snapshot failed: the server may refuse writes until one succeeds", advice)
        else:
            yield warning("disk", "the last snapshot failed", advice)


def memory_is_never_evicted(facts: Facts) -> Iterator[Finding]:
    """Every policy but noeviction throws away what fairqued keeps."""
    most, policy = facts.info.get("maxmemory", 0), facts.info.get("maxmemory_policy", "noeviction")
    if most and policy != "noeviction":
        gone = facts.info.get("evicted_keys", 0)
        what = "results and whatever else has a TTL" if str(policy).startswith("volatile") else "tasks"
        yield warning(
            "eviction",
            f"maxmemory-policy is {policy}: when memory is short the server throws away {what}"
            + (f", and has evicted {gone} keys" if gone else ""),
            "set `maxmemory-policy noeviction`: then new tasks are refused, and those that are there go on",
        )
    else:
        yield ok("eviction", "maxmemory-policy is noeviction" if most else "there is no maxmemory")


def memory_is_left(facts: Facts) -> Iterator[Finding]:
    """A full server refuses new tasks."""
    most, used = facts.info.get("maxmemory", 0), facts.info.get("used_memory", 0)
    advice = "raise `maxmemory`, or keep fewer ended tasks (retention)"
    if most and used >= most:
        yield error("memory", f"the server is full ({_mb(used)} of {_mb(most)}): new tasks are refused", advice)
    elif most and used >= _FULL * most:
        yield warning("memory", f"the server is nearly full: {_mb(used)} of {_mb(most)}", advice)
    else:
        yield ok("memory", f"{_mb(used)} in use" + (f" of {_mb(most)}" if most else ""))


def replicas_follow(facts: Facts) -> Iterator[Finding]:
    """A replica that lags loses more in a failover."""
    replicas = [each for name, each in facts.info.items() if re.fullmatch(r"slave\d+", name) and isinstance(each, dict)]
    for replica in replicas:
        where, lag = f"{replica.get('ip')}:{replica.get('port')}", int(replica.get("lag", 0))
        if replica.get("state") != "online" or lag > _LAG_SECONDS:
            yield warning(
                "replicas", f"replica {where} is {replica.get('state')}, {lag} s behind",
                "a failover to it loses what it has not got: look at the network and at its load",
            )  # fmt: skip
        else:
            yield ok("replicas", f"replica {where} follows")


def clients_find_room(facts: Facts) -> Iterator[Finding]:
    """Beyond maxclients connections are refused."""
    most, now = facts.info.get("maxclients", 0), facts.info.get("connected_clients", 0)
    if most and now >= _FULL * most:
        yield warning("clients", f"{now} of {most} client connections are in use", "raise `maxclients`")
    else:
        yield ok("clients", f"{now} client connections" + (f" of {most}" if most else ""))


def user_has_its_rights(facts: Facts) -> Iterator[Finding]:
    """A script stops half-way at a command that its caller may not send."""
    if facts.refused_commands:
        yield error(
            "rights", f"{_who(facts)} may not send {', '.join(facts.refused_commands)} to keys of this namespace",
            "`fairquectl print acl` prints the rules that a daemon needs; who only looks needs less",
        )  # fmt: skip
    else:
        yield ok("rights", f"{_who(facts)} may send every command that fairqued needs")


def scripts_can_be_loaded(facts: Facts) -> Iterator[Finding]:
    """Every change of a task is a script."""
    for broken in facts.broken_scripts:
        yield error("scripts", f"the server cannot load a script: {broken}", "use Redis or Valkey, 6.2 or newer")


def server_answers_fast(facts: Facts) -> Iterator[Finding]:
    """A worker waits for a round trip between two tasks."""
    took = f"a round trip takes {facts.ping_ms:.1f} ms, at most {max(facts.pings_ms):.1f} ms"
    if facts.ping_ms > _SLOW_MS:
        yield warning("latency", took, "run the daemon near its server; more threads hide some of it")
    else:
        yield ok("latency", took)


def clocks_agree(facts: Facts) -> Iterator[Finding]:
    """Only the server's clock counts; another one makes logs hard to read, and `run_at` surprising."""
    if isinf(facts.clock_doubt):
        return
    offset = facts.clock_offset
    told = f"the server's clock is {abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} this host's"
    if abs(offset) > _CLOCK_SECONDS + facts.clock_doubt:
        yield warning("clock", f"{told}; only the server's counts for tasks", "let NTP set both clocks")
    else:
        yield ok("clock", told)


_OF_INFO: tuple[Check, ...] = (
    version_is_supported, server_is_no_cluster, tasks_are_persisted, disk_takes_data, memory_is_never_evicted,
    memory_is_left, replicas_follow, clients_find_room,
)  # fmt: skip
_OF_ALL: tuple[Check, ...] = (
    server_takes_writes, user_has_its_rights, scripts_can_be_loaded, server_answers_fast, clocks_agree,
)  # fmt: skip


def _has_fixed_release(facts: Facts) -> bool:
    numbers, fixed_in = _numbers(facts), _FIXED_IN[facts.name]
    patch = fixed_in.get(numbers[:2])
    return numbers[:2] > max(fixed_in) or (patch is not None and numbers[2] >= patch)


def _numbers(facts: Facts) -> tuple[int, int, int]:
    found = [int(part) for part in re.findall(r"\d+", facts.version)[:3]]
    major, minor, patch = [*found, 0, 0, 0][:3]
    return major, minor, patch


def _who(facts: Facts) -> str:
    return f"user {facts.user}" if facts.user else "this user"


def _mb(size: int) -> str:
    return f"{size / 1024**2:.0f} MB"
