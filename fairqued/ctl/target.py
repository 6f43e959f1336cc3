"""What fairquectl looks at: the daemon and the Redis of a configuration, or a Redis alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fairqued.connection import Connection, masked, resolve_url
from fairqued.ctl import control
from fairqued.daemon.config import Config, find_config_paths, load, redis_url
from fairqued.errors import ConfigError
from fairqued.keys import DEFAULT_NAMESPACE, check_namespace
from fairqued.queue import NAMESPACE_VARIABLE, URL_VARIABLE, TaskQueue

_EMBEDDED = "fairqued://"
_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A namespace in a Redis and, where its host is this one, the daemon's control socket."""

    url: str
    namespace: str
    control_socket: Path | None
    config: Config | None = None

    @classmethod
    def of_config(cls, config: Config) -> Target:
        """The daemon of a configuration."""
        return cls(
            url=redis_url(config), namespace=config.namespace, control_socket=config.control_socket, config=config
        )

    @classmethod
    def of_url(cls, url: str, namespace: str) -> Target:
        """A Redis anywhere; an embedded one has its daemon beside it. Raises ConfigError."""
        resolve_url(url)
        beside = Path("/" + url.removeprefix(_EMBEDDED).lstrip("/")) / "control.sock"
        return cls(
            url=url,
            namespace=check_namespace(namespace),
            control_socket=beside if url.startswith(_EMBEDDED) else None,
        )

    @property
    def shown_url(self) -> str:
        """The URL of Redis without its password."""
        return masked(self.url)

    @property
    def lives_with_daemon(self) -> bool:
        """Whether this Redis is embedded: it runs only while its daemon does."""
        return self.url.startswith(_EMBEDDED)

    @cached_property
    def queue(self) -> TaskQueue:
        """The client of the namespace."""
        return TaskQueue(self.url, namespace=self.namespace, timeout_seconds=_TIMEOUT_SECONDS)

    def ping_redis(self) -> None:
        """Raises QueueUnavailable or NotAllowed if Redis does not answer."""
        connection = Connection(self.url, timeout_seconds=_TIMEOUT_SECONDS)
        try:
            connection.call(lambda client: client.ping())
        finally:
            connection.close()

    def ask_daemon(self, command: str) -> Any:
        """The daemon's answer to a question. Raises DaemonNotRunning, and ConfigError where no daemon is known."""
        return control.ask(self._known_socket, command)

    def order_daemon(self, command: str, **details: Any) -> Any:
        """What the daemon says to an order; raises as `ask_daemon`, and FairquedError with its reason to refuse."""
        return control.ask(self._known_socket, command, within_seconds=control.ORDER_SECONDS, **details)

    @property
    def _known_socket(self) -> Path:
        if self.control_socket is None:
            raise ConfigError("no daemon is known: give --config FILE, as to the daemon, on its host")
        return self.control_socket


def load_config(files: Sequence[Path], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration that a daemon with these files would have. Raises ConfigError."""
    return load(find_config_paths(files, environ), environ)


def find_target(
    files: Sequence[Path], url: str | None, namespace: str | None, environ: Mapping[str, str] = os.environ
) -> Target:
    """What the options name; without any, what the environment names. Raises ConfigError.

    In this order: the URL or the files given, the configuration that a daemon would find here, `$FAIRQUED_REDIS_URL`.
    """
    if files and (url or namespace):
        raise ConfigError("--config names Redis and namespace: give it, or --redis and --namespace, not both")
    from_env = environ.get(URL_VARIABLE, "")
    if url or namespace or (from_env.startswith(_EMBEDDED) and not files):
        return _bare_target(url or from_env, namespace, environ)
    try:
        paths = find_config_paths(files, environ)
    except ConfigError as error:
        if not from_env:
            raise ConfigError(f"{error}; or give --redis URL, or set ${URL_VARIABLE}") from None
        return _bare_target(from_env, None, environ)
    return Target.of_config(load(paths, environ))


def _bare_target(url: str, namespace: str | None, environ: Mapping[str, str]) -> Target:
    if not url:
        raise ConfigError(f"--namespace needs a Redis: give --redis URL, or set ${URL_VARIABLE}")
    return Target.of_url(url, namespace or environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE)
