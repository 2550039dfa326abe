"""Runs the checks of a GPU that need no numbers on the phantom; prints a JSON object a line.

python -m tests.phantom.acceptance steps waits ...
"""

from tests.phantom import device  # before torch

import json  # isort: skip
import sys

import torch

from benchmarks.acceptance import device as measuring
from benchmarks.acceptance import solvers, step_times, training_speed, waits
from benchmarks.acceptance.items import Setup
from benchmarks.acceptance.products import of_iterations, of_mlp
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
    yield solvers.Item("mlp", lambda: of_mlp(setup, 6144, 2048, 5461))
    yield solvers.Item("newton_schulz", lambda: of_iterations(setup, 2048, 5461))


CHECKS = {"steps": steps, "training": training, "widths": widths, "waits": waits.waits, "solvers": solvers.solvers}


def main() -> None:
    measuring.SIZES["60m"] = measuring.Size("llama_60m", 16, 128)
    waits.registry.names = lambda: ["adam", "racs", "alice", "galore", "soap"]
    run = Run(SETUP, 600.0)
    with device.phantom():
        run.through({name: CHECKS[name] for name in sys.argv[1:]})
    for row in run.rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
