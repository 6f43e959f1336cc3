import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import NODEFAULT, UNSET, Struct
from msgspec.structs import fields

from fairqued.assets import names
from fairqued.daemon.config import (
    Config,
    GroupSettings,
    HeadStarts,
    PoolSettings,
    QueueSettings,
    RedisSettings,
    ScheduleSettings,
    UserSettings,
    find_config_paths,
    load,
    loading,
    not_yet_in_effect,
    reading,
    redis_url,
    tokens_per_second,
    usable_cpus,
)
from fairqued.daemon.config.check import entry_of, group_of, table_of
from fairqued.daemon.config.cpus import quota_of
from fairqued.daemon.config.notyet import NOT_YET_IN_EFFECT
from fairqued.errors import ConfigError
from fairqued.state import Priority

ROOT = Path(__file__).parent.parent.parent
BASE = ROOT / "etc" / "fairqued.yaml"
HOME = {"HOME": "/home/me"}
ENOUGH = {**HOME, "FAIRQUED_REDIS_URL": "embedded", "FAIRQUED_IMPORTS": "myapp.tasks"}
URL = "redis: {url: embedded}\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file and return its path."""

    def write_file(content: str | bytes, name: str = "f.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def mistakes_of(*paths: Path, **environ: str) -> list[str]:
    """The lines of the ConfigError, with the folders of the files left out."""
    with pytest.raises(ConfigError) as caught:
        load(paths, HOME | environ)
    lines = str(caught.value).splitlines()
    for path in sorted(paths, key=lambda each: len(str(each)), reverse=True):
        lines = [line.replace(str(path), path.name) for line in lines]
    return lines


# What is loaded, and from where


def test_an_empty_file_has_no_settings(write: Write) -> None:
    expected = Config(
        redis=RedisSettings(url="embedded"),
        imports=("myapp.tasks",),
        state_dir=Path("/home/me/.local/state/fairqued"),
    )
    for content in ("", "\n", "# only a comment\n", "---\n", "null", "\ufeff"):
        assert load([write(content)], ENOUGH) == expected
    assert load([], ENOUGH) == expected


def test_later_files_are_laid_over_earlier_ones(write: Write) -> None:
    first = write(
        """
        redis: {url: embedded, timeout_seconds: 7}
        imports: [a, b]
        pools:
          - {name: default, threads: 3, queues: [x, y]}
          - {name: gpu, threads: 1}
        schedules:
          - {id: nightly, cron: "0 9 * * *", task: report, user_id: system}
        """
    )
    second = write(
        """
        redis: {timeout_seconds: 9}
        imports: [c]
        pools:
          - {name: new}
          - {name: gpu, processes: 4}
          - {name: default, queues: [z]}
        schedules:
          - {id: nightly, cron: "0 10 * * *"}
        """,
        "second.yaml",
    )
    config = load([first, second], HOME)
    assert config.redis == RedisSettings(url="embedded", timeout_seconds=9)
    assert config.imports == ("c",)
    assert config.pools == (
        PoolSettings(name="default", threads=3, queues=("z",)),
        PoolSettings(name="gpu", threads=1, processes=4),
        PoolSettings(name="new"),
    )
    assert config.schedules == (ScheduleSettings(id="nightly", cron="0 10 * * *", task="report", user_id="system"),)


def test_an_entry_that_is_twice_in_a_later_file_is_no_entry_to_merge(write: Write) -> None:
    first, second = write(URL + "pools: [{name: a}]\n"), write("pools:\n- {name: a}\n- {name: a}\n", "second.yaml")
    assert mistakes_of(first, second) == ['second.yaml:3: pools[1].name: "a" is already the name of pools[0]']


def test_anchors_and_merge_keys_work(write: Write) -> None:
    path = write(
        URL
        + """
pools:
  - &small {name: small, threads: 1, processes: 1}
  - {<<: *small, name: other, threads: 2}
  - {<<: [{threads: 5}, *small], name: third}
"""
    )
    assert load([path], HOME).pools == (
        PoolSettings(name="small", threads=1, processes=1),
        PoolSettings(name="other", threads=2, processes=1),
        PoolSettings(name="third", threads=5, processes=1),
    )


def test_references_are_replaced_by_the_environment(write: Write) -> None:
    path = write(
        """
        redis:
          url: redis://:${PASSWORD}@${HOST:-localhost}:6379/0
          password_file: ${FILE:-}
        namespace: ${NUMBER}
        pools:
          - name: a
            threads: ${THREADS:-6}
            processes: ${EMPTY:-3}
        users: {"$${NUMBER}": {weight: 2}}
        python_path: ["$${NUMBER}", "${NUMBER}", "x${HOST:-y}z${PASSWORD}"]
        """
    )
    config = load([path], {**HOME, "PASSWORD": "a$b", "NUMBER": "12", "EMPTY": ""})
    assert config.redis.url == "redis://:a$b@localhost:6379/0"
    assert config.redis.password_file is None
    assert config.namespace == "12"
    assert config.pools == (PoolSettings(name="a", threads=6, processes=3),)
    assert list(config.users) == ["$${NUMBER}"], "keys are taken as they are"
    assert config.python_path == ("${NUMBER}", "12", "xyza$b")


def test_quoted_references_are_text(write: Write) -> None:
    path = write(URL + 'partitions: "${N}"\n')
    assert mistakes_of(path, N="2") == ['f.yaml:2: partitions: expected a whole number >= 1, found "${N}"']


def test_the_environment_wins_over_files(write: Write) -> None:
    path = write("redis: {url: embedded}\nnamespace: a\npools: [{name: one, threads: 2}]\nusers: {bob: {weight: 2}}\n")
    config = load(
        [path],
        {
            **HOME,
            "FAIRQUED_REDIS_URL": "redis://h:1/0",
            "FAIRQUED_NAMESPACE": "12",
            "FAIRQUED_IMPORTS": " a.b, c ,",
            "FAIRQUED__POOLS__0__THREADS": "4",
            "FAIRQUED__POOLS__1": "{name: two}",
            "FAIRQUED__POOLS__1__QUEUES": "[x, y]",
            "FAIRQUED__POOLS__1__QUEUES__2": "'3'",
            "FAIRQUED__USERS__Alice__RATE": "10/m",
            "FAIRQUED__FAIRNESS__HEAD_START_SECONDS__HIGH": "60",
            "FAIRQUED__METRICS__LISTEN": "",
            "FAIRQUED__SCHEDULER__ENABLED": "false",
            "FAIRQUED__GROUPS": "{Acme: {weight: 5}}",
            "FAIRQUED__SCHEDULES": "[{id: s, task: t, user_id: u, cron: '0 * * * *'}]",
            "FAIRQUED__SCHEDULES__0__CRON": "*/5 * * * *",
            "FAIRQUED__CONTROL__SOCKET": "~/c.sock",
        },
    )
    assert config.redis.url == "redis://h:1/0"
    assert config.namespace == "12"
    assert config.imports == ("a.b", "c")
    assert config.pools == (PoolSettings(name="one", threads=4), PoolSettings(name="two", queues=("x", "y", "3")))
    assert config.users == {"bob": UserSettings(weight=2), "Alice": UserSettings(rate="10/m")}
    assert config.fairness.head_start_seconds == HeadStarts(HIGH=60)
    assert config.metrics.listen is None
    assert config.scheduler.enabled is False
    assert config.groups == {"Acme": GroupSettings(weight=5)}
    assert config.schedules[0].cron == "*/5 * * * *"
    assert config.control_socket == Path("~/c.sock").expanduser()


def test_the_long_variable_wins_over_the_short_one() -> None:
    assert load([], {**ENOUGH, "FAIRQUED__REDIS__URL": "redis://h/1"}).redis.url == "redis://h/1"


def test_the_environment_can_change_the_default_pool_and_add_the_eleventh() -> None:
    environ = {f"FAIRQUED__POOLS__{n}__NAME": f"p{n}" for n in range(1, 12)}
    pools = load([], {**ENOUGH, **environ, "FAIRQUED__POOLS__0__THREADS": "4"}).pools
    assert pools[0] == PoolSettings(threads=4)
    assert [pool.name for pool in pools[1:]] == [f"p{n}" for n in range(1, 12)]


@pytest.mark.parametrize(
    ("environ", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/fairqued"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/fairqued"),
        ({"HOME": "/h"}, "/h/.local/state/fairqued"),
        ({"FAIRQUED__STATE_DIR": "/mine", "STATE_DIRECTORY": "/var/lib/a"}, "/mine"),
        ({"FAIRQUED__STATE_DIR": "", "HOME": "/h"}, "/h/.local/state/fairqued"),
    ],
)
def test_where_the_state_lies(environ: Mapping[str, str], state_dir: str) -> None:
    config = load([], {"FAIRQUED_REDIS_URL": "embedded", **environ})
    assert config.state_dir == Path(state_dir)
    assert config.control_socket == Path(state_dir, "control.sock")


