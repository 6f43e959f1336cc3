"""What is shipped for systemd, judged by systemd's own tools; no container is needed for that."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from fairqued.ctl.main import cli
from tests.systemd.service import SHIPPED, relaxed

MOST_EXPOSED = 1.5
SHIPPED_FILES = {
    "unit": "fairqued.service",
    "relaxed": "fairqued.service.d/relaxed.conf",
    "sysusers": "sysusers.d/fairqued.conf",
    "tmpfiles": "tmpfiles.d/fairqued.conf",
}


def analyze(*words: str) -> str:
    """What systemd-analyze prints; it must end well."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    version = int(re.findall(r"systemd (\d+)", run("systemd-analyze", "--version"))[0])
    if version < 250:
        pytest.skip(f"systemd-analyze {version} cannot judge a file: that came with 250")
    return run("systemd-analyze", "--no-pager", *words)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr}"
    return done.stdout + done.stderr


def exposure(unit: Path) -> float:
    """From 0, locked up, to 10, anything goes."""
    return float(re.findall(r"exposure level for \S+: ([\d.]+)", analyze("security", "--offline=true", str(unit)))[0])


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    assert exposure(SHIPPED / "fairqued.service") <= MOST_EXPOSED
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/usr/bin/env fairqued\n")
    assert exposure(bare) > 9


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "fairqued.service.d").mkdir()
    (tmp_path / "fairqued.service.d/relaxed.conf").write_text(relaxed())
    unit = tmp_path / "fairqued.service"
    unit.write_text((SHIPPED / "fairqued.service").read_text())
    assert analyze("verify", str(unit)) == ""
    assert exposure(unit) > exposure(SHIPPED / "fairqued.service")


def test_fairquectl_prints_all_of_it() -> None:
    for what, name in SHIPPED_FILES.items():
        assert CliRunner().invoke(cli, ["print", what]).stdout == (SHIPPED / name).read_text()
    shipped = {str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file()}
    assert shipped == set(SHIPPED_FILES.values())
