"""Redis goes away for a while, in five ways: nobody exits, ends are delivered late, and work is resumed by itself."""

from __future__ import annotations

import pytest

from tests.outages.conftest import Played
from tests.support.courses import BlackHole, Freeze, IdleBlackHole, Kill, Outages, Refusal, SilentBlackHole
from tests.support.ledger import judge

OUTAGES = (Kill, Freeze, Refusal, BlackHole, SilentBlackHole)
RESUMED_WITHIN_SECONDS = 3.0
NOTICED_AFTER_SECONDS = 5

pytestmark = [pytest.mark.process, pytest.mark.course.with_args(*OUTAGES)]


@pytest.fixture(params=OUTAGES, ids=lambda kind: kind.how)
def course(played: Played, request: pytest.FixtureRequest) -> Outages:
    kind: type[Outages] = request.param
    return played(kind)


@pytest.mark.course.with_args(IdleBlackHole)
def test_an_idle_worker_resumes_soon(played: Played) -> None:
    course = played(IdleBlackHole)
    assert max(course.resumed_after) < RESUMED_WITHIN_SECONDS, course.resumed_after
    assert course.patient.processes() == course.pids


def test_work_is_resumed_soon(course: Outages) -> None:
    assert max(course.resumed_after) < RESUMED_WITHIN_SECONDS, course.resumed_after
    assert max(course.delivered_after) < RESUMED_WITHIN_SECONDS, course.delivered_after


def test_everything_is_delivered_exactly_once(course: Outages) -> None:
    queue, ledger = course.patient.queue, course.patient.daemon.ledger
    completions = {task_id: 1 for task_id in course.accepted if queue.get(task_id).state == "finished"}
    verdict = judge(ledger.read(), completions, accepted=course.accepted)
    assert verdict.clean
    assert not verdict.executed_twice
    counters = queue.stats().counters
    assert counters["finished"] == counters["enqueued"] == 3 * len(course.seconds)
    assert course.patient.fsck() == []


def test_nobody_exits_and_no_living_task_is_reclaimed(course: Outages) -> None:
    assert course.patient.processes() == course.pids
    assert course.patient.queue.stats().counters.get("reclaimed", 0) == 0


def test_each_process_tells_each_change_once(course: Outages) -> None:
    changes = course.patient.changes()
    noticed = sum(seconds >= NOTICED_AFTER_SECONDS for seconds in course.seconds)
    assert set(changes) == set(course.pids)
    for said in changes.values():
        assert said == ["away", "back"] * (len(said) // 2)
        assert noticed <= len(said) // 2 <= len(course.seconds)
    assert "Traceback" not in course.patient.daemon.log_file.read_text()
