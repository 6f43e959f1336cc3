"""G2 to G7 at once: a minute of `make chaos`, which is worth ten."""

import os
import random
from pathlib import Path

import pytest

from tests.support import chaos

pytestmark = pytest.mark.process

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
TASKS_A_SECOND = 40
SHOWN_AT_MOST = 40


@pytest.mark.timeout(SECONDS + 400)
def test_nothing_is_lost_or_done_twice_whatever_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    named = f"CHAOS_SEED={seed} CHAOS_SECONDS={SECONDS:g}"
    try:
        report = chaos.run(
            tmp_path, seconds=SECONDS, tasks=int(SECONDS * TASKS_A_SECOND), seed=seed, say=lambda _: None
        )
    except BaseException as error:
        error.add_note(named)
        raise
    lines = list(report.lines())
    with capsys.disabled():
        print("\n" + "\n".join([named, *lines[:SHOWN_AT_MOST]]))  # noqa: T201 - the verdict, in every log
    assert not report.problems, "\n".join([named, *lines[:SHOWN_AT_MOST]])
