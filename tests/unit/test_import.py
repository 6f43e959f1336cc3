"""`import fairqued` is light: a web application pays for the client alone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CLIENT = {path.stem for path in (ROOT / "fairqued").glob("*.py")} - {"__init__"}
DAEMON = {path.name for path in (ROOT / "fairqued").iterdir() if (path / "__init__.py").exists()}
HEAVY = {
    "asyncio.unix_events",
    "click",
    "croniter",
    "decimal",
    "difflib",
    "importlib.resources",
    "msgspec",
    "psutil",
    "pythonjsonlogger",
    "rich",
    "setproctitle",
    "yaml",
}

_PROGRAM = """
import sys
import redis, orjson
before = set(sys.modules)
{work}
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(work: str) -> set[str]:
    """Modules that a program loads beyond redis and orjson, in a fresh interpreter."""
    program = _PROGRAM.format(work=work)
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_the_import_loads_the_client_alone() -> None:
    modules = loaded_by("import fairqued")
    ours = {name.partition(".")[2] for name in modules if name.startswith("fairqued.")}
    assert {"queue", "tasks", "store"} <= ours <= CLIENT
    assert {"ctl", "daemon", "scheduler", "worker"} <= DAEMON
    assert not modules & HEAVY
    assert not {name for name in modules if name.partition(".")[0] in HEAVY}


def test_neither_a_queue_nor_a_plain_task_loads_more() -> None:
    work = (
        "import fairqued\n"
        "queue = fairqued.TaskQueue('redis://localhost')\n"
        "@fairqued.task(name='job')\n"
        "def job(path: str, sizes: list[int] | None = None) -> dict[str, int]: ...\n"
        "job.using(user_id='alice').task('a.png', sizes=[1, 2])\n"
    )
    assert not loaded_by(work) & HEAVY


def test_an_annotation_beyond_json_loads_msgspec_when_it_is_used() -> None:
    work = (
        "import datetime, fairqued\n"
        "@fairqued.task(name='job')\n"
        "def job(day: datetime.date) -> None: ...\n"
        "assert 'msgspec' not in sys.modules\n"
        "job.task(datetime.date(2030, 1, 1))\n"
    )
    assert "msgspec" in loaded_by(work)
