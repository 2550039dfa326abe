"""The optimizers in other people's loops on two processes (gloo)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import optimizers
from tests.distributed import own_loops
from tests.optimizers.test_partition import llama
from tests.processes import started
from tests.snippets import batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What tests/distributed/own_loops.py left: found.json and a checkpoint of two processes."""
    folder = tmp_path_factory.mktemp("own_loops")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.distributed.own_loops"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with started([sys.executable, *command, str(folder)], env=environment, **pipes) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def found(folder) -> dict:
    return json.loads((folder / "found.json").read_text())


def test_ddp_replicas_stay_equal_and_train_as_one_process(found):
    assert found["replicas_equal"]
    assert found["replicas_from_alone"] < 1e-4


def test_fsdp2_trains_as_one_process(found):
    assert found["sharded"] == len(list(llama().parameters()))
    assert found["shards_from_alone"] < 1e-4


def test_sharded_and_whole_parameters_of_one_group_are_stepped_as_by_one_process(found):
    """As where a user shards the layers of a model alone."""
    assert len(found["mixed"]) > 20
    assert {name: off for name, off in found["mixed"].items() if off > 1e-9} == {}


def test_a_sharded_checkpoint_goes_on_exactly(found):
    assert found["resumed_from_on"] == 0


def test_a_sharded_checkpoint_goes_on_in_one_process(found, folder):
    checkpoints = own_loops.run("torch.distributed.checkpoint")
    model = llama()
    optimizer = optimizers.build(model, "alice", **own_loops.OPTIONS)
    checkpoints["load"](model, optimizer, str(folder / "checkpoint"))
    own_loops.train(model, optimizer, batches(4)[2:])
    for weight, expected in zip(model.parameters(), found["whole"], strict=True):
        torch.testing.assert_close(weight.detach(), torch.tensor(expected), rtol=0, atol=1e-4)


def test_a_checkpoint_of_one_process_goes_on_exactly(tmp_path):
    checkpoints = own_loops.run("torch.distributed.checkpoint")
    ours, again, rows = own_loops.model(), llama(), batches(4)
    optimizer, resumed = (optimizers.build(model, "alice", **own_loops.OPTIONS) for model in (ours, again))
    own_loops.train(ours, optimizer, rows[:2])
    checkpoints["save"](ours, optimizer, str(tmp_path / "checkpoint"))
    own_loops.train(ours, optimizer, rows[2:])
    checkpoints["load"](again, resumed, str(tmp_path / "checkpoint"))
    own_loops.train(again, resumed, rows[2:])
    assert own_loops.difference(ours, again) == 0
