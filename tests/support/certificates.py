"""A certificate authority of a test's own, by the `openssl` program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def has_openssl() -> bool:
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Authority:
    """Signs certificates; all files lie in its folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new one."""
        folder.mkdir()
        authority = cls(folder)
        subject = ("-subj", f"/CN=authority of {folder.name}")
        authority._openssl("req", "-x509", *_NEW_KEY, *subject, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
        return authority

    @property
    def certificate(self) -> Path:
        """What clients are to trust."""
        return self.folder / "ca.pem"

    def sign(self, name: str, alternative: str) -> tuple[Path, Path]:
        """A certificate for a subject alternative name, such as `IP:127.0.0.1`, and its key."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        self._openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
        return certificate, key

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=60)