def test_which_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "fairqued.yaml"
    monkeypatch.setattr(loading, "DEFAULT_PATH", there)
    named = {"FAIRQUED_CONFIG": "/a.yaml::/b.yaml"}
    assert find_config_paths(["x", Path("y")], named) == [Path("x"), Path("y")]
    assert find_config_paths([], named) == [Path("/a.yaml"), Path("/b.yaml")]
    assert find_config_paths([], ENOUGH) == []
    for environ in ({}, {"FAIRQUED_REDIS_URL": "embedded"}, {**ENOUGH, "FAIRQUED_IMPORTS": ""}):
        with pytest.raises(ConfigError, match=r"--config FILE, or set \$FAIRQUED_CONFIG, or write .*fairqued\.yaml"):
            find_config_paths([], environ)
    there.touch()
    assert find_config_paths([], {}) == [there]
    assert find_config_paths([], ENOUGH) == [there]


# What a Config answers


@pytest.mark.parametrize(
    ("queues", "names_", "weights", "domains"),
    [
        ("[a, b]", ("a", "b"), None, {"a": "a", "b": "b"}),
        ("[{name: a, domain: x}, b, {name: c}]", ("a", "b", "c"), None, {"a": "x", "b": "b", "c": "c"}),
        ("{a: 3, 12: 0.5}", ("a", "12"), {"a": 3.0, "12": 0.5}, {"a": "a", "12": "12"}),
    ],
)
def test_queues_of_a_pool(
    write: Write, queues: str, names_: tuple[str, ...], weights: dict[str, float] | None, domains: dict[str, str]
) -> None:
    pool = load([write(f"{URL}pools: [{{name: p, queues: {queues}}}]")], HOME).pools[0]
    assert (pool.queue_names, pool.queue_weights, pool.queue_domains) == (names_, weights, domains)


