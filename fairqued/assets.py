"""Where `lua/`, `etc/` and `systemd/` lie: inside the package once installed, beside it in a checkout."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

_PLACES: tuple[Traversable, ...] = (files("fairqued"), Path(__file__).parent.parent)


def folder(name: str) -> Traversable:
    """Return the folder of that name; its files may lie in a zip archive."""
    for place in _PLACES:
        if (found := place / name).is_dir():
            return found
    raise FileNotFoundError(f"{name}/ is neither in the fairqued package nor beside it: the installation is incomplete")


def read_text(*path: str) -> str:
    """Return the text of a shipped file: `read_text("lua", "lib", "state.lua")`."""
    name, *rest = path
    return folder(name).joinpath(*rest).read_text(encoding="utf-8")


def names(*path: str) -> list[str]:
    """Return the sorted names of the files in a shipped folder, without those of its subfolders."""
    name, *rest = path
    return sorted(entry.name for entry in folder(name).joinpath(*rest).iterdir() if entry.is_file())
