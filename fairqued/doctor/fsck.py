"""Whether a namespace is sound: every rule that holds between two scripts, each one small check.

A check takes a snapshot and yields what is wrong, each a sentence for operators; its docstring is the rule.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import TypeVar

import redis

from fairqued.doctor.snapshot import Account, Snapshot, read_snapshot
from fairqued.keys import KEY_TABLE, base_queue
from fairqued.record import Record
from fairqued.state import Priority, TaskState

_ROUNDING_US = 0.001
_DEATHS_THAT_HIDE = 2

Number = TypeVar("Number", int, float)
Check = Callable[[Snapshot], Iterator[str]]


def fsck(client: redis.Redis, namespace: str) -> list[str]:
    """Everything that is wrong in a namespace."""
    return findings(read_snapshot(client, namespace))


def findings(snapshot: Snapshot) -> list[str]:
    """Everything that is wrong in a snapshot."""
    return [finding for check in CHECKS for finding in violations(check, snapshot)]


def violations(check: Check, snapshot: Snapshot) -> Iterator[str]:
    """What one check finds; damage that it cannot read is a finding too."""
    try:
        yield from check(snapshot)
    except (ValueError, LookupError, TypeError, struct.error) as error:
        yield f"{rule_of(check)} That cannot be told: {type(error).__name__}: {error}"


def rule_of(check: Check) -> str:
    """The rule that a check holds a namespace to, in one sentence."""
    return check.__doc__ or ""


def keys_are_in_the_table(snapshot: Snapshot) -> Iterator[str]:
    """Every key is in the key table, with its type."""
    for key, kind in snapshot.types.items():
        expected = expected_type(key)
        if expected is None:
            yield f"key {key} is in no key table"
        elif expected != kind.upper():
            yield f"key {key} is a {kind.upper()}, expected a {expected}"


def expected_type(key: str) -> str | None:
    """The type that the key table names for a key without its prefix."""
    name, *parts = key.split(":")
    for pattern, (kind, _) in KEY_TABLE.items():
        expected_name, *expected_parts = pattern.split(":")
        if name == expected_name and bool(parts) == bool(expected_parts) and len(parts) >= len(expected_parts):
            return kind
    return None


def records_can_be_read(snapshot: Snapshot) -> Iterator[str]:
    """Every record can be read."""
    yield from (str(error) for error in snapshot.unreadable.values())


def each_task_is_in_its_one_container(snapshot: Snapshot) -> Iterator[str]:
    """Each task is in the one key that belongs to its state, and what a key lists has a record."""
    containers = containers_of_tasks(snapshot)
    for task_id, task in snapshot.tasks.items():
        found = containers.pop(task_id, [])
        expected = expected_container(snapshot, task)
        if found != [expected]:
            yield f"task {task_id} is {task.state}: expected in {expected}, found in {', '.join(found) or 'nothing'}"
    for task_id, found in containers.items():
        if task_id not in snapshot.unreadable:
            yield f"task {task_id} has no record, but is in {', '.join(found)}"


def containers_of_tasks(snapshot: Snapshot) -> dict[str, list[str]]:
    """Every key that lists a task, by task."""
    containers: dict[str, list[str]] = {}
    for name in ("scheduled", "failed", "cancelled"):
        for task_id in snapshot.zset(name):
            containers.setdefault(task_id, []).append(name)
    for name in ("waiting", "critical", "claims"):
        for rest in snapshot.rest_of(name):
            for task_id in snapshot.zset(name, rest):
                containers.setdefault(task_id, []).append(f"{name}:{rest}")
    for task_id in snapshot.list("finished"):
        containers.setdefault(task_id, []).append("finished")
    return containers


def expected_container(snapshot: Snapshot, task: Record) -> str:
    """The key that has to list a task in its state."""
    match task.state:
        case TaskState.QUEUED:
            name = "critical" if task.priority is Priority.CRITICAL else "waiting"
            return f"{name}:{task.waits_in}:{task.user_id}"
        case TaskState.STARTED:
            return f"claims:{_holder(snapshot, task)}"
        case TaskState.DEFERRED:
            return "the children of its parents"
        case state:
            return state.value


def _holder(snapshot: Snapshot, task: Record) -> str:
    for worker, claims in snapshot.claims.items():
        handle = snapshot.hash("worker", worker).get("handle")
        if task.task_id in claims and worker in snapshot.zset("workers") and handle in (None, b"%d" % task.holder):
            return worker
    return f"<a worker with handle {task.holder}>"


def scores_are_right(snapshot: Snapshot) -> Iterator[str]:
    """Each task is placed by its own due time, priority or end."""
    for (queue, user), scores in snapshot.waiting.items():
        expected = {
            task.task_id: task.due - snapshot.head_start_us(min(4, task.priority)) for task in _of(snapshot, scores)
        }
        yield from _differences(f"score in waiting:{queue}:{user}", scores, expected)
    for (queue, user), scores in snapshot.critical.items():
        yield from _differences(
            f"score in critical:{queue}:{user}", scores, {t.task_id: t.due for t in _of(snapshot, scores)}
        )
    scheduled = snapshot.zset("scheduled")
    yield from _differences("score in scheduled", scheduled, {t.task_id: t.due for t in _of(snapshot, scheduled)})
    for name in ("failed", "cancelled"):
        ends = snapshot.zset(name)
        yield from _differences(f"score in {name}", ends, {t.task_id: t.ended_at for t in _of(snapshot, ends)})


def _of(snapshot: Snapshot, scores: Mapping[str, float]) -> list[Record]:
    return [snapshot.tasks[task_id] for task_id in scores if task_id in snapshot.tasks]


def _differences(what: str, found: Mapping[str, Number], expected: Mapping[str, Number]) -> Iterator[str]:
    for name, number in expected.items():
        if found.get(name, 0) != number:
            yield f"{what} of {name}: {found.get(name, 0)}, expected {number}"


def finished_tasks_are_in_order(snapshot: Snapshot) -> Iterator[str]:
    """FINISHED tasks are listed in the order of their end."""
    ends = [snapshot.tasks[task_id].ended_at for task_id in snapshot.list("finished") if task_id in snapshot.tasks]
    if ends != sorted(ends):
        yield "the list of FINISHED tasks is not in the order of their end"


def times_are_there(snapshot: Snapshot) -> Iterator[str]:
    """A record has an end if it is final, a holder if it is STARTED, a reason if it is FAILED."""
    for task in snapshot.tasks.values():
        if task.state.is_final != bool(task.ended_at):
            yield f"task {task.task_id} is {task.state}, its end is {task.ended_at}"
        if (task.state is TaskState.STARTED) != bool(task.holder):
            yield f"task {task.task_id} is {task.state}, its holder is {task.holder}"
        if (task.state is TaskState.FAILED) != (task.reason is not None):
            yield f"task {task.task_id} is {task.state}, its reason is {task.reason}"
        if task.settled > task.fence:
            yield f"task {task.task_id}: fence {task.settled} is settled, but the last one given is {task.fence}"


def only_suspects_are_hidden(snapshot: Snapshot) -> Iterator[str]:
    """A hidden task was in two processes when they died, and has not lived through an attempt since."""
    for task in snapshot.tasks.values():
        if task.is_hidden and task.suspicion < _DEATHS_THAT_HIDE:
            yield f"task {task.task_id} is hidden, its suspicion is {task.suspicion}"
        if task.is_hidden and task.state in (TaskState.SCHEDULED, TaskState.FINISHED):
            yield f"task {task.task_id} is {task.state}, but still hidden"


def workers_are_listed(snapshot: Snapshot) -> Iterator[str]:
    """Each registered worker has a lease, and who has no lease holds nothing."""
    listed, dead = snapshot.zset("workers"), snapshot.zset("dead")
    registered = set(snapshot.rest_of("worker"))
    for worker in registered - listed.keys():
        yield f"worker {worker} is registered, but has no lease"
    for worker in registered & dead.keys():
        yield f"worker {worker} is registered, but was declared dead"
    for worker in listed.keys() - registered:
        if not snapshot.claims.get(worker):
            yield f"worker {worker} has a lease, but is not registered, and nothing of it is left to put back"
    for worker in snapshot.claims.keys() - listed.keys():
        yield f"worker {worker} has no lease, but holds tasks"


def claims_were_made(snapshot: Snapshot) -> Iterator[str]:
    """No worker holds a task of a claim that it has not made yet."""
    for worker, claims in snapshot.claims.items():
        last = snapshot.hash("worker", worker).get("claim")
        if last is not None and max(claims.values()) > int(last):
            yield f"worker {worker} holds tasks of claim {max(claims.values()):.0f}, its last claim is {int(last)}"


def handles_differ(snapshot: Snapshot) -> Iterator[str]:
    """No two workers share a handle."""
    handles = Counter(snapshot.hash("worker", worker).get("handle") for worker in snapshot.rest_of("worker"))
    yield from (f"{number} workers share the handle {handle!r}" for handle, number in handles.items() if number > 1)


def domain_of(queue: str) -> str:
    """The twin of `account.domain_of` in Lua."""
    return base_queue(queue)


def accounts_count_right(snapshot: Snapshot) -> Iterator[str]:
    """An account counts the running, waiting and CRITICAL tasks of its user."""
    waiting: Counter[tuple[str, str]] = Counter()
    critical: Counter[tuple[str, str]] = Counter()
    for (queue, user), scores in snapshot.waiting.items():
        waiting[domain_of(queue), user] += len(scores)
    for (queue, user), scores in snapshot.critical.items():
        waiting[domain_of(queue), user] += len(scores)
        critical[domain_of(queue), user] += len(scores)
    running = _running(snapshot)
    nobody = Account(0, 0, 0, 0, 0, 0, 0)
    for key in {*snapshot.accounts, *waiting, *running}:
        account = snapshot.accounts.get(key, nobody)
        found = (account.running, account.waiting, account.critical)
        expected = (running[key], waiting[key], critical[key])
        if found != expected:
            yield f"account of {key[1]} in {key[0]}: running, waiting, critical {found}, expected {expected}"


def _running(snapshot: Snapshot) -> Counter[tuple[str, str]]:
    started = (task for task in snapshot.tasks.values() if task.state is TaskState.STARTED)
    return Counter((domain_of(task.queue), task.user_id) for task in started)


def accounts_hold_numbers(snapshot: Snapshot) -> Iterator[str]:
    """An account holds numbers that can be."""
    for (domain, user), account in snapshot.accounts.items():
        if not all(isfinite(number) for number in account) or account.deposit < 0 or account.estimate < 0:
            yield f"account of {user} in {domain} is damaged: {account}"


def running_counts_are_right(snapshot: Snapshot) -> Iterator[str]:
    """A user's running count is the number of their STARTED tasks."""
    expected: Counter[str] = Counter()
    for (_, user), number in _running(snapshot).items():
        expected[user] += number
    yield from _miscounts("running", snapshot.numbers("running"), expected)