def test_auto_is_the_number_of_usable_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PoolSettings(processes="auto").process_count == usable_cpus() >= 1
    assert PoolSettings(processes=7).process_count == 7
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(5)), raising=False)
    monkeypatch.setattr("fairqued.daemon.config.cpus.quota_of", lambda *_paths: None)
    assert usable_cpus() == 5
    monkeypatch.setattr("fairqued.daemon.config.cpus.quota_of", lambda *_paths: 2)
    assert usable_cpus() == 2


@pytest.mark.parametrize(
    ("cpu_max", "cpus"), [("150000 100000\n", 2), ("200000 100000", 2), ("max 100000\n", None), ("", None)]
)
def test_the_quota_of_a_cgroup(tmp_path: Path, cpu_max: str, cpus: int | None) -> None:
    membership, own = tmp_path / "cgroup", tmp_path / "fs" / "my.slice"
    own.mkdir(parents=True)
    membership.write_text("1:cpu:/old\n0::/my.slice\n")
    (own / "cpu.max").write_text(cpu_max)
    assert quota_of(membership, tmp_path / "fs") == cpus
    assert quota_of(tmp_path / "missing", tmp_path) is None


def test_limits_of_a_user_fall_back_to_the_defaults(write: Write) -> None:
    path = write(URL + "user_defaults: {weight: 2, rate: 10/s}\nusers: {a: {max_running: 5, rate: null}}\n")
    config = load([path], HOME)
    assert config.users["a"].given() == {"max_running": 5, "rate": None}
    assert (config.limits_of("a").weight, config.limits_of("a").max_running, config.limits_of("a").rate) == (2, 5, None)
    assert config.limits_of("b") == config.user_defaults


@pytest.mark.parametrize(
    ("rate", "per_second"), [("100/s", 100), ("30/m", 0.5), ("7200/h", 2), ("86400/d", 1), ("1/s", 1)]
)
def test_rates(rate: str, per_second: float) -> None:
    assert tokens_per_second(rate) == per_second


@pytest.mark.parametrize(
    ("listen", "address"), [("127.0.0.1:9750", ("127.0.0.1", 9750)), ("'[::1]:0'", ("::1", 0)), ("null", None)]
)
def test_the_address_of_metrics(write: Write, listen: str, address: tuple[str, int] | None) -> None:
    assert load([write(f"{URL}metrics:\n  listen: {listen}")], HOME).metrics.address == address


def test_head_starts_name_the_priorities() -> None:
    assert {each.name for each in fields(HeadStarts)} == {each.name for each in Priority} - {"CRITICAL"}


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://localhost",
        "redis://u:p%40@h:6379/15",
        "rediss://[::1]:6380?db=2",
        "unix:///run/r.sock",
        "fairqued:///home/me/my app/.fairqued",
        "unix://u:p@/run/r.sock?db=1",
    ],
)
def test_urls_of_redis(url: str) -> None:
    assert load([], {**HOME, "FAIRQUED_REDIS_URL": url}).redis.url == url


def test_an_embedded_redis_has_no_password() -> None:
    environ = {**HOME, "FAIRQUED_REDIS_URL": "fairqued:///state", "FAIRQUED__REDIS__PASSWORD_FILE": "/nowhere"}
    assert redis_url(load([], environ)) == "fairqued:///state"


# What is refused

UNKNOWN_TAG = "is not allowed; expected text, numbers, lists and mappings"
NAME = "a name of 1 to 100 of the characters A-Z a-z 0-9 _ . -"
ID = "text of 1 to 200 characters without control characters"
NAMESPACE = "1 to 100 characters without blanks, braces, colons and control characters"
REDIS_URL = "a redis://, rediss:// or unix:// URL, embedded, or fairqued:// and a state directory"
CRON = "a cron line of 5 fields (a sixth, last, is seconds) that comes due"

HEAD_STARTS = "VERY_LOW, LOW, NORMAL, HIGH, VERY_HIGH"
DEDUP = "expected dedup_seconds to be more than redis.timeout_seconds, or a client's repeated call makes a second task"

