"""fsck on a living namespace, so that tasks on their way are not taken for damage."""

from __future__ import annotations

import time
from collections.abc import Mapping

import redis
from redis.exceptions import ResponseError

from fairqued.doctor import fsck
from fairqued.doctor.finding import Finding, error, ok
from fairqued.doctor.fsck import CHECKS, Check, violations
from fairqued.doctor.rights import is_denied
from fairqued.doctor.snapshot import Snapshot, Tell, read_at_once, read_snapshot

AT_ONCE_KEYS, _AT_ONCE_BYTES = 10_000, 64 * 1024**2
LOOKS, _PAUSE_SECONDS = 4, 1.0
_OTHERWISE = (
    "something else has written to this namespace, the server has lost writes that it had acknowledged, or this is a "
    "bug: keep a copy (`redis-cli --rdb FILE`) and report it"
)
_ADVICE: Mapping[Check, str] = {
    fsck.keys_are_in_the_table: "if it is another application's, give that one a namespace of its own; else delete it",
    fsck.records_can_be_read: "the script that meets it next sets it FAILED (corrupt); enqueue it again",
    fsck.workers_are_listed: "a daemon of this namespace puts back what dead workers held: look again in a minute",
    fsck.counters_add_up: "no task depends on the counters, they are for people; see whether other findings explain it",
}


def deep_findings(client: redis.Redis, namespace: str, *, tell: Tell | None = None) -> list[Finding]:
    """Everything that is wrong in a namespace. `tell` hears how far reading it is.

    Where a server holds little, it is read at once. Otherwise reading is not atomic, so what a first look finds is
    looked at again some times, a second apart: what all say word for word is an error; what only some say was tasks on
    their way, or damage that changes all the time. That is counted, and to be looked at again when nothing moves.
    """
    snapshot = _read_at_once(client, namespace)
    if snapshot is not None:
        found = _found(snapshot)
        return _errors(found) or _sound(snapshot)
    snapshot = read_snapshot(client, namespace, tell=tell)
    first = found = _found(snapshot)
    for _ in range(LOOKS - 1 if first else 0):
        time.sleep(_PAUSE_SECONDS)
        again = _found(read_snapshot(client, namespace, tell=tell))
        found = {what: check for what, check in found.items() if what in again}
    return (_errors(found) + _moving(len(first) - len(found))) or _sound(snapshot)


def _read_at_once(client: redis.Redis, namespace: str) -> Snapshot | None:
    """None if that would take too long for others, or is not allowed to this user."""
    try:
        is_small = client.dbsize() <= AT_ONCE_KEYS and client.info("memory")["used_memory"] <= _AT_ONCE_BYTES
        return read_at_once(client, namespace) if is_small else None
    except ResponseError as refusal:
        if not is_denied(refusal):
            raise
        return None


def _found(snapshot: Snapshot) -> dict[str, Check]:
    return {what: check for check in CHECKS for what in violations(check, snapshot)}


def _errors(found: Mapping[str, Check]) -> list[Finding]:
    return [error(check.__name__, what, _ADVICE.get(check, _OTHERWISE)) for what, check in found.items()]


def _moving(count: int) -> list[Finding]:
    if not count:
        return []
    what = f"of what the first look found {count} were not there in each of {LOOKS}, a second apart: tasks are moving"
    return [ok("deep", f"{what}; to rule out damage look again when no worker runs")]


def _sound(snapshot: Snapshot) -> list[Finding]:
    return [ok("deep", f"{len(snapshot.types)} keys with {len(snapshot.tasks)} tasks are sound")]
