"""A new configuration for a running daemon: what it may change, and where the daemon gets it."""

from __future__ import annotations

import os
from collections.abc import Callable

from fairqued.daemon.config import Config, redis_url
from fairqued.daemon.control import Refusal
from fairqued.signing import load_signer

Load = Callable[[], Config]
"""Reads the configuration again. Raises ConfigError."""


def load_again(load: Load, running: Config) -> Config:
    """The whole new configuration, checked.

    Raises:
        ConfigError: there are mistakes in it.
        Refusal: it changes what a running daemon cannot change.
    """
    new = load()
    load_signer(new.namespace, new.security.signing_keys_file, os.environ)  # no new worker could boot without
    changed = [name for name, value in _fixed(new).items() if value != _fixed(running)[name]]
    if changed:
        raise Refusal(f"{', '.join(changed)}: cannot be changed by a reload; restart the daemon for that")
    return new


def _fixed(config: Config) -> dict[str, object]:
    """What stays as it is while a daemon runs."""
    return {
        "redis": "embedded" if config.redis.url == "embedded" else redis_url(config),
        "redis.server_binary": config.redis.server_binary,
        "namespace": config.namespace,
        "partitions": config.partitions,
        "state_dir": config.state_dir,
        "control.socket": config.control_socket,
    }
