"""The watchdog's store: one that fails or hangs ends the process, one that went with its launcher does not."""

import os
import subprocess
import sys

import pytest

from analysis.paths import ROOT

# A process whose launcher is this test's, or is said to be another, and whose store stops answering after three calls.
PROCESS = """
import sys, threading, time
from torch.distributed import HashStore
from training.processes import watchdog

how, launcher, seconds = sys.argv[1:]
watchdog.BEAT, watchdog.LOST = 0.01, 20

class Lost:
    calls = 0
    def add(self, key, amount):
        Lost.calls += 1
        if Lost.calls <= 3:
            return Lost.calls
        if how == "fails":
            raise RuntimeError("Connection reset by peer")
        threading.Event().wait()
    def check(self, keys):
        return False

watchdog.TCPStore = lambda *_, **__: HashStore()
watchdog.PrefixStore = lambda prefix, store: Lost() if how != "answers" else HashStore()
dog = watchdog.Watchdog(0, 2)
if launcher == "dead":
    dog._launcher = -1
watchdog.HUNG = 1e9
dog.start()
time.sleep(float(seconds))
print("goes on")
dog.stop()
dog.join(10)  # Python's end must not find it inside a call of the store
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("how", "launcher", "ends"),
    [("fails", "lives", True), ("hangs", "lives", True), ("fails", "dead", False), ("answers", "lives", False)],
)
def test_a_store_that_does_not_answer_ends_the_process(how, launcher, ends):
    environment = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    command = [sys.executable, "-c", PROCESS, how, launcher, "100" if ends else "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if ends:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "the machine of process 0 is lost: its store does not answer\n"
    else:
        assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
