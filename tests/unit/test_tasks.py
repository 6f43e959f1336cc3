"""`@task` and `Task`: what can be enqueued, how it is encoded, and how a worker gets its arguments back."""

import importlib
import inspect
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fairqued.tasks
from fairqued import InvalidTask, PayloadTooLarge, Priority, Task, TaskOptions, task
from fairqued.encoding import loads
from fairqued.tasks import MAX_SPEC_BYTES, REGISTRY, FunctionDefinition

if typing.TYPE_CHECKING:
    from fractions import Fraction


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, FunctionDefinition]:
    registry = dict(REGISTRY)
    monkeypatch.setattr(fairqued.tasks, "REGISTRY", registry)
    return registry


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: float
    y: float


@task
def thumbnail(path: str, width: int = 100, *, colours: int = 256) -> dict[str, int]:
    """Make it small."""
    return {path: width * colours}


@task(priority=Priority.HIGH, max_retries=3, queue="mail", name="report")
def report(kind: str) -> str:
    return kind


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task
def restoring(  # noqa: PLR0913, PLR0917 - one parameter for each kind of value
    when: datetime,
    ident: UUID,
    /,
    price: Decimal,
    colour: Colour,
    path: Path,
    point: Point,
    pair: tuple[int, str],
    tags: set[str],
    until: datetime | None,
    times: list[datetime],
    names: dict[int, str],
    *days: date,
    other: Path | None = None,
    **limits: timedelta,
) -> Point:
    raise NotImplementedError


@task
def plain(value: Any, /, *rest: Any, named: Any = None, **more: Any) -> Any:
    raise NotImplementedError


@task
def half_known(when: datetime, ratio: "Fraction") -> None:
    raise NotImplementedError


MOMENT = datetime(2030, 1, 2, 3, 4, 5, 6, UTC)
SPEC_OF_THUMBNAIL = f"{__name__}:thumbnail"


def spec_of(given: Task[Any]) -> dict[str, Any]:
    spec: dict[str, Any] = loads(given.encode_spec())
    return spec


def delivered(given: Task[Any]) -> inspect.BoundArguments:
    """The arguments as the worker's side restores them from what went through Redis."""
    spec = spec_of(given)
    return REGISTRY[spec["func"]].restore(spec.get("args", ()), spec.get("kwargs", {}))


# The decorated function


def test_a_decorated_function_is_the_same_object() -> None:
    def shrink(path: str) -> str:
        return path

    assert task(shrink) is shrink
    assert task(name="shrink")(shrink) is shrink
    assert inspect.isfunction(thumbnail)


def test_a_decorated_function_works_as_before() -> None:
    assert thumbnail("a.png", 2, colours=3) == {"a.png": 6}
    assert thumbnail.__name__ == "thumbnail"
    assert thumbnail.__doc__ == "Make it small."
    assert str(inspect.signature(thumbnail)).startswith("(path: str, width: int = 100, *")
    assert inspect.iscoroutinefunction(fetch)


def test_using_keeps_the_function_and_its_name() -> None:
    other = thumbnail.using(user_id="alice")
    assert other("a.png", 2, colours=3) == {"a.png": 6}
    assert other.__name__ == "thumbnail"
    assert other.__doc__ == "Make it small."
    assert other.using(queue="slow").task("a.png").user_id == "alice"


def test_the_registry_knows_name_and_aliases(own_registry: dict[str, FunctionDefinition]) -> None:
    @task(aliases=["old", "older"], retry_on=[OSError], no_retry_on=(FileNotFoundError,))
    def moved() -> None: ...

    definition = own_registry["old"]
    assert definition is own_registry["older"]
    assert definition is own_registry[f"{__name__}:{moved.__qualname__}"]
    assert definition.retry_on == (OSError,)
    assert definition.no_retry_on == (FileNotFoundError,)
    assert own_registry["report"].options == {"priority": Priority.HIGH, "max_retries": 3, "queue": "mail"}
    assert own_registry["report"].retry_on == (Exception,)


