"""Signed tasks: HMAC-SHA256 over namespace, task id, user and spec, so that a worker runs what clients sent, unchanged.

A signed spec ends with the queue it was enqueued to and the signature, `,"queue":"mail","sig":"key-id:MAC"}`; the
signature covers all before it. docs/security.md says what that is good for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from fairqued.errors import BadSignature, ConfigError
from fairqued.record import Record

FILE_VARIABLE, CREDENTIALS_VARIABLE = "FAIRQUED_SIGNING_KEYS_FILE", "CREDENTIALS_DIRECTORY"
CREDENTIAL = "fairqued-signing-keys"
LEAST_SECRET_BYTES = 16
_MAX_FILE_BYTES = 65_536
_CONTEXT = b"fairqued task 1"
_KEY_LINE = re.compile(r"([A-Za-z0-9_.-]{1,32})(?:[ \t]*:[ \t]*|[ \t]+)(\S.*)")
_SEAL = re.compile(
    rb',"queue":"(?P<queue>[A-Za-z0-9_.-]{1,100})"'
    rb'(?P<end>,"sig":"(?P<key>[A-Za-z0-9_.-]{1,32}):(?P<mac>[A-Za-z0-9_-]{43})"\})\Z'
)
_LONGEST_SEAL = 256


class Signer:
    """Signs and checks the tasks of one namespace. The first key signs, each of them is good for checking."""

    def __init__(self, namespace: str, secrets: Mapping[str, bytes]) -> None:
        self._namespace, self._secrets = namespace.encode(), secrets
        self._first = next(iter(secrets))

    def __repr__(self) -> str:
        return f"Signer(keys: {', '.join(self._secrets)})"

    def sign(self, task_id: str, user_id: str, queue: str, spec: bytes) -> bytes:
        """`spec`, a JSON object that is not empty, with the queue and a signature as its last fields."""
        signed = b'%b,"queue":"%b"' % (spec[:-1], queue.encode())
        mac = self._mac(self._first, task_id, user_id, signed)
        return b'%b,"sig":"%b:%b"}' % (signed, self._first.encode(), mac)

    def check(self, record: Record) -> None:
        """Raise BadSignature unless this task was signed with a known key, for the place where it stands."""
        seal = _SEAL.search(record.spec, max(0, len(record.spec) - _LONGEST_SEAL))
        if seal is None:
            raise BadSignature(f"task {record.task_id} is not signed, and this worker has signing keys")
        key = seal["key"].decode()
        if key not in self._secrets:
            raise BadSignature(f"task {record.task_id} is signed with the key {key}, which this worker does not have")
        expected = self._mac(key, record.task_id, record.user_id, record.spec[: seal.start("end")])
        if not _is_same(seal["mac"], expected):
            raise BadSignature(f"task {record.task_id}: the signature with the key {key} does not fit what it signs")
        queue = seal["queue"].decode()
        if record.queue != queue:
            raise BadSignature(f"task {record.task_id} was signed for the queue {queue}, and stands in {record.queue}")

    def _mac(self, key: str, task_id: str, user_id: str, signed: bytes) -> bytes:
        import base64  # noqa: PLC0415 - these two for those who have keys
        import hmac  # noqa: PLC0415

        parts = (_CONTEXT, self._namespace, task_id.encode(), user_id.encode(), signed)
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return base64.urlsafe_b64encode(hmac.digest(self._secrets[key], framed, "sha256")).rstrip(b"=")


def _is_same(given: bytes, expected: bytes) -> bool:
    import hmac  # noqa: PLC0415

    return hmac.compare_digest(given, expected)


def find_keys_file(given: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """Where the keys are: the file given, else `$FAIRQUED_SIGNING_KEYS_FILE`, else a systemd credential, else None."""
    if named := given or environ.get(FILE_VARIABLE):
        return Path(named).expanduser()
    if folder := environ.get(CREDENTIALS_VARIABLE):
        credential = Path(folder, CREDENTIAL)
        return credential if os.path.lexists(credential) else None
    return None


def load_signer(namespace: str, given: str | Path | None, environ: Mapping[str, str]) -> Signer | None:
    """The signer with the keys of this process; None if it has none. Raises ConfigError for a file that is wrong."""
    path = find_keys_file(given, environ)
    return None if path is None else Signer(namespace, read_keys(path))


def read_keys(path: Path) -> dict[str, bytes]:
    """Secrets by key id, in the order of the file. Raises ConfigError, which never tells a secret."""
    try:
        text = _read_private(path)
    except OSError as error:
        raise ConfigError(f"signing keys {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"signing keys {path}: is not UTF-8 text; base64 turns any bytes into a secret") from None
    secrets: dict[str, bytes] = {}
    for number, key, secret in _key_lines(path, text):
        if key in secrets:
            raise ConfigError(f"signing keys {path}:{number}: the key {key} is there twice")
        if len(secret) < LEAST_SECRET_BYTES:
            told = f"the secret of {key} has {len(secret)} bytes, at least {LEAST_SECRET_BYTES} are needed"
            raise ConfigError(f"signing keys {path}:{number}: {told}; `openssl rand -base64 32` makes one")
        secrets[key] = secret
    if not secrets:
        raise ConfigError(f"signing keys {path}: holds no key; expected lines of a key id, a colon and a secret")
    return secrets


def _read_private(path: Path) -> str:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"signing keys {path}: is not a file")
    if about.st_mode & stat.S_IRWXO:
        raise ConfigError(f"signing keys {path}: others may read or write it; run: chmod o= {path}")
    if about.st_size > _MAX_FILE_BYTES:
        raise ConfigError(f"signing keys {path}: is larger than {_MAX_FILE_BYTES >> 10} KiB: not a file of keys")
    return path.read_text(encoding="utf-8")


def _key_lines(path: Path, text: str) -> Iterator[tuple[int, str, bytes]]:
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _KEY_LINE.fullmatch(stripped)
        if match is None:
            raise ConfigError(
                f"signing keys {path}:{number}: expected a key id of 1 to 32 of A-Z a-z 0-9 _ . -, a colon and a secret"
            )
        yield number, match[1], match[2].encode()
