"""`fairquectl reload`, `scale` and `drain` with a real daemon."""

import json
from contextlib import closing

import pytest

from tests.daemon.conftest import StartDaemon
from tests.support.ctl import ctl
from tests.support.daemon import LATE, Daemon
from tests.support.process_tasks import work
from tests.support.wait import wait_until

pytestmark = pytest.mark.process


def test_reload_scale_and_drain_tell_how_it_went(start_daemon: StartDaemon) -> None:
    daemon: Daemon = start_daemon(pools=[{"name": "main", "processes": 2, "threads": 2}])
    before = set(daemon.worker_pids())
    answer = ctl("reload", "--json", "-c", daemon.config)
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == {"round": 1, "replaced": 2}
    replaced = {worker["pid"] for worker in daemon.status()["workers"] if worker["phase"] == "ready"}
    assert len(replaced) == 2
    assert replaced.isdisjoint(before)

    assert ctl("scale", "main", 3, "-c", daemon.config).out == "pool main: 3 worker processes until the next reload\n"
    wait_until(lambda: len(daemon.worker_pids()) == 3, LATE, "there are three workers")
    answer = ctl("scale", "other", 3, "-c", daemon.config)
    assert answer.code == 1
    assert "there is no pool 'other'; there are main" in answer.err

    daemon.write_config(imports=["no_such_module"])
    answer = ctl("reload", "-c", daemon.config)
    assert answer.code == 1
    assert "cannot boot: ModuleNotFoundError: No module named 'no_such_module'" in answer.err
    assert "reload  stuck" in ctl("status", "-c", daemon.config).out
    assert "error     reload" in ctl("doctor", "-c", daemon.config).out
    with closing(daemon.queue()) as queue:
        queue.enqueue(work.task(0.0)).result(timeout_seconds=LATE)
    daemon.write_config()
    assert ctl("reload", "-c", daemon.config).code == 0

    answer = ctl("drain", "--yes", "-c", daemon.config)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("the daemon has stopped, after ")
    daemon.assert_clean_exit(5)
    assert ctl("drain", "--yes", "-c", daemon.config).code == 4


def test_a_change_that_needs_a_restart_is_refused_in_words(start_daemon: StartDaemon) -> None:
    daemon: Daemon = start_daemon()
    daemon.write_config(namespace="another")
    answer = ctl("reload", "-c", daemon.config)
    assert answer.code == 1
    assert answer.err.startswith("fairquectl: the daemon refused: ")
    assert "namespace" in answer.err
    assert daemon.status()["rollout"]["round"] == 0
