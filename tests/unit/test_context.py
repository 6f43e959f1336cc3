"""Whose task, and which task: context variables."""

import asyncio
import contextvars
import threading
from collections.abc import Callable

import pytest

from fairqued import CurrentTask, InvalidTask, as_user, current_task
from fairqued.context import ambient_user, enter_task


def in_thread(work: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def in_task(running: CurrentTask, work: Callable[[], object]) -> object:
    def run() -> object:
        enter_task(running)
        return work()

    return contextvars.Context().run(run)


def test_outside_there_is_no_user() -> None:
    assert ambient_user() is None


def test_blocks_nest_and_end_with_errors() -> None:
    with as_user("alice"):
        assert ambient_user() == "alice"
        with as_user("bob"):
            assert ambient_user() == "bob"
        with pytest.raises(KeyError), as_user("carol"):
            raise KeyError(ambient_user())
        assert ambient_user() == "alice"
    assert ambient_user() is None


def test_as_user_decorates_a_function() -> None:
    @as_user("alice")
    def whose() -> str | None:
        return ambient_user()

    assert (whose(), whose(), ambient_user()) == ("alice", "alice", None)


@pytest.mark.parametrize("user_id", ["", "a\n", "x" * 201, "\ud800", None, 7])
def test_a_bad_user_is_refused(user_id: str) -> None:
    with as_user("alice"):
        with pytest.raises(InvalidTask, match=r"^user_id: "), as_user(user_id):
            pytest.fail("entered the block")
        assert ambient_user() == "alice"


def test_a_block_belongs_to_its_thread() -> None:
    with as_user("alice"):
        assert in_thread(ambient_user) is None
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(ambient_user)) == "alice"


def test_coroutines_do_not_mix() -> None:
    async def whose(user_id: str, meeting: asyncio.Barrier) -> str | None:
        with as_user(user_id):
            await meeting.wait()
            return ambient_user()

    async def both() -> tuple[str | None, str | None]:
        meeting = asyncio.Barrier(2)
        return await asyncio.gather(whose("alice", meeting), whose("bob", meeting))

    assert tuple(asyncio.run(both())) == ("alice", "bob")


def test_outside_a_worker_the_current_task_is_inert() -> None:
    here = current_task()
    assert not here.is_running
    assert (here.task_id, here.user_id, here.attempt, here.retries_left, dict(here.meta)) == ("", "", 0, 0, {})
    assert not here.cancelled
    assert not here.lease_lost
    here.logger.debug("goes nowhere in particular")


def test_a_running_task_is_the_current_one_of_its_context() -> None:
    running = CurrentTask(task_id="1", user_id="bob", attempt=2)
    assert in_task(running, current_task) is running
    assert in_task(running, lambda: current_task().is_running) is True
    assert not current_task().is_running


def test_the_user_of_a_running_task_comes_after_that_of_a_block() -> None:
    running = CurrentTask(task_id="1", user_id="bob")

    def whose() -> tuple[str | None, str | None]:
        before = ambient_user()
        with as_user("alice"):
            return before, ambient_user()

    assert in_task(running, whose) == ("bob", "alice")


def test_events_of_the_worker_show() -> None:
    cancelled, lease_lost = threading.Event(), threading.Event()
    running = CurrentTask(task_id="1", _cancelled=cancelled, _lease_lost=lease_lost)
    assert (running.cancelled, running.lease_lost) == (False, False)
    cancelled.set()
    lease_lost.set()
    assert (running.cancelled, running.lease_lost) == (True, True)
