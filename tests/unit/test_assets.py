import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from fairqued.assets import names, read_text

ROOT = Path(__file__).parent.parent.parent


def test_finds_the_folders_of_the_checkout() -> None:
    assert names("lua") == sorted(path.name for path in (ROOT / "lua").glob("*.lua"))
    assert "push.lua" in names("lua")
    assert read_text("lua", "push.lua") == (ROOT / "lua" / "push.lua").read_text()
    assert "state.lua" in names("lua", "lib")
    assert read_text("lua", "lib", "state.lua") == (ROOT / "lua" / "lib" / "state.lua").read_text()
    assert names("systemd") == ["fairqued.service"]


def test_a_missing_folder_is_an_incomplete_installation() -> None:
    with pytest.raises(FileNotFoundError, match="nothing/ is neither in the fairqued package nor beside it"):
        names("nothing")


def test_finds_them_in_a_zipped_package(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "fairqued.zip", "w") as archive:
        archive.writestr("fairqued/__init__.py", "")
        archive.write(ROOT / "fairqued" / "assets.py", "fairqued/assets.py")
        archive.writestr("fairqued/lua/a.lua", "return 1")
        archive.writestr("fairqued/lua/lib/b.lua", "return 2")
    code = "from fairqued.assets import names, read_text; print(names('lua'), read_text('lua', 'lib', 'b.lua'))"
    command = [sys.executable, "-S", "-c", code]
    answer = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path / "fairqued.zip")}, capture_output=True, text=True, check=True, cwd="/"
    )
    assert answer.stdout == "['a.lua'] return 2\n"
