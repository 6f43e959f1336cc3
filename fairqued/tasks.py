"""`Task`, and `@task`, which makes a Python function one that can be enqueued."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, get_type_hints, overload

from fairqued.encoding import dumps, needs_restoring, to_json_value
from fairqued.errors import InvalidTask, PayloadTooLarge
from fairqued.state import Priority
from fairqued.validation import check_count, check_id, check_meta, check_queue_name, check_seconds

if TYPE_CHECKING:
    from fairqued.queue import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)

MAX_SPEC_BYTES = 262_144
DEFAULT_QUEUE = "default"
DEFAULT_RESULT_TTL_SECONDS = 86_400.0
DEFAULT_BACKOFF_SECONDS = 1.0
DEFAULT_BACKOFF_MAX_SECONDS = 3600.0


class TaskOptions(TypedDict, total=False):
    """Options of a task: for `@task`, `.using()`, `Task` and `enqueue`."""

    task_id: str
    user_id: str
    queue: str
    priority: Priority
    delay_seconds: float
    run_at: datetime
    max_retries: int
    retry_backoff_seconds: float | Sequence[float]
    retry_backoff_max_seconds: float
    store_result: bool
    result_ttl_seconds: float
    meta: Mapping[str, str]
    # Accepted by name only, and refused until they work:
    expires_seconds: float
    depends_on: object
    on_parent_failure: str
    missing_parents: str
    timeout_seconds: float
    unique_key: str


NOT_YET = ("expires_seconds", "depends_on", "on_parent_failure", "missing_parents", "timeout_seconds", "unique_key")


@dataclass(frozen=True, kw_only=True)
class Task(Generic[R_co]):
    """One unit of work, as a client describes it: a registered function with arguments, or a payload for a handler.

    Raises InvalidTask where a field is not what it has to be.
    """

    payload: Any = None
    func: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    user_id: str | None = None
    queue: str = DEFAULT_QUEUE
    priority: Priority = Priority.NORMAL
    delay_seconds: float | None = None
    run_at: datetime | None = None
    max_retries: int = 0
    retry_backoff_seconds: float | Sequence[float] = DEFAULT_BACKOFF_SECONDS
    retry_backoff_max_seconds: float = DEFAULT_BACKOFF_MAX_SECONDS
    store_result: bool = True
    result_ttl_seconds: float = DEFAULT_RESULT_TTL_SECONDS
    meta: Mapping[str, str] = field(default_factory=dict)
    expires_seconds: float | None = None
    depends_on: object = None
    on_parent_failure: str | None = None
    missing_parents: str | None = None
    timeout_seconds: float | None = None
    unique_key: str | None = None
    returns: Any = field(default=None, repr=False, compare=False)
    """The return annotation of the function, which `result()` restores."""

    def __post_init__(self) -> None:
        refuse_not_yet({name: getattr(self, name) for name in NOT_YET if getattr(self, name) is not None})
        if self.task_id is not None:
            check_id(self.task_id, "task_id")
        if self.user_id is not None:
            check_id(self.user_id, "user_id")
        if self.func is not None:
            check_id(self.func, "func")
        check_queue_name(self.queue)
        if not isinstance(self.priority, Priority):
            raise InvalidTask(f"priority: expected a Priority, found {self.priority!r}")
        self._check_times()
        check_count(self.max_retries, "max_retries")
        if not isinstance(self.store_result, bool):
            raise InvalidTask(f"store_result: expected True or False, found {self.store_result!r}")
        if self.meta:
            check_meta(self.meta)

    def _check_times(self) -> None:
        if self.delay_seconds is not None:
            check_seconds(self.delay_seconds, "delay_seconds")
            if self.run_at is not None:
                raise InvalidTask("delay_seconds and run_at are both given; expected one of them")
        if self.run_at is not None and (not isinstance(self.run_at, datetime) or self.run_at.utcoffset() is None):
            raise InvalidTask(f"run_at: expected a datetime with a time zone, found {self.run_at!r}")
        backoff = self.retry_backoff_seconds
        for each in backoff if isinstance(backoff, Sequence) and not isinstance(backoff, str) else [backoff]:
            check_seconds(each, "retry_backoff_seconds")
        check_seconds(self.retry_backoff_max_seconds, "retry_backoff_max_seconds")
        if check_seconds(self.result_ttl_seconds, "result_ttl_seconds") < 0.001:  # noqa: PLR2004
            raise InvalidTask("result_ttl_seconds: expected at least 0.001; use store_result=False to store none")

    def with_options(self, options: TaskOptions) -> Task[R_co]:
        """This task with other options. Raises InvalidTask for one that does not exist."""
        if not options:
            return self
        check_option_names(options)
        return replace(self, **options)

    def encode_spec(self) -> bytes:
        """The part of the record that never changes, as JSON.

        Raises:
            InvalidTask: the arguments are not plain JSON.
            PayloadTooLarge: the spec exceeds 256 KiB.
        """
        spec = self._spec_of_work() | self._spec_of_options()
        encoded = dumps(spec)
        if len(encoded) > MAX_SPEC_BYTES:
            raise PayloadTooLarge(
                f"the task's arguments take {len(encoded)} bytes, at most {MAX_SPEC_BYTES} are allowed: "
                "store the data elsewhere and pass a key to it"
            )
        return encoded

    def _spec_of_work(self) -> dict[str, Any]:
        if self.func is None:
            return {"payload": to_json_value(self.payload, None, "payload")}
        if self.payload is not None:
            raise InvalidTask("payload and func are both given; expected one of them")
        spec: dict[str, Any] = {"func": self.func}
        if self.args:
            spec["args"] = to_json_value(list(self.args), None, "args")
        if self.kwargs:
            spec["kwargs"] = to_json_value(dict(self.kwargs), None, "kwargs")
        return spec

    def _spec_of_options(self) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        if self.max_retries:
            spec["max_retries"] = self.max_retries
        if self.retry_backoff_seconds != DEFAULT_BACKOFF_SECONDS:
            backoff = self.retry_backoff_seconds
            spec["backoff"] = list(backoff) if isinstance(backoff, Sequence) else backoff
        if self.retry_backoff_max_seconds != DEFAULT_BACKOFF_MAX_SECONDS:
            spec["backoff_max"] = self.retry_backoff_max_seconds
        if not self.store_result:
            spec["store_result"] = False
        if self.result_ttl_seconds != DEFAULT_RESULT_TTL_SECONDS:
            spec["result_ttl"] = self.result_ttl_seconds
        if self.meta:
            spec["meta"] = dict(self.meta)
        return spec


_OPTION_NAMES = frozenset(TaskOptions.__annotations__)


def refuse_not_yet(options: Mapping[str, Any]) -> None:
    """Raise InvalidTask for options that this release does not know how to honour."""
    for name in NOT_YET:
        if name in options:
            raise InvalidTask(f"{name}: is not supported by this release of fairqued")


def check_option_names(options: Mapping[str, Any]) -> None:
    """Raise InvalidTask for a name that is no option, with the nearest one."""
    for name in options.keys() - _OPTION_NAMES:
        import difflib  # noqa: PLC0415 - only for the error text

        near = difflib.get_close_matches(name, _OPTION_NAMES, n=1)
        raise InvalidTask(f"{name}: is not an option of a task" + (f"; did you mean {near[0]}?" if near else ""))


class TaskFunction(Protocol[P, C_co, R_co]):
    """A function decorated with `@task`: still that function, and more."""

    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the function here and now, without any queue."""

    def task(self, *args: P.args, **kwargs: P.kwargs) -> Task[R_co]:
        """The call as a Task. Raises InvalidTask for arguments that do not fit or that JSON cannot hold."""

    def using(self, **options: Unpack[TaskOptions]) -> TaskFunction[P, C_co, R_co]:
        """The same function with other options."""

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R_co]:
        """Enqueue the call through `default_queue()`."""


