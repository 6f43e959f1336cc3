import signal

import orjson
import pytest

from fairqued.daemon import exits
from fairqued.worker.worker import EXIT_FENCED, EXIT_SLOT_DIED


def ended(code: int) -> int:
    """The wait status of a process that ended with a code."""
    return code << 8


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended(0), "ended with exit code 0"),
        (ended(7), "ended with exit code 7"),
        (ended(exits.WORKER_STOPPED), "ended"),
        (ended(exits.WORKER_BOOT_FAILED), "could not boot"),
        (ended(EXIT_SLOT_DIED), "ended because a slot died"),
        (ended(EXIT_FENCED), "ended because it had lost its lease"),
        (ended(exits.WORKER_ORPHANED), "ended because its master had died"),
        (signal.SIGKILL, "was sent SIGKILL, perhaps out of memory"),
        (signal.SIGSEGV, "was sent SIGSEGV"),
        (signal.SIGSEGV | 0x80, "was sent SIGSEGV"),  # with a core dump
        (signal.SIGRTMIN + 1, f"was sent signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_in_words(status: int, words: str) -> None:
    assert exits.in_words(status) == words


def test_a_worker_that_its_master_killed_was_not_out_of_memory() -> None:
    why = "gave no sign of life for worker.wedged_seconds (600)"
    assert exits.in_words(signal.SIGKILL, why) == f"{why}, and was killed"
    assert exits.in_words(signal.SIGSEGV, why) == "was sent SIGSEGV", "that came first"
    error = orjson.loads(exits.as_error(signal.SIGKILL, why))
    assert error["message"] == f"the process that ran this task {why}, and was killed"
    assert error["signal"] == "SIGKILL"


def test_what_a_task_can_do_by_os_exit_is_no_end_of_the_workers_own() -> None:
    assert not exits.OWN_WORKER_CODES & {0, 1, 2, EXIT_SLOT_DIED}


def test_codes_differ() -> None:
    of_workers = [*exits.OWN_WORKER_CODES, EXIT_SLOT_DIED]
    of_daemon = [exits.OK, exits.FAILED, exits.BAD_USAGE, exits.REDIS_UNREACHABLE, exits.STATE_DIR_UNUSABLE]
    assert len({*of_workers, *of_daemon}) == len(of_workers) + len(of_daemon)
