"""The wheel, installed into an empty environment, far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

CHECKOUT = Path(__file__).parents[2]
SHIPPED = ("lua", "etc", "systemd")
LATE = 60
CLEAN_ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("FAIRQUED", "PYTHON", "COVERAGE", "VIRTUAL_ENV", "XDG_STATE", "STATE_"))
}
JOBS = """
import fairqued

@fairqued.task
def where(name: str) -> list:
    return [name, fairqued.__file__]
"""
USE = """
import fairqued, jobs
queue = fairqued.TaskQueue(user_id="alice")
print(*queue.enqueue(jobs.where.task("x")).result(timeout_seconds=30), sep="\\n")
"""


@dataclass(frozen=True)
class Built:
    """What `python -m build` made: an sdist, the wheel made out of it, and the wheel made of the checkout."""

    sdist: Path
    wheel_of_sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment with nothing but the wheel, and an empty folder to work in."""

    bin: Path
    folder: Path

    def run(self, program: str, *words: str, **env: str) -> str:
        """What a program of the environment prints; it must end well."""
        return run([str(self.bin / program), *words], cwd=self.folder, env=CLEAN_ENV | env)


def run(command: list[str], *, cwd: Path, env: Mapping[str, str] = CLEAN_ENV) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def build(out: Path, *what: str) -> list[Path]:
    run([sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(CHECKOUT)], cwd=out.parent)
    return sorted(out.iterdir())


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_below(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    wheel_of_sdist, sdist = build(folder / "by-sdist")
    [wheel] = build(folder / "direct", "--wheel")
    return Built(sdist, wheel_of_sdist, wheel)


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("far-away")
    run([sys.executable, "-m", "venv", str(folder / "venv")], cwd=folder)
    run([str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", str(built.wheel)], cwd=folder)
    return Environment(folder / "venv/bin", folder)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_the_wheel_holds_the_package_and_the_shipped_files(built: Built) -> None:
    names = contents(built.wheel).keys()
    expected = files_below(CHECKOUT / "fairqued") | {
        f"fairqued/{name}" for folder in SHIPPED for name in files_below(CHECKOUT / folder)
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"fairqued/py.typed", "fairqued/lua/lib/state.lua", "fairqued/etc/production.yaml"} <= expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_makes_the_same_wheel(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_the_sdist_holds_what_the_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "pyproject.toml",
        "Makefile",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        ".ci/make-venv",
        "tests/conftest.py",
    }
    assert needed <= names
    assert not any(part in name for name in names for part in ("__pycache__", ".venv", "_cache/"))


def test_programs_say_their_version_and_print_shipped_files(environment: Environment) -> None:
    version = environment.run("python", "-c", "import fairqued; print(fairqued.__version__)").strip()
    assert version in environment.run("fairqued", "--version")
    assert version in environment.run("fairquectl", "--version")
    assert environment.run("fairquectl", "print", "unit") == (CHECKOUT / "systemd/fairqued.service").read_text()
    assert environment.run("fairquectl", "print", "config") == (CHECKOUT / "etc/fairqued.yaml").read_text()


def test_a_task_runs_from_there(environment: Environment, server: RedisServer) -> None:
    (environment.folder / "jobs.py").write_text(JOBS)
    env = {
        "FAIRQUED_REDIS_URL": server.url,
        "FAIRQUED_NAMESPACE": "wheel",
        "FAIRQUED_IMPORTS": "jobs",
        "FAIRQUED__STATE_DIR": str(server.directory / "state"),
        "FAIRQUED__METRICS__LISTEN": "null",
    }
    log = environment.folder / "log"
    with log.open("wb") as errors, subprocess.Popen(
        [environment.bin / "fairqued"], cwd=environment.folder, env=CLEAN_ENV | env, stderr=errors
    ) as daemon:  # fmt: skip
        try:
            wait_until(lambda: _answers(environment, env, daemon, log), LATE, "the daemon answers")
            name, place = environment.run("python", "-c", USE, PYTHONPATH=".", **env).splitlines()
        finally:
            daemon.terminate()
    assert name == "x"
    assert Path(place).is_relative_to(environment.folder), "the task ran with the installed package"
    assert daemon.returncode == 0, log.read_text()


def _answers(environment: Environment, env: dict[str, str], daemon: subprocess.Popen[bytes], log: Path) -> bool:
    assert daemon.poll() is None, log.read_text()
    command = [str(environment.bin / "fairquectl"), "ping"]
    return subprocess.run(command, env=CLEAN_ENV | env, cwd="/", capture_output=True, check=False).returncode == 0
