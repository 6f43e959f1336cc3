"""One method per Lua script: the only place that calls EVALSHA. Wire format in and out, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import RedisError

from fairqued.connection import Connection, is_missing_script, translate
from fairqued.errors import REFUSALS, ScriptError
from fairqued.keys import Keys
from fairqued.record import OWN_ID, Record
from fairqued.scripts import Script, load_all

T = TypeVar("T")
CHUNK = 200
"""How many tasks or users a script handles in one call, so that it holds Redis for a few milliseconds at most."""
_FOREVER_MS = 10 * 365 * 86_400_000


class NewTask(NamedTuple):
    """A task on its way into Redis. `due` is '' (now), '+N' or '@N' (microseconds: from now, or since the epoch)."""

    task_id: str
    user_id: str
    queue: str
    priority: int
    due: str
    has_own_id: bool
    spec: bytes


class Finished(NamedTuple):
    """An attempt that returned. `result` is JSON, empty for null or for a result that nobody wants."""

    task_id: str
    fence: int
    result: bytes
    result_ttl_ms: int


class Ended(NamedTuple):
    """An attempt that did not return. `what` is retry, fail or hand_back; `number` the delay in µs, or the reason."""

    task_id: str
    fence: int
    what: str
    number: int
    error: bytes


class Popped(NamedTuple):
    """The answer of pop."""

    next_due_seconds: float | None
    tasks: list[tuple[str, bytes]]


class Tick(NamedTuple):
    """The answer of tick: whether leases were judged, how many tasks were put back, which workers were declared dead.

    `hidden` names those of the queues asked for whose hidden queue has work that may run now.
    """

    judged: bool
    put_back: int
    dead: list[str]
    hidden: list[str]


class Exchanged(NamedTuple):
    """The answers of one round trip: a status for each completion, and what pop gave.

    A completion of a task whose record is of a newer version has the refusal as its status: `SCHEMA task …`.
    """

    statuses: list[tuple[str, str]]
    popped: Popped | None


Call = tuple[str, tuple[Any, ...]]


class Store:
    """The scripts of one namespace over one connection.

    Each method raises QueueUnavailable or NotAllowed when Redis does not answer, the class in `errors.REFUSALS` when a
    script refuses, and ScriptError when a script is broken.
    """

    def __init__(self, connection: Connection, namespace: str, scripts: Mapping[str, Script] | None = None) -> None:
        self.connection = connection
        self.keys = Keys(namespace)
        self._given_scripts = scripts

    @cached_property
    def _scripts(self) -> Mapping[str, Script]:
        return self._given_scripts or load_all()

    # Tasks, from the client's side

    def push(self, nonce: bytes, if_exists: str, tasks: Iterable[NewTask]) -> list[str]:
        """Enqueue all of `tasks`, or none: a status for each."""
        args: list[Any] = [nonce, if_exists]
        for t in tasks:
            args += (t.task_id, t.user_id, t.queue, t.priority, t.due, OWN_ID if t.has_own_id else 0, t.spec)
        return _texts(self._run("push", *args))

    def cancel(self, task_ids: Sequence[str], nonce: bytes | None = None) -> list[str]:
        """Cancel tasks: a status for each. The call has a nonce of its own unless one is given."""
        return _texts(self._run("cancel", nonce or os.urandom(8), *task_ids))

    def retry(self, nonce: bytes, task_ids: Sequence[str]) -> list[str]:
        """Let FAILED and CANCELLED tasks run again: a status for each."""
        return _texts(self._run("retry", nonce, *task_ids))

    def read(self, task_id: str) -> Record | None:
        """The record of a task."""
        raw = self.connection.call(lambda client: client.get(self.keys.of("task", task_id)))
        return Record.parse(task_id, raw) if raw is not None else None

    def read_with_result(self, task_id: str) -> tuple[Record | None, bytes | None]:
        """The record of a task and its result."""
        keys = [self.keys.of("task", task_id), self.keys.of("result", task_id)]
        raw, result = self.connection.call(lambda client: client.mget(keys))
        return (Record.parse(task_id, raw) if raw is not None else None), result

    def due_of(self, task_id: str) -> float | None:
        """When a SCHEDULED task is due, in microseconds since the epoch."""
        due: float | None = self.connection.call(lambda client: client.zscore(self.keys.of("scheduled"), task_id))
        return due

    def stats(self, most_users: int) -> list[Any]:
        """The raw answer of stats.lua."""
        return list(self._run("stats", most_users))

    # Workers

    def register(self, worker: str, lease_us: int, info: bytes, functions: Mapping[str, bytes]) -> bool:
        """Register a worker and publish its functions; False if it was registered already."""
        published = [part for pair in functions.items() for part in pair]
        return bool(self._run("register", worker, lease_us, info, *published))

    def exchange(  # noqa: PLR0913, PLR0917 - one round trip carries completions and a claim
        self,
        worker: str,
        finished: Sequence[Finished],
        ended: Sequence[Ended],
        claim: int | None,
        most: int,
        queues: Sequence[str],
    ) -> Exchanged:
        """Deliver completions and claim the next tasks, in one round trip and a single try."""
        calls: list[Call] = []
        if finished:
            calls.append(
                (
                    "finish",
                    (
                        worker,
                        *_flat((f.task_id, f.fence, f.result, min(f.result_ttl_ms, _FOREVER_MS)) for f in finished),
                    ),
                )
            )
        if ended:
            rows = ((_wire(e.task_id), e.fence, e.what, e.number, e.error) for e in ended)
            calls.append(("fail", (worker, *_flat(rows))))
        if claim is not None:
            calls.append(("pop", (worker, claim, most, *queues)))
        replies = self._run_together(calls)
        statuses = [text for reply in replies[: len(calls) - (claim is not None)] for text in _texts(reply)]
        ids = [f.task_id for f in finished] + [e.task_id for e in ended]
        return Exchanged(list(zip(ids, statuses, strict=True)), _popped(replies[-1]) if claim is not None else None)

    def pop(self, worker: str, claim: int, most: int, queues: Sequence[str]) -> Popped:
        """Claim up to `most` tasks."""
        return _popped(self._run("pop", worker, claim, most, *queues))

    def heartbeat(self, worker: str, lease_us: int, claim: int, held: Mapping[str, int]) -> list[tuple[str, str]]:
        """Renew a lease in a single try: orders and the tasks they are for."""
        pairs = _flat((_wire(task_id), fence) for task_id, fence in held.items())
        reply = _texts(self._run_together([("heartbeat", (worker, lease_us, claim, *pairs))])[0])
        return list(zip(reply[::2], reply[1::2], strict=True))

    # Masters

    def reclaim(  # noqa: PLR0913 - what a death means for the tasks
        self,
        worker: str,
        why: str,
        most: int = CHUNK,
        *,
        max_crashes: int = 0,
        error: bytes = b"",
        wills: Sequence[Ended] = (),
    ) -> tuple[int, int]:
        """Take the tasks of a dead worker from it: how many were taken, how many are left.

        `why` is drain, death, crash (its one task ends as poisoned, with `error`, at `max_crashes`) or lost. A will
        says how a task ends that the worker held under that very fence.
        """
        wishes = _flat((w.task_id, w.fence, w.what, w.number, w.error) for w in wills)
        put_back, left = self._run("reclaim", worker, why, most, max_crashes, error, *wishes)
        return put_back, left

    def held_by(self, worker: str, most: int) -> list[str]:
        """Tasks that a worker holds, alive or dead."""
        ids = self.connection.call(lambda client: client.zrange(self.keys.of("claims", worker), 0, most - 1))
        return _texts(ids)

    def tick(
        self, lease_us: int, silence_us: int, living: Sequence[str], queues: Sequence[str] = (), most: int = CHUNK
    ) -> Tick:
        """Renew the leases of `living` workers and judge all others; look into the hidden queues of `queues`."""
        answer = self._run("tick", lease_us, silence_us, most, len(living), *living, *queues)
        judged, put_back, dead, hidden = answer
        return Tick(bool(judged), put_back, _texts(dead), _texts(hidden))

    def promote(self, most: int = CHUNK) -> tuple[int, float | None]:
        """Queue what is due: how many, and seconds until the next one."""
        promoted, next_due = self._run("promote", most)
        return promoted, None if next_due < 0 else next_due / 1e6

    def trim(
        self, finished: tuple[int, int], failed: tuple[int, int], dedup_us: int, dedup_own_us: int, most: int = CHUNK
    ) -> tuple[int, int]:
        """Drop old tasks ((age in µs, count) each) and tombstones: how many of both."""
        tasks, tombstones = self._run("trim", *finished, *failed, dedup_us, dedup_own_us, most)
        return tasks, tombstones

    def configure(self, digest: str, meta: Mapping[str, Any], users: Mapping[str, bytes]) -> bool:
        """Apply a daemon's settings to the namespace; False if they are in force already."""
        pairs = (len(meta), *_flat(meta.items()), *_flat(users.items()))
        base = in_force = (self.connection.call(lambda client: client.hget(self.keys.meta, "digest")) or b"").decode()
        while in_force != digest:
            base, in_force = in_force, self._run("configure", digest, in_force, *pairs).decode()
        self._unpark_all()
        return base != digest

    def is_configured(self) -> bool:
        """Whether a daemon has applied its settings; not so after a FLUSHALL."""
        return bool(self.connection.call(lambda client: client.hexists(self.keys.meta, "digest")))

    def _unpark_all(self) -> None:
        cursor = b"0"
        while (cursor := self._run("unpark", cursor, CHUNK)) != b"0":
            pass

    # How a script is called

    def _run(self, name: str, *args: Any) -> Any:
        script = self._scripts[name]

        def evaluate(client: Any) -> Any:
            try:
                return client.execute_command("EVALSHA", script.sha, 1, self.keys.meta, *args)
            except RedisError as error:
                if not is_missing_script(error):
                    raise
                return client.execute_command("EVAL", script.text, 1, self.keys.meta, *args)

        return self._with_refusals(script, lambda: self.connection.call(evaluate))

    def _run_together(self, calls: Sequence[Call]) -> list[Any]:
        """Several scripts in one round trip, once; the first error among the replies is raised."""

        def evaluate(some: Sequence[Call], client: Any, *, by_text: bool = False) -> list[Any]:
            with client.pipeline(transaction=False) as pipe:
                for name, args in some:
                    script = self._scripts[name]
                    command = ("EVAL", script.text) if by_text else ("EVALSHA", script.sha)
                    pipe.execute_command(*command, 1, self.keys.meta, *args)
                return list(pipe.execute(raise_on_error=False))

        replies = self.connection.once(partial(evaluate, calls))
        if unknown := [index for index, reply in enumerate(replies) if is_missing_script(reply)]:
            again = self.connection.once(partial(evaluate, [calls[index] for index in unknown], by_text=True))
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        for (name, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise self._refusal(self._scripts[name], translate(reply, self.connection.url)) from reply
        return replies

    def _with_refusals(self, script: Script, run: Callable[[], T]) -> T:
        try:
            return run()
        except RedisError as error:
            raise self._refusal(script, error) from error

    @staticmethod
    def _refusal(script: Script, error: Exception) -> Exception:
        if not isinstance(error, RedisError):
            return error
        code, _, message = str(error).partition(" ")
        if code in REFUSALS:
            return REFUSALS[code](message)
        return ScriptError(script.locate(str(error)))


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [each for row in rows for each in row]


def _texts(replies: Iterable[bytes]) -> list[str]:
    """Texts, and ids of strangers that are not UTF-8: `_wire` sends them back as they came."""
    return [reply.decode("utf-8", "surrogateescape") for reply in replies]


def _wire(task_id: str) -> str | bytes:
    return task_id if task_id.isascii() else task_id.encode("utf-8", "surrogateescape")


def _popped(reply: Sequence[Any]) -> Popped:
    next_due = None if reply[0] < 0 else reply[0] / 1e6
    ids = _texts(reply[1::2])
    return Popped(next_due, list(zip(ids, reply[2::2], strict=True)))
