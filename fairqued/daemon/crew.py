"""The workers of a master: which there should be, which there are, and when the next one may be forked."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from enum import Enum

from fairqued.daemon.config import Config, PoolSettings

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_PROVEN_AFTER_SECONDS = 10.0


class Phase(Enum):
    """Where a worker process stands."""

    BOOTING = "booting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass
class Child:
    """A living worker process."""

    pid: int
    worker_id: str
    boot_fd: int
    """Where it says that it is ready, or why not; -1 once it did."""
    born_at: float = field(default_factory=time.monotonic)
    phase: Phase = Phase.BOOTING
    trouble: str = ""
    """Why it cannot boot."""


@dataclass
class Post:
    """A place for one worker of a pool; it is refilled when its worker dies."""

    pool: PoolSettings
    number: int
    child: Child | None = None
    deaths: int = 0
    fill_at: float = 0.0
    trouble: str = ""
    """Why the last worker could not boot; empty once one could."""

    @property
    def title(self) -> str:
        """What logs and process lists call it."""
        return f"{self.pool.name}/{self.number}"

    def vacate(self, *, booted: bool) -> float:
        """Its worker died, or could not be forked: plan the next one, and return the pause before it.

        The first death costs no time; a worker that lived for a while makes up for earlier deaths.
        """
        now = time.monotonic()
        if booted and self.child and now - self.child.born_at >= _PROVEN_AFTER_SECONDS:
            self.deaths = 0
        pause = 0.0
        if self.deaths or not booted:
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self.deaths, 10))
            pause *= random.uniform(0.5, 1.0)  # noqa: S311
        self.deaths += 1
        self.child = None
        self.fill_at = now + pause
        return pause


class Crew:
    """All posts of a configuration. Only the main thread changes them, others may look."""

    def __init__(self, config: Config) -> None:
        self.posts = [Post(pool, number) for pool in config.pools for number in range(1, pool.process_count + 1)]

    def children(self) -> list[Child]:
        """The living workers."""
        return [child for post in self.posts if (child := post.child) is not None]

    def post_of(self, child: Child) -> Post:
        """The post of a living worker."""
        return next(post for post in self.posts if post.child is child)

    def vacant(self, now: float) -> list[Post]:
        """Posts to fill now."""
        return [post for post in self.posts if post.child is None and post.fill_at <= now]

    def next_fill(self) -> float:
        """When the next post is to be filled; infinity if all are."""
        return min((post.fill_at for post in self.posts if post.child is None), default=float("inf"))
