"""fairqued.service under a real systemd: what it is told, and what becomes of the tasks."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest

from fairqued import TaskHandle, TaskQueue, TaskState
from tests.support.process_tasks import add, hold, noop
from tests.support.wait import wait_until
from tests.systemd.container import LATE
from tests.systemd.probe import allowed, run_a_program
from tests.systemd.service import CONFIG, FAIRQUECTL, STATE_DIR, Service, relaxed

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

NOT_EVERYWHERE = ("SupplementaryGroups", "ReadWritePaths", "ProtectHome")
"""Groups and folders of one's own machine."""
EVERYDAY = {"have a temporary file", "start programs", "keep files", "read its secrets"}


def test_it_starts_and_says_how_it_is(service: Service, queue: TaskQueue) -> None:
    service.configure(pools=[{"name": "main", "processes": 2, "threads": 2}])
    service.start_and_wait()
    assert (service.show("ActiveState"), service.show("SubState")) == ("active", "running")
    assert service.status_text == "running, 2 of 2 workers ready"
    assert service.status_text in service.systemctl("status")
    assert "running" in service.container.run(FAIRQUECTL, "status")
    access = service.container.run("stat", "--format=%U %G %a", STATE_DIR, CONFIG)
    assert access.splitlines() == ["fairqued fairqued 700", "root fairqued 640"]
    assert queue.enqueue(add.task(2, 3)).result(LATE) == 5


def test_a_reload_takes_the_new_configuration_around_a_running_task(service: Service, queue: TaskQueue) -> None:
    service.start_and_wait()
    master = service.main_pid
    held = queue.enqueue(hold.task("gate"))
    service.wait_for_starts(1)
    service.configure(pools=[{"name": "main", "processes": 2, "threads": 2}])
    service.systemctl("reload")
    wait_until(lambda: service.status_text == "running, 2 of 2 workers ready", LATE, "the new workers are ready")
    service.open_gate("gate")
    held.result(LATE)
    assert queue.get(held.task_id).attempts == 1
    before = service.show("StateChangeTimestampMonotonic")
    service.send(signal.SIGHUP)
    wait_until(lambda: service.show("StateChangeTimestampMonotonic") != before, LATE, "systemd hears of a reload")
    service.wait_until_ready()
    assert (service.main_pid, service.restarts) == (master, 0)


def test_new_code_that_cannot_be_imported_leaves_the_old_workers_at_work(service: Service, queue: TaskQueue) -> None:
    service.start_and_wait()
    service.configure(imports=["tests.support.process_tasks", "not_yet_there"])
    service.systemctl("reload")
    wait_until(lambda: "cannot boot" in service.status_text, LATE, "it says that the new workers cannot boot")
    assert "not_yet_there" in service.status_text
    queue.enqueue(noop.task()).result(LATE)
    service.configure()
    service.systemctl("reload")
    wait_until(lambda: service.status_text == "running, 1 of 1 workers ready", LATE, "the next reload mends it")


def test_a_reload_with_mistakes_changes_nothing_and_says_why(service: Service, queue: TaskQueue) -> None:
    service.start_and_wait()
    master = service.main_pid
    service.write_config("pools:\n  - name: main\n    thread: 7\n")
    service.systemctl("reload")
    wait_until(lambda: "refused" in service.status_text, LATE, "the reload is refused")
    assert "running, 1 of 1 workers ready" in service.status_text
    assert "thread" in service.status_text
    assert "thread" in service.journal()
    assert (service.show("ActiveState"), service.main_pid, service.restarts) == ("active", master, 0)
    queue.enqueue(noop.task()).result(LATE)
    service.configure()
    service.systemctl("reload")
    wait_until(lambda: service.status_text == "running, 1 of 1 workers ready", LATE, "the next reload is taken")


def wait_for_a_sign_of_life(service: Service) -> None:
    before = service.show("WatchdogTimestampMonotonic")
    wait_until(lambda: service.show("WatchdogTimestampMonotonic") != before, LATE, "a sign of life")


