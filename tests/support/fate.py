"""What became of one worker process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Fate(ABC):
    """One worker process. Times are this host's, in seconds since the epoch, as the server's."""

    worker_id: str
    log: Path
    ended_at: float | None = None
    """None while it lives; a time at which it had not done its last deed yet would accuse the innocent."""
    reclaimed_at: float | None = None

    def was_alive(self, at: float) -> bool:
        """Whether the process was alive then."""
        return self.ended_at is None or at < self.ended_at

    @abstractmethod
    def cause(self, at: float, script: str) -> str | None:
        """Why a started task was taken from this worker, by this script; None if nothing explains it."""

    @property
    @abstractmethod
    def ended_well(self) -> bool:
        """Whether it ended once all that it ran was completed and acknowledged."""

    @property
    @abstractmethod
    def trouble(self) -> str:
        """What is wrong with its end, whatever was done to it; empty if nothing is."""
