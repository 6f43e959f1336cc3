"""`Task`, and `@task`, which makes a Python function one that can be enqueued."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    get_type_hints,
    overload,
)

from fairqued.encoding import check_json, dumps, from_json_value, restores, to_json_value
from fairqued.errors import InvalidTask, PayloadTooLarge
from fairqued.state import Priority
from fairqued.validation import OPTION_NAMES, check_id, check_options, shown

if TYPE_CHECKING:
    from fairqued.queue import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    R_co = TypeVarWithDefault("R_co", covariant=True, default=Any)  # of `Task(payload=…)`
else:
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
    timeout_seconds: float
    meta: Mapping[str, str]
    # Accepted by name only, and refused until they work:
    expires_seconds: float
    depends_on: object
    on_parent_failure: str
    missing_parents: str
    unique_key: str


@dataclass(frozen=True, kw_only=True)
class Task(Generic[R_co]):
    """One unit of work, as a client describes it: a registered function with arguments, or a payload for a handler.

    Arguments and payload are encoded when the Task is made: changing them afterwards changes nothing. Raises
    InvalidTask where a field is not what it has to be.
    """

    payload: Any = None
    func: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
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
    timeout_seconds: float | None = None
    meta: Mapping[str, str] = field(default_factory=dict[str, str])
    expires_seconds: float | None = None
    depends_on: object = None
    on_parent_failure: str | None = None
    missing_parents: str | None = None
    unique_key: str | None = None
    returns: Any = field(default=None, repr=False, compare=False)
    """The return annotation of the function, which `result()` restores."""
    _work: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = {name: value for name, default in _DEFAULTS.items() if (value := getattr(self, name)) is not default}
        check_options(given)
        vars(self)["_work"] = self._encode_work()

    def _encode_work(self) -> bytes:
        if self.func is None:
            if self.args or self.kwargs:
                raise InvalidTask("args and kwargs are given without func; expected a payload, or a func")
            check_json(self.payload, "payload")
            return dumps({"payload": self.payload})
        if self.payload is not None:
            raise InvalidTask("payload and func are both given; expected one of them")
        check_id(self.func, "func")
        if not isinstance(self.args, list | tuple):
            raise InvalidTask(f"args: expected a list or tuple, found {shown(self.args)}")
        if not isinstance(self.kwargs, Mapping):
            raise InvalidTask(f"kwargs: expected a mapping, found {shown(self.kwargs)}")
        args, kwargs = list(self.args), dict(self.kwargs)
        check_json(args, "args")
        check_json(kwargs, "kwargs")
        return _encode_call(self.func, args, kwargs)

    def with_options(self, options: TaskOptions) -> Task[R_co]:
        """This task with other options. Raises InvalidTask for one that does not exist or has a bad value."""
        if not options:
            return self
        check_options(options)
        changes: dict[str, Any] = {**options}
        if "delay_seconds" in options:
            changes["run_at"] = None
        elif "run_at" in options:
            changes["delay_seconds"] = None
        return self._like(**changes)

    def calling(self, args: Sequence[Any], kwargs: Mapping[str, Any], returns: Any) -> Task[Any]:
        """This task with other arguments, which are plain JSON, and a return annotation."""
        work = _encode_call(self.func or "", args, kwargs)
        return self._like(args=args, kwargs=kwargs, returns=returns, _work=work)

    def _like(self, **changes: Any) -> Task[R_co]:
        """A copy with fields that are known to be right: `dataclasses.replace` would check all of them again."""
        twin: Task[R_co] = object.__new__(type(self))
        vars(twin).update(vars(self) | changes)
        return twin

    def encode_spec(self) -> bytes:
        """The part of the record that never changes, as JSON. Raises PayloadTooLarge if it exceeds 256 KiB."""
        options = self._spec_of_options()
        encoded = self._work
        if options:
            encoded = encoded[:-1] + b"," + dumps(options)[1:]  # two JSON objects made one
        if len(encoded) > MAX_SPEC_BYTES:
            raise PayloadTooLarge(
                f"the task's arguments take {len(encoded)} bytes, at most {MAX_SPEC_BYTES} are allowed: "
                "store the data elsewhere and pass a key to it"
            )
        return encoded

    def _spec_of_options(self) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        if self.max_retries:
            spec["max_retries"] = self.max_retries
        if self.retry_backoff_seconds != DEFAULT_BACKOFF_SECONDS:
            backoff = self.retry_backoff_seconds
            spec["backoff"] = [float(each) for each in backoff] if isinstance(backoff, Sequence) else float(backoff)
        if self.retry_backoff_max_seconds != DEFAULT_BACKOFF_MAX_SECONDS:
            spec["backoff_max"] = float(self.retry_backoff_max_seconds)
        if not self.store_result:
            spec["store_result"] = False
        if self.result_ttl_seconds != DEFAULT_RESULT_TTL_SECONDS:
            spec["result_ttl"] = float(self.result_ttl_seconds)
        if self.timeout_seconds is not None:
            spec["timeout"] = float(self.timeout_seconds)
        if self.meta:
            spec["meta"] = dict(self.meta)
        return spec


_DEFAULTS = {each.name: each.default for each in fields(Task) if each.name in OPTION_NAMES}


def _encode_call(func: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    call: dict[str, Any] = {"func": func}
    if args:
        call["args"] = args
    if kwargs:
        call["kwargs"] = kwargs
    return dumps(call)


class TaskFunction(Protocol[P, C_co, R_co]):
    """A function decorated with `@task`: still that function, and more."""

    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the function here and now, without any queue."""
        ...

    def task(self, *args: P.args, **kwargs: P.kwargs) -> Task[R_co]:
        """The call as a Task. Raises InvalidTask for arguments that do not fit or that JSON cannot hold."""
        ...

    def using(self, **options: Unpack[TaskOptions]) -> TaskFunction[P, C_co, R_co]:
        """The same function with other options. Raises InvalidTask for one that does not exist or has a bad value."""
        ...

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R_co]:
        """Enqueue the call through `default_queue()`."""
        ...


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
        """The parameters of the function."""
        return inspect.signature(self.function)

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Annotations that restore more than plain JSON, by parameter, `return` among them."""
        return {name: hint for name, hint in self._hints.items() if restores(hint)}

    @cached_property
    def _hints(self) -> dict[str, Any]:
        hints: dict[str, Any] = {}
        for name, annotation in self.function.__annotations__.items():
            try:
                alone = SimpleNamespace(__annotations__={name: annotation})
                hints |= get_type_hints(alone, globalns=inspect.unwrap(self.function).__globals__)
            except Exception:  # noqa: BLE001, S112 - a name that exists for type checkers only restores nothing
                continue
        return hints

    @property
    def returns(self) -> Any:
        """The return annotation, where it takes more than plain JSON."""
        return self.annotations.get("return")

    def make_task(self, template: Task[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task[Any]:
        """A Task that calls the function with these arguments and the options of `template`."""
        if self.name.startswith("__main__:"):
            raise InvalidTask(
                f"{self.function.__qualname__}: is defined in __main__, which workers cannot import; "
                "move it to a module, and name that module in `imports`"
            )
        if not kwargs and len(args) in self._positional_calls:
            plain = [self._make_plain(name, value) for name, value in zip(self._positional, args, strict=False)]
            return template.calling(plain, {}, self.returns)
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidTask(f"{self.name}: {error}") from None
        self._convert(bound, self._make_plain)
        return template.calling(list(bound.args), bound.kwargs, self.returns)

    def restore(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Arguments as the function wants them, from the JSON of a task.

        Raises TypeError or ValueError (as msgspec's ValidationError) if they do not fit.
        """
        bound = self.signature.bind(*args, **kwargs)
        if self.annotations:
            self._convert(bound, lambda name, value: from_json_value(value, self.annotations.get(name)))
        return bound

    def _convert(self, bound: inspect.BoundArguments, convert: Callable[[str, Any], Any]) -> None:
        """Put `convert(parameter, value)` in the place of each value; `*args` and `**kwargs` hold several."""
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(convert(name, each) for each in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: convert(name, each) for key, each in value.items()}
            else:
                bound.arguments[name] = convert(name, value)

    def _make_plain(self, parameter: str, value: Any) -> Any:
        return to_json_value(value, self.annotations.get(parameter), self._places[parameter])

    @cached_property
    def _places(self) -> dict[str, str]:
        """What messages call each parameter."""
        unknown = self.function.__annotations__.keys() - self._hints.keys()
        return {
            name: f"{self.name}: {name}" + (" (its annotation is unknown at run time)" if name in unknown else "")
            for name in self.signature.parameters
        }

    @cached_property
    def _positional(self) -> list[str]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [name for name, parameter in self.signature.parameters.items() if parameter.kind in kinds]

    @cached_property
    def _positional_calls(self) -> range:
        """How many arguments by position alone, without any by name, make a complete call."""
        required = [each for each in self.signature.parameters.values() if each.default is inspect.Parameter.empty]
        if any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in required):
            return range(0)
        return range(sum(each.name in self._positional for each in required), len(self._positional) + 1)


