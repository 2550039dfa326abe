"""Train every combination of lists of settings, several at a time. Finished runs are skipped, interrupted ones resume.

    scripts/sweep.sh OUT FILE.yaml[,FILE.yaml...] [key=value[,value...] ...]
        [-j JOBS] [-g DEVICES] [-l LAUNCHER] [-n] [--only NAME | --job-index K | --wandb]

    -j JOBS        runs at a time (default: one for each device of -g, else 1)
    -g DEVICES     CUDA devices to deal the runs to, as 0,1,2
    -l LAUNCHER    the command that starts train.py, as 'accelerate launch --multi_gpu' (default: python)
    -n             print the commands of the runs that are not finished instead of running them
    --only NAME    only the run of this name
    --job-index K  only the K-th run, from 0, finished ones counted: for scripts/slurm/array.sbatch
    --wandb        print a wandb sweep of the same runs instead: wandb sweep THAT.yaml, then wandb agent ID

The run of a combination is in OUT/<file's name>[_<key>=<value>...], its output in <the same>.log. Files of the same
name have their folder's name in front. A setting with one value stays out of the name. Commas within brackets
do not separate values: optimizer.betas=[0.9,0.99],[0.8,0.99]. Paths are relative to the project's folder.
"""

import argparse
import sys
from pathlib import Path

from configs.schema import SettingsError
from experiments.grid import check, choose, combinations, wandb_sweep
from experiments.jobs import run_all, training
from experiments.placement import add_options, machine_of
from training.run_errors import RunFolderError


def main() -> int:
    """Make the runs that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sweep.sh",
        description=__doc__,
        usage=argparse.SUPPRESS,  # the description begins with it
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("files", metavar="FILE.yaml[,FILE.yaml...]")
    parser.add_argument("settings", nargs="*", metavar="key=value[,value...]")
    add_options(parser)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", metavar="NAME")
    choice.add_argument("--job-index", type=int, metavar="K")
    choice.add_argument("--wandb", action="store_true")
    arguments = parser.parse_intermixed_args()

    out = Path(arguments.out)
    try:
        machine = machine_of(arguments)
        runs = combinations(arguments.files.split(","), arguments.settings)
        names = list(runs)
        checked = {name: check(name, runs[name], out) for name in names}
        if arguments.wandb:
            wandb, given = checked[names[0]][0].wandb, (arguments.out, arguments.files, arguments.settings)
            print(wandb_sweep(*given, arguments.launcher, names, wandb), end="")
            return 0
        names = choose(names, arguments.only, arguments.job_index)
        if not arguments.dry:
            machine.check()
    except (SettingsError, RunFolderError) as error:
        parser.error(str(error))
    jobs = [training(name, runs[name], out, machine.launcher, again=checked[name][1]) for name in names]
    return run_all(jobs, at_once=machine.at_once, devices=machine.devices, dry=arguments.dry)


if __name__ == "__main__":
    sys.exit(main())
