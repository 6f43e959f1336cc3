"""The one way to Redis: explicit client settings, no silent replays, one retry policy.

redis-py repeats commands by itself unless told not to; here a call is one try, and `Connection.call` repeats whole
operations, which are idempotent, with jittered backoff until a deadline.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from fairqued.errors import ConfigError, NotAllowed, QueueUnavailable

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 5.0
_TRANSIENT = ("LOADING", "BUSY ", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS")
_TRANSIENT_TEXTS = ("max number of clients", "Redis is busy", "-OOM", "-READONLY", "when used memory > 'maxmemory'")
_FORBIDDEN = ("NOAUTH", "WRONGPASS", "NOPERM")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0

_abandoned: list[redis.Redis] = []
"""Clients inherited over a fork: never touched again, never collected (their locks may be held for ever)."""


def masked(url: str) -> str:
    """`url` without its password, for messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}{port}"))


def resolve_url(url: str) -> str:
    """Turn `fairqued://STATE_DIR` (an embedded Redis) into the URL of its socket. Raises ConfigError for other schemes."""
    scheme, _, rest = url.partition("://")
    if scheme == "fairqued":
        return f"unix://{Path('/' + rest.lstrip('/')) / 'redis.sock'}"
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(f"Redis URL {masked(url)!r}: expected redis://, rediss://, unix:// or fairqued://STATE_DIR")
    return url


def make_client(url: str, socket_timeout_seconds: float, *, max_connections: int = 64) -> redis.Redis:
    """A client with every setting that matters spelled out: their defaults change between releases of redis-py.

    Raises ConfigError if `url` is not a Redis URL.
    """
    try:
        return redis.Redis.from_url(
            resolve_url(url),
            socket_timeout=socket_timeout_seconds,
            socket_connect_timeout=socket_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            health_check_interval=0,
            protocol=2,
            decode_responses=False,
            max_connections=max_connections,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Redis URL {masked(url)!r}: {error}") from None


def translate(error: Exception, url: str) -> Exception:
    """The error of ours for one of redis-py's; the same error if it is no matter of reachability or rights."""
    text = str(error)
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError) or text.startswith(_FORBIDDEN):
        return NotAllowed(f"Redis at {masked(url)} refused: {text}")
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
        return QueueUnavailable(f"Redis at {masked(url)} cannot be reached: {text or type(error).__name__}")
    if text.startswith(_TRANSIENT) or any(each in text for each in _TRANSIENT_TEXTS):
        return QueueUnavailable(f"Redis at {masked(url)} refuses to work: {text}")
    return error


def backoff_seconds(attempt: int) -> float:
    """Full jitter (Marc Brooker, "Exponential Backoff and Jitter", 2015) for the attempt, counted from 0."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))  # noqa: S311


class Connection:
    """A Redis client for one URL: thread-safe, opened at the first use, replaced after a fork."""

    def __init__(self, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """`timeout_seconds` is the deadline of one call with all its tries; one try gets at most half of it."""
        self.url = url
        self.timeout_seconds = timeout_seconds
        resolve_url(url)
        self._client: redis.Redis | None = None
        self._pid = os.getpid()

    @property
    def client(self) -> redis.Redis:
        """The client of this process."""
        if self._client is not None and self._pid != os.getpid():
            _abandoned.append(self._client)
            self._client = None
        if self._client is None:
            self._client, self._pid = make_client(self.url, self.timeout_seconds / 2), os.getpid()
        return self._client

    def once(self, operation: Callable[[redis.Redis], T]) -> T:
        """Try `operation` once. Raises QueueUnavailable or NotAllowed."""
        try:
            return operation(self.client)
        except (RedisError, OSError) as error:
            raise translate(error, self.url) from error

    def call(self, operation: Callable[[redis.Redis], T]) -> T:
        """Try `operation`, which has to be idempotent, until it answers or the deadline is over.

        Raises QueueUnavailable or NotAllowed.
        """
        deadline = time.monotonic() + self.timeout_seconds
        attempt = 0
        while True:
            try:
                return self.once(operation)
            except QueueUnavailable:
                pause = backoff_seconds(attempt)
                if time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
            attempt += 1

    def close(self) -> None:
        """Close the sockets. The next call opens new ones."""
        if self._client is not None and self._pid == os.getpid():
            self._client.close()
        self._client = None


def is_missing_script(reply: Any) -> bool:
    """Whether a reply says that the server does not know the script (yet, or any more)."""
    return isinstance(reply, ResponseError) and str(reply).startswith(("NOSCRIPT", "No matching script"))