BAD_VALUES = [
    ("pools:\n- name: p\n  threads: many", '4: pools[0].threads: expected a whole number >= 1, found "many"'),
    ("pools:\n- name: p\n  threads: 0", "4: pools[0].threads: expected a whole number >= 1, found 0"),
    ("pools:\n- name: p\n  threads: 2.0", "4: pools[0].threads: expected a whole number >= 1, found 2.0"),
    ("pools:\n- name: p\n  threads: true", "4: pools[0].threads: expected a whole number >= 1, found true"),
    ("pools:\n- name: p\n  threads:", "4: pools[0].threads: expected a whole number >= 1, found nothing"),
    ("pools:\n- name: p\n  threads: [1]", "4: pools[0].threads: expected a whole number >= 1, found a list"),
    (
        "pools:\n- name: p\n  threads: 2000000",
        "4: pools[0].threads: expected a whole number >= 1 and <= 100000, found 2000000",
    ),
    ("pools:\n- name: p\n  threads: 0x1ffffffffffffffff", "4: pools[0].threads: is a number of more than 64 bits"),
    (
        "pools:\n- {name: p, processes: Auto}",
        '3: pools[0].processes: expected a whole number >= 1 or auto, found "Auto"',
    ),
    ("pools:\n- {processes: 2}\n- {processes: 3}\n- name: ''", f'5: pools[2].name: expected {NAME}, found ""'),
    ("pools:\n- name: a\n- threads: 2\n  name: a", '5: pools[1].name: "a" is already the name of pools[0]'),
    ("pools:\n- name: a b", f'3: pools[0].name: expected {NAME}, found "a b"'),
    ("pools: {name: a}", "2: pools: expected a list, found a mapping"),
    ("pools: null", "2: pools: expected a list, found nothing"),
    ("pools: [default]", '2: pools[0]: expected a mapping, found "default"'),
    ("pools: [{name: p, queues: []}]", "2: pools[0].queues: expected at least one queue, found none"),
    ("pools: [{name: p, queues: a}]", '2: pools[0].queues: expected a list or a mapping, found "a"'),
    ("pools: [{name: p, queues: [a, b, {name: a}]}]", "2: pools[0].queues: expected each queue once, found twice: a"),
    ("pools: [{name: p, queues: [a!]}]", f'2: pools[0].queues[0]: expected {NAME} or a mapping, found "a!"'),
    (
        "pools: [{name: p, queues: [12]}]",
        f"2: pools[0].queues[0]: expected {NAME} or a mapping, found 12; write it in quotes",
    ),
    ("pools: [{name: p, queues: {a!: 1}}]", f'2: pools[0].queues["a!"]: expected {NAME}, found "a!"'),
    ("pools: [{name: p, queues: {a: 0}}]", "2: pools[0].queues.a: expected a number >= 0.001, found 0"),
    (
        "pools: [{name: p, queues: [{domain: a}]}]",
        f"2: pools[0].queues[0].name: is required: expected {NAME}, found nothing",
    ),
    (
        "pools:\n- {name: a, queues: [m, {name: q, domain: m}]}\n- {name: b, queues: [q]}",
        '2: pools: expected one domain for queue "q", found "m" and "q"',
    ),
    (
        "pools: [{name: p, handler: mod}]",
        '2: pools[0].handler: expected module:Class, such as myapp.handlers:MyHandler, or null, found "mod"',
    ),
    ("worker: {lease_seconds: 3}", "2: worker.lease_seconds: expected a number >= 4, found 3"),
    (
        "worker: {heartbeat_seconds: 6}",
        "2: worker.heartbeat_seconds: expected lease_seconds to be at least 3 times heartbeat_seconds, found 15 and 6",
    ),
    (
        "worker: {wedged_seconds: 5}",
        "2: worker.wedged_seconds: expected wedged_seconds to be at least 3 times heartbeat_seconds, found 5 and 3",
    ),
    ("worker: {drain_seconds: .inf}", "2: worker.drain_seconds: expected a number >= 0 and <= 315360000, found inf"),
    ("worker: {drain_seconds: .nan}", "2: worker.drain_seconds: expected a number >= 0, found nan"),
    ("worker: {drain_seconds: -1}", "2: worker.drain_seconds: expected a number >= 0, found -1"),
    ("worker: {boot_timeout_seconds: 0}", "2: worker.boot_timeout_seconds: expected a number > 0, found 0"),
    ("partitions: 65", "2: partitions: expected a whole number >= 1 and <= 64, found 65"),
    ("namespace: on", f"2: namespace: expected {NAMESPACE}, found true; write it in quotes"),
    ("namespace: a b", f'2: namespace: expected {NAMESPACE}, found "a b"'),
    ("namespace: '{a}'", f'2: namespace: expected {NAMESPACE}, found "{{a}}"'),
    ("namespace: a:b", f'2: namespace: expected {NAMESPACE}, found "a:b"'),
    ('namespace: "a\\nb"', f'2: namespace: expected {NAMESPACE}, found "a\\nb"'),
    ('namespace: "a\\u0085b"', f'2: namespace: expected {NAMESPACE}, found "a\\x85b"'),
    ("namespace: ''", f'2: namespace: expected {NAMESPACE}, found ""'),
    (f"namespace: {'x' * 101}", f'2: namespace: expected {NAMESPACE}, found "{"x" * 60}…"'),
    ("imports: myapp", '2: imports: expected a list, found "myapp"'),
    (
        "imports: [a.b, tasks.py/x]",
        '2: imports[1]: expected the dotted name of a module, such as myapp.tasks, found "tasks.py/x"',
    ),
    ("python_path: ['']", '2: python_path[0]: expected a path, found ""'),
    ("state_dir: 5", "2: state_dir: expected a path, found 5; write it in quotes"),
    ("control: {socket: ''}", '2: control.socket: expected a path, or null, found ""'),
    (
        "control: {socket: ~nobody-of-that-name/x}",
        '2: control.socket: expected a path, or null, found "~nobody-of-that-name/x"',
    ),
    ("scheduler: {enabled: 1}", "2: scheduler.enabled: expected true or false, found 1"),
    ("logging: {level: loud}", '2: logging.level: expected debug, info, warning, error, critical, found "loud"'),
    ("metrics: null", "2: metrics: expected a mapping, found nothing"),
    ("metrics: {listen: 9750}", "2: metrics.listen: expected host:port, such as 127.0.0.1:9750, or null, found 9750"),
    (
        "metrics: {listen: 'h:65536'}",
        '2: metrics.listen: expected host:port, such as 127.0.0.1:9750, or null, found "h:65536"',
    ),
    (
        "metrics: {listen: '::1:80'}",
        '2: metrics.listen: expected host:port, such as 127.0.0.1:9750, or null, found "::1:80"',
    ),
    ("fairness: {group_separator: ''}", '2: fairness.group_separator: expected one character, or null, found ""'),
    (
        "fairness: {head_start_seconds: {CRITICAL: 1}}",
        f"2: fairness.head_start_seconds.CRITICAL: is not a setting; expected one of {HEAD_STARTS}",
    ),
    (
        "fairness: {head_start_seconds: {high: 1}}",
        '2: fairness.head_start_seconds.high: is not a setting; did you mean "HIGH"?',
    ),
    ("user_defaults: {max_share: 1.5}", "2: user_defaults.max_share: expected a number > 0 and <= 1, found 1.5"),
    ("user_defaults: {weight: 0}", "2: user_defaults.weight: expected a number >= 0.001, found 0"),
    (
        "users: {a: {rate: fast}}",
        '2: users.a.rate: expected a rate such as 100/s, 10/m or 5000/h, or null, found "fast"',
    ),
    ("users: {a: {rate: 0/s}}", '2: users.a.rate: expected a rate such as 100/s, 10/m or 5000/h, or null, found "0/s"'),
    ("users: {a: {rate: 100}}", "2: users.a.rate: expected a rate such as 100/s, 10/m or 5000/h, or null, found 100"),
    ("users: {a: {weight: null}}", "2: users.a.weight: expected a number >= 0.001, found nothing"),
    ('users: {"a\\tb": {weight: 1}}', f'2: users["a\\tb"]: expected {ID}, found "a\\tb"'),
    (f"users: {{{'u' * 201}: {{weight: 1}}}}", f'2: users.{"u" * 201}: expected {ID}, found "{"u" * 60}…"'),
    ("users: {[a]: 1}", "2: users: expected text as a key, found a list or a mapping"),
    ("limits: {payload_bytes: 0}", "2: limits.payload_bytes: expected a whole number >= 1, found 0"),
    (
        "retention: {dedup_seconds: 5}",
        f"2: retention: {DEDUP}; found 5 and 5",
    ),
    ("schedules: [{id: a, cron: x, task: t, user_id: u}]", f'2: schedules[0].cron: expected {CRON}, found "x"'),
    (
        "schedules: [{id: a, cron: '@daily', task: t, user_id: u}]",
        f'2: schedules[0].cron: expected {CRON}, found "***@daily"',
    ),
    (
        "schedules: [{id: a, cron: 0 0 30 2 *, task: t, user_id: u}]",
        f'2: schedules[0].cron: expected {CRON}, found "0 0 30 2 *"',
    ),
    (
        "schedules: [{id: a, cron: R 1 * * *, task: t, user_id: u}]",
        f'2: schedules[0].cron: expected {CRON}, found "R 1 * * *"',
    ),
    (
        "schedules: [{id: a, cron: 1 1 1 1 1 1 2030, task: t, user_id: u}]",
        f'2: schedules[0].cron: expected {CRON}, found "1 1 1 1 1 1 2030"',
    ),
    (
        "schedules: [{id: a, cron: 1 1 * * *, task: t, user_id: u, timezone: America}]",
        '2: schedules[0].timezone: expected a timezone such as Europe/Paris, found "America"',
    ),
    (
        "schedules: [{id: a, cron: 1 1 * * *, task: t, user_id: u, timezone: ../UTC}]",
        '2: schedules[0].timezone: expected a timezone such as Europe/Paris, found "../UTC"',
    ),
    (
        "schedules: [{id: a, cron: 1 1 * * *, task: t}]",
        f"2: schedules[0].user_id: is required: expected {ID}, found nothing",
    ),
    (
        "schedules: [{id: a, cron: 1 1 * * *, task: t, user_id: u, args: [{x: .nan}]}]",
        "2: schedules[0].args[0]: expected JSON, found a number that is not finite",
    ),
    (
        "schedules:\n- {id: a, cron: 1 1 * * *, task: t, user_id: u}\n- {id: a, cron: 1 1 * * *, task: t, user_id: u}",
        '4: schedules[1].id: "a" is already the id of schedules[0]',
    ),
    ("pool: []", '2: pool: is not a setting; did you mean "pools"?'),
    ("LOGGING: {}", '2: LOGGING: is not a setting; did you mean "logging"?'),
    ("Partitions: 2", '2: Partitions: is not a setting; did you mean "partitions"?'),
    ("limits: {zzz: secret}", "2: limits.zzz: is not a setting; expected one of payload_bytes, max_queued_per_queue"),
    ("namespace: a\nnamespace: b", "3: namespace: is given twice (first in line 2)"),
    ("users:\n  a: {weight: 1}\n  a: {weight: 2}", "4: users.a: is given twice (first in line 3)"),
    ("namespace: !!python/object:os.system x", f'2: namespace: the tag "!!python/object:os.system" {UNKNOWN_TAG}'),
    ("worker: !!python/object/new:dict {}", f'2: worker: the tag "!!python/object/new:dict" {UNKNOWN_TAG}'),
    ("imports: !mine [a]", f'2: imports: the tag "!mine" {UNKNOWN_TAG}'),
    ("namespace: !!binary aGk=", f'2: namespace: the tag "!!binary" {UNKNOWN_TAG}'),
    ("partitions: !!int two", "2: partitions: is no int"),
    ("users: {<<: 5}", "2: users: expected << to name mappings, found 5"),
    (
        "namespace: ${MISSING}",
        "2: namespace: environment variable MISSING is not set; write ${MISSING:-default} to give it a default",
    ),
    ("namespace: ${", "2: namespace: expected ${NAME} or ${NAME:-default} after ${ ($${ stands for ${ itself)"),
    ("namespace: '${A-b}'", "2: namespace: expected ${NAME} or ${NAME:-default} after ${ ($${ stands for ${ itself)"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_VALUES, ids=[content for content, _ in BAD_VALUES])
def test_one_mistake_is_one_line(write: Write, content: str, expected: str) -> None:
    assert mistakes_of(write(URL + content)) == [f"f.yaml:{expected}"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hunter2@h:6379/x", "redis://***@h:6379/x"),
        ("rediss://:hun@ter2@h/y", "rediss://***@h/y"),
        ("redis://h:port?password=hunter2&db=1", "redis://h:port?password=***&db=1"),
        (":hunter2@h", "***@h"),
        ("http://h", "http://h"),
        ("redis:///0", "redis:///0"),
        ("redis://h:99999", "redis://h:99999"),
        ("REDIS://h", "REDIS://h"),
        ("unix://relative", "unix://relative"),
        ("redis://h/0 ", "redis://h/0 "),
        ("fairqued://relative", "fairqued://relative"),
        ("fairqued:///", "fairqued:///"),
    ],
)
def test_passwords_are_not_told(write: Write, url: str, shown: str) -> None:
    expected = f'redis.url: expected {REDIS_URL}, found "{shown}"'
    assert mistakes_of(write(f"redis: {{url: '{url}'}}")) == [f"f.yaml:1: {expected}"]
    assert mistakes_of(FAIRQUED_REDIS_URL=url) == [f"FAIRQUED_REDIS_URL: {expected}"]
    assert mistakes_of(FAIRQUED__REDIS__URL=f"'{url}'") == [f"FAIRQUED__REDIS__URL: {expected}"]


