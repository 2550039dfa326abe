"""The plan of a process against what is counted on fake CUDA tensors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import load
from training.cluster.transients import COPIES
from training.plan import plan_run

from .budgets import BUDGETS, EIGHT_BITS, ROUNDED
from .compiler import compiler

ROOT = Path(__file__).parents[2]
CASES = ("plain", "padded", "checkpointing", "float32", "grouped", "few")


def settings(model, name, *more):
    return load([f"model={model}", f"optimizer={name}", "data=builtin", "train.compile=false", *more]).config


@pytest.fixture(scope="module")
def counted():
    """Rows of tests/phantom/passes.py."""
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    command = [sys.executable, "-m", "tests.phantom.passes"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["case"]: row for row in map(json.loads, filter(lambda line: line[0] == "{", done.stdout.splitlines()))}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_activations_and_loss_are_the_peak_of_a_pass(counted, case):
    """Within 3 %. The plan does not know what leaving out padding saves. Of a recomputed layer and the loss only one is
    there at a time."""
    row = counted[case]
    memory = plan_run(load(row["settings"]).config)["cluster"]["memory"]
    planned = memory["activation_bytes"] + memory["loss_bytes"]
    least, most = {"padded": (1.0, 1.35), "checkpointing": (1.0, 1.12)}.get(case, (0.97, 1.03))
    assert least <= planned / row["peak"] <= most


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_passes_between_products_are_those_counted(counted, case):
    """Within 8 %: the plan leaves out embedding, last norm and the weights' padding."""
    row = counted[case]
    config = load(row["settings"]).config
    cluster = plan_run(config)["cluster"]
    positions = config.train.batch_size * config.data.sequence_length * cluster["filled"]
    planned = cluster["cards"]["H100"]["elementwise_seconds"] * 3.35e12 * row["positions"] / positions
    assert planned == pytest.approx(row["passes_bytes"], rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama_60m", "llama_1_3b"])
def test_transients_are_copies_of_the_largest_stack(model):
    """What is budgeted was counted; budgets are up to a few per cent above."""
    for name in COPIES:
        config = settings(model, name, "train.dtype=bfloat16", "train.steps=10")
        planned = plan_run(config)["cluster"]["memory"]["transient_bytes"] / 2**30
        budget = BUDGETS[name][model].transients
        # natural_galore converts its history in pieces of up to 256 MiB.
        most = 1.9 if name == "natural_galore" else 1.25
        assert 0.8 * budget - 0.01 <= planned <= most * budget, name


@pytest.mark.slow
def test_transients_in_8_bits_have_the_wide_moments_of_a_stack():
    for name, budget in EIGHT_BITS.items():
        narrow = ("train.dtype=bfloat16", "train.steps=10", "optimizer.state_bits=8")
        planned = plan_run(settings("llama_60m", name, *narrow))["cluster"]["memory"]["transient_bytes"] / 2**30
        assert 0.8 * budget.transients <= planned <= 1.3 * budget.transients, name


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama_60m", "llama_1_3b"])
def test_transients_with_stochastic_rounding_are_of_a_matrix_more(model):
    for name, budgets in ROUNDED.items():
        rounded = ("train.dtype=bfloat16", "train.steps=10", "train.stochastic_rounding=true")
        planned = plan_run(settings(model, name, *rounded))["cluster"]["memory"]["transient_bytes"] / 2**30
        assert 0.85 * budgets[model].transients <= planned <= 1.35 * budgets[model].transients, name
