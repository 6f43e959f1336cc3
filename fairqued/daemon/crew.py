"""The workers of a master: which there should be, which there are, and which are to be replaced.

A worker is replaced when it is out of date (a reload), or wishes for it (so many tasks, too much memory, a task that
does not end): an heir is forked at its post, and when the heir is ready the old one is told to stop, and leaves.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from enum import Enum

from msgspec.structs import replace

from fairqued.daemon.config import Config, PoolSettings
from fairqued.daemon.pulse import Pulse
from fairqued.keys import hidden_queue
from fairqued.worker.vitals import Vitals

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_PROVEN_AFTER_SECONDS = 10.0


class Phase(Enum):
    """Where a worker process stands."""

    BOOTING = "booting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(eq=False)
class Child:
    """A living worker process."""

    pid: int
    worker_id: str
    boot_fd: int
    """Where it says that it is ready, or why not; -1 once it did."""
    title: str
    pool: PoolSettings
    config: Config
    """The one it was born with."""
    generation: int
    vitals: Vitals
    pulse: Pulse
    born_at: float = field(default_factory=time.monotonic)
    phase: Phase = Phase.BOOTING
    trouble: str = ""
    """Why it cannot boot."""
    kill_at: float = float("inf")
    """When it is killed, if it was told to stop and did not."""
    killed: str = ""
    """Why its master killed it; empty if it did not."""
    is_suspect: bool = False
    """Whether that was because it gave no sign of life: what it ran is suspected."""


@dataclass(eq=False)
class Post:
    """A place for one worker of a pool; it is refilled when its worker dies."""

    pool: PoolSettings
    number: int
    is_hidden: bool = False
    """Whether it serves tasks suspected of killing their process, one at a time, until there are no more."""
    child: Child | None = None
    heir: Child | None = None
    deaths: int = 0
    fill_at: float = 0.0
    served: int = 0
    """The generation of the last worker that was ready here."""
    trouble: str = ""
    """Why the last worker could not boot; empty once one could."""

    @property
    def title(self) -> str:
        """What logs and process lists call it."""
        return f"{self.pool.name}/{self.pool.queue_names[0] if self.is_hidden else self.number}"

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here, nor about to be."""
        return self.child is None and self.heir is None

    def is_outdated(self, generation: int) -> bool:
        """Whether its worker is to be replaced."""
        if self.child is None or self.child.phase is not Phase.READY:
            return False
        return self.child.generation < generation or bool(self.child.pulse.wish)

    def wants_heir(self, now: float, generation: int) -> bool:
        """Whether an heir is to be forked now."""
        return not self.is_hidden and self.heir is None and self.fill_at <= now and self.is_outdated(generation)

    def vacate(self, dead: Child | None) -> float:
        """A worker died here, or could not be forked: plan the next one, and return the pause before it.

        The first death costs no time; a worker that lived for a while makes up for earlier deaths.
        """
        now = time.monotonic()
        booted = dead is not None and dead.phase is not Phase.BOOTING
        if dead and booted and now - dead.born_at >= _PROVEN_AFTER_SECONDS:
            self.deaths = 0
        pause = 0.0
        if self.deaths or not booted:
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self.deaths, 10))
            pause *= random.uniform(0.5, 1.0)  # noqa: S311
        self.deaths += 1
        self.fill_at = now + pause
        return pause


