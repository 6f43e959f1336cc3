"""Each guarantee names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (G\d+) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
NOT_YET = {"G10", "G11"}


def test_every_guarantee_has_its_row() -> None:
    assert [name for name, _, _ in ROWS] == [f"G{number}" for number in range(1, 15)]


@pytest.mark.parametrize(("name", "tests"), [(name, tests) for name, _, tests in ROWS], ids=[row[0] for row in ROWS])
def test_it_names_what_holds_it(name: str, tests: str) -> None:
    assert tests.startswith("not in this release") if name in NOT_YET else "::" in tests


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE))))
def test_a_test_that_is_named_is_there(test: str) -> None:
    file, _, function = test.partition("::")
    assert re.search(rf"^ *def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))))
def test_a_file_that_is_named_is_there(file: str) -> None:
    assert (ROOT / file).is_file()