REGISTRY: dict[str, FunctionDefinition] = {}
"""Every function decorated in this process, by name and by alias. A worker calls those of its `imports` alone."""


class _Bound:
    """A task function with the options of a template: what `.using()` returns."""

    def __init__(self, definition: FunctionDefinition, template: Task[Any]) -> None:
        self.definition, self.template = definition, template
        self.__name__, self.__qualname__ = definition.function.__name__, definition.function.__qualname__
        self.__wrapped__, self.__doc__ = definition.function, definition.function.__doc__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.definition.function(*args, **kwargs)

    def task(self, /, *args: Any, **kwargs: Any) -> Task[Any]:
        return self.definition.make_task(self.template, args, kwargs)

    def using(self, **options: Unpack[TaskOptions]) -> _Bound:
        return _Bound(self.definition, self.template.with_options(options))

    def enqueue(self, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        from fairqued.queue import default_queue  # noqa: PLC0415 - `queue` stands above this module

        return default_queue().enqueue(self.task(*args, **kwargs))


class _Decorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, R], R]: ...
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
        return _define(function, **options)
    return lambda function: _define(function, **options)


def _define(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    retry_on: Sequence[type[BaseException]] = (Exception,),
    no_retry_on: Sequence[type[BaseException]] = (),
    **options: Unpack[TaskOptions],
) -> Callable[..., Any]:
    _check_function(function)
    if name is None:
        name = f"{function.__module__}:{function.__qualname__}"
    definition = FunctionDefinition(
        function=function,
        name=check_id(name, "name"),
        aliases=tuple(check_id(alias, "aliases") for alias in _several(aliases, "aliases")),
        options=options,
        retry_on=_exceptions(retry_on, "retry_on"),
        no_retry_on=_exceptions(no_retry_on, "no_retry_on"),
    )
    bound = _Bound(definition, Task[Any](func=name).with_options(options))
    _register(definition)
    for method in ("task", "using", "enqueue"):
        setattr(function, method, getattr(bound, method))
    return function


def _check_function(function: Callable[..., Any]) -> None:
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise InvalidTask(f"@task: expected a function with a name, found {shown(function)}")
    owner, _, _ = function.__qualname__.rpartition(".")
    if owner and not owner.endswith("<locals>"):
        raise InvalidTask(f"@task: {function.__qualname__} is a method; make it a function and pass what it needs")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"@task: {function.__qualname__} is a generator; a task returns one value, once")


def _exceptions(value: object, name: str) -> tuple[type[BaseException], ...]:
    classes = _several(value, name)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise InvalidTask(f"{name}: expected exception classes, found {shown(each)}")
    return classes


def _several(value: object, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidTask(f"{name}: expected a list or tuple, found {shown(value)}")
    return tuple(value)


def _register(definition: FunctionDefinition) -> None:
    names = (definition.name, *definition.aliases)
    for name in names:
        known = REGISTRY.get(name, definition)
        if _place(known) != _place(definition):
            raise InvalidTask(f"@task: the name {name!r} is taken by {_place(known)}")
    REGISTRY.update(dict.fromkeys(names, definition))


def _place(definition: FunctionDefinition) -> str:
    return f"{definition.function.__module__}:{definition.function.__qualname__}"
