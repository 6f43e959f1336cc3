"""Files of signing keys: what they may hold, who may read them, where they are looked for."""

from pathlib import Path

import pytest

from fairqued import ConfigError, Task, TaskQueue
from fairqued.signing import CREDENTIAL, find_keys_file, load_signer, read_keys
from tests.trust.conftest import WriteKeys

SECRET, OTHER = "0123456789abcdef", "fedcba9876543210"


def test_keys_come_in_the_order_of_the_file(write_keys: WriteKeys) -> None:
    path = write_keys(
        "# rotated in spring",
        "",
        f"2030-05: {SECRET}",
        f"  old_1.key   {OTHER}  ",
        f"c:{SECRET}:x",
        "d\tsixteen bytes long\r",
    )
    assert list(read_keys(path).items()) == [
        ("2030-05", SECRET.encode()),
        ("old_1.key", OTHER.encode()),
        ("c", f"{SECRET}:x".encode()),
        ("d", b"sixteen bytes long"),
    ]


def test_a_secret_counts_in_bytes(write_keys: WriteKeys) -> None:
    assert read_keys(write_keys("k: " + "ü" * 8)) == {"k": ("ü" * 8).encode()}


BAD_FILES = {
    "short secret": (["k: 0123456789abcde"], ":1: the secret of k has 15 bytes, at least 16 are needed"),
    "no secret": (["", "k"], ":2: expected a key id of 1 to 32"),
    "empty secret": (["k:"], ":1: expected a key id of 1 to 32"),
    "bad key id": ([f"a/b: {SECRET}"], ":1: expected a key id of 1 to 32"),
    "long key id": (["k" * 33 + f": {SECRET}"], ":1: expected a key id of 1 to 32"),
    "twice": ([f"k: {SECRET}", f"k: {OTHER}"], ":2: the key k is there twice"),
    "empty": ([], ": holds no key"),
    "comments": (["# k: " + SECRET], ": holds no key"),
    "huge": ([f"k: {SECRET}"] * 5000, ": is larger than 64 KiB"),
}


@pytest.mark.parametrize(("lines", "why"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_with_its_line_and_without_its_secrets(
    write_keys: WriteKeys, lines: list[str], why: str
) -> None:
    path = write_keys(*lines)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"signing keys {path}{why}")
    assert not any(secret in str(caught.value) for secret in (SECRET, OTHER, SECRET[:15]))


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o777])
def test_a_file_that_others_may_read_is_refused(write_keys: WriteKeys, mode: int) -> None:
    path = write_keys(f"k: {SECRET}", mode=mode)
    with pytest.raises(ConfigError, match=r"others may read or write it; run: chmod o= ") as caught:
        read_keys(path)
    assert str(caught.value).endswith(f"chmod o= {path}")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_the_group_may_read_it(write_keys: WriteKeys, mode: int) -> None:
    assert list(read_keys(write_keys(f"k: {SECRET}", mode=mode))) == ["k"]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"signing keys .*/none: cannot be read: No such file or directory$"):
        read_keys(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"is not a file$"):
        read_keys(tmp_path)
    (tmp_path / "binary").write_bytes(b"k: " + b"\xff" * 32)
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(ConfigError, match="is not UTF-8 text; base64"):
        read_keys(tmp_path / "binary")


def test_where_the_keys_are_looked_for(write_keys: WriteKeys, tmp_path: Path) -> None:
    credential = write_keys(f"c: {SECRET}", name=CREDENTIAL)
    environ = {"FAIRQUED_SIGNING_KEYS_FILE": "/env", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_keys_file("/given", environ) == Path("/given")
    assert find_keys_file(Path("~/given"), environ) == Path.home() / "given"
    assert find_keys_file(None, environ) == Path("/env")
    del environ["FAIRQUED_SIGNING_KEYS_FILE"]
    assert find_keys_file(None, environ) == credential
    credential.unlink()
    assert find_keys_file(None, environ) is None
    assert load_signer("n", None, environ) is None


def test_a_queue_whose_keys_cannot_be_read_sends_nothing_unsigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRQUED_SIGNING_KEYS_FILE", str(tmp_path / "none"))
    queue = TaskQueue("redis://127.0.0.1:1", timeout_seconds=0.1, user_id="alice")
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be read"):
            queue.enqueue(Task(payload=1))
    with pytest.raises(ConfigError, match="cannot be read"):
        queue.lease()
