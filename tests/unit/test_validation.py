"""Ids, names, sizes and options: what is allowed passes as it is, anything else is refused by name."""

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairqued.errors import InvalidTask
from fairqued.state import Priority
from fairqued.tasks import TaskOptions
from fairqued.validation import (
    OPTION_NAMES,
    check_count,
    check_id,
    check_meta,
    check_options,
    check_queue_name,
    check_seconds,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


WELCOME = {
    "blank": " ",
    "glob": "*?[a-z]",
    "braces": "{fairque}:task:{x}",
    "colons": "a:b:c",
    "slashes": "../../etc/passwd",
    "newest emoji": "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{BOY}",
    "quotes": "'; FLUSHALL \"",
    "percent": "%s%n{0}",
    "longest": "ü" * 200,
    "NFC": unicodedata.normalize("NFC", "é"),
    "NFD": unicodedata.normalize("NFD", "é"),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "empty": ("", "is empty"),
    "too long": ("x" * 201, "has 201 characters, at most 200 are allowed"),
    "1 MB": ("x" * 1_000_000, "has 1000000 characters, at most 200 are allowed"),
    "NUL": ("a\0b", "holds a control character"),
    "newline": ("a\nb", "holds a control character"),
    "DEL": ("\x7f", "holds a control character"),
    "C1": ("\x9f", "holds a control character"),
    "line separator": ("\u2028", "holds a control character"),
    "lone surrogate": ("\ud800", "lone surrogate"),
    "bytes": (b"alice", "expected text, found bytes"),
    "number": (7, "expected text, found int"),
    "none": (None, "expected text, found NoneType"),
}


@pytest.mark.parametrize("value", WELCOME.values(), ids=WELCOME)
def test_any_text_is_an_id(value: str) -> None:
    assert check_id(value, "user_id") == value


@pytest.mark.parametrize(("value", "why"), REFUSED.values(), ids=REFUSED)
def test_a_bad_id_is_refused_by_name(value: object, why: str) -> None:
    with pytest.raises(InvalidTask, match=why) as caught:
        check_id(value, "user_id")
    assert str(caught.value).startswith("user_id: ")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@unhurried
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=200))
def test_an_id_stays_as_it_is(value: str) -> None:
    assert check_id(value, "task_id") is value


@pytest.mark.parametrize("value", ["default", "a", "A-1_b.c", "x" * 100])
def test_a_queue_name(value: str) -> None:
    assert check_queue_name(value) == value


@pytest.mark.parametrize("value", ["", "x" * 101, "a b", "a:b", "a/b", "ä", "mail!", "a\n", None, 7, b"mail"])
def test_a_bad_queue_name_is_refused(value: object) -> None:
    with pytest.raises(InvalidTask, match=r"^queue: .*is not allowed; expected 1 to 100 of the characters"):
        check_queue_name(value)


@pytest.mark.parametrize("value", [0, 3, 65_535])
def test_a_count(value: int) -> None:
    assert check_count(value, "max_retries") == value


@pytest.mark.parametrize("value", [-1, 65_536, 1.0, "3", True, None, 10**100])
def test_a_bad_count_is_refused(value: object) -> None:
    with pytest.raises(InvalidTask, match=r"^max_retries: expected a whole number from 0 to 65535, found "):
        check_count(value, "max_retries")


@pytest.mark.parametrize("value", [0, 0.5, 315_360_000])
def test_seconds(value: float) -> None:
    assert check_seconds(value, "delay_seconds") == value


@pytest.mark.parametrize("value", [-0.001, 315_360_001, nan, inf, -inf, "1", True, None, 10**400])
def test_bad_seconds_are_refused(value: object) -> None:
    with pytest.raises(InvalidTask, match=r"^delay_seconds: expected seconds from 0 to 3.1536e"):
        check_seconds(value, "delay_seconds")


