"""Each script is what its header says, and both sides of the wire name things alike."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fairqued.assets import names
from fairqued.doctor.snapshot import ACCOUNT_FORMAT, DEFAULT_HEAD_STARTS_US, DOMAIN_FORMAT
from fairqued.errors import REFUSALS, ScriptError
from fairqued.keys import KEY_TABLE
from fairqued.record import HEADER, SCHEMA_VERSION, STATE_CODES, reason_number
from fairqued.scripts import NAMES, assemble
from fairqued.state import ALLOWED_MOVES, FINAL_STATES, Reason, TaskState
from tests.support import lua_source
from tests.support.contract import contracts
from tests.support.simclock import Mutation, read_shipped
from tests.support.world import World

each_script = pytest.mark.parametrize("name", NAMES)
each_library = pytest.mark.parametrize("name", lua_source.libraries())


def test_the_list_of_scripts_is_complete() -> None:
    assert sorted(f"{name}.lua" for name in NAMES) == names("lua")


# Headers


@each_script
def test_header_has_its_sections_in_order(name: str) -> None:
    contract = contracts()[name]
    assert contract.is_in_order
    assert {"KEYS", "ARGV", "Returns", "Cost"} <= contract.sections.keys()
    assert all(contract.sections.values())


@each_script
def test_header_opens_with_one_sentence(name: str) -> None:
    sentence = contracts()[name].sentence
    assert sentence.endswith(".")
    assert ". " not in sentence.replace("\n", " ")


@each_script
def test_header_numbers_keys_and_arguments(name: str) -> None:
    sections = contracts()[name].sections
    assert re.fullmatch(r"  1  meta", sections["KEYS"])
    numbers = [
        int(number) for number in re.findall(r"^  (\d+)  \w+", sections["ARGV"].partition("  then")[0], re.MULTILINE)
    ]
    assert numbers == list(range(1, len(numbers) + 1))


@each_script
def test_header_names_the_moves(name: str) -> None:
    contract, text = contracts()[name], read_shipped(name)
    moves_tasks = "state.set" in lua_source.reachable_from(text) or name == "push"
    assert bool(contract.moves) == moves_tasks
    allowed = {(a.value, b.value) for a, targets in ALLOWED_MOVES.items() for b in targets}
    allowed |= {("new", "queued"), ("new", "scheduled"), ("started", "started")}
    assert contract.moves <= allowed


@each_script
def test_header_names_the_errors(name: str) -> None:
    text = lua_source.without_comments(lua_source.with_callees(read_shipped(name)))
    refusals = set(re.findall(r"err = '([A-Z]+)\b", text))
    assert contracts()[name].errors == refusals
    assert refusals <= REFUSALS.keys()


def test_every_refusal_is_used() -> None:
    assert {error for contract in contracts().values() for error in contract.errors} == REFUSALS.keys()


# Bodies


@each_script
def test_arguments_are_bound_to_names_at_the_top(name: str) -> None:
    lines = lua_source.without_comments(read_shipped(name)).strip().splitlines()
    bindings = 0
    while "ARGV" in lines[bindings] and lines[bindings].startswith("local "):
        bindings += 1
    rest = "\n".join(lines[bindings:])
    assert bindings
    assert not re.search(r"\bKEYS\b", rest)
    assert not re.findall(r"ARGV\[\d+\]", rest)


@each_library
def test_includes_take_no_arguments(name: str) -> None:
    text = lua_source.without_comments(lua_source.libraries()[name])
    assert "ARGV" not in text
    assert re.findall(r"\bKEYS\S*", text) == (["KEYS[1],"] if name == "lib/key" else [])


@each_library
def test_an_include_declares_one_table_named_as_its_file(name: str) -> None:
    tables = re.findall(r"^local (\w+) =", lua_source.libraries()[name], re.MULTILINE)
    assert tables == [name.removeprefix("lib/")]


@pytest.mark.parametrize("name", [*NAMES, *lua_source.libraries()])
def test_a_file_includes_what_it_calls(name: str) -> None:
    text = read_shipped(name)
    plain = lua_source.without_comments(text)
    tables = {library.removeprefix("lib/") for library in lua_source.libraries()}
    used = {table for table in tables if re.search(rf"(?<![\w.'/]){table}\.\w", plain)}
    included = set(re.findall(r"^--#include lib/(\w+)$", text, re.MULTILINE))
    assert used - {name.removeprefix("lib/")} <= included if name.startswith("lib/") else used <= included


@each_script
def test_writing_opens_with_one_that_a_full_redis_allows(name: str) -> None:
    text = lua_source.without_comments(read_shipped(name))
    if not lua_source.write_commands(lua_source.with_callees(text)):
        assert name == "stats"
    elif name == "push":
        assert lua_source.write_commands(text)[0] == "MSET"
    else:
        before, *after = text.split("\nkey.first_write()\n")
        assert len(after) == 1
        assert not lua_source.write_commands(lua_source.with_callees(before))


def test_only_the_state_file_sets_a_state() -> None:
    for name, text in {**lua_source.scripts(), **lua_source.libraries()}.items():
        written = re.findall(r"\b\w+\.state = (?!=)", lua_source.without_comments(text))
        assert bool(written) == (name in ("lib/state", "push")), name


def test_no_command_is_newer_than_the_server(world: World) -> None:
    texts = [*lua_source.scripts().values(), *lua_source.libraries().values()]
    used = sorted({command for text in texts for command in lua_source.commands(text)})
    known = {name.upper() for name in world.command("COMMAND", "INFO", *used)}
    assert set(used) == known


# Both sides alike


def evaluate(world: World, text: str, *args: str | int | bytes) -> list[Any]:
    """Run a piece of Lua with the includes it names."""
    script = assemble("probe", lambda file: text if file == "probe" else read_shipped(file))
    return list(world.command("EVAL", script.text, 1, world.key("meta"), *args))


def test_states_and_moves_are_those_of_python(world: World) -> None:
    text = """
