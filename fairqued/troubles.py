"""What keeps a process from its work, told once when it begins, whichever thread notices."""

from __future__ import annotations

import logging
import threading
import time

from fairqued.errors import NotAllowed, QueueUnavailable


class Troubles:
    """The present troubles of one process: Redis away, and work that fails for a reason of its own.

    Redis is away while any kind of work meets with no answer, or a refusal, and back once all kinds are answered again:
    so one that alone is refused for ever is told once, and not with every success of the others.
    """

    def __init__(self, logger: logging.Logger, meanwhile: str = "") -> None:
        """`meanwhile` says what becomes of the work while Redis is away."""
        self._logger, self._meanwhile = logger, meanwhile
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._unanswered: set[str] = set()
        self._of: dict[str, str] = {}
        self.is_answered = True
        """Whether Redis answered the last call."""

    @property
    def away_since(self) -> float | None:
        """Since when Redis does not answer, or refuses (monotonic); None while it answers."""
        return self._away_since

    def begin(self, work: str, error: Exception) -> None:
        """Some work failed."""
        with self._lock:
            if isinstance(error, (QueueUnavailable, NotAllowed)):
                self._miss(work, error)
                return
            self._meet(work)
            if self._of.get(work) != repr(error):
                self._of[work] = repr(error)
                self._logger.error("%s failed, and is tried again and again", work, exc_info=error)

    def end(self, work: str) -> None:
        """Some work succeeded."""
        with self._lock:
            self._meet(work)
            self._of.pop(work, None)

    def _miss(self, work: str, error: Exception) -> None:
        self.is_answered = False
        self._unanswered.add(work)
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._logger.warning("%s%s", error, self._meanwhile)

    def _meet(self, work: str) -> None:
        self.is_answered = True
        self._unanswered.discard(work)
        if self._away_since is not None and not self._unanswered:
            self._logger.info("Redis is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None