def test_values_that_came_out_of_the_environment_are_not_told(write: Write) -> None:
    path = write("redis:\n  url: redis://:x@${SECRET}\nnamespace: ${SECRET}\npartitions: ${PIN}\n")
    assert mistakes_of(path, SECRET="hunter2 is secret", PIN="4711") == [
        f'f.yaml:2: redis.url: expected {REDIS_URL}, found "redis://***@${{SECRET}}"',
        f'f.yaml:3: namespace: expected {NAMESPACE}, found "${{SECRET}}"',
        'f.yaml:4: partitions: expected a whole number >= 1 and <= 64, found "${PIN}"',
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FAIRQUED__POOLS__0__THREADS", "many", 'pools[0].threads: expected a whole number >= 1, found "many"'),
        ("FAIRQUED__POOLS__0__THREDS", "4", 'pools[0].threds: is not a setting; did you mean "threads"?'),
        ("FAIRQUED__POOLS__2__THREADS", "4", "expected the number of an entry of pools, 0 to 1, found 2"),
        ("FAIRQUED__POOLS__DEFAULT__THREADS", "4", "expected the number of an entry of pools, 0 to 1, found DEFAULT"),
        ("FAIRQUED__POLS__0__THREADS", "4", 'pols: is not a setting; did you mean "pools"?'),
        ("FAIRQUED__USERS", "{a: {weight: 1}, a: {weight: 2}}", "users.a: is given twice"),
        ("FAIRQUED__IMPORTS", "[a, b", 'imports: expected a list, found "[a, b"'),
        ("FAIRQUED__WORKER", "[" * 40, "worker: is nested deeper than 32 levels"),
        ("FAIRQUED__NAMESPACE", "\udcff", "namespace: holds a character that YAML does not allow"),
        ("FAIRQUED_NAMESPACE", "a b", f'namespace: expected {NAMESPACE}, found "a b"'),
        (
            "FAIRQUED_IMPORTS",
            "a,b c",
            'imports[1]: expected the dotted name of a module, such as myapp.tasks, found "b c"',
        ),
        ("FAIRQUED__REDIS__URL__X", "1", 'redis.url is "embedded": it holds no X'),
        ("FAIRQUED__USERS__bob__WEIGHT", "0", "users.bob.weight: expected a number >= 0.001, found 0"),
    ],
)
def test_the_place_of_a_value_from_the_environment_is_the_variable(
    write: Write, variable: str, value: str, expected: str
) -> None:
    assert mistakes_of(write(URL), **{variable: value}) == [f"{variable}: {expected}"]


