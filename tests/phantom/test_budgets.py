"""What a GPU would be asked to do, on a machine that has none: launches, traffic and waits, counted on fake tensors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optimizers import registry

from .budgets import BUDGETS, EIGHT_BITS, PASSES, ROUNDED
from .compiler import compiler

ROOT = Path(__file__).parents[2]
MODELS = ("llama_60m", "llama_1_3b")
LISTED = ["_varlen_attn", "_varlen_attn_backward"]  # of rows of different lengths, without padding
FLASH = ["_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward"]


def count(*arguments):
    """Rows of `tests.phantom.steps`, in a process of its own: there torch believes in a GPU."""
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    command = [sys.executable, "-m", "tests.phantom.steps", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module", params=MODELS)
def steps(request):
    return request.param, {row["name"]: row for row in count(request.param)}


@pytest.fixture(scope="module")
def passes():
    return count("llama_60m", "--model")


def test_every_method_has_budgets():
    missing = [name for name in registry.names() if set(BUDGETS.get(name, ())) != set(MODELS)]
    assert not missing, (
        f"{', '.join(missing)}: add budgets to tests/phantom/budgets.py; "
        "`python -m tests.phantom.steps MODEL NAME` counts a step on each of " + ", ".join(MODELS)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_a_step_keeps_its_budget(steps, name):
    model, rows = steps
    row, budget = rows[name], BUDGETS[name][model]
    assert row["launches"] <= budget.launches
    assert row["times_bound"] <= budget.times_bound
    assert row["transients"] <= budget.transients * 2**30


@pytest.mark.slow
def test_a_step_in_8_bits_keeps_its_budget_and_does_not_wait():
    rows = {row["name"]: row for row in count("llama_60m", *EIGHT_BITS, "--state-bits", "8")}
    for name, budget in EIGHT_BITS.items():
        assert_kept(rows[name], budget)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_rounded_step_keeps_its_budget_and_does_not_wait(model):
    rows = {row["name"]: row for row in count(model, *ROUNDED, "--rounded")}
    for name, budgets in ROUNDED.items():
        assert_kept(rows[name], budgets[model])


def assert_kept(row, budget):
    assert row["launches"] <= budget.launches and row["waits"] == []
    assert row["times_bound"] <= budget.times_bound
    assert row["transients"] <= budget.transients * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_a_step_does_not_wait_for_the_device(steps, name):
    assert steps[1][name]["waits"] == []


@pytest.mark.slow
def test_counts_are_of_real_work(steps):
    """Products and bytes that an optimizer cannot do without are among those counted."""
    _, rows = steps
    assert all(row["times_bound"] >= 1 for row in rows.values())
    assert rows["galore"]["flops"] < rows["alice"]["flops"] < rows["muon"]["flops"]


@pytest.mark.slow
def test_a_pass_keeps_its_budget_and_does_not_wait(passes):
    for row in passes[:2]:
        assert row["launches"] <= PASSES["llama_60m"][row["padded"]]
        assert row["waits"] == row["moved"] == [] and row["products"] == ["torch.bfloat16"]
        assert row["attention"] == (LISTED if row["padded"] else FLASH)


@pytest.mark.slow
def test_a_whole_training_step_waits_once():
    (step,) = count("llama_60m", "--training")
    assert step["waits"] == ["waits for an event"]
    assert step["rows"] == 1 and step["operators"] > 2000  # it was a whole one, with its row of metrics


@pytest.mark.slow
def test_autocast_reaches_every_product(passes):
    assert passes[2]["autocast"] and passes[2]["products"] == ["torch.bfloat16"]
