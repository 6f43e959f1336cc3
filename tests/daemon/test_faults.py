"""An error in the master's own work never ends the daemon, and is said once."""

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support import faulty_daemon
from tests.support.daemon import LATE
from tests.support.process_tasks import add, say_when

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("fault", "said", "times"),
    [
        ("fork_fails", "it cannot be forked: [Errno 11] Resource temporarily unavailable", 1),
        ("disk_is_full", "it cannot be forked: [Errno 28] No space left on device", 1),
        ("duty_fails", "a duty of the master failed", 2),
        ("chore_fails", "promote failed, and is tried again and again", 1),
        ("scheduler_dies", "the scheduler's thread has died; another one takes over", 1),
    ],
)
def test_the_daemon_goes_on(make_daemon: StartDaemon, queue: TaskQueue, fault: str, said: str, times: int) -> None:
    daemon = make_daemon()
    daemon.program, env = faulty_daemon.program(fault)
    daemon.start(env=env)
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    queue.enqueue(say_when.task(), delay_seconds=0.5).result(LATE)
    daemon.wait_for_message(said, times)
    daemon.terminate()
    assert daemon.wait() == 0
    assert len(daemon.messages(said)) == times