def depths_are_right(snapshot: Snapshot) -> Iterator[str]:
    """A queue's depth is the number of its QUEUED tasks."""
    expected: Counter[str] = Counter()
    for sets in (snapshot.waiting, snapshot.critical):
        for (queue, _), scores in sets.items():
            expected[queue] += len(scores)
    yield from _miscounts("depth", snapshot.numbers("depth"), expected)


def _miscounts(key: str, found: Mapping[str, Number], expected: Mapping[str, Number]) -> Iterator[str]:
    for name in {**found, **expected}:
        if found.get(name) != expected.get(name):
            yield f"{key}: {name} has {found.get(name, 'no number')}, expected {expected.get(name, 'none')}"


def domains_are_right(snapshot: Snapshot) -> Iterator[str]:
    """A domain counts its open tasks, and its largest V is the largest."""
    expected: Counter[str] = Counter()
    for (name, _), account in snapshot.accounts.items():
        expected[name] += account.running + account.waiting
        if name not in snapshot.domains:
            yield f"domain {name} has accounts, but no clock"
    for name, domain in snapshot.domains.items():
        if domain.open != expected[name]:
            yield f"domain {name} counts {domain.open} open tasks, expected {expected[name]}"
        if not isfinite(domain.clock) or not isfinite(domain.largest):
            yield f"domain {name} is damaged: {domain}"
        if any(account.v > domain.largest for (of, _), account in snapshot.accounts.items() if of == name):
            yield f"domain {name}: a user's V is above the largest, {domain.largest}"


