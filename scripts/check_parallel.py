"""Two processes against one: every optimizer on a small LLaMA under DDP and FSDP2, written as a table.

    accelerate launch --config_file configs/accelerate/cpu_2.yaml scripts/check_parallel.py [--steps N] [--out FOLDER]
        [--dtype float64]

For each optimizer one process alone, DDP and FSDP2 make the same steps (benchmarks/parallel.py). FOLDER
(results/parallel) gets table.csv and table.md.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
import sys
from pathlib import Path

import torch

from benchmarks.parallel import compare, write
from optimizers import registry
from training.processes.start import start_world


def main() -> None:
    """Compare every optimizer, on all processes that the launcher has started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/parallel"))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    if world.count < 2:
        sys.exit("one process: launch with configs/accelerate/cpu_2.yaml")
    dtype = getattr(torch, arguments.dtype)
    rows = [compare(name, world, range(arguments.steps), dtype) for name in registry.names()]
    if world.is_main:
        write(rows, arguments.out, f"{arguments.steps} steps in {arguments.dtype}")
        print((arguments.out / "table.md").read_text())
    world.close()


if __name__ == "__main__":
    main()
