"""What a daemon shows of itself: the status for `fairquectl`, and the one line for service managers."""

from __future__ import annotations

import time
from typing import Any

from fairqued.daemon.crew import Child, Crew, Phase, Post


def workers(crew: Crew) -> list[dict[str, Any]]:
    """A row for each worker, and for each post that has none."""
    rows = [row for post in crew.posts for row in _at_post(post)]
    return rows + [_of_child(child) for child in crew.leaving]


def readiness(crew: Crew) -> str:
    """How many workers are ready."""
    posts = [post for post in crew.posts if not post.is_hidden]
    ready = sum(post.child is not None and post.child.phase is Phase.READY for post in posts)
    return f"{ready} of {len(posts)} workers ready"


def trouble(crew: Crew) -> str:
    """What keeps workers from being replaced, the first thing that is found; empty if nothing does."""
    now = time.monotonic()
    for post in crew.posts:
        if post.is_hidden:
            continue
        if post.trouble:
            return f"worker {post.title} cannot boot: {post.trouble}"
        if post.is_empty and post.fill_at > now:
            return f"worker {post.title} has died {post.deaths} times in a row"
    return ""


def _at_post(post: Post) -> list[dict[str, Any]]:
    if post.child is None and post.heir is None:
        return [{**_of_pool(post), "phase": "waiting", "trouble": post.trouble}]
    rows = [_of_child(child) for child in (post.child, post.heir) if child is not None]
    if post.child is not None and post.child.phase is not Phase.READY:
        rows[0]["trouble"] = post.trouble  # that of the last attempt, while this one may fail like it
    return rows


def _of_child(child: Child) -> dict[str, Any]:
    return {
        **_of_pool(child), "worker_id": child.worker_id, "pid": child.pid, "phase": child.phase.value,
        "generation": child.generation, "age_seconds": round(time.monotonic() - child.born_at, 3),
    }  # fmt: skip


def _of_pool(of: Child | Post) -> dict[str, Any]:
    return {"title": of.title, "pool": of.pool.name, "queues": list(of.pool.queue_names)}