def users_are_ready_or_parked(snapshot: Snapshot) -> Iterator[str]:
    """A user with waiting tasks is ready or parked in that queue, never both; without, neither."""
    waiting = {place for sets in (snapshot.waiting, snapshot.critical) for place, scores in sets.items() if scores}
    for queue, user in waiting - snapshot.ready - snapshot.parked:
        yield f"user {user} has tasks in {queue}, but is neither ready nor parked there"
    for queue, user in snapshot.ready & snapshot.parked:
        yield f"user {user} is both ready and parked in {queue}"
    for queue, user in (snapshot.ready | snapshot.parked) - waiting:
        yield f"user {user} has no tasks in {queue}, but is ready or parked there"


def parked_users_are_listed(snapshot: Snapshot) -> Iterator[str]:
    """Whoever is parked somewhere is listed."""
    parked = {user for _, user in snapshot.parked}
    if parked != snapshot.members("parked"):
        yield f"parked users are {sorted(parked)}, listed are {sorted(snapshot.members('parked'))}"


def parked_users_may_not_run(snapshot: Snapshot) -> Iterator[str]:
    """Whoever is parked is paused or at their cap."""
    running = snapshot.numbers("running")
    for user in {user for _, user in snapshot.parked}:
        limits = snapshot.limits_of(user)
        if not limits["paused"] and not 0 < limits["max_running"] <= running.get(user, 0):
            yield f"user {user} is parked, but may run: {limits}, running {running.get(user, 0)}"