def test_one_decorator_can_be_used_twice(own_registry: dict[str, FunctionDefinition]) -> None:
    retried = task(max_retries=5, retry_on=[OSError])

    @retried
    def one() -> None: ...

    @retried
    def two() -> None: ...

    for function in (one, two):
        assert function.task().max_retries == 5
        assert own_registry[f"{__name__}:{function.__qualname__}"].retry_on == (OSError,)


def test_a_name_belongs_to_one_function(own_registry: dict[str, FunctionDefinition]) -> None:
    before = dict(own_registry)
    with pytest.raises(InvalidTask, match=f"^@task: the name 'report' is taken by {__name__}:report$"):

        @task(name="report")
        def other() -> None: ...

    with pytest.raises(InvalidTask, match="the name 'report' is taken by"):

        @task(aliases=["new", "report"])
        def third() -> None: ...

    assert own_registry == before


def test_a_module_can_be_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reloaded.py").write_text("from fairqued import task\n@task\ndef job(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded")
    again = importlib.reload(module)
    assert fairqued.tasks.REGISTRY["reloaded:job"].function is again.job


def generator() -> Iterator[int]:
    yield 1


class Holder:
    def method(self) -> None: ...

    @staticmethod
    def static() -> None: ...


NOT_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "method": (Holder.method, r"^@task: Holder\.method is a method; make it a function and pass what it needs$"),
    "static": (Holder.static, r"^@task: Holder\.static is a method; make it a function"),
    "bound method": (Holder().method, r"^@task: expected a function with a name, found <bound method"),
    "staticmethod": (staticmethod(generator), "expected a function with a name"),
    "class": (Holder, "expected a function with a name, found <class"),
    "builtin": (print, "expected a function with a name, found <built-in"),
    "lambda": (lambda: None, "expected a function with a name, found <function"),
    "number": (7, "expected a function with a name, found 7"),
    "text": ("mail", "expected a function with a name, found 'mail'"),
    "generator": (generator, "^@task: generator is a generator; a task returns one value, once$"),
}


@pytest.mark.parametrize(("thing", "why"), NOT_FUNCTIONS.values(), ids=NOT_FUNCTIONS)
def test_only_functions_are_decorated(thing: Any, why: str) -> None:
    with pytest.raises(InvalidTask, match=why):
        task(thing)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_retry": 3}, "^max_retry: is not an option of a task; did you mean max_retries?"),
        ({"max_retries": "3"}, "^max_retries: expected a whole number"),
        ({"timeout_seconds": -3}, "^timeout_seconds: expected seconds"),
        ({"unique_key": "a"}, "^unique_key: is not supported by this release"),
        ({"name": ""}, "^name: is empty"),
        ({"name": "a\n"}, "^name: .*control character"),
        ({"name": 7}, "^name: expected text, found int"),
        ({"aliases": "old"}, "^aliases: expected a list or tuple, found 'old'"),
        ({"aliases": [""]}, "^aliases: is empty"),
        ({"retry_on": ValueError}, "^retry_on: expected a list or tuple, found <class 'ValueError'>"),
        ({"retry_on": ["ValueError"]}, "^retry_on: expected exception classes, found 'ValueError'"),
        ({"no_retry_on": [int]}, "^no_retry_on: expected exception classes, found <class 'int'>"),
    ],
    ids=str,
)
def test_a_bad_option_is_refused_at_decoration(
    options: Any, why: str, own_registry: dict[str, FunctionDefinition]
) -> None:
    def job() -> None: ...

    before = dict(own_registry)
    with pytest.raises(InvalidTask, match=why):
        task(**options)(job)
    assert own_registry == before
    assert not hasattr(job, "task")


def test_a_bad_option_is_refused_by_using() -> None:
    with pytest.raises(InvalidTask, match=r"^priorty: is not an option of a task; did you mean priority\?$"):
        thumbnail.using(priorty=Priority.HIGH)  # type: ignore[call-arg]
    with pytest.raises(InvalidTask, match=r"^queue: "):
        thumbnail.using(queue="a b")
    with pytest.raises(InvalidTask, match=r"^depends_on: is not supported"):
        thumbnail.using(depends_on=["a"])


# The call as a task