@dataclass(frozen=True, eq=False)
class FunctionDefinition:
    """What `@task` knows of a function: its name for workers, its options, how its arguments become JSON."""

    function: Callable[..., Any]
    name: str
    aliases: tuple[str, ...]
    options: TaskOptions
    retry_on: tuple[type[BaseException], ...]
    no_retry_on: tuple[type[BaseException], ...]

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Annotations by parameter, `return` among them; those that cannot be resolved restore nothing."""
        try:
            hints = get_type_hints(self.function)
        except Exception:  # noqa: BLE001 - a name that exists for type checkers only
            return {}
        return {name: hint for name, hint in hints.items() if needs_restoring_safely(hint)}

    @property
    def returns(self) -> Any:
        """The return annotation, where it takes more than plain JSON."""
        return self.annotations.get("return")

    def make_task(self, options: TaskOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task[Any]:
        """A Task that calls the function with these arguments."""
        if self.name.startswith("__main__:"):
            raise InvalidTask(
                f"{self.function.__qualname__}: is defined in __main__, which workers cannot import; "
                "move it to a module, and name that module in `imports`"
            )
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidTask(f"{self.name}: {error}") from None
        return Task(
            func=self.name,
            args=[self._plain(name, value) for name, value in zip(self._positional, bound.args, strict=False)]
            + [self._plain(self._rest, value) for value in bound.args[len(self._positional) :]],
            kwargs={name: self._plain(name, value) for name, value in bound.kwargs.items()},
            returns=self.returns,
            **options,
        )

    @cached_property
    def _positional(self) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [name for name, parameter in self.signature.parameters.items() if parameter.kind in kinds]

    @cached_property
    def _rest(self) -> str:
        kind = inspect.Parameter.VAR_POSITIONAL
        return next((name for name, parameter in self.signature.parameters.items() if parameter.kind is kind), "")

    def _plain(self, parameter: str, value: Any) -> Any:
        return to_json_value(value, self.annotations.get(parameter), f"{self.name}: {parameter}")

    def restore(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Arguments as the function wants them, from the JSON of a task.

        Raises TypeError or ValueError (msgspec's ValidationError is one) if they do not fit.
        """
        from fairqued.encoding import from_json_value  # noqa: PLC0415

        bound = self.signature.bind(*args, **kwargs)
        if self.annotations:
            for name in self.annotations.keys() & bound.arguments.keys():
                bound.arguments[name] = self._restore_one(name, bound.arguments[name], from_json_value)
        return bound

    def _restore_one(self, name: str, value: Any, restore: Callable[[Any, Any], Any]) -> Any:
        annotation, kind = self.annotations[name], self.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple(restore(each, annotation) for each in value)
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {key: restore(each, annotation) for key, each in value.items()}
        return restore(value, annotation)


