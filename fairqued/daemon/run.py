"""From a configuration to a running daemon: state directory, Redis, namespace, master, and back again."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from fairqued.connection import Connection, backoff_seconds
from fairqued.daemon import exits, log, namespace
from fairqued.daemon.config import Config, not_yet_in_effect
from fairqued.daemon.control import ControlServer
from fairqued.daemon.embedded import EmbeddedRedis
from fairqued.daemon.identity import StateDirectory, StateDirUnusable
from fairqued.daemon.master import Master
from fairqued.errors import ConfigError, FairquedError, NotAllowed, QueueUnavailable
from fairqued.store import Store

logger = logging.getLogger("fairqued.master")


@dataclass(frozen=True)
class Failure(Exception):  # noqa: N818
    """The daemon cannot start: one line for people, and the exit code."""

    message: str
    exit_code: int


def run_daemon(config: Config, *, ends_if_boot_fails: bool = False) -> int:
    """Run until told to stop; returns the exit code. Raises Failure if it cannot start."""
    log.set_up(config.logging.level, config.logging.format)
    warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks", category=DeprecationWarning)
    if later := not_yet_in_effect(config):
        logger.warning("set, but not yet in effect in this release: %s", ", ".join(later))
    with _starting():
        state = StateDirectory(config.state_dir)
        with _redis(config) as url:
            _prepare(config, url)
            master = Master(config, state, url, ends_if_boot_fails=ends_if_boot_fails)
            with ControlServer(config.control_socket, master) as control:
                return master.run(serve=lambda _: control.start())


@contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except StateDirUnusable as error:
        raise Failure(str(error), exits.STATE_DIR_UNUSABLE) from None
    except QueueUnavailable as error:
        raise Failure(str(error), exits.REDIS_UNREACHABLE) from None
    except (ConfigError, NotAllowed) as error:
        raise Failure(str(error), exits.BAD_USAGE) from None
    except FairquedError as error:
        raise Failure(str(error), exits.FAILED) from None


@contextmanager
def _redis(config: Config) -> Iterator[str]:
    """The URL of Redis; the embedded one runs inside this block, and is stopped last."""
    if config.redis.url != "embedded":
        yield _with_password(config)
        return
    server = EmbeddedRedis(config.state_dir, config.redis.server_binary)
    server.start(config.redis.start_timeout_seconds)
    logger.info("embedded Redis is up: %s", server.url)
    try:
        yield server.url
    finally:
        server.stop()


def _with_password(config: Config) -> str:
    if config.redis.password_file is None:
        return config.redis.url
    try:
        password = quote(config.redis.password_file.read_text().strip(), safe="")
    except OSError as error:
        raise ConfigError(f"redis.password_file {config.redis.password_file}: {error.strerror}") from None
    parts = urlsplit(config.redis.url)
    if parts.scheme == "unix":
        query = f"{parts.query}&password={password}" if parts.query else f"password={password}"
        return urlunsplit(parts._replace(query=query))
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{password}@{place}"))


def _prepare(config: Config, url: str) -> None:
    """Wait for Redis, and apply what the configuration says about the namespace."""
    store = Store(Connection(url, timeout_seconds=2.0), config.namespace)
    deadline = time.monotonic() + config.redis.start_timeout_seconds
    attempt = 0
    try:
        while True:
            try:
                namespace.apply(store, config)
                return
            except QueueUnavailable as error:
                if time.monotonic() >= deadline:
                    raise
                if attempt == 0:
                    logger.warning("%s; trying for %g s", error, config.redis.start_timeout_seconds)
            time.sleep(backoff_seconds(attempt))
            attempt += 1
    finally:
        store.connection.close()
