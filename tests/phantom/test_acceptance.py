"""The checks of a GPU run through on fake tensors. What they find there is no time: a fake call takes the host's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .compiler import compiler

ROOT = Path(__file__).parents[2]
CHECKS = ("steps", "training", "widths", "waits", "solvers")


@pytest.fixture(scope="module")
def rows():
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    command = [sys.executable, "-m", "tests.phantom.acceptance", *CHECKS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_runs_through(rows, check):
    mine = [row for row in rows if row["name"].startswith(check)]
    assert len(mine) >= 3
    assert [row for row in mine if "traceback" in row] == []


@pytest.mark.slow
def test_a_plain_step_and_a_pass_do_not_wait(rows):
    found = {row["name"]: row["value"] for row in rows if row["name"].startswith("waits")}
    assert "waits.alice, three plain steps" in found and "waits.forward and backward, padded" in found
    assert set(found.values()) == {"none"}
