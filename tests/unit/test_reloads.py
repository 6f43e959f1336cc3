import pytest

from fairqued.daemon.control import Refusal
from fairqued.daemon.reload import Reloads


class Daemon:
    """One that reloads, and says how far it is."""

    def __init__(self) -> None:
        self.times = 0
        self.outdated = 0
        self.trouble = ""
        self.error: Exception | None = None
        self.reloads = Reloads(self.reload, outdated=lambda: self.outdated, trouble=lambda: self.trouble)

    def reload(self) -> None:
        if self.error:
            raise self.error
        self.times += 1
        self.outdated = 2


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def test_a_round_goes_on_until_nobody_is_outdated(daemon: Daemon) -> None:
    assert daemon.reloads.status() == {"round": 0, "left": 0, "trouble": ""}
    assert daemon.reloads.begin() == 1
    for left in (2, 1):
        daemon.outdated = left
        daemon.reloads.keep_up()
        assert daemon.reloads.status() == {"round": 1, "left": left, "trouble": ""}
    daemon.outdated = 0
    daemon.reloads.keep_up()
    assert not daemon.reloads.is_rolling
    assert daemon.reloads.left == 0


def test_what_is_asked_for_in_the_middle_makes_one_more_round(daemon: Daemon) -> None:
    daemon.reloads.begin()
    assert [daemon.reloads.begin() for _ in range(3)] == [2, 2, 2]
    daemon.reloads.ask()
    daemon.reloads.keep_up()
    assert daemon.times == 1
    daemon.outdated = 0
    daemon.reloads.keep_up()
    assert (daemon.reloads.round, daemon.times) == (2, 2)
    daemon.outdated = 0
    daemon.reloads.keep_up()
    assert daemon.times == 2


def test_a_round_that_does_not_get_on_holds_up_none(daemon: Daemon) -> None:
    daemon.reloads.begin()
    daemon.trouble = "SyntaxError"
    assert daemon.reloads.trouble == "SyntaxError"
    assert daemon.reloads.begin() == 2
    daemon.reloads.ask()
    daemon.reloads.keep_up()
    assert daemon.times == 3


def test_trouble_without_a_round_is_not_told_here(daemon: Daemon) -> None:
    daemon.trouble = "SyntaxError"
    assert daemon.reloads.trouble == ""


def test_a_refusal_is_remembered_until_a_reload_is_taken(daemon: Daemon) -> None:
    daemon.error = Refusal("namespace: cannot be changed")
    with pytest.raises(Refusal):
        daemon.reloads.begin()
    daemon.reloads.ask()
    daemon.reloads.keep_up()
    assert daemon.reloads.refused == "reload refused: namespace: cannot be changed"
    assert daemon.reloads.status() == {"round": 0, "left": 0, "trouble": ""}
    daemon.error = None
    daemon.reloads.begin()
    assert daemon.reloads.refused == ""


def test_a_bug_is_no_reason_to_try_again_and_again(daemon: Daemon) -> None:
    daemon.error = ZeroDivisionError()
    daemon.reloads.ask()
    with pytest.raises(ZeroDivisionError):
        daemon.reloads.keep_up()
    daemon.reloads.keep_up()
    assert not daemon.reloads.is_rolling
