"""Least-privilege ACLs of Redis 6.2 and newer: one user for each kind of program that works with a namespace.

Redis checks each command inside a script against the rights of the script's caller, so a role may do what its scripts
do. A test holds these lists against `lua/`; docs/security.md says what they protect from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairqued.daemon.config import find_config_paths, load
from fairqued.doctor.rights import IN_SCRIPTS
from fairqued.errors import ConfigError
from fairqued.keys import DEFAULT_NAMESPACE, KEY_TABLE, Keys
from fairqued.queue import NAMESPACE_VARIABLE
from fairqued.scripts import NAMES

DEFAULT_USER_PREFIX = "fairqued-"
_USER_PREFIX = re.compile(r"[A-Za-z0-9_.:@-]{0,64}")
_GLOB_SPECIALS = re.compile(r"([*?\[\\])")
_SESSION = "PING SELECT"
_SCRIPTED = "EVALSHA EVAL"


@dataclass(frozen=True)
class Role:
    """One kind of program. Lists are words with blanks between them."""

    name: str
    scripts: tuple[str, ...]
    """What it calls."""
    in_scripts: str
    """The commands in these scripts."""
    plain: str
    """The commands that it sends by themselves."""
    keys: str = ""
    """The keys that it touches, by their first part; the whole namespace if none are named."""

    @property
    def commands(self) -> list[str]:
        """All commands it needs."""
        return sorted({*_SESSION.split(), *_SCRIPTED.split(), *self.in_scripts.split(), *self.plain.split()})

    def key_patterns(self, namespace: str) -> Iterator[str]:
        """The keys it needs, as Redis matches them."""
        prefix = _GLOB_SPECIALS.sub(r"\\\1", Keys(namespace).prefix)
        if not self.keys:
            yield f"{prefix}*"
            return
        for key in ("none", *KEY_TABLE):
            name, _, rest = key.partition(":")
            if name in self.keys.split():
                yield f"{prefix}{name}:*" if rest else f"{prefix}{name}"


CLIENT = Role(
    "client",
    scripts=("push", "cancel", "retry"),
    in_scripts="DEL EXISTS GET GETRANGE HDEL HGET HINCRBY HMGET HSET HSETNX MSET SET SETRANGE SISMEMBER SREM TIME "
    "ZADD ZCARD ZRANGE ZREM",
    plain="GET MGET",
    keys="account bell cancelled counters critical depth domains failed idle limits meta none parked ready result "
    "running scheduled spent task tombstones waiting",
)
WORKER = Role(
    "worker",
    scripts=NAMES,
    in_scripts=" ".join(call.partition(" ")[0] for call in IN_SCRIPTS),
    plain="GET MGET HGET SCARD BZPOPMIN INFO ACL|WHOAMI",
)
OPERATOR = Role(
    "operator",
    scripts=("push", "cancel", "retry", "stats", "configure", "unpark"),
    in_scripts=f"{CLIENT.in_scripts} HGETALL HKEYS LLEN SMEMBERS SRANDMEMBER SSCAN",
    plain="GET MGET HGET HMGET HGETALL SCARD SMEMBERS SRANDMEMBER LRANGE ZRANGE TIME SCAN TYPE DBSIZE INFO ACL|WHOAMI",
)
READ_ONLY = Role(
    "readonly",
    scripts=("stats",),
    in_scripts="HGET HGETALL LLEN SMEMBERS SRANDMEMBER TIME ZCARD ZRANGE",
    plain="GET MGET",
)
ROLES = (CLIENT, WORKER, OPERATOR, READ_ONLY)


def rules(namespace: str, user_prefix: str = DEFAULT_USER_PREFIX) -> list[str]:
    """One line for each role, as an ACL file takes them. Raises ConfigError for a bad namespace or prefix."""
    if not _USER_PREFIX.fullmatch(user_prefix):
        raise ConfigError(f"user prefix {user_prefix!r}: expected at most 64 of A-Z a-z 0-9 _ . : @ -")
    return [_rule(role, namespace, user_prefix) for role in ROLES]


def _rule(role: Role, namespace: str, user_prefix: str) -> str:
    words = ["user", f"{user_prefix}{role.name}", "reset", "resetchannels", "on", ">PASSWORD"]
    words += [f"~{pattern}" for pattern in role.key_patterns(namespace)]
    words += [f"+{command.lower()}" for command in role.commands]
    return " ".join(words)


def namespace_of(files: Sequence[Path], namespace: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The namespace that was named, else that of the daemon's configuration, else that of clients here.

    Raises ConfigError for a configuration that is wrong.
    """
    if namespace:
        return namespace
    try:
        paths = find_config_paths(files, environ)
    except ConfigError:
        return environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
    return load(paths, environ).namespace
