"""What process 1 of a container owes to all others: those whose parents have gone become its children."""

import os
from collections.abc import Collection


def bury_orphans(own: Collection[int]) -> int:
    """Take leave of dead children that are none of one's own, which would stay as zombies: how many there were.

    Where a child of one's own has died too, and was not waited for yet, some may be left for the next call.
    """
    buried = 0
    while (dead := _any_dead_child()) is not None and dead not in own:
        os.waitpid(dead, 0)
        buried += 1
    return buried


def _any_dead_child() -> int | None:
    """A child that has ended; it stays one."""
    try:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return dead.si_pid if dead else None
