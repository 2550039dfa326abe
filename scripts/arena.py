"""Make the runs of an arena: tune every row within one number of runs, then train it with its seeds and data ratios.

    scripts/arena.sh configs/arena/NAME.yaml [-j JOBS] [-g DEVICES] [-l LAUNCHER] [-n]
        [--until STAGE] [--only ROW,...] [--job-index K]

    -j JOBS        runs at a time (default: one for each device of -g, else 1)
    -g DEVICES     CUDA devices to deal the runs to, as 0,1,2
    -l LAUNCHER    the command that starts train.py, as 'accelerate launch --multi_gpu' (default: python)
    -n             print the commands of the runs that can start now instead of running them
    --until STAGE  the last stage to run: tuning, final, ladder or published
    --only ROW,... some rows alone
    --job-index K  only the K-th tuned row, from 0, with the rows that take its rates: for scripts/slurm/array.sbatch

First it prints what is left: runs, hours, money. Records are appended to results/arena/NAME.jsonl as runs end; a run
with a record is finished, on any machine. The same command again goes on; interrupted runs resume. Tables and pictures:
scripts/results.sh.
"""

import argparse
import sys
from pathlib import Path

from analysis.arena.entries import STAGES
from analysis.arena.ledger import ledger_of
from analysis.arena.spec import Spec, check_place, read_spec
from configs.schema import SettingsError
from experiments.arena.conduct import budget, check_methods, print_startable, run_stages
from experiments.placement import add_options, machine_of
from training.processes.failures import report
from training.processes.logs import say


def main() -> int:
    """Run the arena that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="arena.sh",
        description=__doc__,
        usage=argparse.SUPPRESS,  # the description begins with it
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml")
    add_options(parser)
    parser.add_argument("--until", choices=list(STAGES), default=list(STAGES)[-1])
    parser.add_argument("--only", metavar="ROW,...")
    parser.add_argument("--job-index", type=int, metavar="K")
    given = parser.parse_args()

    try:
        spec = read_spec(given.spec)
        check_place(given.spec)
        rows = list(dict.fromkeys(given.only.split(","))) if given.only else list(spec.rows)
        if unknown := [row for row in rows if row not in spec.rows]:
            raise SettingsError(f"--only: there is no row {unknown[0]}; there are {', '.join(spec.rows)}")
        if given.job_index is not None:
            rows = _of_job(spec, rows, given.job_index)
        machine = machine_of(given)
        ledger = ledger_of(spec.name)
        stages = list(STAGES)[: list(STAGES).index(given.until) + 1]
        if not given.dry:
            machine.check()
            check_methods(spec, ledger, rows, stages)
    except SettingsError as error:
        parser.error(str(error))
    say(budget(spec, ledger, rows, machine.at_once))
    try:
        return (print_startable if given.dry else run_stages)(spec, ledger, rows, stages, machine)
    except (SettingsError, OSError) as error:
        return report(error, None)


def _of_job(spec: Spec, rows: list[str], index: int) -> list[str]:
    """The rows of one job of an array. Raises SettingsError where there are fewer jobs."""
    tuned = [row for row in rows if spec.rows[row].rates_of is None]
    if not 0 <= index < len(tuned):
        raise SettingsError(f"--job-index must be from 0 to {len(tuned) - 1}, got {index}")
    return [row for row in rows if tuned[index] in (row, spec.rows[row].rates_of)]


if __name__ == "__main__":
    sys.exit(main())
