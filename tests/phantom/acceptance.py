"""Runs the checks of a GPU that need no numbers on the phantom; prints a JSON object a line.

python -m tests.phantom.acceptance steps waits ...
"""

from tests.phantom import device  # before torch

import json  # isort: skip
import math
import sys

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from benchmarks.acceptance import device as measuring
from benchmarks.acceptance import model_products, solvers, step_times, training_speed, waits
from benchmarks.acceptance.items import Setup
from benchmarks.acceptance.run import Run

SETUP = Setup(torch.device("cuda"))
CARD = step_times.Rates(2.6e12, {torch.float32: 45e12, torch.bfloat16: 550e12})


def steps(setup):
    for name in ("adam", "alice", "muon"):
        yield step_times.Item(name, lambda name=name: step_times.of_optimizer("60m", name, setup, CARD))


def training(setup):
    passes, seconds = {}, {}
    for case in training_speed.CASES[:2]:
        yield training_speed.Item("", lambda case=case: training_speed._speed(case, setup, passes, seconds))
    yield training_speed.Item("", lambda: [training_speed._loss_share(setup, passes)])


def widths(setup):
    yield solvers.Item("mlp", lambda: model_products.of_mlp(setup, 6144, 2048, 5461))
    yield solvers.Item("newton_schulz", lambda: model_products.of_iterations(setup, 2048, 5461))


CHECKS = {"steps": steps, "training": training, "widths": widths, "waits": waits.waits, "solvers": solvers.solvers}


def outside(function):
    """`function` on real tensors: it depends on numbers, or converts parameters as fake tensors cannot be."""

    def called(*arguments, **options):
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return called


def micro_batch(rows, device, *, padded, seed=0):
    inputs, targets = outside(measuring.micro_batch)(rows, torch.device("cpu"), padded=padded, seed=seed)
    return measuring.MicroBatch({name: tensor.to(device) for name, tensor in inputs.items()}, targets)


def once(call, repeats=1):
    """Nothing to measure: the call alone."""
    call()
    return 1.0


@torch.library.register_fake("aten::geqrf")
def _(matrix):
    """torch has no shapes for this one."""
    return matrix.new_empty(matrix.shape), matrix.new_empty(*matrix.shape[:-2], min(matrix.shape[-2:]))


def main() -> None:
    measuring.build_model = outside(measuring.build_model)
    training_speed.micro_batch = waits.micro_batch = micro_batch
    for module in (model_products, solvers, step_times, training_speed):
        module.median_seconds = once
    training_speed.plan_run = outside(training_speed.plan_run)
    measuring.SIZES["60m"] = measuring.Size("llama_nano", 16, 16)
    waits.registry.names = lambda: ["adam", "racs", "alice", "galore", "soap"]
    run = Run(SETUP, math.inf)
    with device.phantom():
        run.through({name: CHECKS[name] for name in sys.argv[1:]})
    for row in run.rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
