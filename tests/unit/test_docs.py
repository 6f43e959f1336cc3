"""What the documentation says is so: its tables are compared with the code, and its code is run."""

import doctest
import importlib
import re
import sys
import threading
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import fairqued
from fairqued import Task, default_queue, errors
from fairqued.keys import KEY_TABLE
from fairqued.queue import environment_queue
from fairqued.state import ALLOWED_MOVES, TaskState
from fairqued.validation import OPTION_NAMES
from fairqued.worker import FunctionTaskHandler, Worker

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
INTERNAL = {"FairquedError", "BadSignature", "WorkerGone", "LateClaim", "SchemaTooNew", "ScriptError"}

Moves = set[tuple[str, str]]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(text: str, first_column: str) -> list[list[str]]:
    """Read the rows of the table whose first column is headed so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            next(lines)
            break
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows, f"no table with a column {first_column!r}"
    return rows


# States


def declared_moves() -> Moves:
    return {(one.name, other.name) for one, others in ALLOWED_MOVES.items() for other in others}


def moves_of_scripts() -> dict[tuple[str, str], set[str]]:
    """Each move between two states, and the scripts whose headers name it."""
    moves: dict[tuple[str, str], set[str]] = {}
    for path in (ROOT / "lua").glob("*.lua"):
        header = path.read_text().partition("]]")[0]
        for line in re.findall(r"^Moves:(.*(?:\n  .*)*)", header, re.MULTILINE):
            for one, other in re.findall(r"(\w+) -> (\w+)", line):
                if one not in ("new", other):
                    moves.setdefault((one.upper(), other.upper()), set()).add(path.stem)
    return moves


def test_the_table_of_moves_is_that_of_the_code() -> None:
    rows = table(read("states.md"), "from")
    moves = [(one, other) for one, other, _, _ in rows]
    assert len(moves) == len(set(moves))
    assert set(moves) == declared_moves()


def test_each_move_is_made_by_the_scripts_named() -> None:
    rows = table(read("states.md"), "from")
    named = {(one, other): set(filter(None, scripts.split(", "))) for one, other, scripts, _ in rows}
    assert {move: scripts for move, scripts in named.items() if scripts} == moves_of_scripts()
    for scripts in named.values():
        assert all((ROOT / "lua" / f"{script}.lua").exists() for script in scripts)


def test_the_diagram_shows_the_moves_of_this_release() -> None:
    drawn = set(re.findall(r"^    ([A-Z]+) --> ([A-Z]+):", read("states.md"), re.MULTILINE))
    assert drawn == {move for move in moves_of_scripts() if "DEFERRED" not in move}


def test_every_state_is_explained() -> None:
    assert [state for state, _, _ in table(read("states.md"), "state")] == [state.name for state in TaskState]


# Keys


def test_the_table_of_keys_is_that_of_the_code() -> None:
    rows = [(key.strip("`"), kind, what) for key, kind, what in table(read("redis-keys.md"), "key")]
    assert rows == [(key, kind, what) for key, (kind, what) in KEY_TABLE.items()]


# The client


def test_every_option_is_explained() -> None:
    text = read("client.md")
    explained = {name.strip("`") for name, _, _ in table(text, "option")}
    paragraph = next(part for part in text.split("\n\n") if "are refused by name until" in part)
    refused = set(re.findall(r"`(\w+)`", paragraph.partition("`no_retry_on`.")[2]))
    assert explained | refused == OPTION_NAMES
    assert not explained & refused
    for name in refused:
        option: Any = {name: 1}
        with pytest.raises(errors.InvalidTask, match="is not supported by this release"):
            Task(**option)


def test_every_error_is_explained() -> None:
    rows = table(read("client.md"), "error")
    told = {name: what for cell, what in rows for name in re.findall(r"^`(\w+)`", cell)}
    tree = {
        name: " ".join((kind.__doc__ or "").split())
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.FairquedError) and name not in INTERNAL
    }
    assert told == tree
    assert told.keys() <= set(fairqued.__all__)
    for cell, _ in rows:
        name, *parents = re.findall(r"`(\w+)`", cell)
        for parent in parents:
            assert parent in [base.__name__ for base in getattr(errors, name).__mro__]


@pytest.fixture
def shop(
    redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[str, str]]]:
    """The code of client.md as (language, text), with its `tasks.py` importable and a worker that runs it."""
    monkeypatch.setenv("FAIRQUED_REDIS_URL", redis_url)
    monkeypatch.setenv("FAIRQUED_NAMESPACE", namespace)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"^```(python|pycon)\n(.*?)^```$", read("client.md"), re.MULTILINE | re.DOTALL)
    (module,) = [text for _, text in blocks if text.startswith("# tasks.py\n")]
    (tmp_path / "tasks.py").write_text(module)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    environment_queue.cache_clear()
    worker = Worker(default_queue(), FunctionTaskHandler(["tasks"]))
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield [(language, text) for language, text in blocks if text != module]
    worker.stop(10)
    thread.join()
    default_queue().close()
    environment_queue.cache_clear()


def test_the_code_of_the_guide_works(shop: list[tuple[str, str]]) -> None:
    assert len(shop) > 6
    names: dict[str, Any] = {"date": date, "Task": Task}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for number, (language, text) in enumerate(shop):
        if language == "python":
            exec(compile(text, f"block {number}", "exec"), names)
            continue
        example = doctest.DocTestParser().get_doctest(text, names, f"block {number}", None, None)
        said: list[str] = []
        runner.run(example, out=said.append, clear_globs=False)
        names.update(example.globs)
        assert not said, "".join(said)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_headings_go_down_one_step_at_a_time() -> None:
    for page in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
