"""How long does a training step of each row of the nano study take, on a machine that does nothing else?

    python scripts/benchmark_steps.py [--rounds 5] [--out results/nano/step_seconds.csv]

A step is forward and backward of one batch, the same for all rows and compiled if the study says so, and the
optimizer's part, which is the mean of an update_interval of steps with its refresh. All rows take turns on one thread;
medians of rounds. The study runs several rows at a time, so its own seconds are not comparable: its speed-ups in
seconds come from this table.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
from pathlib import Path

import torch

from analysis.paths import NANO
from analysis.tables.table import write_csv
from benchmarks.steps import step_seconds
from configs.schema import load
from experiments.nano_files import STUDY, file_of, study_settings

COLUMNS = ("row", "seconds", "forward_backward_seconds", "optimizer_seconds")


def main() -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=NANO / "step_seconds.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    configs = {row: load(study_settings(file_of(row))).config for row in STUDY}
    common, parts = step_seconds(configs, arguments.rounds)
    rows = [[row, f"{common + own:.6f}", f"{common:.6f}", f"{own:.6f}"] for row, own in parts.items()]
    write_csv(arguments.out, COLUMNS, rows)
    for row, own in parts.items():
        print(f"{row:28} {1e3 * (common + own):8.1f} ms, {1e3 * own:6.2f} of them the optimizer's")


if __name__ == "__main__":
    main()
