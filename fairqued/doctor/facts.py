"""What a server tells of itself, gathered in a few round trips: `server.py` judges it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import ResponseError

from fairqued.doctor import rights
from fairqued.doctor.rights import is_denied
from fairqued.keys import Keys
from fairqued.scripts import load_all

_SETTINGS = ("appendfsync", "stop-writes-on-bgsave-error")
# The release that fixed Lua in 2025 also locked the metatables of basic types. Where they are open this sets a field
# that is not there to nil, which changes nothing.
_IS_LOCKED = "return pcall(function() getmetatable('').fairqued = nil end) and 0 or 1"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One look at a server."""

    info: Mapping[str, Any]
    """INFO; empty if this user may not ask for it."""
    settings: Mapping[str, str]
    """CONFIG, as far as this user may ask for it."""
    user: str
    """Whom the URL logs in as; empty if the server does not tell."""
    has_locked_lua: bool | None
    """Whether Lua is locked as by the fixes of 2025; None if that cannot be tried."""
    refused_commands: Sequence[str] = ()
    no_writes: str = ""
    """Why writes are refused; empty if they are not."""
    broken_scripts: Sequence[str] = ()
    """Errors of scripts that the server cannot load."""
    pings_ms: Sequence[float] = (0.0,)
    clock_offset: float = 0.0
    """How many seconds the server's clock is ahead of this host's."""
    clock_doubt: float = 0.0
    """How far off that may be, for the time that the answer took; infinity if this user may not ask for the time."""

    @property
    def ping_ms(self) -> float:
        """The usual round trip."""
        return sorted(self.pings_ms)[len(self.pings_ms) // 2]

    @property
    def name(self) -> str:
        """Redis or Valkey."""
        return "Valkey" if "valkey_version" in self.info else "Redis"

    @property
    def version(self) -> str:
        """As the server writes it."""
        return str(self.info.get("valkey_version", self.info.get("redis_version", "")))


def gather(client: redis.Redis, namespace: str, *, pings: int) -> Facts:
    """Look at a server. Raises redis-py's errors where it does not answer, but not where it denies something."""
    keys = Keys(namespace)
    info = _info(client)
    scripts = [("SCRIPT", "LOAD", script.text) for script in load_all().values()]
    trials = rights.trials(keys)
    asked: list[tuple[Any, ...]] = [("CONFIG", "GET", name) for name in _SETTINGS]
    asked += [("ACL", "WHOAMI"), ("EVAL", _IS_LOCKED, 1, keys.meta), *scripts, *trials]
    replies = _ask(client, asked)
    settings, (user, locked) = replies[: len(_SETTINGS)], replies[len(_SETTINGS) : len(_SETTINGS) + 2]
    loaded, tried = replies[len(_SETTINGS) + 2 : -len(trials)], replies[-len(trials) :]
    refused, no_writes = rights.refusals(tried)
    offset, doubt = _clock_offset(client)
    return Facts(
        info=info,
        settings=dict(pair for reply in settings if (pair := _setting(reply))),
        user="" if isinstance(user, Exception) else user.decode(errors="replace"),
        has_locked_lua=None if isinstance(locked, Exception) else bool(locked),
        refused_commands=refused,
        no_writes=no_writes,
        broken_scripts=[
            script.locate(str(reply))
            for script, reply in zip(load_all().values(), loaded, strict=True)
            if isinstance(reply, Exception) and not is_denied(reply)
        ],
        pings_ms=[_ping_ms(client) for _ in range(pings)],
        clock_offset=offset,
        clock_doubt=doubt,
    )


def _info(client: redis.Redis) -> Mapping[str, Any]:
    try:
        return client.info()
    except ResponseError as error:
        if is_denied(error):
            return {}
        raise


def _ask(client: redis.Redis, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    pipe: Any = client.pipeline(transaction=False)
    with pipe:
        pipe.response_callbacks = {}  # raw replies
        for command in commands:
            pipe.execute_command(*command)
        return list(pipe.execute(raise_on_error=False))


def _setting(reply: Any) -> tuple[str, str] | None:
    if isinstance(reply, Exception) or not reply:
        return None
    name, value = reply
    return name.decode(), value.decode(errors="replace")


def _ping_ms(client: redis.Redis) -> float:
    began = time.perf_counter()
    _ask(client, [("PING",)])
    return (time.perf_counter() - began) * 1000


def _clock_offset(client: redis.Redis) -> tuple[float, float]:
    before, began = time.time(), time.perf_counter()
    [answer] = _ask(client, [("TIME",)])
    took = time.perf_counter() - began
    if isinstance(answer, Exception):
        return 0.0, math.inf
    seconds, microseconds = map(int, answer)
    return seconds + microseconds / 1e6 - (before + took / 2), took / 2
