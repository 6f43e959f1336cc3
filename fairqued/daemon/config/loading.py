"""Where the configuration comes from: files, laid over each other, then the environment over them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairqued.daemon.config.check import check
from fairqued.daemon.config.overrides import overrides
from fairqued.daemon.config.reading import read_file
from fairqued.daemon.config.settings import MERGED_BY, NO_STATE_DIR, Config, default_state_dir
from fairqued.daemon.config.tree import BROKEN, Mistakes, Node, Place, merge
from fairqued.errors import ConfigError

DEFAULT_PATH = Path("/etc/fairqued/fairqued.yaml")

_ENVIRONMENT = Place("environment")
_ENOUGH = ("FAIRQUED_REDIS_URL", "FAIRQUED_IMPORTS")


def find_config_paths(given: Sequence[Path | str], environ: Mapping[str, str]) -> list[Path]:
    """Return the files to read: those given, else `$FAIRQUED_CONFIG`, else /etc/fairqued/fairqued.yaml, else none.

    Raises ConfigError if there are none and the environment alone is not enough.
    """
    if given:
        return [Path(path) for path in given]
    if named := [Path(path) for path in environ.get("FAIRQUED_CONFIG", "").split(":") if path]:
        return named
    if os.path.lexists(DEFAULT_PATH):
        return [DEFAULT_PATH]
    if all(environ.get(name) for name in _ENOUGH):
        return []
    raise ConfigError(
        f"no configuration: give --config FILE, or set $FAIRQUED_CONFIG, or write {DEFAULT_PATH} "
        f"(`fairquectl print config` shows one), or set ${' and $'.join(_ENOUGH)}"
    )


def load(paths: Sequence[Path], environ: Mapping[str, str]) -> Config:
    """Return the configuration of these files, each laid over those before it, and of the environment.

    Raises one ConfigError with a line for each mistake.
    """
    mistakes = Mistakes([str(path) for path in paths])
    nodes = [read_file(path, environ, mistakes) for path in paths]
    if None in nodes:
        mistakes.raise_if_any()
    tree = Node({}, _ENVIRONMENT)
    for node in filter(None, nodes):
        tree = merge(tree, node, MERGED_BY)
    for override in overrides(environ, mistakes):
        tree = override.laid_over(tree, mistakes)
    config = check(_with_state_dir(tree, environ, mistakes), mistakes)
    mistakes.raise_if_any()
    if config is None:
        raise ConfigError("the configuration was refused without a reason: this is a bug in fairqued")
    return config


def _with_state_dir(tree: Node, environ: Mapping[str, str], mistakes: Mistakes) -> Node:
    """Fill in `state_dir` where it is missing or null."""
    if not isinstance(tree.value, Mapping) or ("state_dir" in tree.value and tree.value["state_dir"].value is not None):
        return tree
    if (path := default_state_dir(environ)) is None:
        mistakes.add(_ENVIRONMENT, "state_dir", NO_STATE_DIR)
    node = Node(BROKEN if path is None else str(path), _ENVIRONMENT)
    return Node({**tree.value, "state_dir": node}, tree.place)