def test_a_call_becomes_a_task_with_the_options_of_its_function() -> None:
    made = report.using(user_id="alice", max_retries=1).task("weekly")
    assert made == Task(
        func="report", args=["weekly"], user_id="alice", max_retries=1, priority=Priority.HIGH, queue="mail"
    )
    assert report.task("weekly").max_retries == 3


@pytest.mark.parametrize(
    ("make", "args", "kwargs"),
    [
        (lambda: thumbnail.task("a"), ["a"], {}),
        (lambda: thumbnail.task("a", 2), ["a", 2], {}),
        (lambda: thumbnail.task(path="a", width=2), ["a", 2], {}),
        (lambda: thumbnail.task("a", colours=2), ["a"], {"colours": 2}),
        (lambda: plain.task(1), [1], {}),
        (lambda: plain.task(1, 2, 3), [1, 2, 3], {}),
        (lambda: plain.task(1, named=2, value=3), [1], {"named": 2, "value": 3}),
    ],
)
def test_arguments_stand_in_the_spec(make: Callable[[], Task[Any]], args: list[Any], kwargs: dict[str, Any]) -> None:
    made = make()
    assert (made.args, made.kwargs) == (args, kwargs)
    spec = spec_of(made)
    assert (spec["args"], spec.get("kwargs", {})) == (args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "missing a required argument: 'path'"),
        (("a", 1, 2), {}, "too many positional arguments"),
        (("a",), {"height": 1}, "got an unexpected keyword argument 'height'"),
        (("a",), {"path": "b"}, "multiple values for argument 'path'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: Any, kwargs: Any, why: str) -> None:
    with pytest.raises(InvalidTask, match=f"^{SPEC_OF_THUMBNAIL}: {why}"):
        thumbnail.task(*args, **kwargs)


def test_a_missing_keyword_only_argument_is_refused() -> None:
    @task(name="strict")
    def strict(value: int, *, unit: str) -> None: ...

    with pytest.raises(InvalidTask, match=r"^strict: missing a required.* argument: 'unit'"):
        strict.task(1)  # type: ignore[call-arg]
    assert strict.task(1, unit="m").kwargs == {"unit": "m"}


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: thumbnail.task({1, 2}), "path"),  # type: ignore[arg-type]
        (lambda: thumbnail.task("a", width=[float("nan")]), "width[0]"),  # type: ignore[arg-type]
        (lambda: thumbnail.task("a", colours=2**64), "colours"),
        (lambda: plain.task({"a": [b""]}), "value['a'][0]"),
        (lambda: plain.task(1, 2, {3: 4}), "rest[3]"),
        (lambda: plain.task(1, other="\ud800"), "more"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(make: Callable[[], Task[Any]], place: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        make()
    name = "thumbnail" if place.startswith(("path", "width", "colours")) else "plain"
    assert str(caught.value).startswith(f"{__name__}:{name}: {place}: ")


def test_arguments_are_encoded_when_the_task_is_made() -> None:
    changing: dict[str, Any] = {"a": [1]}
    made = plain.task(changing)
    by_hand = Task[Any](payload=changing)
    changing["a"].append(float("nan"))
    assert spec_of(made)["args"] == [{"a": [1]}]
    assert spec_of(by_hand) == {"payload": {"a": [1]}}


def test_main_is_refused_with_a_hint() -> None:
    program = (
        "from fairqued import InvalidTask, task\n"
        "@task\n"
        "def job(): return 7\n"
        "@task(name='named')\n"
        "def other(): return 8\n"
        "print(job(), other.task().func)\n"
        "try:\n"
        "    job.task()\n"
        "except InvalidTask as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == (
        "7 named\n"
        "job: is defined in __main__, which workers cannot import; "
        "move it to a module, and name that module in `imports`\n"
    )


# Round trips through JSON


def test_annotated_arguments_come_back_exactly() -> None:
    args = (
        MOMENT, UUID(int=7), Decimal("1.10"), Colour.RED, Path("a/b"), Point(0.5, 1.5), (1, "a"), {"x", "y"}, None,
        [MOMENT, MOMENT], {1: "one"}, date(2030, 1, 1), date(2030, 1, 2),
    )  # fmt: skip
    kwargs: dict[str, Any] = {"other": Path("c"), "soft": timedelta(seconds=1.5), "hard": timedelta(days=-1)}
    bound = delivered(restoring.task(*args, **kwargs))
    assert bound.args == args
    assert bound.kwargs == kwargs
    assert [type(each) for each in bound.args] == [type(each) for each in args]


def test_the_name_of_a_variadic_parameter_is_no_special_name() -> None:
    @task(name="variadic")
    def variadic(*args: date, **kwargs: date) -> None: ...

    one, two = date(2030, 1, 1), date(2030, 1, 2)
    made = variadic.task(one, args=one, kwargs=two, other=two)
    spec = spec_of(made)
    bound = fairqued.tasks.REGISTRY["variadic"].restore(spec["args"], spec["kwargs"])
    assert bound.args == (one,)
    assert bound.kwargs == {"args": one, "kwargs": two, "other": two}


def test_parameters_may_have_any_name() -> None:
    @task(name="names")
    def names(self: int, args: int, kwargs: int, function: int, template: int) -> None: ...

    given = {"self": 1, "args": 2, "kwargs": 3, "function": 4, "template": 5}
    assert names.task(**given).args == [1, 2, 3, 4, 5]
    assert names.using(user_id="alice").task(**given).args == [1, 2, 3, 4, 5]
    assert names.using(user_id="alice")(**given) is None


def test_an_annotated_argument_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidTask, match=rf"^{__name__}:half_known: when: Expected `datetime`, got `int`"):
        half_known.task(7, None)  # type: ignore[arg-type]


def test_an_unknown_annotation_spoils_no_other_and_is_named() -> None:
    assert half_known.task(MOMENT, 0.5).args == ["2030-01-02T03:04:05.000006Z", 0.5]  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=r"half_known: ratio \(its annotation is unknown at run time\): .*Decimal"):
        half_known.task(MOMENT, Decimal(1))  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_the_function_are_told_to_the_worker() -> None:
    definition = REGISTRY[f"{__name__}:half_known"]
    with pytest.raises(TypeError, match="missing a required argument"):
        definition.restore([], {})
    with pytest.raises(ValueError, match="Invalid RFC3339"):
        definition.restore(["yesterday", 1], {})


