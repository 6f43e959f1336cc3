"""The one way to Redis: explicit client settings, no silent replays, one retry policy.

redis-py repeats commands by itself unless told not to; here a call is one try, and `Connection.call` repeats whole
operations, which are idempotent, with jittered backoff until a deadline.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from fairqued.errors import ConfigError, FairquedError, NotAllowed, QueueUnavailable
from fairqued.validation import shown

T = TypeVar("T")
Operation = Callable[[Any], T]
"""What is done with a `redis.Redis`; Any, since redis-py's own annotations change between its releases."""

DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 5.0, 10 * 365 * 86_400.0
_UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError, InvalidResponse)
_TRANSIENT = (BusyLoadingError, ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError)
_TRANSIENT_CODES = (
    "LOADING", "BUSY ", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS",
)  # fmt: skip
_TRANSIENT_TEXTS = ("-OOM", "-READONLY", "-MISCONF", "-NOREPLICAS", "when used memory > 'maxmemory'")
_FORBIDDEN = (AuthenticationError, AuthorizationError, NoPermissionError)
_FORBIDDEN_CODES = ("NOAUTH", "WRONGPASS", "NOPERM")
_FORBIDDEN_TEXTS = ("-NOPERM", "ACL failure in script", "The user executing the script can't", "unauthenticated")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _SHORTEST_TRY_SECONDS = 0.05, 2.0, 0.01

_abandoned: list[redis.Redis] = []
"""Clients inherited over a fork: never touched again, never collected (their locks may be held for ever)."""


def masked(url: str) -> str:
    """`url` without its password, for messages."""
    url = re.sub(r"(?<=://)([^:/?#]*):.*@", r"\1:***@", url)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", url)


def resolve_url(url: str) -> str:
    """Turn `fairqued://STATE_DIR` (an embedded Redis) into the URL of its socket.

    Raises ConfigError for schemes that do not lead to a Redis.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "fairqued":
        return "unix://" + quote(str(Path("/" + rest.lstrip("/")) / "redis.sock"))
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
    """The error of ours for one of redis-py's; the same error if it is ours, or no matter of reachability or rights."""
    if isinstance(error, FairquedError):
        return error
    text = str(error)
    if isinstance(error, _FORBIDDEN) or text.startswith(_FORBIDDEN_CODES) or _has(text, _FORBIDDEN_TEXTS):
        return NotAllowed(f"Redis at {masked(url)} refused: {text}")
    if isinstance(error, _TRANSIENT) or text.startswith(_TRANSIENT_CODES) or _has(text, _TRANSIENT_TEXTS):
        return QueueUnavailable(f"Redis at {masked(url)} refuses to work: {text}")
    if isinstance(error, _UNREACHABLE):
        return QueueUnavailable(f"Redis at {masked(url)} cannot be reached: {text or type(error).__name__}")
    return error


def _has(text: str, parts: Iterable[str]) -> bool:
    return any(part in text for part in parts)


def _is_timeout(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value <= MAX_TIMEOUT_SECONDS


def backoff_seconds(attempt: int) -> float:
    """Jittered exponential backoff (Marc Brooker, "Exponential Backoff and Jitter", 2015); attempts count from 0."""
    longest: float = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))
    return random.uniform(0.5, 1.0) * longest  # noqa: S311


class Connection:
    """A Redis client for one URL: thread-safe, opened at the first use, replaced after a fork."""

    def __init__(self, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """`timeout_seconds` is the deadline of one call with all its tries; one try gets at most half of it.

        Raises ConfigError if `url` is not a Redis URL.
        """
        if not isinstance(url, str):
            raise ConfigError(f"Redis URL: expected text, found {shown(url)}")
        if not _is_timeout(timeout_seconds):
            raise ConfigError(f"timeout_seconds: expected a number above 0, found {shown(timeout_seconds)}")
        self.url = url
        self.timeout_seconds = timeout_seconds
        self.give_up_at = math.inf
        """No try lasts beyond this moment (monotonic): for a process that has to end by then."""
        self._owned = self._own()

    def _own(self) -> tuple[int, redis.Redis]:
        return os.getpid(), make_client(self.url, self.timeout_seconds / 2)

    @property
    def client(self) -> redis.Redis:
        """The client of this process."""
        pid, client = self._owned
        if pid != os.getpid():
            _abandoned.append(client)
            self._owned = pid, client = self._own()
        return client

    def once(self, operation: Operation[T]) -> T:
        """Try `operation` once. Raises QueueUnavailable or NotAllowed."""
        return self._try_within(math.inf, operation)

    def call(self, operation: Operation[T]) -> T:
        """Try `operation`, which has to be idempotent, until it answers or the deadline is over.

        Raises QueueUnavailable or NotAllowed.
        """
        deadline = time.monotonic() + self.timeout_seconds
        attempt = 0
        while True:
            try:
                return self._try_within(deadline - time.monotonic(), operation)
            except QueueUnavailable:
                pause = backoff_seconds(attempt)
                if time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
            attempt += 1

    def _try_within(self, seconds: float, operation: Operation[T]) -> T:
        seconds = min(seconds, self.give_up_at - time.monotonic())
        if seconds >= self.timeout_seconds / 2:
            return self._try(operation, self.client)
        with make_client(self.url, max(seconds, _SHORTEST_TRY_SECONDS)) as hasty:
            return self._try(operation, hasty)

    def _try(self, operation: Operation[T], client: redis.Redis) -> T:
        try:
            return operation(client)
        except (RedisError, OSError) as error:
            ours = translate(error, self.url)
            if ours is error:
                raise
            raise ours from error

    def close(self) -> None:
        """Close the sockets. The next call opens new ones."""
        pid, client = self._owned
        if pid == os.getpid():
            client.close()


def is_missing_script(reply: Any) -> bool:
    """Whether a reply says that the server does not know the script (yet, or any more)."""
    return isinstance(reply, ResponseError) and str(reply).startswith(("NOSCRIPT", "No matching script"))