def test_the_watchdog_ends_a_master_that_does_not_get_on(service: Service, queue: TaskQueue) -> None:
    service.start_and_wait()
    master = service.main_pid
    wait_for_a_sign_of_life(service)
    held = queue.enqueue(hold.task("gate"))
    service.wait_for_starts(1)
    service.send(signal.SIGSTOP)
    wait_until(lambda: service.restarts == 1, LATE, "it is started again")
    service.wait_until_ready()
    assert service.main_pid != master
    assert "Watchdog timeout" in service.journal()
    assert_all_end_once(service, queue, [held], ran=1)


@pytest.mark.parametrize("whom", ["main", "all"])
def test_killed_and_started_again_it_loses_nothing(service: Service, queue: TaskQueue, whom: str) -> None:
    service.start_and_wait()
    handles = queue.enqueue_many(hold.task("gate") for _ in range(5))
    service.wait_for_starts(2)
    service.send(signal.SIGKILL, whom)
    wait_until(lambda: service.restarts == 1, LATE, "it is started again")
    assert_all_end_once(service, queue, handles, ran=2)


def assert_all_end_once(service: Service, queue: TaskQueue, handles: Sequence[TaskHandle[int]], *, ran: int) -> None:
    """Those that ran before run again, and each task ends once."""
    service.wait_for_starts(2 * ran)
    service.open_gate("gate")
    for handle in handles:
        handle.result(LATE)
    attempts = [queue.get(handle.task_id).attempts for handle in handles]
    assert sorted(attempts) == [1] * (len(handles) - ran) + [2] * ran
    ended = {task: len(executions) for task, executions in service.ledger.by_task().items()}
    assert ended == {handle.task_id: 1 for handle in handles}


def test_a_stop_lets_tasks_and_their_programs_end_even_if_the_unit_allows_less(
    service: Service, queue: TaskQueue
) -> None:
    service.drop_in("hasty", "[Service]\nTimeoutStopSec=1s\n")
    service.configure(imports=["tests.systemd.probe"])
    service.start_and_wait()
    ending = queue.enqueue(run_a_program.task(2.5))
    wait_until(lambda: ending.state() is TaskState.STARTED, LATE, "it runs")
    service.systemctl("stop", "--no-block")
    wait_until(lambda: service.show("ActiveState") == "deactivating", LATE, "it stops")
    wait_until(lambda: "stopping" in service.status_text, LATE, "it says so")
    wait_until(lambda: service.show("ActiveState") == "inactive", LATE, "it has stopped")
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    service.start_and_wait()
    assert ending.state() is TaskState.FINISHED
    assert queue.get(ending.task_id).attempts == 1


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        ({"pools": [{"name": "main", "thread": 7}]}, "2", "thread"),
        ({"state_dir": "/etc/fairqued"}, "6", "/etc/fairqued"),
    ],
    ids=["configuration", "state directory"],
)
def test_what_does_not_mend_itself_is_not_tried_again(
    service: Service, settings: dict[str, object], code: str, reason: str
) -> None:
    service.configure(**settings)
    service.systemctl("start", check=False)
    wait_until(lambda: service.show("ActiveState") == "failed", LATE, "it has failed for good")
    assert (service.show("ExecMainStatus"), service.restarts) == (code, 0)
    assert reason in service.journal()


def test_what_may_mend_itself_is_tried_for_ever(service: Service) -> None:
    service.drop_in("broken", "[Service]\nExecStart=\nExecStart=/bin/false\n")
    service.systemctl("start", "--no-block")
    wait_until(lambda: service.restarts > 6, LATE, "it is tried more often than systemd does by itself")


def test_the_sandbox_and_what_relaxes_it(service: Service, queue: TaskQueue) -> None:
    service.container.write("/etc/fairqued/secret", "for root alone")
    service.container.path("/etc/fairqued/secret").chmod(0o600)
    service.drop_in("secret", "[Service]\nLoadCredential=secret:/etc/fairqued/secret\n")
    service.configure(imports=["tests.systemd.probe"])
    service.start_and_wait()
    assert set(queue.enqueue(allowed.task()).result(LATE)) == EVERYDAY
    service.drop_in("relaxed", relaxed(but=NOT_EVERYWHERE))
    service.systemctl("restart")
    service.wait_until_ready()
    assert set(queue.enqueue(allowed.task()).result(LATE)) - EVERYDAY == {
        "make code", "be nice", "choose CPUs", "read /proc/meminfo", "list interfaces",
    }  # fmt: skip
