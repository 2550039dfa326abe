"""Standard streams that are closed, that nobody reads, or that lack letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAYS = """
import os, sys
from training.processes.logs import say, set_up_logging

set_up_logging(0)
assert sys.stderr.isatty() in (True, False) and sys.stdin.read(0) == ""
assert os.open(os.devnull, os.O_RDONLY) > 2  # files of a run do not take the place of a stream
say("first")
say("second")
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed):
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, SAYS]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if ">&- " in f" {closed} ".replace("2>&-", "") else "first\nsecond\n")


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", SAYS], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 0, done.stderr


def test_letters_that_the_terminal_lacks_are_escaped():
    """A finished run says where its model is; the folder's name is no fault."""
    command = [sys.executable, "-c", "from training.processes.logs import say; say('runs/\xfc')"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout == b"runs/\\xfc\n"
