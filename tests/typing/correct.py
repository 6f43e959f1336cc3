# pyright: strict
"""What users write. Both type checkers accept it, and agree on every type; nothing here is ever run."""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, assert_type

from fairqued import (
    Priority,
    QueueLease,
    StartedTask,
    Task,
    TaskFunction,
    TaskHandle,
    TaskInfo,
    TaskOptions,
    TaskQueue,
    TaskState,
    as_user,
    current_task,
    default_queue,
    task,
)


@task
def thumbnail(path: str, width: int, *, colours: int = 256) -> dict[str, int]:
    return {path: width * colours}


@task(priority=Priority.HIGH, max_retries=3, retry_on=[OSError], name="resize", aliases=["old"], meta={"a": "b"})
def resize(path: str, width: int = 100) -> int:
    return len(path) * width


@task()
def note(*words: str, **details: int) -> None:
    current_task().logger.info("%s %s", words, details)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task(queue="mail")
async def send(to: str, *, copies: int = 1) -> bool:
    return bool(to) and copies > 0


queue = TaskQueue("redis://localhost:6379/0", namespace="shop", user_id="system", timeout_seconds=2)
later = datetime(2030, 1, 1, tzinfo=UTC)

# A decorated function is still that function.
assert_type(thumbnail("a.png", 200), dict[str, int])
assert_type(thumbnail("a.png", width=200, colours=16), dict[str, int])
assert_type(resize("a.png"), int)
assert_type(thumbnail.__name__, str)
call_back: Callable[[str, int], dict[str, int]] = thumbnail
as_coroutine: Callable[[str], Coroutine[Any, Any, bytes]] = fetch


async def direct() -> None:
    assert_type(await fetch("https://example.org"), bytes)
    assert_type(await send("bob", copies=2), bool)


# The call as a task, with and without options of the decorator and of `using`.
assert_type(thumbnail.task("a.png", 200), Task[dict[str, int]])
assert_type(resize.task("a.png", width=3), Task[int])
assert_type(fetch.task("https://example.org"), Task[bytes])
assert_type(send.using(run_at=later).task("bob", copies=2), Task[bool])
assert_type(note.using(user_id="alice", retry_backoff_seconds=[1, 5, 60]).task("a", "b", size=1), Task[None])
assert_type(resize.using(queue="slow").using(delay_seconds=1.5).task("a.png"), Task[int])
any_of: list[TaskFunction[..., Any, int | bytes]] = [resize, fetch]

# What is enqueued is typed as the function's return.
assert_type(thumbnail.enqueue("a.png", 200), TaskHandle[dict[str, int]])
assert_type(thumbnail.using(user_id="alice").enqueue("a.png", 200).result(timeout_seconds=10), dict[str, int])
assert_type(queue.enqueue(resize.task("a.png")), TaskHandle[int])
assert_type(queue.enqueue(send.task("bob"), if_exists="ignore", user_id="alice", task_id="1"), TaskHandle[bool])
assert_type(queue.enqueue_many(resize.task("a.png", width) for width in (1, 2)), list[TaskHandle[int]])
assert_type(default_queue().enqueue(fetch.task("https://example.org")).result(), bytes)
assert_type(queue.enqueue(Task(user_id="bob", payload={"kind": "report"})).result(), Any)
assert_type(queue.enqueue(note.task()).result(inside_task=True), None)

options: TaskOptions = {"user_id": "alice", "priority": Priority.CRITICAL, "meta": {"trace": "1"}}
assert_type(queue.enqueue(resize.task("a.png"), **options), TaskHandle[int])
assert_type(resize.task("a.png").with_options(options), Task[int])

# A task of a narrower result goes where one of a wider result is expected.
wide: Task[float] = resize.task("a.png")
mixed: list[Task[int | bytes]] = [resize.task("a.png"), fetch.task("https://example.org")]
assert_type(queue.enqueue_many(mixed), list[TaskHandle[int | bytes]])
wide_handle: TaskHandle[float] = resize.enqueue("a.png")

# Handles.
handle = queue.handle("1")
assert_type(handle, TaskHandle[Any])
assert_type(handle.state(), TaskState)
assert_type(handle.info(), TaskInfo)
assert_type(queue.get("1").meta, Mapping[str, str])
assert_type(handle.cancel(), bool)
assert_type(handle.retry(), bool)
assert_type(queue.stats().depth["default"], int)

# Whose task, which task.
scope: AbstractContextManager[None] = as_user("alice")
assert_type(current_task().attempt, int)

with as_user("alice"), queue.lease(["default"], lease_seconds=5) as lease:
    assert_type(lease, QueueLease)
    for started in lease.dequeue(5):
        assert_type(started, StartedTask)
        if started.attempt > 1:
            lease.fail_task(started, ValueError("no"), retry=False)
        else:
            lease.finish_task(started, {"done": True})