def test_all_mistakes_are_told_in_the_order_of_their_places(write: Write) -> None:
    first = write("namespace: a b\nworker:\n  lease_seconds: 1\n  lease_second: 9\npartitions: 0\n", "z.yaml")
    second = write("limits:\n  payload_bytes: x\n", "a.yaml")
    lines = mistakes_of(first, second, FAIRQUED__LOGGING__LEVEL="x")
    places = [line.partition(": ")[0] for line in lines]
    # redis.url is missing from what both files say together
    assert places == [
        "z.yaml:1",
        "z.yaml:3",
        "z.yaml:4",
        "z.yaml:5",
        "a.yaml:1",
        "a.yaml:2",
        "FAIRQUED__LOGGING__LEVEL",
    ]
    assert lines[4].startswith("a.yaml:1: redis.url: is required")


def test_what_is_missing_is_told() -> None:
    assert mistakes_of() == [f"environment: redis.url: is required: expected {REDIS_URL}, found nothing"]
    with pytest.raises(ConfigError, match=r"^environment: state_dir: is required where none of \$STATE_DIRECTORY"):
        load([], {"FAIRQUED_REDIS_URL": "embedded"})


def test_a_rule_between_settings_waits_until_each_is_right(write: Write) -> None:
    path = write(URL + "worker: {lease_seconds: x, heartbeat_seconds: 100}\n")
    assert mistakes_of(path) == ['f.yaml:2: worker.lease_seconds: expected a number >= 4, found "x"']


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\n\tb: 2", "2: is not valid YAML: .*; indent with blanks, not with tabs"),
        ("redis:\n  url: embedded\n namespace: x", "3: is not valid YAML: .*"),
        ("redis: {url: embedded\nnamespace: x", r"2: is not valid YAML: .* that begins in line 1\)"),
        ("redis:\n  url: embedded\nworker: {lease_seconds: 15, hea", "3: is not valid YAML: .*"),
        ("redis:\n  url: embedded\nwor", "3: is not valid YAML: .*"),
        ('redis:\n  url: "embed', "2: is not valid YAML: .*"),
        ("a: 1\n---\nb: 2", "2: is not valid YAML: .*document.*"),
        ("a: *nowhere", "1: is not valid YAML: .*undefined alias.*"),
        ("a: 1\nb: \x00", "2: holds a character that YAML does not allow"),
        (b"a: 1\nb: \xff", "2: is not UTF-8 text"),
        ("# x\n- a", "2: expected a mapping of settings, found a list"),
        ("text", '1: expected a mapping of settings, found "text"'),
        ("5", "1: expected a mapping of settings, found 5"),
        ("a: " + "[" * 100_000, "1: is nested deeper than 32 levels"),
        ("a: &a [*a]", "1: is nested deeper than 32 levels once its aliases are expanded"),
        (
            "a: &a {x: 1}\nb: &b\n  <<: *b\n",
            "3: is nested deeper than 32 levels once its aliases are expanded",
        ),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
            r"\d+: has more than 200000 values once its aliases are expanded",
        ),
        (b"#" * (reading.MAX_FILE_BYTES + 1), " is larger than 4 MiB: not a configuration"),
    ],
    ids=lambda value: repr(value[:30]),
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
def test_a_file_that_is_no_configuration(
    write: Write, monkeypatch: pytest.MonkeyPatch, loader: object, content: str | bytes, expected: str
) -> None:
    monkeypatch.setattr(reading, "_LOADER", loader)
    (line,) = mistakes_of(write(content))
    assert re.fullmatch(f"f.yaml:{expected}", line), line


