"""How `fairquectl status` shows a reload, and workers of hidden queues."""

from typing import Any

import pytest

from fairqued.ctl.status import _head, _worker, is_hidden

REDIS = {"reachable": True, "url": "redis://localhost", "namespace": "fairque"}
DAEMON = {"running": True, "pid": 1, "uptime_seconds": 1.0, "state_dir": "/state", "phase": "running", "redis": REDIS}


@pytest.mark.parametrize(
    ("left", "trouble", "row"),
    [
        (0, "", None),
        (2, "", ("reload", "under way", "round 3, 2 workers still to be replaced")),
        (2, "no x", ("reload", "stuck", "round 3, 2 workers still to be replaced: no x")),
    ],
)
def test_a_reload_is_shown_while_it_lasts(left: int, trouble: str, row: tuple[str, str, str] | None) -> None:
    rollout = {"round": 3, "left": left, "trouble": trouble}
    document = {"daemon": DAEMON | {"rollout": rollout}, "redis": REDIS, "workers": []}
    rows = list(_head(document))
    assert [each for each in rows if each[0] == "reload"] == ([row] if row else [])
    assert [each[0] for each in rows if each[0] != "reload"] == ["daemon", "redis"]


@pytest.mark.parametrize(
    ("queues", "hidden"), [(["default"], False), (["default!"], True), (["default", "mail!"], False), (None, False)]
)
def test_workers_of_hidden_queues_are_marked(*, queues: list[str] | None, hidden: bool) -> None:
    post: dict[str, Any] = {"title": "main/default!", "pool": "main", "queues": queues, "phase": "booting"}
    row = _worker(post, None)
    assert (row["hidden"], row["phase"], is_hidden(row)) == (hidden, "booting", hidden)
