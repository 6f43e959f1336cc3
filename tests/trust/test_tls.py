"""A Redis behind TLS, passwords and users with few rights, as it stands in production."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from fairqued import NotAllowed, QueueUnavailable, Task, TaskQueue
from fairqued.ctl.acl import CLIENT, OPERATOR, READ_ONLY, WORKER, Role
from fairqued.ctl.main import cli
from tests.support.certificates import Authority, has_openssl
from tests.support.daemon import LATE, Daemon, run
from tests.support.process_tasks import add, sleep
from tests.support.roles import PASSWORD, role_url, with_login
from tests.support.servers import RedisServer, newest_binary

pytestmark = pytest.mark.process

HOST = "127.0.0.1"


@dataclass(frozen=True)
class TlsServer:
    """A server with a certificate for 127.0.0.1, of which clients know the authority."""

    server: RedisServer
    port: int
    authority: Authority
    stranger: Authority
    """Another authority, which signed nothing here."""

    def url(self, authority: Path | None = None, host: str = HOST) -> str:
        """Its address, to be trusted as far as an authority says so."""
        return f"rediss://{host}:{self.port}/0?ssl_ca_certs={authority or self.authority.certificate}"

    def role_url(self, namespace: str, role: Role) -> str:
        """Its address for the user of a role."""
        role_url(self.server.url, namespace, role)
        return with_login(self.url(), f"{namespace}-{role.name}", PASSWORD)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    if not has_openssl():
        pytest.skip("makes certificates with openssl, which is not installed")
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority.make(folder / "ours"), Authority.make(folder / "strange")
    certificate, key = authority.sign("server", f"IP:{HOST}")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    options = {"tls-port": port, "tls-cert-file": certificate, "tls-key-file": key,
               "tls-ca-cert-file": authority.certificate, "tls-auth-clients": "optional"}  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    if not speaks_tls():
        pytest.skip(f"{newest_binary().name} was built without TLS")
    with RedisServer(options=words) as server:
        yield TlsServer(server, port, authority, stranger)


def speaks_tls() -> bool:
    """Whether the newest server knows the settings of TLS; it refuses the value either way, and does not start."""
    command = [str(newest_binary().path), "--port", "0", "--tls-auth-clients", "nonsense"]
    refusal = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LATE)
    return "argument" in refusal.stderr + refusal.stdout and "Bad directive" not in refusal.stderr + refusal.stdout


def connected(url: str, namespace: str, **options: Any) -> closing[TaskQueue]:
    return closing(TaskQueue(url, namespace=namespace, user_id="alice", **options))


def test_a_client_trusts_its_own_authority_alone(tls: TlsServer, namespace: str) -> None:
    with connected(tls.url(), namespace) as queue:
        handle = queue.enqueue(Task(payload=1))
        with queue.lease() as lease:
            [started] = lease.dequeue()
            lease.finish_task(started, started.payload)
        assert handle.result() == 1
    wrong = {
        "an authority that did not sign it": tls.url(tls.stranger.certificate),
        "the authorities of this system": tls.url().partition("?")[0],
        "a certificate for another name": tls.url(host="localhost"),
    }
    for what, url in wrong.items():
        began = time.monotonic()
        with connected(url, namespace, timeout_seconds=0.3) as queue, pytest.raises(QueueUnavailable) as caught:
            queue.enqueue(Task(payload=1))
        assert time.monotonic() - began < 5, what
        assert "cannot be reached" in str(caught.value), what
        assert "certificate verify failed" in str(caught.value), what


def test_both_sides_may_have_to_show_a_certificate(tls: TlsServer, namespace: str) -> None:
    certificate, key = tls.authority.sign("client", "DNS:client")
    foreign, foreign_key = tls.stranger.sign("client", "DNS:client")
    with connected(f"{tls.url()}&ssl_certfile={certificate}&ssl_keyfile={key}", namespace) as queue:
        assert queue.stats().depth == {}
    url = f"{tls.url()}&ssl_certfile={foreign}&ssl_keyfile={foreign_key}"
    with (
        connected(url, namespace, timeout_seconds=0.3) as queue,
        pytest.raises(QueueUnavailable, match="cannot be reached"),
    ):
        queue.stats()


def test_who_speaks_plainly_to_tls_is_told(tls: TlsServer, namespace: str) -> None:
    url = tls.url().replace("rediss:", "redis:").partition("?")[0]
    with (
        connected(url, namespace, timeout_seconds=0.3) as queue,
        pytest.raises(QueueUnavailable, match="cannot be reached"),
    ):
        queue.stats()


def test_a_wrong_password_is_refused_at_once_and_not_told(tls: TlsServer, namespace: str) -> None:
    url = tls.role_url(namespace, CLIENT)
    with connected(url, namespace) as queue:
        queue.enqueue(Task(payload=1))
    began = time.monotonic()
    with connected(with_login(tls.url(), f"{namespace}-client", "hunter2"), namespace) as queue:
        with pytest.raises(NotAllowed, match=r"refused: invalid username-password pair") as caught:
            queue.enqueue(Task(payload=1))
        assert "hunter2" not in str(caught.value)
    assert time.monotonic() - began < 3, "it is no use to try again"


def test_a_daemon_works_as_a_user_with_few_rights_over_tls(
    tls: TlsServer, namespace: str, make_tls_daemon: Any
) -> None:
    daemon: Daemon = make_tls_daemon(pools=[{"name": "main", "processes": 2, "threads": 2}])
    daemon.start_and_wait()
    with connected(tls.role_url(namespace, CLIENT), namespace) as client:
        assert client.enqueue(add.task(1, 2)).result(LATE) == 3
        delayed = client.enqueue(add.task(2, 3), delay_seconds=0.3)
        retried = client.enqueue(
            Task(func="tests.support.process_tasks:fail_once", max_retries=1, retry_backoff_seconds=0)
        )
        assert (delayed.result(LATE), retried.result(LATE)) == (5, 2)
        dropped = client.enqueue(add.task(0, 0), delay_seconds=3600)
        assert (dropped.cancel(), dropped.retry(), dropped.result(LATE)) == (True, True, 0)
        crowd = client.enqueue_many(add.task(number, number) for number in range(300))
        assert sum(handle.result(LATE) for handle in crowd) == 300 * 299
        urls = [tls.role_url(namespace, role) for role in (READ_ONLY, OPERATOR)]
        asked = [["status", "--redis", url, "--namespace", namespace, "--json"] for url in urls]
        asked += [
            [*words, "-c", str(daemon.config)] for words in (["status"], ["ping"], ["config"], ["config", "--json"])
        ]
        told = [CliRunner().invoke(cli, words) for words in asked]
        assert [answer.exit_code for answer in told] == [0] * len(told)
        assert json.loads(told[0].output)["tasks"]["finished"] == 304
        busy = client.enqueue(sleep.task(0.5))
        daemon.wait_for_message("is ready")
        daemon.terminate()
        daemon.assert_clean_exit(10 + 5)
        assert busy.state().value in ("finished", "queued")
    assert daemon.messages("refused") == daemon.messages("NOPERM") == []
    for text in [*(answer.output for answer in told), daemon.log_file.read_text()]:
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text


@pytest.fixture
def make_tls_daemon(tls: TlsServer, namespace: str) -> Iterator[Any]:
    """A daemon as the worker's user, whose password is in a file."""
    daemons: list[Daemon] = []

    def make(url: str | None = None, **settings: Any) -> Daemon:
        worker = tls.role_url(namespace, WORKER)
        daemon = Daemon(
            url or worker.replace(worker.partition("@")[0], f"rediss://{namespace}-worker"), namespace, settings
        )
        password = daemon.directory / "password"
        password.write_text(f"{PASSWORD}\n")
        daemon.settings = {**settings, "redis": {"password_file": str(password), "start_timeout_seconds": 0.5}}
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        daemon.remove()


def test_a_daemon_that_cannot_trust_its_redis_does_not_start(tls: TlsServer, make_tls_daemon: Any) -> None:
    daemon: Daemon = make_tls_daemon(tls.url(tls.stranger.certificate))
    ended = run("-c", str(daemon.write_config()), cwd=daemon.directory)
    assert ended.returncode == 5
    assert "certificate verify failed" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_daemon_with_a_wrong_password_does_not_start(tls: TlsServer, make_tls_daemon: Any) -> None:
    daemon: Daemon = make_tls_daemon()
    (daemon.directory / "password").write_text("hunter2")
    ended = run("-c", str(daemon.write_config()), cwd=daemon.directory)
    assert ended.returncode == 2
    assert "refused: invalid username-password pair" in ended.stderr.splitlines()[-1]
    assert "hunter2" not in ended.stderr
