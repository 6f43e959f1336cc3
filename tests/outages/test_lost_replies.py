"""G4: any call may be repeated after a lost reply, and a late copy of it may arrive, with each release of redis-py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairqued.scripts import NAMES
from tests.support.replays import ROWS, public_client, silent_retries
from tests.support.servers import RedisServer, ServerBinary, newest_binary, server_binaries

CHECKOUT = Path(__file__).parents[2]
LATE = 100
ROW_NAMES = [row.name for row in ROWS] + [silent_retries.__name__, public_client.__name__]
CLIENTS = (5, 6, 7, 8)
OLDER_CLIENTS = (5, 6)

Combination = tuple[int, ServerBinary]
Problems = dict[str, list[str]]

COMBINATIONS = [
    (client, binary) for client in CLIENTS for binary in server_binaries()
    if client not in OLDER_CLIENTS or binary == newest_binary()
]  # fmt: skip


class Play:
    """All rows in a process of their own, with one release of redis-py, against a server of their own."""

    def __init__(self, client: int, server: RedisServer) -> None:
        self._client = client
        folder = Path(sys.prefix) / f"redis-{client}"
        assert folder.exists(), f"redis-py {client} is not there: make setup puts it into {folder}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.replays", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip

    def problems(self) -> Problems:
        """What was wrong in each row, once it has ended."""
        output, errors = self._process.communicate(timeout=LATE)
        assert self._process.returncode == 0, errors
        reports = [json.loads(line) for line in output.splitlines()]
        assert {version.partition(".")[0] for version, _, _ in reports} == {str(self._client)}
        return {row: problems for _, row, problems in reports}


@pytest.fixture(scope="session")
def problems_of() -> Iterator[Callable[[Combination], Problems]]:
    """The problems of each combination; all are played at the same time."""
    servers = [RedisServer(binary).start() for _, binary in COMBINATIONS]
    plays = [Play(client, server) for (client, _), server in zip(COMBINATIONS, servers, strict=True)]
    found = {combination: play.problems() for combination, play in zip(COMBINATIONS, plays, strict=True)}
    yield found.__getitem__
    for server in servers:
        server.close()


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda each: f"redis-py-{each[0]}, {each[1].name}")
@pytest.mark.parametrize("row", ROW_NAMES)
def test_a_lost_reply_and_a_late_copy_change_nothing(
    problems_of: Callable[[Combination], Problems], combination: Combination, row: str
) -> None:
    assert problems_of(combination)[row] == []


def test_each_script_has_a_row() -> None:
    on_disk = {path.stem for path in (CHECKOUT / "lua").glob("*.lua")}
    assert {row.script for row in ROWS} == on_disk == set(NAMES)
