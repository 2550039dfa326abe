"""The most host memory that each process of a run has taken when it begins to train. It trains and saves nothing.

    accelerate launch --config_file configs/accelerate/cpu_2.yaml scripts/measure_start.py ARGUMENTS of train.py

Where run.dir holds a checkpoint, the start is a resume, and the optimizer's state is there when training begins. Linux
only.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import sys

from benchmarks.start_memory import measure

if __name__ == "__main__":
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        print(__doc__)
    else:
        sys.exit(measure(sys.argv[1:]))