def test_files_that_cannot_be_read_are_all_told(write: Write, tmp_path: Path) -> None:
    lines = mistakes_of(tmp_path / "none.yaml", write("namespace: a b\n"), tmp_path, write("a: [", "half.yaml"))
    assert lines[0] == "none.yaml: cannot be read: No such file or directory"
    assert lines[1] == f"{tmp_path.name}: cannot be read: Is a directory"
    assert lines[2].startswith("half.yaml:1: is not valid YAML")
    assert len(lines) == 3


def test_lone_surrogates_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(URL + "namespace: ${BYTES}\nimports: ['\\ud800']\n".replace("'", '"'))
    monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)  # libyaml refuses the escape by itself
    assert mistakes_of(path, BYTES="\udcff") == [
        "f.yaml:2: namespace: is not valid Unicode",
        "f.yaml:3: imports[0]: is not valid Unicode",
    ]


def test_every_prefix_of_a_good_file_is_good_or_refused(write: Write) -> None:
    whole = BASE.read_text()
    refused = 0
    for end in range(0, len(whole), 211):
        try:
            load([write(whole[:end])], ENOUGH)
        except ConfigError:
            refused += 1
    assert refused > 3


# What is not yet in effect


def test_settings_that_are_not_yet_in_effect_are_named(write: Write) -> None:
    path = write(
        """
        redis: {url: embedded, wait_replicas: 1}
        partitions: 2
        middleware: [a:B]
        pools:
          - {name: a, queues: {x: 2}}
          - {name: b, queues: [y, {name: z, domain: y}], async_slots: 1, max_tasks: 1, max_rss_mb: 1}
        worker: {wedged_seconds: 9, max_crashes: 5, drain_seconds: 3}
        fairness: {group_separator: /}
        user_defaults: {max_queued: 1, rate: 1/s, max_share: 0.5, weight: 3}
        users: {al: {max_queued: 1, rate: 1/s, max_share: 0.5, weight: 3, max_running: 2}}
        groups: {g: {weight: 2}}
        task_defaults: {max_retries: 1}
        limits: {max_queued_per_queue: 1, payload_bytes: 5}
        security: {signing_keys_file: /k}
        metrics: {listen: "0.0.0.0:1"}
        schedules: [{id: s, cron: "0 9 * * *", task: t, user_id: u}]
        """
    )
    names_ = not_yet_in_effect(load([path], HOME))
    assert sorted(names_) == sorted(
        [
            "redis.wait_replicas",
            "task_defaults.max_retries",
            "limits.payload_bytes",
            "partitions",
            "middleware",
            "pools[0].queues",
            "pools[1].queues[1].domain",
            "pools[1].async_slots",
            "fairness.group_separator",
            "user_defaults.max_queued",
            "user_defaults.rate",
            "user_defaults.max_share",
            "users.al.max_queued",
            "users.al.rate",
            "users.al.max_share",
            "groups",
            "limits.max_queued_per_queue",
            "metrics.listen",
            "schedules",
        ]
    )


