"""The hammer: nothing lost, nothing completed twice, under kills, freezes and a network that loses and repeats."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fairqued.doctor.fsck import fsck
from tests.support.hammer import NAMESPACE, Hammer, names_left
from tests.support.hammer_evidence import gather
from tests.support.hammer_nursery import Nursery
from tests.support.hammer_verdict import Verdict
from tests.support.proxy import FaultyProxy
from tests.support.servers import RedisServer

SECONDS = float(os.environ.get("HAMMER_SECONDS", "20"))
SHOWN_AT_MOST = 30

STAY = {"meta", "counters", "limits", "bell", "dead", "tombstones", "tombstones_due", "spent"}
"""What stays once all tasks are trimmed: settings, counts, markers, and what refuses late calls for a while."""


@contextmanager
def noting(text: str) -> Iterator[None]:
    """Add the text to whatever goes wrong in the block."""
    try:
        yield
    except BaseException as error:
        error.add_note(text)
        raise


@pytest.mark.timeout(SECONDS + 180)
def test_every_accepted_task_completes_exactly_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("HAMMER_SEED") or random.SystemRandom().randrange(1_000_000))
    named = f"HAMMER_SEED={seed} HAMMER_SECONDS={SECONDS:g}"
    errors = tmp_path / "errors"
    with noting(named), RedisServer() as server:
        with FaultyProxy(server.url, seed=seed) as proxy, Nursery(errors) as nursery:
            hammer = Hammer(server.url, proxy, nursery, tmp_path, seed)
            outcome = hammer.run(SECONDS)
        verdict = Verdict(gather(outcome, hammer.direct))
        unsound = fsck(hammer.direct.connection.client, NAMESPACE)
        left = names_left(hammer.direct) - STAY
        hammer.direct.connection.close()
    summary = f"{named}: {verdict.summary()}"
    with capsys.disabled():
        print(f"\n{summary}")  # noqa: T201 - the run in one line, in every log
    problems = [*verdict.problems, *unsound, *(f"keys {name} are left once all is trimmed" for name in left)]
    shown = "\n".join(problems[:SHOWN_AT_MOST])
    assert not problems, f"{summary}\n{len(problems)} problems:\n{shown}\n{errors.read_text()[-3000:]}"