--#include lib/state
local t = {}
for name, value in pairs(state) do
  t[#t + 1], t[#t + 2] = name, tostring(value)
end
return t"""
    answer = [each.decode() for each in evaluate(world, text)]
    table = dict(zip(answer[::2], answer[1::2], strict=True))
    assert {state: table[state.name] for state in TaskState} == STATE_CODES
    assert set(table["ALL"]) == set(STATE_CODES.values())
    assert set(table["FINAL"]) == {STATE_CODES[state] for state in FINAL_STATES}
    moves = {STATE_CODES[a] + STATE_CODES[b] for a, targets in ALLOWED_MOVES.items() for b in targets}
    assert set(table["MOVES"].split()) == moves


def python_format(lua: bytes) -> str:
    """A format of Lua's struct in the letters of Python's."""
    return re.sub(r"c(\d+)", r"\1s", lua.decode().replace("I4", "I")).replace("1s", "c")


def test_packed_formats_are_those_of_python(world: World) -> None:
    text = """
--#include lib/record
--#include lib/account
return { record.FORMAT, record.HEADER, account.FORMAT, account.DOMAIN_FORMAT }"""
    record, header, account, domain = evaluate(world, text)
    assert python_format(record) == HEADER.format
    assert header == HEADER.size
    assert python_format(account) == ACCOUNT_FORMAT.format
    assert python_format(domain) == DOMAIN_FORMAT.format


FIELDS = (
    "state", "flags", "priority", "reason", "suspicion", "crashes", "losses", "attempts", "failures", "fence",
    "settled", "holder", "enqueued_at", "due", "started_at", "ended_at", "nonce", "user_length", "queue_length",
    "error_length", "spec_length",
)  # fmt: skip
EXAMPLES: tuple[tuple[bytes | int | float, ...], ...] = (
    (b"r", 7, 5, 10, 255, 254, 253, 65535, 65534, 4294967295, 4294967294, 4294967293, 1700000000000000.0,
     1700000000000001.0, 1700000000000002.0, 1700000000000003.0, b"\x00\xff{}\r\n:x", 1, 2, 0, 0),
    (b"q", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, -0.5, 0.25, 2e17, b"\x00" * 8, 0, 0, 0, 0),
)  # fmt: skip


@pytest.mark.parametrize("values", EXAMPLES)
def test_header_is_packed_by_lua_and_read_by_python(world: World, values: tuple[bytes | int | float, ...]) -> None:
    numbers = [(i, name) for i, name in enumerate(FIELDS, 1) if name not in ("state", "nonce")]
    text = f"""
--#include lib/record
local t = {{ state = ARGV[1], nonce = ARGV[17] }}
{"; ".join(f"t.{name} = tonumber(ARGV[{i}])" for i, name in numbers)}
return {{ record.header(t) }}"""
    packed = evaluate(world, text, *(repr(each) if isinstance(each, float) else each for each in values))[0]
    assert HEADER.unpack(packed) == (b"F", SCHEMA_VERSION, *values)


@pytest.mark.parametrize("values", EXAMPLES)
def test_header_is_packed_by_python_and_read_by_lua(world: World, values: tuple[bytes | int | float, ...]) -> None:
    raw = HEADER.pack(b"F", SCHEMA_VERSION, *values) + b"abc"
    numbers = [f"string.format('%.17g', t.{name})" for name in FIELDS if name not in ("state", "nonce")]
    text = f"""
--#include lib/record
local t = record.parse(ARGV[1])
return {{ t.state, t.nonce, {", ".join(numbers)} }}"""
    state, nonce, *answer = evaluate(world, text, raw)
    assert (state, nonce) == (values[0], values[16])
    assert [float(each) for each in answer] == [*values[1:16], *values[17:]]


def test_reasons_are_numbered_as_in_python(world: World) -> None:
    text = "--#include lib/place\nreturn { place.POISONED, place.LOST, place.CORRUPT }"
    assert evaluate(world, text) == [reason_number(each) for each in (Reason.POISONED, Reason.LOST, Reason.CORRUPT)]


def test_default_head_starts_are_those_of_the_design(world: World) -> None:
    text = "--#include lib/meta\nlocal t = {}\nfor p = 0, 4 do t[p + 1] = meta.head_start(p) end\nreturn t"
    assert tuple(evaluate(world, text)) == DEFAULT_HEAD_STARTS_US


def test_keys_are_named_as_in_python(world: World) -> None:
    text = (
        "--#include lib/key\nreturn { key.of('depth'), key.of('task', ARGV[1]), key.of('waiting', ARGV[2], ARGV[1]) }"
    )
    expected = [world.key("depth"), world.key("task", "a{b}:c"), world.key("waiting", "q", "a{b}:c")]
    assert evaluate(world, text, "a{b}:c", "q") == [name.encode() for name in expected]


def test_every_key_is_in_the_key_table() -> None:
    texts = [*lua_source.scripts().values(), *lua_source.libraries().values()]
    first_arguments = [
        each for text in texts for each in re.findall(r"key\.of\(([^,)]*)", lua_source.without_comments(text))
    ]
    used = {name for argument in first_arguments for name in re.findall(r"'(\w+)'", argument)}
    used |= {name for text in texts for name in re.findall(r"trim_(?:list|set)\('(\w+)'", text)}
    assert used == {pattern.partition(":")[0] for pattern in KEY_TABLE} | {"none"}


# Errors are found


def broken(file: str, before: str, line: str) -> Mutation:
    """Put a line that fails before the one that holds a text."""
    return Mutation(file, before, f"{line}\n{before}")


def line_of(file: str, text: str) -> int:
    return 1 + next(number for number, line in enumerate(read_shipped(file).splitlines()) if line.startswith(text))


@pytest.fixture
def broken_world(redis_url: str, namespace: str) -> World:
    faults = (
        broken("cancel", "local statuses = {}", "local nothing = nil; nothing.at_all()"),
        broken("lib/lease", "  local w = redis.call('HMGET'", "  undefined_function()"),
    )
    return World(redis_url, namespace, *faults)


def test_a_bug_is_shown_with_its_file_and_line(broken_world: World) -> None:
    with pytest.raises(ScriptError, match=rf"^lua/cancel\.lua:{line_of('cancel', 'local statuses')}: .*nothing"):
        broken_world.store.cancel(["a"])


def test_a_bug_in_an_include_is_shown_with_its_file_and_line(broken_world: World) -> None:
    line = line_of("lib/lease", "  local w = redis.call('HMGET'")
    with pytest.raises(ScriptError, match=rf"^lua/lib/lease\.lua:{line}: .*undefined_function"):
        broken_world.store.pop("w", 1, 1, ["default"])
    with pytest.raises(ScriptError, match=rf"^lua/lib/lease\.lua:{line}: .*undefined_function"):
        broken_world.store.exchange("w", [], [], 1, 1, ["default"])


def test_a_refused_command_is_shown_with_its_file_and_line(damaged_world: World) -> None:
    damaged_world.push("a")
    damaged_world.client.delete(damaged_world.key("counters"))
    damaged_world.client.set(damaged_world.key("counters"), "no hash")
    line = line_of("lib/place", "local function counted")
    with pytest.raises(ScriptError, match=rf"^lua/lib/place\.lua:{line}: .*WRONGTYPE"):
        damaged_world.store.cancel(["a"])
