"""Train every optimizer on the builtin text with the same 300 steps: the runs of scripts/compare.sh.

    python scripts/compare.py [-j JOBS]

Runs go to runs/builtin. Finished ones are skipped, interrupted ones resume.
"""

import argparse
import sys
from pathlib import Path

from experiments.jobs import positive, run_all, training
from experiments.nano_files import comparison_runs


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", dest="jobs", type=positive, default=1, help="runs at a time, one thread each")
    arguments = parser.parse_args()
    runs = comparison_runs()
    return run_all([training(name, runs[name], Path("runs/builtin")) for name in runs], at_once=arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
