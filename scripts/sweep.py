"""Train every combination of lists of settings, several at a time; finished runs are skipped, cut ones go on.

    scripts/sweep.sh OUT FILE.yaml[,FILE.yaml...] [key=value[,value...] ...]
        [-j JOBS] [-g DEVICES] [-l LAUNCHER] [-n] [--job-index K] [--wandb]

    -j JOBS        runs at a time (default: one for each device of -g, else 1)
    -g DEVICES     CUDA devices to deal the runs to, as 0,1,2
    -l LAUNCHER    what starts train.py, as 'accelerate launch --multi_gpu' (default: python)
    -n             print the commands instead of running them
    --job-index K  only combination K (from 0), for an array of jobs: sbatch --array=0-11 scripts/slurm/array.sbatch ...
    --wandb        print the grid as the YAML of a wandb sweep instead: wandb sweep FILE, then wandb agent ID

The run of a combination is in OUT/<file's name>[_<key>=<value>...], its output beside it in <the same>.log. A setting
with one value stays out of the name. A value in brackets is one value: optimizer.betas=[0.9,0.99].
"""

import argparse
import itertools
import shlex
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.jobs import Job, run_all, training


def combinations(files: list[str], settings: list[str]) -> list[tuple[str, list[str]]]:
    """(name, arguments of train.py) of every combination; the last setting varies fastest."""
    axes = [[(Path(file).stem, file) for file in files]]
    for setting in settings:
        key, values = setting.split("=", 1)
        shown = key.removeprefix("optimizer.")
        varied = _values(values)
        axes.append(
            [(f"_{shown}={value.replace('/', '-')}" if len(varied) > 1 else "", f"{key}={value}") for value in varied]
        )
    return [("".join(n for n, _ in choice), [a for _, a in choice]) for choice in itertools.product(*axes)]


def wandb_sweep(files: list[str], settings: list[str], out: str) -> str:
    """The same grid for wandb's agents, each combination in a folder named after the agent's run."""
    parameters = {}
    for setting in settings:
        key, values = setting.split("=", 1)
        parameters[key] = {"values": [yaml.safe_load(value) for value in _values(values)]}
    grid = {
        "program": "scripts/sweep_agent.sh",
        "method": "grid",
        "metric": {"name": "eval/perplexity", "goal": "minimize"},
        "parameters": {"file": {"values": files}, **parameters},
        "command": ["bash", "${program}", out, "${args_no_hyphens}"],
    }
    return yaml.safe_dump(grid, sort_keys=False)


def _values(text: str) -> list[str]:
    return [text] if text.startswith("[") else text.split(",")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sweep.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("files", metavar="FILE.yaml[,FILE.yaml...]")
    parser.add_argument("settings", nargs="*", metavar="key=value[,value...]")
    parser.add_argument("-j", dest="jobs", type=int, metavar="JOBS")
    parser.add_argument("-g", dest="devices", default="", metavar="DEVICES")
    parser.add_argument("-l", dest="launcher", default="", metavar="LAUNCHER")
    parser.add_argument("-n", dest="dry", action="store_true")
    parser.add_argument("--job-index", type=int, metavar="K")
    parser.add_argument("--wandb", action="store_true")
    arguments = parser.parse_intermixed_args()
    files = arguments.files.split(",")
    for file in files:
        if not Path(file).is_file():
            parser.error(f"settings file {file} does not exist")
    for setting in arguments.settings:
        if "=" not in setting:
            parser.error(f"argument {setting!r} is not of the form key=value")
    if arguments.wandb:
        print(wandb_sweep(files, arguments.settings, arguments.out), end="")
        return 0
    launcher = shlex.split(arguments.launcher)
    jobs: list[Job] = [
        training(name, settings, Path(arguments.out), launcher)
        for name, settings in combinations(files, arguments.settings)
    ]
    if arguments.job_index is not None:
        if not 0 <= arguments.job_index < len(jobs):
            parser.error(f"--job-index must be from 0 to {len(jobs) - 1}, got {arguments.job_index}")
        jobs = [jobs[arguments.job_index]]
    devices = [device for device in arguments.devices.split(",") if device]
    return run_all(jobs, at_once=arguments.jobs or len(devices) or 1, devices=devices, dry=arguments.dry)


if __name__ == "__main__":
    sys.exit(main())
