import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairqued.daemon.child import add_python_path, make_handler, told
from fairqued.daemon.config import Config, PoolSettings, RedisSettings
from fairqued.worker import FunctionTaskHandler

ARM = """
import os, signal
from fairqued.daemon import child, signals
signal.pthread_sigmask(signal.SIG_BLOCK, signals.ALL)
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
    os.kill(os.getpid(), number)
child._arm(lambda number, frame: print("told to stop by", signal.Signals(number).name))
"""


def test_a_stop_that_came_before_the_handlers_is_not_lost() -> None:
    ended = subprocess.run([sys.executable, "-c", ARM], capture_output=True, text=True, check=True)
    assert ended.stdout == "told to stop by SIGTERM\n"


def raised(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whichever it is
        function()
    return caught.value


def test_an_error_is_told_in_one_line_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fq_bad.py").write_text("\n\nraise ValueError('two\\nlines')")
    line = told(raised(lambda: FunctionTaskHandler(["fq_bad"])))
    assert line == f"ValueError: two lines ({tmp_path / 'fq_bad.py'}, line 3)"


def test_a_module_that_is_not_there_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    error = raised(lambda: FunctionTaskHandler(["fq_no_such_module"]))
    assert told(error.with_traceback(None)) == "ModuleNotFoundError: No module named 'fq_no_such_module'"


def test_an_error_without_text() -> None:
    assert told(KeyboardInterrupt()) == "KeyboardInterrupt"


def config(**settings: Any) -> Config:
    return Config(redis=RedisSettings(url="embedded"), **settings)


def test_the_handler_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fq_handlers.py").write_text(
        "from fairqued.worker import TaskHandler\nclass Mine(TaskHandler):\n    def handle(self, task): pass\n"
    )
    assert isinstance(make_handler(config(), PoolSettings()), FunctionTaskHandler)
    assert type(make_handler(config(), PoolSettings(handler="fq_handlers:Mine"))).__name__ == "Mine"
    with pytest.raises(TypeError, match=r"pools\[main\].handler: json:JSONDecoder is not a"):
        make_handler(config(), PoolSettings(name="main", handler="json:JSONDecoder"))


def test_python_path_comes_first_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/usr/lib"])
    monkeypatch.chdir(tmp_path)
    add_python_path([".", "/opt/app"])
    add_python_path(["."])
    assert sys.path == [str(tmp_path), "/opt/app", "/usr/lib"]