def test_the_return_annotation_goes_along() -> None:
    assert restoring.task.__self__.definition.returns is Point  # type: ignore[attr-defined]
    assert Task[Any](func="a").returns is None
    assert thumbnail.task("a").returns is None


no_surrogates = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | no_surrogates,
    lambda inner: st.lists(inner) | st.dictionaries(no_surrogates, inner),
    max_leaves=20,
)  # fmt: skip


@unhurried
@given(st.lists(json_values, min_size=1), json_values, st.dictionaries(no_surrogates, json_values))
def test_any_json_comes_back_exactly(args: list[Any], named: Any, more: dict[str, Any]) -> None:
    more.pop("named", None)
    bound = delivered(plain.task(*args, named=named, **more))
    assert repr(bound.args) == repr(tuple(args))
    assert repr(bound.kwargs) == repr({"named": named, **more})


# Task itself


def test_a_payload_for_a_handler() -> None:
    assert spec_of(Task(payload={"kind": "report"})) == {"payload": {"kind": "report"}}
    assert spec_of(Task()) == {"payload": None}


def test_a_function_by_name() -> None:
    assert spec_of(Task(func="a:b", args=(1, 2), kwargs={"c": 3})) == {
        "func": "a:b",
        "args": [1, 2],
        "kwargs": {"c": 3},
    }


