"""`fairqued` as it is, but that each move of a task is written down by the server, and each worker keeps a log."""

import sys
from pathlib import Path

from fairqued import store
from fairqued.daemon import child, main
from fairqued.daemon.child import Birth
from tests.support.audit import audited_scripts
from tests.support.chaos_worker import VARIABLE, this_process

CHECKOUT = Path(__file__).parents[2]
_live = child.live


def live_and_log(birth: Birth) -> int:
    """The life of a worker, with its log."""
    this_process.begin(birth.worker_id)
    return _live(birth)


def program(logs: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the environment."""
    return [sys.executable, "-m", __name__], {"PYTHONPATH": str(CHECKOUT), VARIABLE: str(logs)}


if __name__ == "__main__":
    vars(store)["load_all"] = audited_scripts
    child.live = live_and_log
    main.main()
