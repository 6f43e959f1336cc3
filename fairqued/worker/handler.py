"""What runs a task: `TaskHandler` is the abstract class, `FunctionTaskHandler` calls functions made with `@task`."""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from fairqued.errors import TaskTimeout
from fairqued.lease import StartedTask
from fairqued.tasks import REGISTRY, FunctionDefinition
from fairqued.worker import interruption


class UnknownFunction(Exception):
    """This worker has no function of that name; another one may have it."""


class BadArguments(Exception):
    """The arguments do not fit the function."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a task returned, and the annotation that restores it where plain JSON cannot."""

    value: Any
    annotation: Any = None


class TaskHandler(ABC):
    """Runs tasks. One handler serves all threads of a worker."""

    @abstractmethod
    def handle(self, task: StartedTask) -> Any:
        """Run one task; what is returned (JSON, or a `Result`) is its result, an exception fails the attempt."""

    def run(self, task: StartedTask) -> Any:
        """What a worker calls: `handle`, to its end also if it is a coroutine, and such that it can be interrupted."""
        return interruption.call(task, partial(self.handle, task))

    def is_retryable(self, task: StartedTask, error: BaseException) -> bool:  # noqa: ARG002
        """Whether another attempt is worth while after this error. Default: for every `Exception`, and a timeout."""
        return isinstance(error, Exception | TaskTimeout)

    def functions(self) -> Mapping[str, bytes]:
        """What this worker can run, by name, as published in Redis (JSON)."""
        return {}


class FunctionTaskHandler(TaskHandler):
    """Calls functions registered with `@task` in the given modules, and nothing else."""

    def __init__(self, imports: Iterable[str]) -> None:
        """Import the modules. Raises whatever the import of one raises."""
        self._modules = tuple(imports)
        for module in self._modules:
            importlib.import_module(module)
        self._allowed = {name: known for name, known in REGISTRY.items() if self._is_ours(known)}

    def _is_ours(self, definition: FunctionDefinition) -> bool:
        home = definition.function.__module__
        return any(home == module or home.startswith(module + ".") for module in self._modules)

    def functions(self) -> Mapping[str, bytes]:
        """Every function that may be called."""
        return {name: _describe(known) for name, known in self._allowed.items()}

    def run(self, task: StartedTask) -> Any:
        """The function alone can be interrupted."""
        return self.handle(task)

    def handle(self, task: StartedTask) -> Result:
        """Call the function of a task, to its end also if it is a coroutine."""
        definition = self._find(task)
        try:
            bound = definition.restore(task.spec.get("args", ()), task.spec.get("kwargs", {}))
        except (TypeError, ValueError) as error:
            raise BadArguments(f"{definition.name}: {error}") from error
        value = interruption.call(task, partial(definition.function, *bound.args, **bound.kwargs))
        return Result(value, definition.returns)

    def is_retryable(self, task: StartedTask, error: BaseException) -> bool:
        """Whether the function's `retry_on` and `no_retry_on` want another attempt."""
        definition = self._allowed.get(str(task.spec.get("func")))
        if definition is None:
            return super().is_retryable(task, error)
        return isinstance(error, (*definition.retry_on, TaskTimeout)) and not isinstance(error, definition.no_retry_on)

    def _find(self, task: StartedTask) -> FunctionDefinition:
        name = task.spec.get("func")
        if not isinstance(name, str):
            raise BadArguments("the task names no function; a TaskHandler of your own runs tasks with a payload")
        if definition := self._allowed.get(name):
            return definition
        near = difflib.get_close_matches(name, self._allowed, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise UnknownFunction(f"no function {name!r} in {list(self._modules)}{hint}")


def _describe(definition: FunctionDefinition) -> bytes:
    parameters = [str(parameter) for parameter in definition.signature.parameters.values()]
    options = {name: value for name, value in definition.options.items() if isinstance(value, str | int | float | bool)}
    return orjson.dumps({"name": definition.name, "parameters": parameters, "options": options})
