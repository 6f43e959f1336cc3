"""One tree of errors, whose docstrings are their default messages."""

import copy
import pickle
from typing import Any

import pytest

import fairqued
from fairqued import errors
from fairqued.errors import EnqueueIncomplete, FairquedError, TaskFailed
from fairqued.queue import TaskQueue

ALL: list[type[FairquedError]] = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FairquedError)
]
WITH_ARGUMENTS: dict[type[FairquedError], tuple[Any, ...]] = {
    EnqueueIncomplete: (["a", "b"],),
    TaskFailed: ("ValueError", "no", "Traceback …", "error"),
}

BUILT_IN = {
    "InvalidTask": ValueError,
    "PayloadTooLarge": ValueError,
    "InvalidResult": ValueError,
    "TaskNotFound": LookupError,
    "QueueUnavailable": ConnectionError,
    "ResultTimeout": TimeoutError,
}


def test_there_is_one_tree() -> None:
    assert len(ALL) > 15
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert classes == ALL
    assert not issubclass(FairquedError, OSError | ValueError)
    assert set(errors.REFUSALS.values()) < set(ALL)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_error_is_what_python_calls_it_too(name: str) -> None:
    assert issubclass(getattr(errors, name), BUILT_IN[name])


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_docstring_is_the_default_message(kind: type[FairquedError]) -> None:
    assert kind.__doc__ is not None
    if kind is not TaskFailed:
        assert str(kind(*WITH_ARGUMENTS.get(kind, ()))) == " ".join(kind.__doc__.split())
        make: Any = kind
        assert str(make(*WITH_ARGUMENTS.get(kind, ()), "other words")) == "other words"


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_travel_between_processes(kind: type[FairquedError], again: Any) -> None:
    error = kind(*WITH_ARGUMENTS.get(kind, ("some words",)))
    twin = again(error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert {**vars(twin)} == {**vars(error)}


def test_what_a_failed_task_tells() -> None:
    error = TaskFailed("ValueError", "no such file", "Traceback …", "error")
    assert str(error) == "ValueError: no such file"
    assert (error.error_type, error.message, error.traceback, error.reason) == (
        "ValueError",
        "no such file",
        "Traceback …",
        "error",
    )
    assert str(TaskFailed("", "poisoned", "", "poisoned")) == "poisoned"


def test_handles_of_an_incomplete_enqueue_travel_too() -> None:
    queue = TaskQueue("redis://localhost:1/0", namespace="shop", user_id="alice", timeout_seconds=3)
    error = pickle.loads(pickle.dumps(EnqueueIncomplete([queue.handle("1")], "1 of 2")))
    assert str(error) == "1 of 2"
    assert [handle.task_id for handle in error.handles] == ["1"]
    twin = pickle.loads(pickle.dumps(queue))
    assert (twin.namespace, twin.user_id) == ("shop", "alice")


def test_the_public_names_exist() -> None:
    assert sorted(set(fairqued.__all__)) == sorted(fairqued.__all__)
    for name in fairqued.__all__:
        assert getattr(fairqued, name) is not None
