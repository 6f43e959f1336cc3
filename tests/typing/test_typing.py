"""The types of the public names hold: mypy and pyright report each planted mistake, and nothing else."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
CLIENT = sorted((ROOT / "fairqued").glob("*.py"))

Reports = dict[int, set[str]]
"""Line to the codes of its errors."""


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(files: Sequence[Path]) -> Reports:
    output = run(sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", *map(str, files))
    return collect(
        re.findall(r"^[^:\n]+:(\d+): error: .*\[([\w-]+)\]$", output, re.MULTILINE), output.count(": error:")
    )


def pyright(files: Sequence[Path]) -> Reports:
    answer = json.loads(run(sys.executable, "-m", "pyright", "--outputjson", *map(str, files)))
    errors = [each for each in answer["generalDiagnostics"] if each["severity"] == "error"]
    assert answer["summary"]["filesAnalyzed"] >= len(files)
    return collect([(each["range"]["start"]["line"] + 1, each.get("rule", "")) for each in errors], len(errors))


def collect(found: Sequence[tuple[int | str, str]], total: int) -> Reports:
    assert len(found) == total, "an error without a line or a code"
    reports: Reports = {}
    for line, code in found:
        reports.setdefault(int(line), set()).add(code)
    return reports


def marks(file: Path, checker: str) -> Reports:
    """Read what the marks of a file expect: `# E: mypy=arg-type pyright=reportCallIssue,reportArgumentType`."""
    expected: Reports = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        for name, codes in re.findall(r"(\w+)=([\w,-]+)", line.partition("# E:")[2]):
            if name == checker:
                expected[number] = set(codes.split(","))
    return expected


checkers = pytest.mark.parametrize("check", [mypy, pyright], ids=lambda check: check.__name__)


@checkers
@pytest.mark.timeout(300)
def test_each_planted_mistake_is_reported_and_nothing_else(check: Callable[[Sequence[Path]], Reports]) -> None:
    expected = marks(HERE / "planted.py", check.__name__)
    assert len(expected) > 40
    assert check([HERE / "planted.py"]) == expected


@checkers
@pytest.mark.timeout(300)
def test_correct_use_and_the_client_itself_pass(check: Callable[[Sequence[Path]], Reports]) -> None:
    assert check([HERE / "correct.py", *CLIENT]) == {}