def test_defaults_are_in_effect_and_metrics_may_be_off() -> None:
    assert not_yet_in_effect(load([], ENOUGH)) == []
    assert not_yet_in_effect(load([], {**ENOUGH, "FAIRQUED__METRICS__LISTEN": "null"})) == []


# The files that are shipped, and the docs


def settings(group: type[Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of the schema as `pools[].threads`, with its default."""
    for setting in fields(group):
        name = prefix + setting.name
        inner = group_of(setting.type)
        entry = entry_of(setting.type)
        table = table_of(setting.type)
        below = group_of(entry) if entry is not None else group_of(table[1]) if table else None
        if inner is not None:
            yield from settings(inner, f"{name}.")
        if inner is None and (below is None or below is QueueSettings):
            yield name, setting.default
        if below is not None:
            yield from settings(below, f"{name}[].")


def keys_of(value: object, prefix: str = "") -> set[str]:
    """Every key of a YAML document as `pools[].threads`."""
    keys: set[str] = set()
    if isinstance(value, dict):
        for key, each in value.items():
            name = f"{prefix}[]" if prefix in ("users", "groups") else f"{prefix}.{key}" if prefix else key
            keys |= {name} | keys_of(each, name)
    elif isinstance(value, list):
        for each in value:
            keys |= keys_of(each, f"{prefix}[]")
    return keys


SCHEMA = dict(settings(Config))


def test_the_shipped_file_says_the_defaults() -> None:
    config = load([BASE], HOME)
    assert config == Config(
        redis=RedisSettings(url="unix:///run/redis/redis.sock"),
        imports=("myapp.tasks",),
        state_dir=Path("/home/me/.local/state/fairqued"),
    )
    assert not_yet_in_effect(config) == []


def test_the_shipped_file_has_every_setting_and_its_examples_are_right(write: Write) -> None:
    text = BASE.read_text()
    assert keys_of(yaml.safe_load(text)) >= {key for key in SCHEMA if "[]" not in key}
    whole = re.sub(r"^#(?=[^ ]|  )", "", text, flags=re.MULTILINE)
    config = load([write(whole)], HOME)
    assert keys_of(yaml.safe_load(whole)) >= SCHEMA.keys()
    assert config.pools[1].queue_domains == {"reports": "reports", "mail": "default"}
    assert config.limits_of("alice").max_running == 10
    assert config.schedules[0].timezone == "Europe/Paris"


OVERLAYS = sorted(set(names("etc")) - {"fairqued.yaml"})


def test_the_overlays_are_there() -> None:
    assert {"container.yaml", "development.yaml", "production.yaml"} <= set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_overlay_loads_over_the_shipped_file(overlay: str) -> None:
    environ = {**HOME, "FAIRQUED_DRAIN_SECONDS": "9", "REDIS_URL": "rediss://h/0"}
    config = load([BASE, ROOT / "etc" / overlay], environ)
    assert config != load([BASE], environ)
    assert not_yet_in_effect(config) == []
    assert config.imports == ("myapp.tasks",)
    assert [pool.name for pool in config.pools] == ["default"]
    expected = {
        "container.yaml": (config.worker.drain_seconds, 9),
        "development.yaml": (config.redis.url, "embedded"),
        "production.yaml": (config.redis.url, "rediss://h/0"),
    }
    found, wanted = expected[overlay]
    assert found == wanted


def documented() -> dict[str, tuple[str, str]]:
    """The rows of the table in the docs: setting to default and reload."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    cells = {key.replace(".NAME.", "[]."): [cell.strip() for cell in rest.split("|")] for key, rest in rows}
    return {key: (cell[1], cell[2]) for key, cell in cells.items()}


def test_the_docs_name_every_setting_with_its_default() -> None:
    table = documented()
    assert table.keys() == SCHEMA.keys()
    for key, default in SCHEMA.items():
        text = table[key][0]
        if key == "state_dir":
            continue
        if default is NODEFAULT or default is UNSET:
            assert text == ("required" if default is NODEFAULT else "as `user_defaults`"), key
        else:
            assert yaml.safe_load(text.strip("`")) == msgspec.json.decode(msgspec.json.encode(default)), key


def test_the_docs_mark_what_is_not_yet_in_effect() -> None:
    marked = {key for key, (_, reload) in documented().items() if reload == "⏳"}
    partly = {"pools[].queues"}
    patterns = NOT_YET_IN_EFFECT.keys() - partly
    assert marked == {key for key in SCHEMA if key in patterns or key.split("[]")[0] in patterns}
