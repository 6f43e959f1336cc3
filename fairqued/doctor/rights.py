"""What the user that a URL logs in as may do: every command that fairqued sends, tried on a key that nobody uses.

The key is `none` of the namespace. It is written and deleted within one script, so nobody ever sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from redis.exceptions import ResponseError

from fairqued.connection import translate
from fairqued.errors import NotAllowed
from fairqued.keys import Keys

KEY = "KEY"
_IN_SCRIPTS = """
DEL KEY, EXISTS KEY, GET KEY, GETRANGE KEY 0 0, HDEL KEY f, HEXISTS KEY f, HGET KEY f, HGETALL KEY,
HINCRBY KEY f 1, HKEYS KEY, HMGET KEY f, HRANDFIELD KEY, HSET KEY f v, HSETNX KEY f v, LLEN KEY, LPUSH KEY v,
LRANGE KEY 0 0, LTRIM KEY 0 0, MSET KEY v, RPUSH KEY v, SADD KEY m, SET KEY v, SETRANGE KEY 0 v,
SISMEMBER KEY m, SMEMBERS KEY, SRANDMEMBER KEY, SREM KEY m, SSCAN KEY 0, TIME, UNLINK KEY, ZADD KEY 0 m,
ZCARD KEY, ZCOUNT KEY 0 0, ZPOPMIN KEY, ZRANGE KEY 0 0, ZRANGEBYSCORE KEY 0 0, ZREM KEY m,
ZREMRANGEBYSCORE KEY 0 0, ZSCORE KEY m
"""
IN_SCRIPTS = [" ".join(call.split()) for call in _IN_SCRIPTS.split(",")]
"""A call of each command that a script makes, which has to pass on a missing key; DEL comes first."""
OUTSIDE = ("GET KEY", "MGET KEY", "HGET KEY f", "ZSCORE KEY m", "BZPOPMIN KEY never", f"EVALSHA {'0' * 40} 1 KEY")
"""The same for clients and workers outside of scripts; none of these writes, or waits."""

_TRY = """
local none = string.sub(KEYS[1], 1, -5) .. 'none'
local refused = {}
for _, call in ipairs(ARGV) do
  local words = cjson.decode(call)
  for i, word in ipairs(words) do
    if word == 'KEY' then words[i] = none end
  end
  local answer = redis.pcall(unpack(words))
  if type(answer) == 'table' and answer.err then
    refused[#refused + 1] = { words[1], answer.err }
    if words[1] == 'DEL' then break end
  end
  redis.pcall('DEL', none)
end
return refused
"""

Command = tuple[Any, ...]


def trials(keys: Keys) -> list[Command]:
    """The commands to send, in one pipeline whose errors are replies: `refusals` reads these."""
    outside = [_with_key(call, keys.of("none")) for call in OUTSIDE]
    return [("EVAL", _TRY, 1, keys.meta, *(orjson.dumps(call.split(" ")) for call in IN_SCRIPTS)), *outside]


def refusals(replies: Sequence[Any]) -> tuple[list[str], str]:
    """The commands that this user may not send, and why the server takes no writes, empty if it does."""
    by_scripts, *outside = replies
    sent = [call.split(" ")[0] for call in OUTSIDE]
    refused = {name for name, reply in zip(sent, outside, strict=True) if is_denied(reply)}
    if is_denied(by_scripts):
        return sorted({"EVAL", *refused}), ""
    if isinstance(by_scripts, Exception):
        return sorted(refused), str(by_scripts)
    told = [(name.decode(), text.decode(errors="replace").lstrip("-")) for name, text in by_scripts]
    refused |= {name for name, text in told if is_denied(ResponseError(text))}
    no_writes = next((text for name, text in told if name == "DEL" and name not in refused), "")
    return sorted(refused), no_writes


def is_denied(reply: Any) -> bool:
    """Whether a reply says that this user may not do that."""
    return isinstance(reply, Exception) and isinstance(translate(reply, ""), NotAllowed)


def _with_key(call: str, key: str) -> Command:
    return tuple(key if word == KEY else word for word in call.split(" "))
