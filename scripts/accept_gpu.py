"""Is this GPU fit for the project's runs? Numbers, waiting and speed, checked in ten minutes.

    python scripts/accept_gpu.py [--seconds 480] [--only NAME ...] [--out accept.json]

One process on one CUDA device, with random data; `data` tokenises the builtin text. Each line is

    PASS|FAIL check.name value limit

"-" as the limit: the value is for the reader. Limits of speed are an H100's and are asked of an H100 or H200 alone. An
error of a check is a line too, and the others go on. What the time does not allow fails as not run. The exit code is
the number of lines that failed (100 for more), and 2 where there is no CUDA device. docs/gpu.md explains each check.
"""

from training.processes import repeatable_sums  # noqa: F401 - before torch

# isort: split
import os

# Read when torch is imported, and when CUDA starts.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.acceptance.allocator import allocator
from benchmarks.acceptance.bases import bases
from benchmarks.acceptance.contract import contract
from benchmarks.acceptance.environment import environment
from benchmarks.acceptance.feeding import feeding
from benchmarks.acceptance.items import Check, Setup
from benchmarks.acceptance.model_products import loss, tf32, widths
from benchmarks.acceptance.run import Run, chosen
from benchmarks.acceptance.solvers import solvers
from benchmarks.acceptance.step_times import steps
from benchmarks.acceptance.training_speed import training
from benchmarks.acceptance.waits import waits
from benchmarks.acceptance.whole_runs import runs

# The order of the page: what is wrong comes before what is slow.
CHECKS: dict[str, Check] = {
    "environment": environment,
    "contract": contract,
    "bases": bases,
    "waits": waits,
    "steps": steps,
    "solvers": solvers,
    "training": training,
    "widths": widths,
    "loss": loss,
    "data": feeding,
    "allocator": allocator,
    "runs": runs,
    "tf32": tf32,
}
NO_DEVICE, MOST = 2, 100  # exit codes


def main(argv: list[str] | None = None) -> int:
    """Run the checks that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no other item is begun")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=", ".join(CHECKS))
    parser.add_argument("--out", type=Path, help="file for every number, as JSON")
    arguments = parser.parse_args(argv)
    try:
        checks = chosen(CHECKS, arguments.only)
    except ValueError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        print("there is no CUDA device that this torch can use: a card is accepted where it is", file=sys.stderr)
        return NO_DEVICE
    set_precision()
    name = torch.cuda.get_device_name()
    run = Run(Setup(torch.device("cuda"), speed=any(card in name for card in ("H100", "H200"))), arguments.seconds)
    try:
        run.through(checks)
    finally:
        if arguments.out:
            arguments.out.write_text(json.dumps({"device": name, "failures": run.failures, "rows": run.rows}, indent=1))
    print(f"{run.failures} of {len(run.rows)} lines failed")
    return min(run.failures, MOST)


def set_precision() -> None:
    """As a run sets it (training/processes/start.py)."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


if __name__ == "__main__":
    sys.exit(main())
