"""The hammer: nothing lost, nothing completed twice, under kills, freezes and a network that loses and repeats."""

import os
import random
from pathlib import Path

import pytest

from tests.support.hammer import NAMESPACE, Hammer
from tests.support.hammer_verdict import Verdict, gather
from tests.support.hammer_worker import Nursery
from tests.support.proxy import FaultyProxy
from tests.support.servers import RedisServer

SECONDS = float(os.environ.get("HAMMER_SECONDS", "60"))
SHOWN_AT_MOST = 30


@pytest.mark.timeout(SECONDS + 180)
def test_every_accepted_task_completes_exactly_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("HAMMER_SEED") or random.SystemRandom().randrange(1_000_000))
    errors = tmp_path / "errors"
    with RedisServer() as server:
        with FaultyProxy(server.url, seed=seed) as proxy, Nursery(errors) as nursery:
            hammer = Hammer(server.url, proxy, nursery, tmp_path, seed)
            outcome = hammer.run(SECONDS)
        verdict = Verdict(gather(outcome, hammer.direct))
    summary = f"HAMMER_SEED={seed} HAMMER_SECONDS={SECONDS:g}: {verdict.summary()}"
    with capsys.disabled():
        print(f"\n{summary}")  # noqa: T201 - the run in one line, in every log
    problems = "\n".join(verdict.problems[:SHOWN_AT_MOST])
    assert not verdict.problems, f"{summary}\n{len(verdict.problems)} problems:\n{problems}\n{errors.read_text()[-3000:]}"
