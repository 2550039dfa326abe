"""Compiled layers on two processes (gloo): the losses of eager ones, whatever the layout, the rows and what is kept."""

import pytest
import torch

from training.compiler import missing_compiler

WORKER = "compiled_worker.py"
ARGUMENTS = ["inductor"] if missing_compiler(torch.device("cpu"), torch.float32) is None else []


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
