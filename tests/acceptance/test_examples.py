"""The examples, run as their READMEs say: each code block is what is typed into one terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import processes_of
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_SECONDS = 60


@contextmanager
def example(name: str) -> Iterator[tuple[Path, list[str]]]:
    """A copy of an example in a short folder, and the code blocks of its README; its daemon runs."""
    folder = Path(tempfile.mkdtemp(prefix="fqe-", dir="/tmp"))
    try:
        shutil.copytree(
            _EXAMPLES / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
        blocks = re.findall(r"```\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        with terminal(blocks[0], folder) as daemon:
            wait_for_line(daemon, "fairqued is up")
            yield folder, blocks
        assert daemon.returncode == 0
        assert processes_of(folder) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def terminal(typed: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run what is typed in a shell; the last command takes the shell's place and gets SIGTERM at the end."""
    *before, last = typed.strip().splitlines()
    command = "\n".join([*before, f"exec {last}"])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FAIRQUED")}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=_SECONDS)


def wait_for_line(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if what in line:
            return line
    raise AssertionError(f"it ended without {what!r}:\n{seen}")


def test_thumbnails() -> None:
    with example("thumbnails") as (folder, blocks):
        with terminal(blocks[1], folder) as application:
            bob = wait_for_line(application, "bob: ")
            alice = wait_for_line(application, "alice: ")
            assert application.wait(_SECONDS) == 0
        assert re.fullmatch(r"bob: bob\.ppm, 32 x 24, when alice had \d+ of 20\n", bob)
        assert alice == "alice: all 20 thumbnails\n"
        photos = folder / "photos"
        assert {path.read_bytes()[:13] for path in photos.glob("*.small.ppm")} == {b"P6\n64 48\n255\n"}
        assert len(list(photos.iterdir())) == 20 + 20 + 1


def test_web() -> None:
    with example("web") as (folder, blocks), terminal(blocks[1].replace("8000", "0"), folder) as application:
        address = wait_for_line(application, "http://").strip()
        posted = re.search(r"-H 'X-User: alice' 'localhost:8000(/invoices\?.*)'", blocks[2])
        assert posted
        status, told = ask("POST", address + posted[1], "alice")
        assert status == 202
        page = f"{address}/invoices/{told['invoice']}"
        done = wait_until(lambda: finished(page), 30, "the invoice")
        assert done == {"state": "finished", "result": {"net": "966.00", "tax": "193.20", "total": "1159.20"}}
        assert ask("GET", page, "bob")[0] == 404
        assert ask("GET", page, None)[0] == 401
        assert ask("GET", f"{address}/invoices/none", "alice")[0] == 404
        assert ask("POST", f"{address}/invoices?hours=many&rate=1", "alice")[0] == 400
        assert ask("GET", f"{address}/", "alice")[0] == 404


def finished(page: str) -> dict[str, object] | None:
    status, told = ask("GET", page, "alice")
    assert status == 200
    assert told["state"] in ("queued", "started", "finished")
    return told if told["state"] == "finished" else None


def ask(method: str, url: str, user: str | None) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(url, method=method, headers={"X-User": user} if user else {})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
