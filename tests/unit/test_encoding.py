"""JSON gives back exactly what was put in, or the value is refused with its place."""

import decimal
import enum
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairqued.encoding import check_json, dumps, from_json_value, loads, restores, to_json_value
from fairqued.errors import InvalidTask

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


PARIS = ZoneInfo("Europe/Paris")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Word(str):
    """Text of a kind of its own."""

    __slots__ = ()


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Order:
    at: datetime
    prices: list[Decimal]
    where: Point | None = None
    tags: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Bare:
    """Never equal to another one."""

    at: datetime


class Row(NamedTuple):
    number: int
    when: date


class Options(TypedDict, total=False):
    since: date
    limit: int


class Unheard:
    """JSON has no form for it, and nothing restores it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


def nested(depth: int, *, as_dict: bool = False) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if as_dict else [value]
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


# Plain JSON

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


def same(one: Any, other: Any) -> bool:
    """Equality that tells 1, 1.0 and True, 0.0 and -0.0 apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other) and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@unhurried
@given(plain_values)
def test_a_plain_value_comes_back_exactly(value: Any) -> None:
    check_json(value, "value")
    assert same(loads(dumps(value)), value)
    assert same(json.loads(dumps(value)), value)
    assert to_json_value(value, None, "value") is value


REFUSED: dict[str, tuple[Any, str]] = {
    "NaN": (math.nan, "value: nan has no form in JSON"),
    "infinity": ([1, math.inf], "value[1]: inf has no form in JSON"),
    "lone surrogate": ({"a": "\ud800"}, "value['a']: text with a lone surrogate is not valid Unicode"),
    "lone surrogate in a key": ({"\udfff": 1}, r"value['\udfff']: a key with a lone surrogate is not valid Unicode"),
    "2**64": (2**64, "value: an integer beyond 64 bits is not portable JSON"),
    "-2**63-1": ([[-(2**63) - 1]], "value[0][0]: an integer beyond 64 bits is not portable JSON"),
    "bytes": (b"a", "value: builtins.bytes has no form in JSON"),
    "number as key": ({"a": {1: 2}}, "value['a'][1]: the key is int; JSON keys are text"),
    "None as key": ({None: 2}, "value[None]: the key is NoneType; JSON keys are text"),
    "set": ({1}, "value: builtins.set has no form in JSON"),
    "tuple": ([(1, 2)], "value[0]: builtins.tuple has no form in JSON"),
    "datetime": (datetime(2030, 1, 1, tzinfo=UTC), "value: datetime.datetime has no form in JSON"),
    "UUID": (UUID(int=1), "value: uuid.UUID has no form in JSON"),
    "Decimal": (Decimal(1), "value: decimal.Decimal has no form in JSON"),
    "enum": (Colour.RED, "Colour has no form in JSON"),
    "enum of numbers": (Size.SMALL, "Size has no form in JSON"),
    "kind of text": (Word("a"), "Word has no form in JSON"),
    "dataclass": ({"p": Point(1)}, "Point has no form in JSON"),
    "object": (object(), "value: builtins.object has no form in JSON; convert it"),
    "class": (int, "value: builtins.type has no form in JSON; convert it"),
    "object without repr": (Unheard(), "Unheard has no form in JSON; convert it"),
    "cycle": (cycle(), "nested deeper than 100 levels, or a cycle"),
    "nested": (nested(101), "nested deeper than 100 levels, or a cycle"),
    "nested 10,000 deep": (nested(10_000), "nested deeper than 100 levels, or a cycle"),
    "dicts nested 10,000 deep": (nested(10_000, as_dict=True), "nested deeper than 100 levels, or a cycle"),
}


@pytest.mark.parametrize(("value", "why"), REFUSED.values(), ids=REFUSED)
def test_what_json_would_change_or_lose_is_refused_with_its_place(value: Any, why: str) -> None:
    for annotation in (None, Any, dict[str, object]):
        with pytest.raises(InvalidTask) as caught:
            to_json_value(value, annotation, "value")
        assert why in str(caught.value)
        assert str(caught.value).startswith("value")
        assert len(str(caught.value)) < 300


def test_100_levels_pass() -> None:
    value = nested(100)
    assert loads(dumps(to_json_value(value, None, "value"))) == value


def test_a_remedy_is_offered_where_there_is_one() -> None:
    with pytest.raises(InvalidTask, match="annotate the parameter with its type"):
        check_json(datetime.now(UTC), "value")
    with pytest.raises(InvalidTask, match=r"convert it$"):
        check_json(Unheard(), "value")


