"""Train every optimizer on the builtin text with the same 300 steps: the runs of scripts/compare.sh.

    python scripts/compare.py [-j JOBS]

Runs go to runs/builtin. Finished ones are skipped, interrupted ones resume. Optimizers whose moments are held in 8 bits
are left out where bitsandbytes is not installed.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from experiments.jobs import positive, run_all, training
from experiments.nano_files import comparison_runs
from optimizers import registry
from training.processes.logs import say


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", dest="jobs", type=positive, default=1, help="runs at a time, one thread each")
    arguments = parser.parse_args()
    runs = comparison_runs()
    narrow = [name for name in runs if registry.options(name)["state_bits"].default == 8]
    if find_spec("bitsandbytes") is None:
        say(f"left out, as they need bitsandbytes (pip install bitsandbytes): {', '.join(narrow)}")
        runs = {name: given for name, given in runs.items() if name not in narrow}
    return run_all([training(name, runs[name], Path("runs/builtin")) for name in runs], at_once=arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
