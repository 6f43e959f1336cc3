"""Everything a namespace holds, read by plain commands: what fsck judges."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Any, NamedTuple

import orjson
import redis

from fairqued.errors import CorruptRecord, SchemaTooNew
from fairqued.keys import Keys
from fairqued.record import Record

ACCOUNT_FORMAT, DOMAIN_FORMAT = Struct("<ddddIII"), Struct("<ddI")
DEFAULT_HEAD_STARTS_US = (-600_000_000, -120_000_000, 0, 120_000_000, 600_000_000)
Tell = Callable[[int, int], None]
_CHUNK = 1000
_GLOB_SPECIALS = re.compile(r"([*?\[\]\\^-])")
_READERS: dict[str, tuple[str | int, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", 0, -1),
}

_READ_AT_ONCE = """
local readers, rows, cursor = cjson.decode(ARGV[2]), {}, '0'
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local kind = redis.call('TYPE', key).ok
    local words = readers[kind]
    if words then rows[#rows + 1] = { key, kind, redis.call(words[1], key, unpack(words, 2)) } end
  end
until cursor == '0'
return rows
"""


class Account(NamedTuple):
    """A user's account in a domain, as `lua/lib/account.lua` packs it."""

    v: float
    deposit: float
    estimate: float
    touched: float
    running: int
    waiting: int
    critical: int


class Domain(NamedTuple):
    """A domain as `lua/lib/account.lua` packs it."""

    clock: float
    largest: float
    open: int


@dataclass(frozen=True)
class Snapshot:
    """The keys of one namespace without their prefix: the type and the decoded value of each."""

    types: dict[str, str]
    values: dict[str, Any]

    def zset(self, *parts: str) -> dict[str, float]:
        """A ZSET in its order; empty if there is none."""
        return self._value(parts, "zset", {})  # type: ignore[no-any-return]

    def hash(self, *parts: str) -> dict[str, bytes]:
        """A HASH; empty if there is none."""
        return self._value(parts, "hash", {})  # type: ignore[no-any-return]

    def members(self, *parts: str) -> set[str]:
        """A SET; empty if there is none."""
        return self._value(parts, "set", set())  # type: ignore[no-any-return]

    def list(self, *parts: str) -> list[str]:
        """A LIST; empty if there is none."""
        return self._value(parts, "list", [])  # type: ignore[no-any-return]

    def rest_of(self, name: str) -> Iterator[str]:
        """What follows `name:` in every key that begins so."""
        start = f"{name}:"
        return (key.removeprefix(start) for key in self.values if key.startswith(start))

    def numbers(self, name: str) -> dict[str, int]:
        """A HASH of whole numbers."""
        return {key: int(value) for key, value in self.hash(name).items()}

    @cached_property
    def tasks(self) -> dict[str, Record]:
        """Every record that can be read."""
        return {task_id: found for task_id, found in self._records.items() if isinstance(found, Record)}

    @cached_property
    def unreadable(self) -> dict[str, Exception]:
        """Every record that cannot be read, and why."""
        return {task_id: found for task_id, found in self._records.items() if isinstance(found, Exception)}

    @cached_property
    def _records(self) -> dict[str, Record | Exception]:
        return {task_id: _parse(task_id, self.values[f"task:{task_id}"]) for task_id in self.rest_of("task")}

    @cached_property
    def waiting(self) -> dict[tuple[str, str], dict[str, float]]:
        """Ordinary QUEUED tasks with their scores, by queue and user."""
        return self._by_queue_and_user("waiting")

    @cached_property
    def critical(self) -> dict[tuple[str, str], dict[str, float]]:
        """CRITICAL QUEUED tasks with their scores, by queue and user."""
        return self._by_queue_and_user("critical")

    def _by_queue_and_user(self, name: str) -> dict[tuple[str, str], dict[str, float]]:
        return {_queue_and_user(rest): self.zset(name, rest) for rest in self.rest_of(name)}

    @cached_property
    def claims(self) -> dict[str, dict[str, float]]:
        """STARTED tasks with their claim numbers, by worker."""
        return {worker: self.zset("claims", worker) for worker in self.rest_of("claims")}

    @cached_property
    def ready(self) -> set[tuple[str, str]]:
        """Queue and user of whoever may be served."""
        return {(queue, user) for queue in self.rest_of("ready") for user in self.zset("ready", queue)}

    @cached_property
    def parked(self) -> set[tuple[str, str]]:
        """Queue and user of whoever is parked."""
        return {(queue, user) for user in self.rest_of("parked") for queue in self.members("parked", user)}

    @cached_property
    def accounts(self) -> dict[tuple[str, str], Account]:
        """Accounts by domain and user."""
        return {
            (domain, user): Account(*ACCOUNT_FORMAT.unpack(packed))
            for domain in self.rest_of("account")
            for user, packed in self.hash("account", domain).items()
        }

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """Domains by name."""
        return {name: Domain(*DOMAIN_FORMAT.unpack(packed)) for name, packed in self.hash("domains").items()}

    def head_start_us(self, priority: int) -> float:
        """How far before its due time a task of an ordinary priority is placed."""
        return float(self.hash("meta").get(f"head_start:{priority}", DEFAULT_HEAD_STARTS_US[priority]))

    def limits_of(self, user: str) -> dict[str, Any]:
        """Weight, max_running and paused of a user: their own where set, else the namespace's."""
        meta = self.hash("meta")
        limits: dict[str, Any] = {
            "weight": float(meta.get("weight", 1)),
            "max_running": int(meta.get("max_running", 0)),
            "paused": meta.get("paused") == b"1",
        }
        own = orjson.loads(self.hash("limits").get(user, b"{}"))
        return limits | {name: entry["value"] for name, entry in own.items()}

    def _value(self, parts: Sequence[str], kind: str, empty: Any) -> Any:
        key = ":".join(parts)
        return self.values[key] if self.types.get(key) == kind else empty


def read_snapshot(
    client: redis.Redis,
    namespace: str,
    without: Collection[str] = (),
    tell: Tell | None = None,
) -> Snapshot:
    """Read a namespace, `without` some keys, named without their prefix. `tell` hears how many keys of how many.

    It is not atomic: on a living namespace a task on its way may be seen twice, or not at all.
    """
    keys = sorted(set(client.scan_iter(match=_pattern(namespace), count=_CHUNK)))
    types = [kind.decode() for kind in _pipeline(client, [("TYPE", key) for key in keys])]
    found = [(key, kind) for key, kind in zip(keys, types, strict=True) if kind in _READERS]
    replies = _pipeline(client, [(_READERS[kind][0], key, *_READERS[kind][1:]) for key, kind in found], tell)
    rows = [(key, kind, reply) for (key, kind), reply in zip(found, replies, strict=True)]
    return _snapshot(namespace, rows, without)


def read_at_once(client: redis.Redis, namespace: str) -> Snapshot:
    """Read a namespace in one script, while nobody else is served: about 5 µs a key, whosever it is."""
    readers = orjson.dumps(_READERS)
    rows: Any = client.eval(_READ_AT_ONCE, 1, Keys(namespace).meta, _pattern(namespace), readers)
    return _snapshot(namespace, [(key, kind.decode(), reply) for key, kind, reply in rows])


def _pattern(namespace: str) -> str:
    return _GLOB_SPECIALS.sub(r"\\\1", Keys(namespace).prefix) + "*"


def _snapshot(namespace: str, rows: Iterable[tuple[bytes, str, Any]], without: Collection[str] = ()) -> Snapshot:
    """Key, type and raw value of each; what is gone or empty was there when the keys were listed, and is no more."""
    prefix = Keys(namespace).prefix
    kinds, values = {}, {}
    for key, kind, reply in rows:
        name = _text(key).removeprefix(prefix)
        if name not in without and (reply or (kind == "string" and reply is not None)):
            kinds[name], values[name] = kind, _decode(kind, reply)
    return Snapshot(kinds, values)


def _pipeline(
    client: redis.Redis,
    commands: Sequence[tuple[Any, ...]],
    tell: Tell | None = None,
) -> list[Any]:
    replies: list[Any] = []
    for start in range(0, len(commands), _CHUNK):
        pipe: Any = client.pipeline(transaction=False)
        with pipe:
            pipe.response_callbacks = {}  # raw replies
            for command in commands[start : start + _CHUNK]:
                pipe.execute_command(*command)
            replies += pipe.execute()
        if tell:
            tell(len(replies), len(commands))
    return replies


def _decode(kind: str, reply: Any) -> Any:
    if kind == "string":
        return reply
    if kind == "list":
        return [_text(each) for each in reply]
    if kind == "set":
        return {_text(each) for each in reply}
    pairs = zip(reply[::2], reply[1::2], strict=True)
    if kind == "zset":
        return {_text(member): float(score) for member, score in pairs}
    return {_text(name): value for name, value in pairs}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _queue_and_user(rest: str) -> tuple[str, str]:
    queue, _, user = rest.partition(":")
    return queue, user


def _parse(task_id: str, raw: bytes) -> Record | Exception:
    try:
        return Record.parse(task_id, raw)
    except (CorruptRecord, SchemaTooNew) as error:
        return error
