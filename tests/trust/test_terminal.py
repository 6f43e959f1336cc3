"""Nothing from outside reaches a terminal in a form that it would act upon."""

import logging
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fairqued.ctl.main import cli
from fairqued.daemon import log
from fairqued.terminal import escaped, escaped_lines
from tests.support.daemon import PROGRAM

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202e\x9b1m\n2030-01-01 INFO forged \ud800"


@given(st.text())
def test_what_is_escaped_is_one_line_of_printable_characters(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    assert escaped_lines(text).replace("\n", "").isprintable()


def test_letters_of_all_languages_stay() -> None:
    assert escaped("Grüße, 世界 👋") == "Grüße, 世界 👋"
    assert escaped("\x1b[31m\u202e\n") == r"\x1b[31m\u202e\n"
    assert escaped_lines("one\ntwo\x1b\r\nthree") == "one\ntwo\\x1b\nthree"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_line_is_one_line_whatever_it_tells(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    log.set_up("info", form)  # type: ignore[arg-type]
    root_logger.error("task %s of %s", HOSTILE, HOSTILE, exc_info=ValueError(HOSTILE), stack_info=True)
    root_logger.info("the next one")
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines)
    records = [line for line in lines if not line.startswith("    ")]
    assert len(records) == 2, lines
    assert (len(lines) > 2) == (form == "text"), "a traceback is indented"


@pytest.mark.process
def test_what_fairqued_says_of_a_bad_start_is_harmless(tmp_path: Path) -> None:
    said = b""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*PROGRAM, "-c", f"{tmp_path}/\x1b[2J"], stderr=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        while more := read(ours):
            said += more
    os.close(ours)
    assert process.returncode == 2
    assert said.decode().strip() == f"fairqued: {tmp_path}/\\x1b[2J: cannot be read: No such file or directory"


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # the other side was closed
        return b""


def test_a_configuration_is_printed_in_harmless_yaml(tmp_path: Path) -> None:
    path = tmp_path / "fairqued.yaml"
    for user in ("é", "\u202eecila"):
        settings = {"redis": {"url": "embedded"}, "state_dir": "/s", "users": {user: {"weight": 2}}}
        path.write_text(yaml.safe_dump(settings))
        answer = CliRunner().invoke(cli, ["config", "-c", str(path)])
        assert answer.exit_code == 0
        assert answer.output.replace("\n", "").isprintable()
        assert yaml.safe_load(answer.output)["users"] == {user: {"weight": 2.0}}
        assert ("é" in answer.output) == (user == "é")


@pytest.mark.parametrize(
    "words", [["\x1b[2J"], ["--\x1b[2J"], ["status", "-o", "\x1b[2J"], ["status", "-c", "/\x1b[2J"],
              ["status", "--redis", "redis://\x1b[2J"], ["status", "--redis", "redis://h", "--namespace", "\x1b[2J"]],
)  # fmt: skip
def test_what_fairquectl_says_of_wrong_usage_is_harmless(words: list[str]) -> None:
    answer = CliRunner().invoke(cli, words, color=True)
    assert answer.exit_code == 2
    assert "\x1b" not in answer.output
