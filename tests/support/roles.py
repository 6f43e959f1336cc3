"""Users of Redis with the rights that `fairquectl print acl` gives them, for tests that run under these."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fairqued.connection import Connection, make_client
from fairqued.ctl.acl import CLIENT, DEFAULT_USER_PREFIX, WORKER, Role, rules
from fairqued.record import Record
from fairqued.scripts import Script
from fairqued.store import Store
from tests.support.simclock import CLOCK_KEY

PASSWORD = "a secret: 50%/@?#"
_LATE = 20


def role_url(url: str, namespace: str, role: Role, *more_rules: str) -> str:
    """Make the user of a role for a namespace, and return the URL that logs in as it."""
    name = f"{namespace}-{role.name}"
    line = next(line for line in rules(namespace) if line.startswith(f"user {DEFAULT_USER_PREFIX}{role.name} "))
    words = [f">{PASSWORD}" if word == ">PASSWORD" else word for word in line.split(" ")[2:]]
    with make_client(url, _LATE) as admin:
        admin.execute_command("ACL", "SETUSER", name, *words, *more_rules)
    return with_login(url, name, PASSWORD)


def with_login(url: str, user: str, password: str = "") -> str:
    """`url` with a user in it, and a password if there is one."""
    parts = urlsplit(url)
    login = ":".join(quote(word, safe="") for word in (user, password) if word)
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


def without_password(url: str) -> str:
    """`url` with its user alone."""
    return with_login(url, unquote(urlsplit(url).username or ""))


class StoreOfRoles(Store):
    """A store whose calls are made by the user that they belong to: those of clients, and those of workers."""

    def __init__(self, admin: Connection, namespace: str, scripts: Mapping[str, Script]) -> None:
        clock = "~" + next(CLIENT.key_patterns(namespace)).replace("none", CLOCK_KEY)
        super().__init__(Connection(role_url(admin.url, namespace, WORKER)), namespace, scripts)
        self._client = Store(Connection(role_url(admin.url, namespace, CLIENT, clock)), namespace, scripts)

    def _run(self, name: str, *args: object) -> object:
        return self._client._run(name, *args) if name in CLIENT.scripts else super()._run(name, *args)

    def read_with_result(self, task_id: str) -> tuple[Record | None, bytes | None]:
        return self._client.read_with_result(task_id)

    def read(self, task_id: str) -> Record | None:
        return self._client.read(task_id)
