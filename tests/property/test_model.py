"""The real scripts do what the reference model does, and the test would notice if they did not."""

from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import QueueMachine
from tests.support.servers import RedisServer, newest_binary
from tests.support.simclock import Mutation


def test_scripts_do_what_the_model_does(own_server: RedisServer) -> None:
    run_state_machine_as_test(partial(QueueMachine, own_server.url))


BROKEN = {
    "pop raises no fence": Mutation("pop", "t.fence + 1, t.attempts + 1", "t.fence, t.attempts + 1"),
    "pop takes a user's last task": Mutation("pop", "'ZPOPMIN', key.of('waiting'", "'ZPOPMAX', key.of('waiting'"),
    "pop serves one user for ever": Mutation("pop", " and rank <= next_rank and", " and"),
    "pop serves a late copy": Mutation("pop", "if claim < w.claim then", "if false then"),
    "pop claims again when repeated": Mutation("pop", "if claim == w.claim then", "if false then"),
    "running tasks cost nothing": Mutation("lib/account", "    account.accrue(a)\n", "\n"),
    "weights do nothing": Mutation("lib/account", "a.v = a.v + top_up / a.limits.weight", "a.v = a.v + top_up"),
    "who comes back has saved up": Mutation("lib/account", "a.v = math.max(a.v, a.domain.clock)", "a.v = a.v"),
    "reclaim raises no fence": Mutation("lib/attempt", "  t.fence = t.fence + 1\n", "\n"),
    "finish may be repeated": Mutation("finish", "  t.settled = t.fence\n", "\n"),
    "nobody is unparked": Mutation("lib/attempt", "if a.may_unpark and", "if false and"),
    "heartbeat puts back what it cannot know": Mutation("heartbeat", "'-inf', claim)", "'-inf', '+inf')"),
    "tick judges after a silence": Mutation("tick", "math.abs(clock.now - last) <= silence", "true"),
}


@pytest.mark.parametrize("mutation", BROKEN.values(), ids=BROKEN.keys())
def test_model_notices_a_broken_script(mutation: Mutation, mutants_server: RedisServer) -> None:
    quick = settings(
        max_examples=300, stateful_step_count=50, deadline=None, derandomize=True, database=None, print_blob=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(partial(QueueMachine, mutants_server.url, mutation), settings=quick)


@pytest.fixture(scope="module")
def mutants_server() -> Iterator[RedisServer]:
    with RedisServer(newest_binary()) as server:
        yield server
