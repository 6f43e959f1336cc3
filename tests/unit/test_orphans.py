import subprocess
import sys

ADOPTS = """
import ctypes, os, signal, time
from fairqued.daemon.orphans import bury_orphans

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
assert bury_orphans([]) == 0, "it has no children at all"


def fork(live):
    pid = os.fork()
    if pid == 0:
        live()
        os._exit(0)
    return pid


def orphan():
    read, write = os.pipe()
    parent = fork(lambda: os.write(write, str(fork(lambda: None)).encode()))
    os.waitpid(parent, 0)
    return int(os.read(read, 20))


living = fork(lambda: time.sleep(600))
orphans = [orphan() for _ in range(3)]
buried = 0
while buried < 3:
    buried += bury_orphans([living])
    time.sleep(0.01)
for pid in orphans:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        continue
    raise AssertionError(f"{pid} is still a zombie")
os.kill(living, signal.SIGKILL)
os.waitid(os.P_PID, living, os.WEXITED | os.WNOWAIT)
assert bury_orphans([living]) == 0, "its end is for others to see"
assert os.waitpid(living, 0)[0] == living
"""


def test_the_dead_children_of_others_are_buried_and_ones_own_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ADOPTS], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
