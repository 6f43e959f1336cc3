"""The daemons of `tests/daemon`, and files of signing keys."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import make_daemon, queue, redis_server, short_path, start_daemon, url_of

__all__ = ["make_daemon", "queue", "redis_server", "short_path", "start_daemon", "url_of"]

WriteKeys = Callable[..., Path]


@pytest.fixture
def write_keys(tmp_path: Path) -> WriteKeys:
    """Write a file of signing keys that nobody else may read: `write_keys("old: …", "new: …")`."""

    def write(*lines: str, name: str = "keys", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.touch(0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(mode)
        return path

    return write
