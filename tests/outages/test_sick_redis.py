"""A Redis that answers and does not work, that loses things, or that is full."""

from __future__ import annotations

import pytest

from tests.outages.conftest import Played
from tests.support.courses import ILLNESSES, FullRedis, Illnesses, Losses, Recovery
from tests.support.ledger import judge

RESUMED_WITHIN_SECONDS = 3.0

pytestmark = pytest.mark.process


@pytest.fixture(params=ILLNESSES)
def illness(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.course.with_args(Illnesses)
class TestIllness:
    @pytest.fixture
    def course(self, played: Played) -> Illnesses:
        return played(Illnesses)

    @pytest.fixture
    def recovery(self, course: Illnesses, illness: str) -> Recovery:
        return course.recoveries[illness]

    def test_the_daemon_outlives_it(self, course: Illnesses, recovery: Recovery) -> None:
        assert recovery.pids == course.pids
        assert recovery.attempts == 1
        assert recovery.findings == []
        assert recovery.resumed_after < RESUMED_WITHIN_SECONDS

    def test_each_process_tells_it_once(self, course: Illnesses, recovery: Recovery) -> None:
        assert recovery.changes == {pid: ["away", "back"] for pid in course.pids}

    def test_enqueue_is_refused(self, recovery: Recovery, illness: str) -> None:
        assert ILLNESSES[illness].says in recovery.refusal


@pytest.mark.course.with_args(Losses)
class TestLosses:
    @pytest.fixture
    def course(self, played: Played) -> Losses:
        return played(Losses)

    def test_lost_connections_and_scripts_repeat_nothing(self, course: Losses) -> None:
        assert course.times_lost > 5
        verdict = judge(course.executions, dict.fromkeys(course.worked_on, 1), accepted=course.worked_on)
        assert verdict.clean
        assert not verdict.executed_twice
        assert course.reclaimed_before == 0
        assert course.pids_before == course.pids

    def test_a_marker_that_a_dead_connection_took_is_not_waited_for(self, course: Losses) -> None:
        assert course.lost_marker is not None
        assert course.wait_without_marker < 2

    def test_latency_makes_work_slow_and_nothing_else(self, course: Losses) -> None:
        assert len(course.waits) >= 3
        assert max(course.waits) < 2
        assert course.lagging_attempts == 1
        assert course.changes_of_lag == {}

    def test_work_goes_on_where_waiting_is_forbidden(self, course: Losses) -> None:
        assert course.wait_without_bell < RESUMED_WITHIN_SECONDS
        assert course.requests_without_bell < 150, "they try again and again after growing pauses"
        assert course.changes_without_bell == {pid: ["away", "back"] for pid in course.pids[1:]}

    def test_a_flushed_redis_gets_fresh_workers(self, course: Losses) -> None:
        assert course.resumed_after < RESUMED_WITHIN_SECONDS
        assert course.pids_after[0] == course.pids_before[0], "the master goes on"
        assert not set(course.pids_after[1:]) & set(course.pids_before[1:])
        assert len(course.pids_after) == len(course.pids_before)
        assert course.findings == []


@pytest.mark.course.with_args(FullRedis)
class TestFullRedis:
    @pytest.fixture
    def course(self, played: Played) -> FullRedis:
        return played(FullRedis)

    def test_enqueue_is_refused_until_there_is_room(self, course: FullRedis) -> None:
        assert course.was_full

    def test_what_is_there_goes_on(self, course: FullRedis) -> None:
        assert course.attempts == [1, 1], "heartbeats and ticks go on"
        assert course.counters.get("reclaimed", 0) == 0
        assert course.counters["failed"] == 1
        assert course.error_of_passing_on == "fairqued.errors.QueueUnavailable", "it could not enqueue another one"
        assert course.counters["retried"] == 1
        assert course.findings == []
        assert course.patient.processes() == course.pids
        assert not course.patient.changes()
