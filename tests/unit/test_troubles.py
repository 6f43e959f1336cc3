"""What keeps a process from its work is told once when it begins, and once when it is over."""

from __future__ import annotations

import logging

import pytest

from fairqued.errors import NotAllowed, QueueUnavailable, ScriptError
from fairqued.troubles import Troubles

AWAY = QueueUnavailable("Redis cannot be reached")
FORBIDDEN = NotAllowed("Redis refused: NOPERM")


@pytest.fixture
def troubles(caplog: pytest.LogCaptureFixture) -> Troubles:
    caplog.set_level("INFO")
    return Troubles(logging.getLogger("tests"), meanwhile="; work goes on")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The first words of each line."""
    return [record.getMessage()[:13] for record in caplog.records]


def test_an_outage_is_told_twice_however_many_notice_it(troubles: Troubles, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        troubles.begin("heartbeat", AWAY)
        troubles.begin("exchange", AWAY)
    assert caplog.messages == ["Redis cannot be reached; work goes on"]
    assert troubles.away_since is not None
    assert not troubles.is_answered
    troubles.end("exchange")
    assert troubles.is_answered
    assert len(caplog.messages) == 1, "the heartbeat is not answered yet"
    troubles.end("heartbeat")
    assert told(caplog) == ["Redis cannot ", "Redis is back"]
    assert troubles.away_since is None


def test_work_that_alone_is_refused_is_told_once(troubles: Troubles, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        troubles.begin("bell", FORBIDDEN)
        troubles.end("exchange")
        troubles.end("heartbeat")
    assert caplog.messages == ["Redis refused: NOPERM; work goes on"]
    assert troubles.is_answered
    troubles.end("bell")
    assert told(caplog) == ["Redis refused", "Redis is back"]


def test_each_outage_is_told_anew(troubles: Troubles, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        troubles.begin("tick", AWAY)
        troubles.end("tick")
    assert told(caplog) == 3 * ["Redis cannot ", "Redis is back"]


def test_an_error_of_the_work_itself_is_told_once_for_each_reason(
    troubles: Troubles, caplog: pytest.LogCaptureFixture
) -> None:
    for reason in ("one", "one", "two", "two"):
        troubles.begin("tick", ScriptError(reason))
    assert caplog.messages == 2 * ["tick failed, and is tried again and again"]
    assert troubles.away_since is None, "Redis has answered"
    troubles.end("tick")
    troubles.begin("tick", ScriptError("two"))
    assert len(caplog.messages) == 3


def test_a_broken_answer_ends_an_outage(troubles: Troubles, caplog: pytest.LogCaptureFixture) -> None:
    troubles.begin("tick", AWAY)
    troubles.begin("tick", ScriptError("broken"))
    assert told(caplog) == ["Redis cannot ", "Redis is back", "tick failed, "]


def test_nothing_is_told_while_all_is_well(troubles: Troubles, caplog: pytest.LogCaptureFixture) -> None:
    troubles.end("tick")
    assert caplog.messages == []
