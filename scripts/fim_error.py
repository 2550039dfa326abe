"""How well does each optimizer's structure approximate the Fisher of a real model, and how much state does it hold?

    python scripts/fim_error.py RUN [key=value ...] [--samples 512] [--seed 0] [--results results/fim_error]

RUN is a finished run's folder, or one with a saved model (then model=... and data.* settings describe it; default: a
llama_nano on the builtin text). Every attention and MLP matrix gets one gradient from each of 2 * samples training
sequences; the structures of analysis/fisher are fitted to the first half, and measured on it and on the second.
Writes fim_error.csv, fim_error.png and medians.md; without RUN the last two are made again from the first.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
from pathlib import Path

from analysis.fisher.measurement import COLUMNS, measure
from analysis.fisher.picture import write_picture
from analysis.paths import RESULTS
from analysis.tables.table import write_csv


def main() -> None:
    """Measure, write and draw, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder or a model folder")
    parser.add_argument("settings", nargs="*", help="key=value, as for train.py")
    parser.add_argument("--samples", type=int, default=512, help="sequences to fit to, and as many again to test on")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the sequences and of Alice's draws")
    parser.add_argument("--results", type=Path, default=RESULTS / "fim_error")
    arguments = parser.parse_intermixed_args()
    table = arguments.results / "fim_error.csv"
    try:
        if arguments.samples < 2:
            raise ValueError(f"--samples must be at least 2, got {arguments.samples}")
        if arguments.run:
            rows = list(measure(arguments.run, arguments.settings, arguments.samples, arguments.seed))
            write_csv(table, COLUMNS, rows)
        elif not table.is_file():
            raise ValueError(f"there is no {table} to draw again: give a run folder")
    except ValueError as error:
        parser.error(str(error))
    write_picture(table)
    print(f"{table.with_suffix('.png')} and medians.md made from {table}")


if __name__ == "__main__":
    main()
