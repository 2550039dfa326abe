"""Compiled layers on two processes (gloo): the losses of eager ones, whatever the layout, the rows and what is kept."""

import json

import pytest
import torch

from tests.faults.test_many_processes import TWO, launch
from training.compiler import missing_compiler

COMPILER = missing_compiler(torch.device("cpu")) is None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The losses of tests/distributed/compiled_worker.py."""
    out = tmp_path_factory.mktemp("compiled") / "found.json"
    process = launch(TWO, "tests/distributed/compiled_worker.py", str(out), *(["inductor"] if COMPILER else []))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("layout", ["Replicas", "Shards"])
def test_compiled_layers_give_the_eager_losses(found, layout, packing, checkpointing):
    """Over three steps of two micro-batches each, with another number of positions in each."""
    eager, *compiled = found[f"{layout}-{packing}-{checkpointing}"]
    assert compiled
    for losses in compiled:
        assert losses == pytest.approx(eager, rel=1e-6)
    assert eager[2] < eager[0]
