"""The scripts with an audit: each move of a task's state is written down by the server, in its order.

Only `lua/lib/state.lua` sets a state, so that is the one function to wrap; the scripts are otherwise those of `lua/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fairqued.assets import read_text
from fairqued.scripts import NAMES, Script, assemble

_WORKERS_SCRIPTS = frozenset({"pop", "finish", "fail", "heartbeat", "reclaim"})
_CHUNK = 20_000

# The key lies outside the namespace, so fsck does not see it. ARGV[1] of a worker's script is the worker.
_KEY = "audit"
_WRAPPER = """
do
  local set = state.set
  function state.set(t, to)
    local from, time = t.state, redis.call('TIME')
    set(t, to)
    redis.call('RPUSH', '{key}', table.concat({{ t.id, from, to, '{script}', {worker}, time[1], time[2] }}, ' '))
  end
end
"""


@dataclass(frozen=True, slots=True)
class Move:
    """One task went from one state to another (codes of `record.STATE_CODES`), at a time of the server's clock.

    `worker` is empty where a script calls for no worker.
    """

    task_id: str
    before: str
    after: str
    script: str
    worker: str
    at: float

    @classmethod
    def parse(cls, line: bytes) -> "Move":
        """Read one line of the audit."""
        task_id, before, after, script, worker, seconds, microseconds = line.decode().split(" ")
        return cls(task_id, before, after, script, worker, int(seconds) + int(microseconds) / 1e6)


def audited_scripts() -> Mapping[str, Script]:
    """All scripts, for `Store(…, scripts=…)`."""
    return {name: assemble(name, partial(_read, name)) for name in NAMES}


def read_moves(client: Any) -> list[Move]:
    """Every move so far, in the order in which the server made them. Ids may hold no blanks."""
    length = client.llen(_KEY)
    lines = [line for start in range(0, length, _CHUNK) for line in client.lrange(_KEY, start, start + _CHUNK - 1)]
    return [Move.parse(line) for line in lines]


def _read(script: str, file: str) -> str:
    text = read_text("lua", f"{file}.lua")
    if file != "lib/state":
        return text
    worker = "ARGV[1]" if script in _WORKERS_SCRIPTS else "''"
    return text + _WRAPPER.format(key=_KEY, script=script, worker=worker)