def test_long_keys_do_not_make_long_messages() -> None:
    with pytest.raises(InvalidTask) as caught:
        check_json({"k" * 1_000_000: {1, 2}}, "value")
    assert len(str(caught.value)) < 200


# Values that an annotation restores

Day = NewType("Day", date)
SUMMER = datetime(2030, 7, 1, 12, 30, 15, 123_456, PARIS)

RESTORED: dict[str, tuple[Any, Any]] = {
    "aware datetime": (datetime, datetime(2030, 1, 1, 2, 3, 4, 5, UTC)),
    "naive datetime": (datetime, datetime(2030, 1, 1, 2, 3, 4)),  # noqa: DTZ001 - it stays naive
    "datetime with an offset": (datetime, datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    "datetime with a zone": (datetime, SUMMER),
    "date": (date, date(2030, 2, 28)),
    "time": (time, time(23, 59, 59, 999_999)),
    "timedelta": (timedelta, timedelta(days=-3, microseconds=7)),
    "UUID": (UUID, UUID("12345678-1234-5678-1234-567812345678")),
    "Decimal": (Decimal, Decimal("1.10")),
    "large Decimal": (Decimal, Decimal("-1E+400")),
    "Enum": (Colour, Colour.BLUE),
    "IntEnum": (Size, Size.SMALL),
    "Path": (Path, Path("a/../b c.png")),
    "PurePosixPath": (PurePosixPath, PurePosixPath("/")),
    "bytes": (bytes, bytes(range(256))),
    "dataclass": (Point, Point(1.5, -0.0)),
    "nested dataclasses": (Order, Order(SUMMER, [Decimal("0.10"), Decimal(2)], Point(1, 2), frozenset({"a", "b"}))),
    "dataclass without equality": (list[Point], [Point(0.1)]),
    "tuple": (tuple[int, str], (1, "a")),
    "tuple of any length": (tuple[float, ...], (0.5, 1.5)),
    "tuple of tuples": (tuple[tuple[int, int], ...], ((1, 2), (3, 4))),
    "bare tuple": (tuple, (1, "a", None)),
    "set": (set[int], {3, 1, 2}),
    "empty set": (set[int], set()),
    "frozenset of enums": (frozenset[Colour], frozenset({Colour.RED, Colour.BLUE})),
    "NamedTuple": (Row, Row(1, date(2030, 1, 1))),
    "TypedDict": (Options, {"since": date(2030, 1, 1), "limit": 3}),
    "optional, given": (datetime | None, SUMMER),
    "optional, none": (datetime | None, None),
    "typing.Optional": (typing.Optional[Path], Path("a")),  # noqa: UP045 - users write it
    "union with a number": (Decimal | int, 3),
    "list of datetimes": (list[datetime], [SUMMER, datetime(2030, 1, 1, tzinfo=UTC)]),
    "sequence of dates": (Sequence[date], [date(2030, 1, 1)]),
    "dict of paths": (dict[str, Path], {"a": Path("b")}),
    "numbers as keys": (dict[int, str], {1: "a", -2: "b"}),
    "dates as keys": (dict[date, list[int]], {date(2030, 1, 1): [1]}),
    "enums as keys": (dict[Colour, Size], {Colour.RED: Size.SMALL}),
    "NewType": (Day, date(2030, 1, 1)),
    "list of NewType": (list[Day], [date(2030, 1, 1)]),
}


@pytest.mark.parametrize(("annotation", "value"), RESTORED.values(), ids=RESTORED)
def test_an_annotation_restores_exactly(annotation: Any, value: Any) -> None:
    assert restores(annotation)
    plain = to_json_value(value, annotation, "value")
    check_json(plain, "plain")
    restored = from_json_value(loads(dumps(plain)), annotation)
    assert type(restored) is type(value)
    assert restored == value
    if not isinstance(value, AbstractSet):  # whose order may change
        assert to_json_value(restored, annotation, "value") == plain


@pytest.mark.parametrize("hour", range(4))
@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("day", [date(2030, 10, 27), date(2030, 3, 31)], ids=["repeated hour", "skipped hour"])
def test_times_in_a_repeated_or_skipped_hour_keep_their_instant(day: date, hour: int, fold: int) -> None:
    moment = datetime.combine(day, time(hour, 30, fold=fold), PARIS)
    annotations: list[tuple[Any, Any, Callable[[Any], datetime]]] = [
        (datetime, moment, lambda value: value),
        (list[datetime], [moment], lambda value: value[0]),
        (tuple[datetime, ...], (moment,), lambda value: value[0]),
        (dict[str, datetime], {"at": moment}, lambda value: value["at"]),
        (Order, Order(moment, []), lambda value: value.at),
        (Bare, Bare(moment), lambda value: value.at),
    ]
    for annotation, value, find in annotations:
        restored = from_json_value(loads(dumps(to_json_value(value, annotation, "value"))), annotation)
        assert find(restored).astimezone(UTC) == moment.astimezone(UTC)


@dataclass
class Point3(Point):
    z: float = 0.0


WOULD_CHANGE: dict[str, tuple[Any, Any]] = {
    "tuple for a sequence": (Sequence[date], (date(2030, 1, 1),)),
    "tuple within a list": (list[Sequence[date]], [(date(2030, 1, 1),)]),
    "datetime for a date": (date, datetime(2030, 1, 1, tzinfo=UTC)),
    "text for an enum": (Colour, "red"),
    "text for a datetime": (list[datetime], ["2030-01-01T00:00:00Z"]),
    "wrong type": (datetime, 7),
    "none": (datetime, None),
    "number for a bool": (tuple[bool, ...], (1,)),
    "offset with seconds": (datetime, datetime(1900, 1, 1, tzinfo=PARIS)),
    "NaN inside": (Point, Point(math.nan)),
    "Decimal NaN": (Decimal, Decimal("NaN")),
    "signalling NaN": (Decimal, Decimal("sNaN")),
    "lone surrogate inside": (Path, Path("\udcff")),
    "integer beyond 64 bits inside": (tuple[int, ...], (2**64,)),
    "unknown key of a TypedDict": (Options, {"limit": 3, "offset": 1}),
    "subclass": (Path | None, PurePosixPath("a")),
    "unknown object inside": (list[Decimal | Any], [Unheard()]),
    "subclass inside": (list[Point], [Point3(1, 2, 3)]),
    "cycle": (tuple, (cycle(),)),
    "10,000 deep": (tuple, (nested(10_000),)),
    "tuple as a key": (dict[tuple[int, int], int], {(1, 2): 3}),
    "two keys of one text": (dict[int | str, int], {1: 1, "1": 2}),
}


@pytest.mark.parametrize(("annotation", "value"), WOULD_CHANGE.values(), ids=WOULD_CHANGE)
def test_what_would_come_back_otherwise_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^value(\[.*\])?: ") as caught:
        to_json_value(value, annotation, "value")
    assert len(str(caught.value)) < 400


@unhurried
@given(
    st.builds(
        Order,
        st.datetimes(timezones=st.timezones()).filter(lambda moment: moment.year > 1970),
        st.lists(st.decimals(allow_nan=False, allow_infinity=False)),
        st.none() | st.builds(Point, st.floats(allow_nan=False, allow_infinity=False)),
        st.frozensets(st.text(st.characters(exclude_categories=["Cs"]))),
    )
)
def test_dataclasses_come_back_exactly(order: Order) -> None:
    restored = from_json_value(loads(dumps(to_json_value(order, Order, "order"))), Order)
    assert restored.at.isoformat() == order.at.isoformat()
    assert (restored.prices, restored.where, restored.tags) == (order.prices, order.where, order.tags)


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        Any,
        object,
        None,
        list,
        dict,
        typing.List,  # noqa: UP006 - users write it
        typing.Dict,  # noqa: UP006
        dict[str, list[int]],
        Mapping[str, Any],
        Sequence[str],
        Iterable[int],
        int | str | None,
        Literal["a", "b"],
        Unheard,
        Unheard | None,
        str | UUID,
        NewType("Name", str),
        typing.TypeVar("T"),
        typing.Annotated[int, []],
        "datetime",
    ],
    ids=str,
)
def test_annotations_that_restore_nothing_leave_plain_json_alone(annotation: Any) -> None:
    assert not restores(annotation)
    for value in (None, [1], {"a": "b"}, "text", 7):
        assert to_json_value(value, annotation, "value") is value
        assert from_json_value(value, annotation) is value


def test_an_iterable_of_more_than_json_asks_for_a_list() -> None:
    with pytest.raises(InvalidTask, match="annotate with a concrete type, such as list"):
        to_json_value([date(2030, 1, 1)], Iterable[date], "value")


def test_the_context_of_decimals_does_not_matter() -> None:
    with decimal.localcontext(prec=3):
        assert to_json_value(Decimal("1.23456789"), Decimal, "value") == "1.23456789"