def ready_users_stand_no_further_than_their_v(snapshot: Snapshot) -> Iterator[str]:
    """A ready user is ranked by their V, or before it."""
    for queue in snapshot.rest_of("ready"):
        for user, rank in snapshot.zset("ready", queue).items():
            account = snapshot.accounts.get((domain_of(queue), user))
            if account and not rank <= account.v + _ROUNDING_US:
                yield f"user {user} stands at {rank} in {queue}, behind its V of {account.v}"


def idle_users_are_listed(snapshot: Snapshot) -> Iterator[str]:
    """Whoever has an account without tasks is listed as idle, by V."""
    expected: dict[str, dict[str, float]] = {domain: {} for domain in snapshot.rest_of("idle")}
    for (domain, user), account in snapshot.accounts.items():
        if account.running + account.waiting == 0:
            expected.setdefault(domain, {})[user] = account.v
    for domain, users in expected.items():
        yield from _miscounts(f"idle:{domain}", snapshot.zset("idle", domain), users)


def counters_add_up(snapshot: Snapshot) -> Iterator[str]:
    """The counters of transitions add up to the tasks that are open."""
    count = Counter(snapshot.numbers("counters"))
    is_open = sum(not task.state.is_final for task in snapshot.tasks.values())
    expected = count["enqueued"] + count["revived"] - count["finished"] - count["failed"] - count["cancelled"]
    if is_open != expected:
        yield f"{is_open} tasks have not ended, by the counters it should be {expected}: {dict(count)}"
    running = sum(task.state is TaskState.STARTED for task in snapshot.tasks.values())
    if count["started"] - running < count["finished"] + count["retried"]:
        yield f"more attempts ended than were started: {dict(count)}, running {running}"


def tombstones_are_right(snapshot: Snapshot) -> Iterator[str]:
    """A tombstone has a time, and no record."""
    stones, due = snapshot.hash("tombstones").keys(), snapshot.zset("tombstones_due").keys()
    if stones != due:
        yield f"tombstones without a time, or the reverse: {sorted(stones ^ due)}"
    for task_id in stones & (snapshot.tasks.keys() | snapshot.unreadable.keys()):
        yield f"task {task_id} has a record and a tombstone"


def results_belong_to_finished_tasks(snapshot: Snapshot) -> Iterator[str]:
    """A result belongs to a FINISHED task."""
    for task_id in snapshot.rest_of("result"):
        task = snapshot.tasks.get(task_id)
        if task is None or task.state is not TaskState.FINISHED or not task.has_result:
            yield f"there is a result of task {task_id}, which is {task.state if task else 'not there'}"


def bells_hold_one_marker(snapshot: Snapshot) -> Iterator[str]:
    """A bell holds its one marker."""
    for queue in snapshot.rest_of("bell"):
        if snapshot.zset("bell", queue).keys() != {"1"}:
            yield f"the bell of {queue} holds {snapshot.zset('bell', queue)}"


def spent_nonces_are_whole(snapshot: Snapshot) -> Iterator[str]:
    """Spent nonces are whole."""
    for task_id in snapshot.rest_of("spent"):
        if len(snapshot.values[f"spent:{task_id}"]) % 8:
            yield f"task {task_id}: its spent nonces are no multiple of 8 bytes"


CHECKS: tuple[Check, ...] = (
    keys_are_in_the_table,
    records_can_be_read,
    each_task_is_in_its_one_container,
    scores_are_right,
    finished_tasks_are_in_order,
    times_are_there,
    only_suspects_are_hidden,
    workers_are_listed,
    claims_were_made,
    handles_differ,
    accounts_count_right,
    accounts_hold_numbers,
    running_counts_are_right,
    depths_are_right,
    domains_are_right,
    users_are_ready_or_parked,
    parked_users_are_listed,
    parked_users_may_not_run,
    ready_users_stand_no_further_than_their_v,
    idle_users_are_listed,
    counters_add_up,
    tombstones_are_right,
    results_belong_to_finished_tasks,
    bells_hold_one_marker,
    spent_nonces_are_whole,
)