def test_options_stand_in_the_spec_only_if_they_differ_from_the_defaults() -> None:
    assert spec_of(Task(func="a", user_id="alice", task_id="1", queue="mail", priority=Priority.LOW)) == {"func": "a"}
    made = Task[Any](
        func="a",
        max_retries=3,
        retry_backoff_seconds=(1, 2.5),
        retry_backoff_max_seconds=60,
        store_result=False,
        result_ttl_seconds=5,
        timeout_seconds=30,
        meta={"trace": "1"},
    )
    assert spec_of(made) == {
        "func": "a",
        "max_retries": 3,
        "backoff": [1.0, 2.5],
        "backoff_max": 60.0,
        "store_result": False,
        "result_ttl": 5.0,
        "timeout": 30.0,
        "meta": {"trace": "1"},
    }


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"payload": float("nan")}, "^payload: nan has no form in JSON"),
        ({"payload": {"a": {1}}}, r"^payload\['a'\]: builtins\.set has no form in JSON"),
        ({"func": "a", "args": [b""]}, r"^args\[0\]: builtins\.bytes has no form"),
        ({"func": "a", "args": "abc"}, "^args: expected a list or tuple, found 'abc'"),
        ({"func": "a", "args": {"a": 1}}, "^args: expected a list or tuple"),
        ({"func": "a", "kwargs": [("a", 1)]}, "^kwargs: expected a mapping"),
        ({"func": "a", "kwargs": {1: 2}}, r"^kwargs\[1\]: the key is int"),
        ({"func": ""}, "^func: is empty"),
        ({"func": 7}, "^func: expected text"),
        ({"func": "a", "payload": 1}, "^payload and func are both given"),
        ({"args": [1]}, "^args and kwargs are given without func"),
        ({"payload": 1, "kwargs": {"a": 1}}, "^args and kwargs are given without func"),
        ({"queue": "a b"}, "^queue: 'a b' is not allowed"),
        ({"priority": 3}, "^priority: expected a Priority, found 3"),
        ({"delay_seconds": 1, "run_at": MOMENT}, "^delay_seconds and run_at are both given"),
        ({"expires_seconds": 3}, "^expires_seconds: is not supported by this release"),
        ({"unique_key": "a"}, "^unique_key: is not supported by this release"),
    ],
    ids=str,
)
def test_a_task_that_cannot_be_is_refused(fields: Any, why: str) -> None:
    with pytest.raises(InvalidTask, match=why):
        Task(**fields)


def test_other_options_make_another_task() -> None:
    one = thumbnail.task("a.png")
    other = one.with_options({"user_id": "alice", "delay_seconds": 3})
    assert (one.user_id, one.delay_seconds) == (None, None)
    assert (other.user_id, other.delay_seconds, other.args) == ("alice", 3, ["a.png"])
    assert other.encode_spec() == one.encode_spec()
    assert one.with_options({}) is one


def test_the_later_time_wins() -> None:
    later = thumbnail.using(delay_seconds=3).using(run_at=MOMENT).task("a")
    assert (later.delay_seconds, later.run_at) == (None, MOMENT)
    sooner = later.with_options({"delay_seconds": 1})
    assert (sooner.delay_seconds, sooner.run_at) == (1, None)


def test_a_bad_option_of_a_task_is_refused() -> None:
    options: TaskOptions = {"user_idd": "alice"}  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidTask, match=r"^user_idd: is not an option of a task; did you mean user_id\?"):
        thumbnail.task("a").with_options(options)


def test_a_task_cannot_be_changed_but_copied() -> None:
    made = thumbnail.task("a")
    with pytest.raises(AttributeError):
        made.user_id = "alice"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(made)) == made
    assert pickle.loads(pickle.dumps(made)).encode_spec() == made.encode_spec()
    assert spec_of(replace(made, args=["b"], queue="mail")) == {"func": SPEC_OF_THUMBNAIL, "args": ["b"]}


@pytest.mark.parametrize("options", [{}, {"max_retries": 3, "meta": {"a": "b"}}], ids=["bare", "with options"])
def test_a_spec_holds_256_kib(options: TaskOptions) -> None:
    room = MAX_SPEC_BYTES - len(Task[Any](payload="").with_options(options).encode_spec())
    largest = Task[Any](payload="x" * room).with_options(options)
    assert len(largest.encode_spec()) == MAX_SPEC_BYTES == 262_144
    with pytest.raises(PayloadTooLarge, match=r"take 262145 bytes, at most 262144 are allowed: store the data else"):
        Task[Any](payload="x" * (room + 1)).with_options(options).encode_spec()
