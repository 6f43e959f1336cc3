"""Every key of a namespace. `docs/redis-keys.md` explains them; `lua/lib/key.lua` builds the same names.

All keys carry the namespace as their hash tag, so a namespace is one slot of a Redis Cluster. What comes from
users (task ids, user ids) is only ever the last part of a key.
"""

from __future__ import annotations

import re

from fairqued.errors import ConfigError

DEFAULT_NAMESPACE = "fairque"
_NAMESPACE = re.compile(r"[^\s{}:\x00-\x1f\x7f]{1,100}")

KEY_TABLE: dict[str, tuple[str, str]] = {
    "meta": ("HASH", "schema version, head starts, default limits, counters of handles, time of the last tick"),
    "task:<id>": ("STRING", "the record of a task: fixed header, user, queue, spec, error"),
    "result:<id>": ("STRING", "the JSON result of a FINISHED task, with a TTL"),
    "spent:<id>": ("STRING", "nonces of calls refused or overtaken (replaced, retried), 8 bytes each, with a TTL"),
    "waiting:<queue>:<user>": ("ZSET", "QUEUED tasks of a user by score"),
    "critical:<queue>:<user>": ("ZSET", "QUEUED tasks of priority CRITICAL by due time"),
    "ready:<queue>": ("ZSET", "users with work that may run now, by rank"),
    "parked:<user>": ("SET", "queues in which a user has work, but may not run it now"),
    "parked": ("SET", "users that are parked somewhere"),
    "account:<domain>": ("HASH", "of each user, packed: V, deposit, estimate, touched, running, waiting, critical"),
    "idle:<domain>": ("ZSET", "users without work whose V is still ahead of the clock, by V"),
    "domains": ("HASH", "each domain's packed clock, largest V, number of open tasks"),
    "running": ("HASH", "STARTED tasks by user, over all domains"),
    "depth": ("HASH", "QUEUED tasks by queue"),
    "scheduled": ("ZSET", "SCHEDULED tasks by due time"),
    "workers": ("ZSET", "registered workers by the end of their lease"),
    "worker:<id>": ("HASH", "a registered worker: handle, last claim, description"),
    "claims:<id>": ("ZSET", "STARTED tasks of a worker by claim number"),
    "dead": ("ZSET", "workers that were reclaimed, by the time until which they are refused"),
    "finished": ("LIST", "FINISHED tasks in the order of their end"),
    "failed": ("ZSET", "FAILED tasks by the time of their end"),
    "cancelled": ("ZSET", "CANCELLED tasks by the time of their end"),
    "tombstones": ("HASH", "enqueue nonces of tasks whose record was trimmed early, by task id"),
    "tombstones_due": ("ZSET", "the same tasks, by the time until which their id is refused"),
    "bell:<queue>": ("ZSET", "one marker while work may be ready; idle workers block on it"),
    "functions": ("HASH", "what workers can run: name to JSON description"),
    "limits": ("HASH", "limits of users that differ from the defaults: JSON, each with its origin"),
    "counters": ("HASH", "how many transitions of each kind there were"),
}
"""Name after the prefix, type in Redis, meaning. The fsck of the tests and the docs use this table."""


_HIDDEN_MARK = "!"


def hidden_queue(queue: str) -> str:
    """The queue, of the same domain, where tasks of `queue` wait whose process died twice."""
    return queue + _HIDDEN_MARK


def base_queue(queue: str) -> str:
    """The queue that a hidden one stands beside; any other is its own."""
    return queue.removesuffix(_HIDDEN_MARK)


def check_namespace(namespace: object) -> str:
    """Return `namespace`, or raise ConfigError if it cannot be a hash tag."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        allowed = "expected 1 to 100 characters without blanks, braces, colons and control characters"
        raise ConfigError(f"namespace {namespace!r}: {allowed}")
    return namespace


class Keys:
    """Key names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = check_namespace(namespace)
        self.prefix = f"{{{namespace}}}:"
        self.meta = self.prefix + "meta"

    def of(self, name: str, *parts: str) -> str:
        """The key called `name` in KEY_TABLE, with its variable parts."""
        return self.prefix + ":".join((name, *parts))
