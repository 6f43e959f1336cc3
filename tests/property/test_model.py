"""The real scripts do what the reference model does, and the test would notice if they did not."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import machine_on
from tests.support.servers import RedisServer, newest_binary
from tests.support.simclock import Mutation, simulated_scripts

BROKEN = {
    "pop raises no fence": Mutation("pop", "= t.fence + 1, math.min", "= t.fence, math.min"),
    "pop takes a user's last task": Mutation("pop", "redis.call('ZPOPMIN'", "redis.call('ZPOPMAX'"),
    "pop serves one user for ever": Mutation("pop", " and rank <= next_rank and", " and"),
    "pop claims again when repeated": Mutation("pop", "if claim == w.claim then", "if false then"),
    "running tasks cost nothing": Mutation("lib/account", "    account.accrue(a)\n", "\n"),
    "finish may be repeated": Mutation("lib/attempt", "  t.settled = t.fence\n", "\n"),
    "tick judges after a silence": Mutation("tick", "math.abs(clock.now - last) <= silence", "true"),
    "tick sees no hidden work": Mutation("tick", "key.of('ready', hidden.of(queue))", "key.of('ready', queue)"),
    "one death hides": Mutation("lib/release", "MOST_SUSPICION = 2", "MOST_SUSPICION = 1"),
    "two deaths hide nothing": Mutation("lib/release", "then hidden.set(t, true) end", "then end"),
    "the hidden pay elsewhere": Mutation(
        "lib/account", "account.domain_of = hidden.base", "function account.domain_of(queue) return queue end"
    ),
    "finish leaves suspicion": Mutation("lib/attempt", "    t.suspicion = 0\n", "\n"),
    "a retried task stays hidden": Mutation("lib/attempt", "    hidden.set(t, false)\n", "\n"),
    "a crash charges the innocent": Mutation("lib/release", "why == 'crash' then\n    t.c", "why then\n    t.c"),
    "wills are not read": Mutation("lib/release", "    if will then\n", "    if false then\n"),
    "wills of any fence count": Mutation("reclaim", "wills[fence .. ':' .. id]", "wills['1:' .. id]"),
}


@pytest.mark.timeout(600)  # a failure takes its time to be made small
def test_scripts_do_what_the_model_does(own_server: RedisServer) -> None:
    run_state_machine_as_test(machine_on(own_server.url))


@pytest.mark.parametrize("mutation", BROKEN.values(), ids=BROKEN.keys())
def test_model_notices_a_broken_script(mutation: Mutation, mutants_server: RedisServer) -> None:
    quick = settings(
        max_examples=300, stateful_step_count=50, deadline=None, derandomize=True, database=None, print_blob=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    simulated_scripts(mutation)  # there is something to notice
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(machine_on(mutants_server.url, mutation), settings=quick)


@pytest.fixture(scope="module")
def mutants_server() -> Iterator[RedisServer]:
    with RedisServer(newest_binary()) as server:
        yield server
