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
from fairqued.patience import CONNECTION_CLASSES, patiently
from fairqued.shield import whole
from fairqued.validation import shown

T = TypeVar("T")
Operation = Callable[[Any], T]
"""What is done with a `redis.Redis`; Any, since redis-py's own annotations change between its releases."""

DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 5.0, 10 * 365 * 86_400.0
_UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError, InvalidResponse)
_TRANSIENT = (BusyLoadingError, ReadOnlyError, OutOfMemoryError, ClusterDownError, TryAgainError)
_TRANSIENT_CODES = (
    "LOADING", "BUSY ", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS",
    "UNBLOCKED",
)  # fmt: skip
_TRANSIENT_TEXTS = ("-OOM", "-READONLY", "-MISCONF", "-NOREPLICAS", "when used memory > 'maxmemory'")
_FORBIDDEN = (AuthenticationError, AuthorizationError, NoPermissionError)
_FORBIDDEN_CODES = ("NOAUTH", "WRONGPASS", "NOPERM")
_FORBIDDEN_TEXTS = ("-NOPERM", "ACL failure in script", "The user executing the script can't", "unauthenticated")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _SHORTEST_TRY_SECONDS = 0.05, 2.0, 0.01
_LONGEST_SILENCE_SECONDS = 2.0
"""A try in which nothing was heard for so long is over. Together with the longest pause, which is counted from the
beginning of the try, it bounds the time between the return of Redis and the next try that can succeed."""
_ANONYMOUS = {"driver_info": None} if hasattr(redis, "DriverInfo") else {"lib_name": None, "lib_version": None}
"""Spares two round trips of each new connection, in which redis-py tells its version."""
_STRICT = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
"""A certificate is good for the name in it alone, which redis-py 5 does not check unless it is told to."""

_abandoned: list[redis.Redis] = []
"""Clients inherited over a fork: never touched again, never collected (their locks may be held for ever)."""


def masked(url: str) -> str:
    """`url` without its passwords, for messages."""
    url = re.sub(r"(?<=://)([^:/?#]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&]\w*password=)[^&]*", r"\1***", url)


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
        resolved = resolve_url(url)
        settings: dict[str, Any] = {**_ANONYMOUS, **(_STRICT if resolved.startswith("rediss:") else {})}
        client = redis.Redis.from_url(
            resolved,
            connection_class=CONNECTION_CLASSES[resolved.partition("://")[0]],
            socket_timeout=socket_timeout_seconds,
            socket_connect_timeout=socket_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            health_check_interval=0,
            protocol=2,
            decode_responses=False,
            max_connections=max_connections,
            **settings,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # opens nothing; raises for an option that does not exist
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Redis URL {masked(url)!r}: {error}") from None
    return client


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


def backoff_seconds(attempt: int, spent_seconds: float = 0.0) -> float:
    """The pause after a failed try: jittered exponential backoff; attempts count from 0.

    It is counted from the beginning of the try, which took `spent_seconds`: one that timed out is followed at once.
    (Marc Brooker, "Exponential Backoff and Jitter", 2015.)
    """
    longest: float = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 10))
    return max(0.0, random.uniform(0.5, 1.0) * longest - spent_seconds)  # noqa: S311


class Connection:
    """A Redis client for one URL: thread-safe, opened at the first use, replaced after a fork."""

    def __init__(
        self, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, try_seconds: float | None = None
    ) -> None:
        """`timeout_seconds` is the deadline of one call with all its tries; one try gets at most half of it.

        `try_seconds` gives it more, or less. Raises ConfigError if `url` is not a Redis URL.
        """
        if not isinstance(url, str):
            raise ConfigError(f"Redis URL: expected text, found {shown(url)}")
        if not _is_timeout(timeout_seconds):
            raise ConfigError(f"timeout_seconds: expected a number above 0, found {shown(timeout_seconds)}")
        self.url = url
        self.timeout_seconds = timeout_seconds
        self.try_seconds = try_seconds or timeout_seconds / 2
        self.give_up_at = math.inf
        """No try lasts beyond this moment (monotonic): for a process that has to end by then."""
        self._owned = self._own()

    def _own(self) -> tuple[int, redis.Redis]:
        return os.getpid(), make_client(self.url, min(self.try_seconds, _LONGEST_SILENCE_SECONDS))

    @property
    def client(self) -> redis.Redis:
        """The client of this process."""
        pid, client = self._owned
        if pid != os.getpid():
            _abandoned.append(client)
            self._owned = pid, client = self._own()
        return client

    def call(self, operation: Operation[T]) -> T:
        """Try `operation`, which has to be idempotent, until it answers or the deadline is over.

        Raises QueueUnavailable or NotAllowed.
        """
        return self.persist(lambda: self.once(operation))

    def persist(self, attempt: Callable[[], T], by: float = math.inf) -> T:
        """Call `attempt`, which has to be idempotent and makes single tries, until it succeeds or the deadline is over.

        That is the moment `by` (monotonic), if it comes earlier. Raises what it raises, QueueUnavailable at the end.
        """
        deadline = min(by, time.monotonic() + self.timeout_seconds)
        failures = 0
        while True:
            began = time.monotonic()
            try:
                return patiently(deadline - began, attempt)
            except QueueUnavailable:
                now = time.monotonic()
                pause = backoff_seconds(failures, now - began)
                if now + pause + _SHORTEST_TRY_SECONDS >= deadline:
                    raise
            time.sleep(pause)
            failures += 1

    def once(self, operation: Operation[T]) -> T:
        """Try `operation` once. Raises QueueUnavailable or NotAllowed.

        No interruption of a task leaves a connection with half a reply: the next command would take that for its own.
        """
        return whole(lambda: self._once(operation))

    def _once(self, operation: Operation[T]) -> T:
        seconds = min(self.try_seconds, self.give_up_at - time.monotonic())
        try:
            return patiently(max(seconds, _SHORTEST_TRY_SECONDS), lambda: operation(self.client))
        except (RedisError, OSError) as error:
            if isinstance(error, _UNREACHABLE):
                self.drop_idle()
            ours = translate(error, self.url)
            if ours is error:
                raise
            raise ours from error

    def apart(self) -> Any:
        """A new connection outside the pool, for a command that blocks; to be called in `once`."""
        pool = self.client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)  # the pool would count it for ever
        connection.connect()
        connection.send_command("PING")  # its reply, and whatever TLS has to say, is read before anybody waits
        connection.read_response()
        return connection

    def drop_idle(self) -> None:
        """Close connections that nobody uses: what broke one may have broken all, without a word."""
        self.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the sockets. The next call opens new ones."""
        pid, client = self._owned
        if pid == os.getpid():
            client.close()


def is_missing_script(reply: Any) -> bool:
    """Whether a reply says that the server does not know the script (yet, or any more)."""
    return isinstance(reply, ResponseError) and str(reply).startswith(("NOSCRIPT", "No matching script"))