def needs_restoring_safely(hint: Any) -> bool:
    """`needs_restoring`, False for what cannot be hashed."""
    try:
        return needs_restoring(hint)
    except TypeError:
        return False


REGISTRY: dict[str, FunctionDefinition] = {}
"""Every function decorated in this process, by name and by alias. A worker calls those of its `imports` alone."""


class _Bound:
    """A task function with other options: what `.using()` returns."""

    def __init__(self, definition: FunctionDefinition, options: TaskOptions) -> None:
        self.definition, self.options = definition, options
        self.__name__, self.__qualname__ = definition.function.__name__, definition.function.__qualname__
        self.__wrapped__, self.__doc__ = definition.function, definition.function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.definition.function(*args, **kwargs)

    def task(self, *args: Any, **kwargs: Any) -> Task[Any]:
        return self.definition.make_task(self.options, args, kwargs)

    def using(self, **options: Unpack[TaskOptions]) -> _Bound:
        check_option_names(options)
        refuse_not_yet(options)
        return _Bound(self.definition, cast("TaskOptions", {**self.options, **options}))

    def enqueue(self, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        from fairqued.queue import default_queue  # noqa: PLC0415 - `queue` stands above this module

        return default_queue().enqueue(self.task(*args, **kwargs))


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskFunction[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...


class DefinitionOptions(TaskOptions, total=False):
    """What `@task` takes beyond the options of a task."""

    name: str
    aliases: Sequence[str]
    retry_on: Sequence[type[BaseException]]
    no_retry_on: Sequence[type[BaseException]]


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskFunction[P, Coroutine[Any, Any, R], R]: ...
@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...
@overload
def task(**options: Unpack[DefinitionOptions]) -> _Decorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Let a function be enqueued: `@task`, or `@task(priority=Priority.HIGH, max_retries=3)`.

    The function stays as it is and gains `.task()`, `.using()` and `.enqueue()`. Workers know it as `module:qualname`,
    or by `name`; `aliases` keep old names alive. A failed attempt is repeated for exceptions in `retry_on` (default:
    all) unless they are in `no_retry_on`.

    Raises InvalidTask for methods, for options that do not exist and for values that are not allowed.
    """
    if function is not None:
        return _define(function, {})
    return lambda function: _define(function, options)


def _define(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not inspect.isfunction(function):
        raise InvalidTask(f"@task: expected a function, found {function!r}")
    owner, _, _ = function.__qualname__.rpartition(".")
    if owner and not owner.endswith("<locals>"):
        raise InvalidTask(f"@task: {function.__qualname__} is a method; make it a function and pass what it needs")
    own = {key: options.pop(key) for key in ("name", "aliases", "retry_on", "no_retry_on") if key in options}
    check_option_names(options)
    definition = FunctionDefinition(
        function=function,
        name=check_id(own.get("name") or f"{function.__module__}:{function.__qualname__}", "name"),
        aliases=tuple(check_id(alias, "aliases") for alias in own.get("aliases", ())),
        options=cast("TaskOptions", options),
        retry_on=tuple(own.get("retry_on", (Exception,))),
        no_retry_on=tuple(own.get("no_retry_on", ())),
    )
    Task(func=definition.name, **options)  # checks the values of the options
    for name in (definition.name, *definition.aliases):
        _register(name, definition)
    bound = _Bound(definition, definition.options)
    for method in ("task", "using", "enqueue"):
        setattr(function, method, getattr(bound, method))
    return function


def _register(name: str, definition: FunctionDefinition) -> None:
    known = REGISTRY.get(name)
    same_place = known and known.function.__module__ == definition.function.__module__
    if known and not (same_place and known.function.__qualname__ == definition.function.__qualname__):
        raise InvalidTask(f"@task: the name {name!r} is taken by {known.function.__module__}:{known.function.__qualname__}")
    REGISTRY[name] = definition


OPTION_FIELDS = tuple(each.name for each in fields(Task) if each.name in _OPTION_NAMES)