def test_meta_holds_4_kib_of_text() -> None:
    fits = {"trace": "ü" * 2045, "\n": "{}"}
    assert sum(len(key.encode()) + len(value.encode()) for key, value in fits.items()) == 4098
    with pytest.raises(InvalidTask, match=r"^meta: 4098 bytes, at most 4096 are allowed$"):
        check_meta(fits)
    fits["\n"] = ""
    assert check_meta(fits) == fits
    assert check_meta({}) == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([("a", "b")], "expected a mapping of text to text, found list"),
        ("ab", "expected a mapping of text to text, found str"),
        ({"a": 1}, "expected text to text, found str to int"),
        ({1: "a"}, "expected text to text, found int to str"),
        ({"a": None}, "found str to NoneType"),
        ({"a": "\udc80"}, "lone surrogate"),
        ({"\udc80": ""}, "lone surrogate"),
    ],
)
def test_bad_meta_is_refused(value: object, why: str) -> None:
    with pytest.raises(InvalidTask, match=f"^meta.*{why}"):
        check_meta(value)


def test_the_options_are_those_of_the_public_type() -> None:
    assert frozenset(TaskOptions.__annotations__) == OPTION_NAMES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_id", ""),
        ("user_id", 7),
        ("queue", "a b"),
        ("priority", 3),
        ("priority", "high"),
        ("priority", None),
        ("delay_seconds", -1),
        ("run_at", "2030-01-01"),
        ("run_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - that is the mistake
        ("max_retries", -1),
        ("retry_backoff_seconds", "1"),
        ("retry_backoff_seconds", b"1"),
        ("retry_backoff_seconds", [1, -1]),
        ("retry_backoff_seconds", None),
        ("retry_backoff_max_seconds", nan),
        ("store_result", 1),
        ("result_ttl_seconds", 0),
        ("timeout_seconds", 0),
        ("timeout_seconds", nan),
        ("timeout_seconds", "30"),
        ("meta", None),
    ],
)
def test_a_bad_value_of_an_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidTask, match=f"^{name}"):
        check_options({name: value})


WEST = timezone(-timedelta(hours=12))


@pytest.mark.parametrize(
    "moment",
    [datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=WEST), datetime(9000, 1, 1, tzinfo=UTC),
     datetime.now(UTC) + timedelta(days=3700), datetime(1899, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=UTC)],
)  # fmt: skip
def test_a_moment_out_of_reach_is_refused(moment: datetime) -> None:
    with pytest.raises(InvalidTask, match=r"^run_at: expected a time from 1900 to ten years from now, found "):
        check_options({"run_at": moment})


@pytest.mark.parametrize("moment", [datetime.now(UTC) + timedelta(days=3653), datetime(1950, 1, 1, tzinfo=WEST)])
def test_a_moment_within_ten_years(moment: datetime) -> None:
    check_options({"run_at": moment})


def test_good_values_of_options() -> None:
    check_options(
        {
            "task_id": "1",
            "user_id": "alice",
            "queue": "mail",
            "priority": Priority.CRITICAL,
            "run_at": datetime(2030, 1, 1, tzinfo=UTC),
            "max_retries": 3,
            "retry_backoff_seconds": [1, 2.5],
            "retry_backoff_max_seconds": 0,
            "store_result": False,
            "result_ttl_seconds": 0.001,
            "timeout_seconds": 0.001,
            "meta": {"a": "b"},
        }
    )
    check_options({"delay_seconds": 0, "retry_backoff_seconds": ()})


@pytest.mark.parametrize(
    "name", ["expires_seconds", "depends_on", "on_parent_failure", "missing_parents", "unique_key"]
)
def test_an_option_of_a_later_release_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidTask, match=f"^{name}: is not supported by this release of fairqued$"):
        check_options({name: None})


@pytest.mark.parametrize(
    ("name", "near"), [("prioritty", "priority"), ("user", "user_id"), ("max_retry", "max_retries"), ("delay", None)]
)
def test_an_unknown_option_is_refused_with_the_nearest_name(name: str, near: str | None) -> None:
    with pytest.raises(InvalidTask, match=f"^{name}: is not an option of a task") as caught:
        check_options({name: 1})
    if near:
        assert str(caught.value).endswith(f"; did you mean {near}?")


def test_two_times_for_one_task_are_refused() -> None:
    with pytest.raises(InvalidTask, match="delay_seconds and run_at are both given"):
        check_options({"delay_seconds": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)})
