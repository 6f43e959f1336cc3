"""A new configuration for a running daemon: where it comes from, what it may change, and the rounds that it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fairqued.daemon.config import Config, redis_url
from fairqued.daemon.control import Refusal
from fairqued.errors import ConfigError
from fairqued.signing import load_signer

logger = logging.getLogger("fairqued.master")

Load = Callable[[], Config]
"""Reads the configuration again. Raises ConfigError."""


class Reloads:
    """Reloads, each of which begins a round, in which every worker is replaced.

    What is asked for in the middle of a round makes one more, unless that one does not get on.
    """

    def __init__(self, reload: Callable[[], None], *, outdated: Callable[[], int], trouble: Callable[[], str]) -> None:
        """`reload` takes the new configuration, `outdated` counts whom to replace, `trouble` is why nobody is."""
        self._reload, self._outdated, self._trouble = reload, outdated, trouble
        self.round = 0
        """The number of the last round, or of the one that goes on."""
        self.is_rolling = False
        self.refused = ""
        """Why the last reload changed nothing; empty if it did."""
        self._is_asked_for = False

    @property
    def left(self) -> int:
        """How many workers are still to be replaced."""
        return self._outdated() if self.is_rolling else 0

    @property
    def trouble(self) -> str:
        """Why the round does not get on; empty if it does, and when there is none."""
        return self._trouble() if self.is_rolling else ""

    def status(self) -> dict[str, Any]:
        """The last round, for `fairquectl`."""
        return {"round": self.round, "left": self.left, "trouble": self.trouble}

    def ask(self) -> None:
        """Reload as soon as that may be. The log tells how it went."""
        self._is_asked_for = True

    def begin(self) -> int:
        """Reload now, or after the round that goes on: the number of the round. Raises ConfigError, Refusal."""
        self._is_asked_for = not self._may_begin()
        if self._is_asked_for:
            return self.round + 1
        try:
            self._reload()
        except Exception as error:
            logger.error("the old configuration goes on; the new one is refused: %s", error)  # noqa: TRY400
            self.refused = f"reload refused: {error}"
            raise
        self.round += 1
        self.is_rolling, self.refused = True, ""
        logger.info("configuration read again; workers are replaced one by one")
        return self.round

    def keep_up(self) -> None:
        """Notice the end of a round, and begin the next one that was asked for."""
        if self.is_rolling and self._outdated() == 0:
            self.is_rolling = False
            logger.info("all workers are replaced")
        if self._is_asked_for and self._may_begin():
            with suppress(ConfigError, Refusal):  # the log has it
                self.begin()

    def _may_begin(self) -> bool:
        return not self.is_rolling or self.trouble != ""


def load_again(load: Load, running: Config, running_url: str) -> Config:
    """The whole new configuration, checked; `running_url` is where the daemon found its Redis.

    Raises:
        ConfigError: there are mistakes in it.
        Refusal: it changes what a running daemon cannot change.
    """
    new = load()
    load_signer(new.namespace, new.security.signing_keys_file, os.environ)  # no new worker could boot without
    before = {"redis": _place(running, running_url), **_fixed(running)}
    after = {"redis": _place(new, redis_url(new)), **_fixed(new)}
    if changed := [name for name, value in after.items() if value != before[name]]:
        raise Refusal(f"{', '.join(changed)}: cannot be changed by a reload; restart the daemon for that")
    return new


def _place(config: Config, url: str) -> str:
    """Where Redis is, and the password for it: read from its file at the start, so a new one there is a change."""
    return "embedded" if config.redis.url == "embedded" else url


def _fixed(config: Config) -> dict[str, object]:
    """What stays as it is while a daemon runs."""
    return {
        "redis.server_binary": config.redis.server_binary,
        "namespace": config.namespace,
        "partitions": config.partitions,
        "state_dir": config.state_dir,
        "control.socket": config.control_socket,
    }