class Crew:
    """All posts of a configuration, and workers that have left theirs. Only the main thread changes them."""

    def __init__(self, config: Config) -> None:
        self.posts: list[Post] = []
        self.leaving: list[Child] = []
        self.generation = 0
        self._processes: dict[str, int] = {}
        self._pools: tuple[PoolSettings, ...] = ()
        self.reshape(config)

    def reshape(self, config: Config) -> list[Child]:
        """Take over the pools of a configuration; every worker so far is of an older generation then.

        Returns the workers that are to be told to stop: those that boot, with what is out of date by now, and those of
        hidden queues, since the next tick brings others. Those of a pool that is gone stay until `dispensable`: it may
        live on under another name.
        """
        self.generation += 1
        self._pools = config.pools
        self._processes = {pool.name: pool.process_count for pool in config.pools}
        pools = {pool.name: pool for pool in config.pools}
        dismissed = self._dismiss_booting()
        for post in [post for post in self.posts if post.is_hidden]:
            dismissed += self._dissolve(post)
        for post in [post for post in self.posts if post.pool.name not in pools]:
            self._dissolve(post)
        for post in self.posts:
            post.pool = pools[post.pool.name]
            post.deaths, post.fill_at, post.trouble = 0, 0.0, ""
        return dismissed + self._fit()

    def scale(self, pool: str, processes: int) -> list[Child]:
        """Let a pool have so many workers, until the next reload. Returns those that are to be told to stop."""
        self._processes[pool] = processes
        return self._fit()

    def size_of(self, pool: str) -> int | None:
        """How many workers a pool should have; None if there is no such pool."""
        return self._processes.get(pool)

    @property
    def first_pool(self) -> str:
        """The pool that signals scale."""
        return self._pools[0].name

    @property
    def pool_names(self) -> list[str]:
        """All pools."""
        return [pool.name for pool in self._pools]

    def _fit(self) -> list[Child]:
        surplus = [post for post in self.posts if not post.is_hidden and post.number > self._processes[post.pool.name]]
        left = [child for post in surplus for child in self._dissolve(post)]
        there = {(post.pool.name, post.number) for post in self.posts if not post.is_hidden}
        for pool in self._pools:
            numbers = range(1, self._processes[pool.name] + 1)
            self.posts += [Post(pool, number) for number in numbers if (pool.name, number) not in there]
        return left

    def _dismiss_booting(self) -> list[Child]:
        booting = [child for child in self.children() if child.phase is Phase.BOOTING]
        for post in self.posts:
            post.child = None if post.child in booting else post.child
            post.heir = None if post.heir in booting else post.heir
        self.leaving += booting
        return booting

    def _dissolve(self, post: Post) -> list[Child]:
        self.posts.remove(post)
        children = [child for child in (post.child, post.heir) if child is not None]
        self.leaving += children
        return children

    # Who there is

    def children(self) -> list[Child]:
        """The living workers."""
        at_posts = [child for post in self.posts for child in (post.child, post.heir) if child is not None]
        return at_posts + self.leaving

    def post_of(self, child: Child) -> Post | None:
        """The post of a living worker or heir; None if it has left."""
        return next((post for post in self.posts if child in (post.child, post.heir)), None)

    def vacant(self, now: float) -> list[Post]:
        """Posts to fill now."""
        return [post for post in self.posts if post.is_empty and post.fill_at <= now]

    def heirless(self, now: float) -> list[Post]:
        """Posts that get an heir now: in each pool one after the other, and only while none of its posts is empty."""
        busy = {post.pool.name for post in self.posts if not post.is_hidden and (post.heir or not post.child)}
        wanted: dict[str, Post] = {}
        for post in self.posts:
            if post.pool.name not in busy and post.wants_heir(now, self.generation):
                wanted.setdefault(post.pool.name, post)
        return list(wanted.values())

    def next_fill(self) -> float:
        """When the next post is to be filled; infinity if all are."""
        return min((post.fill_at for post in self.posts if post.is_empty), default=float("inf"))

    def outdated(self) -> int:
        """How many posts had no worker of the present generation yet that was ready."""
        return sum(post.served < self.generation for post in self.posts if not post.is_hidden)

    # Changes

    def hide(self, queue: str) -> None:
        """Open a post for the hidden queue of this one, where there is none."""
        hidden = hidden_queue(queue)
        pool = next((pool for pool in self._pools if queue in pool.queue_names), None)
        if pool and not any(post.is_hidden and post.pool.queue_names == (hidden,) for post in self.posts):
            self.posts.append(Post(replace(pool, queues=(hidden,), threads=1, max_tasks=0), 1, is_hidden=True))

    def dispensable(self) -> list[Child]:
        """Workers without a successor at their post that are to be told to stop now.

        Those of hidden queues that wish for it: the next tick brings others. Those of pools that are gone, once all
        others are replaced.
        """
        for post in [post for post in self.posts if post.is_hidden and post.is_outdated(self.generation)]:
            self._dissolve(post)
        is_over = self.outdated() == 0
        return [child for child in self.leaving if child.phase is Phase.READY and (is_over or child.pulse.wish)]

    def welcome(self, child: Child) -> Child | None:
        """A worker is ready. An heir takes over its post: its predecessor, if it lives, has left and is returned."""
        child.phase = Phase.READY
        post = self.post_of(child)
        if post is None:
            return None
        post.served, post.trouble = child.generation, ""
        return self._succeed(post) if child is post.heir else None

    def _succeed(self, post: Post) -> Child | None:
        old, post.child, post.heir = post.child, post.heir, None
        if old is not None:
            self.leaving.append(old)
            if old.pulse.wish:
                post.vacate(old)  # so that workers which wish for it as soon as they are there do not make a storm
        return old

    def bury(self, child: Child) -> tuple[Post | None, float]:
        """A worker has died: its post, if it had one, and the pause before the next one."""
        post = self.post_of(child)
        if post is None:
            self.leaving.remove(child)
            return None, 0.0
        pause = post.vacate(child)
        if child is post.heir:
            post.heir = None
        else:
            post.child = None
        if post.is_hidden and child.phase is not Phase.BOOTING:
            self.posts.remove(post)  # the next tick tells whether there is more
        return post, pause
