"""From a configuration to a running daemon: state directory, Redis, namespace, master, and back again."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairqued.connection import Connection, backoff_seconds
from fairqued.daemon import exits, log, namespace, signals
from fairqued.daemon.config import Config, not_yet_in_effect, redis_url
from fairqued.daemon.control import ControlServer
from fairqued.daemon.embedded import EmbeddedRedis
from fairqued.daemon.exits import Failure
from fairqued.daemon.identity import StateDirectory, StateDirUnusable
from fairqued.daemon.master import Master, Surroundings
from fairqued.daemon.reload import Load
from fairqued.daemon.systemd import Systemd
from fairqued.daemon.watch import SourceFiles
from fairqued.doctor.finding import Severity
from fairqued.doctor.server import server_findings
from fairqued.errors import ConfigError, FairquedError, NotAllowed, QueueUnavailable
from fairqued.signing import load_signer
from fairqued.store import Store

logger = logging.getLogger("fairqued.master")

_START_SECONDS = 30.0
"""What a start takes beside waiting for Redis."""
_STOP_REDIS_SECONDS = 1.0
"""Then it is killed, which loses nothing: what it answered for is in its append-only file."""


def run_daemon(config: Config, load: Load, *, ends_if_boot_fails: bool = False, watches_sources: bool = False) -> None:
    """Run until told to stop; `load` reads the configuration again.

    Raises Failure if it cannot start, or may not go on.
    """
    systemd = Systemd(os.environ)
    systemd.needs_time(config.redis.start_timeout_seconds + _START_SECONDS)
    log.set_up(config.logging.level, config.logging.format)
    warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks", category=DeprecationWarning)
    if later := not_yet_in_effect(config):
        logger.warning("set, but not yet in effect in this release: %s", ", ".join(later))
    try:
        signals.interrupt_when_told_to_stop()
        watched = SourceFiles(config.python_path) if watches_sources else None
        with _failures():
            _run(config, load, systemd, watched=watched, ends_if_boot_fails=ends_if_boot_fails)
    except KeyboardInterrupt:
        signals.end_undisturbed()
        logger.info("fairqued was told to stop before it was up")
    finally:
        signals.end_undisturbed()


def _run(config: Config, load: Load, systemd: Systemd, **development: Any) -> None:
    load_signer(config.namespace, config.security.signing_keys_file, os.environ)  # no worker could boot without
    control = ControlServer(config.control_socket)
    embedded = EmbeddedRedis(config.state_dir, config.redis.server_binary) if config.redis.url == "embedded" else None
    state = StateDirectory(config.state_dir)
    with control, _redis(config, embedded) as url:
        _prepare(config, url)
        master = Master(
            config,
            Surroundings(state=state, redis_url=url, load=load, embedded=embedded, systemd=systemd, **development),
        )
        master.run(serve=lambda: control.start(master.gate, master.status, master.order))


@contextmanager
def _failures() -> Iterator[None]:
    """Each error that a start may meet, with its exit code."""
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
def _redis(config: Config, embedded: EmbeddedRedis | None) -> Iterator[str]:
    """The URL of Redis; the embedded one runs inside this block, and is stopped last."""
    if embedded is None:
        yield redis_url(config)
        return
    try:
        with signals.interrupts_held_back() as is_interrupted:
            embedded.start(config.redis.start_timeout_seconds, gives_up=is_interrupted)
    except KeyboardInterrupt:
        signals.end_undisturbed()
        embedded.stop(_STOP_REDIS_SECONDS)
        raise
    try:
        logger.info("embedded Redis is up: %s", embedded.url)
        yield embedded.url
    finally:
        signals.end_undisturbed()
        embedded.stop(_STOP_REDIS_SECONDS)


def _prepare(config: Config, url: str) -> None:
    """Wait for Redis, and apply what the configuration says about the namespace."""
    store = Store(Connection(url, timeout_seconds=2.0), config.namespace)
    deadline = time.monotonic() + config.redis.start_timeout_seconds
    attempt = 0
    try:
        while not _apply(store, config, deadline, is_first=attempt == 0):
            time.sleep(min(backoff_seconds(attempt), max(0.0, deadline - time.monotonic())))
            attempt += 1
        _warn_of_server(store, is_private=config.redis.url.startswith(("embedded", "fairqued://")))
    finally:
        store.connection.close()


def _warn_of_server(store: Store, *, is_private: bool) -> None:
    """Say once what endangers tasks; a check that fails is no reason not to start."""
    try:
        findings = server_findings(store.connection.client, store.keys.namespace, is_private=is_private, pings=3)
    except Exception:
        logger.debug("the server could not be judged", exc_info=True)
        return
    for finding in findings:
        if finding.severity is not Severity.OK:
            logger.warning("%s. What to do: %s", finding.what, finding.advice)


def _apply(store: Store, config: Config, deadline: float, *, is_first: bool) -> bool:
    """One try; whether Redis answered. Raises QueueUnavailable once the deadline is over."""
    try:
        namespace.apply(store, config)
    except QueueUnavailable as error:
        if time.monotonic() >= deadline:
            raise
        if is_first:
            logger.warning("%s; trying for %g s", error, config.redis.start_timeout_seconds)
        return False
    return True
