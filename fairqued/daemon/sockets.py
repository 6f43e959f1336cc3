"""How long the path of a Unix socket may be."""

import os
from pathlib import Path

from fairqued.errors import ConfigError

_MAX_BYTES = 100


def check_socket_path(path: Path, setting: str) -> Path:
    """Return the path of a socket. Raises ConfigError, with the setting that it comes from, if it is too long."""
    if (length := len(os.fsencode(path))) > _MAX_BYTES:
        raise ConfigError(
            f"{setting}: {path} is too long for a Unix socket: it has {length} bytes, "
            f"at most {_MAX_BYTES} work everywhere; choose a shorter one"
        )
    return path
