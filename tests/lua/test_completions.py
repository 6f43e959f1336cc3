"""Only who holds the fence completes, and what a completion causes happens once (G2, G6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fairqued.errors import WorkerGone
from fairqued.record import reason_number
from fairqued.state import Reason, TaskState
from fairqued.store import Ended, Finished
from tests.support.world import SimulatedWorker, World

End = Callable[[SimulatedWorker], list[str]]

ENDS: dict[str, tuple[End, str]] = {
    "finish": (lambda worker: worker.finish("a"), "finished"),
    "fail": (lambda worker: worker.fail("a"), "failed"),
    "retry": (lambda worker: worker.retry("a", delay_us=1_000_000), "scheduled"),
    "hand_back": (lambda worker: worker.hand_back("a", delay_us=1_000_000), "scheduled"),
}
each_end = pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS.keys())


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    """A worker that holds the task `a`."""
    world.push("a")
    worker = world.worker()
    assert worker.pop() == ["a"]
    return worker


@each_end
def test_a_repeated_completion_changes_nothing(world: World, worker: SimulatedWorker, end: End, status: str) -> None:
    assert end(worker) == [status]
    before = world.snapshot()
    assert end(worker) == ["already"]
    assert world.snapshot() == before


@each_end
def test_the_former_holder_is_refused(world: World, worker: SimulatedWorker, end: End, status: str) -> None:
    worker.heartbeat()
    assert world.state("a") is TaskState.QUEUED
    before = world.snapshot()
    assert end(worker) == ["stale"]
    assert world.snapshot() == before


@each_end
def test_the_former_attempt_is_refused(world: World, worker: SimulatedWorker, end: End, status: str) -> None:
    worker.heartbeat()
    old_fence = worker.fences["a"]
    assert worker.pop() == ["a"]
    worker.fences["a"] = old_fence
    assert end(worker) == ["stale"]
    assert world.state("a") is TaskState.STARTED


@each_end
def test_another_worker_is_refused(world: World, worker: SimulatedWorker, end: End, status: str) -> None:
    other = world.worker("other")
    other.fences = worker.fences
    assert end(other) == ["stale"]
    assert end(worker) == [status]


@each_end
def test_a_dead_worker_is_refused(world: World, worker: SimulatedWorker, end: End, status: str) -> None:
    world.store.reclaim("w", "death")
    with pytest.raises(WorkerGone):
        end(worker)


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_a_task_that_is_not_there_is_stale(world: World, worker: SimulatedWorker, end: str) -> None:
    getattr(worker, end)("a")
    world.trim(finished=(0, 0), failed=(0, 0))
    assert getattr(worker, end)("a") == ["stale"]


def test_twice_in_one_call_counts_once(world: World, worker: SimulatedWorker) -> None:
    assert worker.finish("a", "a") == ["finished", "already"]
    assert world.snapshot().numbers("counters")["finished"] == 1


def test_finish_and_fail_of_one_task_count_once(world: World, worker: SimulatedWorker) -> None:
    finished, ended = [Finished("a", 1, b"", 1000)], [Ended("a", 1, "retry", 0, b"{}")]
    answer = world.store.exchange("w", finished, ended, None, 0, ())
    assert answer.statuses == [("a", "finished"), ("a", "already")]


def test_what_fail_counts(world: World, worker: SimulatedWorker) -> None:
    worker.retry("a", error=b'{"message":"first"}')
    record = world.record("a")
    assert (record.attempts, record.failures, record.read_error()) == (1, 1, {"message": "first"})
    worker.pop()
    worker.hand_back("a")
    record = world.record("a")
    assert (record.attempts, record.failures) == (1, 1)
    worker.pop()
    worker.fail("a", reason=Reason.TIMEOUT, error=b'{"message":"a longer one than before"}')
    record = world.record("a")
    assert (record.attempts, record.failures, record.reason) == (2, 2, Reason.TIMEOUT)
    assert record.read_error() == {"message": "a longer one than before"}


@pytest.mark.parametrize("errors", [[b"{}", b'{"m":"long"}'], [b'{"m":"long"}', b"{}"], [b'{"m":"long"}', b""]])
def test_the_last_error_stands_in_the_record(world: World, worker: SimulatedWorker, errors: list[bytes]) -> None:
    spec = world.record("a").spec
    for error in errors:
        worker.retry("a", error=error)
        worker.pop()
        assert (world.record("a").error, world.record("a").spec) == (error, spec)


def test_every_reason_arrives(world: World) -> None:
    worker = world.worker()
    for reason in Reason:
        world.push(reason.value)
        worker.pop()
        worker.fail(reason.value, reason=reason)
        assert world.record(reason.value).reason is reason
    assert reason_number(Reason.ERROR) == 1


@pytest.mark.parametrize("end", ["finish", "fail", "retry", "hand_back"])
def test_an_asked_cancel_wins_over_any_end(world: World, worker: SimulatedWorker, end: str) -> None:
    assert world.store.cancel(["a"]) == ["asked"]
    assert worker.heartbeat("a") == [("cancel", "a")]
    assert getattr(worker, end)("a") == ["cancelled"]
    assert world.state("a") is TaskState.CANCELLED


def test_results_are_kept_for_their_time(world: World, worker: SimulatedWorker) -> None:
    answer = world.store.exchange("w", [Finished("a", 1, b'{"x":1}', 5000)], [], None, 0, ())
    assert answer.statuses == [("a", "finished")]
    record, result = world.store.read_with_result("a")
    assert record
    assert record.has_result
    assert result == b'{"x":1}'
    assert 0 < world.client.pttl(world.key("result", "a")) <= 5000


def test_null_needs_no_key(world: World, worker: SimulatedWorker) -> None:
    worker.finish("a")
    assert not world.record("a").has_result
    assert "result:a" not in world.key_names()


def test_cancel_tells_what_it_did(world: World, worker: SimulatedWorker) -> None:
    world.push("waiting", "b")
    world.push("delayed", due="+1000")
    assert world.store.cancel(["waiting", "delayed", "a", "nobody"]) == ["cancelled", "cancelled", "asked", "missing"]
    assert world.store.cancel(["waiting", "delayed", "a"]) == ["cancelled", "cancelled", "asked"]
    worker.finish("a")
    worker.pop()
    worker.finish("b")
    assert world.store.cancel(["a", "b"]) == ["cancelled", "final"]


def test_retry_forgets_the_asked_cancel(world: World, worker: SimulatedWorker) -> None:
    world.store.cancel(["a"])
    worker.fail("a")
    assert worker.heartbeat("a") == []
    world.store.retry(world.nonce(), ["a"])
    worker.pop()
    assert worker.finish("a") == ["finished"]


def test_retry_gives_a_clean_slate(world: World, worker: SimulatedWorker) -> None:
    worker.retry("a")
    worker.pop()
    worker.fail("a")
    nonce = world.nonce()
    assert world.store.retry(nonce, ["a", "nobody"]) == ["queued", "missing"]
    assert world.store.retry(nonce, ["a"]) == ["already"]
    record = world.record("a")
    assert (record.state, record.failures, record.reason, record.attempts) == (TaskState.QUEUED, 0, None, 2)
    assert world.store.retry(world.nonce(), ["a"]) == ["refused"]
