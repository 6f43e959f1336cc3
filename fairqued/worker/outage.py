"""Redis away: said once when it goes and once when it comes back, whichever thread notices."""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("fairqued.worker")


class Outage:
    """The present outage of Redis as one worker sees it, if there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether Redis is away."""
        return self._since is not None

    def begin(self, error: Exception) -> None:
        """A call failed."""
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                logger.warning("%s; running tasks go on, their completions are kept", error)

    def end(self) -> None:
        """A call succeeded."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                logger.info("Redis is back after %.1f s", time.monotonic() - self._since)
                self._since = None
