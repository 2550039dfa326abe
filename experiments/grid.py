"""Train every combination of lists of settings, several at a time; finished runs are skipped, cut ones go on.

    scripts/sweep.sh OUT FILE.yaml[,FILE.yaml...] [key=value[,value...] ...]
        [-j JOBS] [-g DEVICES] [-l LAUNCHER] [-n] [--only NAME | --job-index K | --wandb]

    -j JOBS        runs at a time (default: one for each device of -g, else 1)
    -g DEVICES     CUDA devices to deal the runs to, as 0,1,2
    -l LAUNCHER    what starts train.py, as 'accelerate launch --multi_gpu' (default: python)
    -n             print the commands of the runs that are not finished instead of running them
    --only NAME    only the run of this name
    --job-index K  only the K-th run, from 0, finished ones counted: for scripts/slurm/array.sbatch
    --wandb        print a wandb sweep of the same runs instead: wandb sweep THAT.yaml, then wandb agent ID

The run of a combination is in OUT/<file's name>[_<key>=<value>...], its output beside it in <the same>.log; files of
the same name have their folder's name in front. A setting with one value stays out of the name. Commas within brackets
do not separate values: optimizer.betas=[0.9,0.99],[0.8,0.99].
"""

import argparse
import itertools
import os
import shlex
import shutil
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.identity import differences, to_dict
from configs.schema import Config, SettingsError, load
from configs.sources import argument
from scripts.jobs import positive, run_all, training
from training.errors import RunFolderError
from training.records import RunFolder


def combinations(files: list[str], settings: list[str]) -> dict[str, list[str]]:
    """Arguments of train.py for every combination, by the run's name; the last setting varies fastest.

    Raises SettingsError for what is no setting and for two runs of one name.
    """
    axes = [list(zip(_file_names(files), files, strict=True))]
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SettingsError(f"argument {setting!r} is not of the form key=value")
        if key == "run.dir":
            raise SettingsError("run.dir is OUT and the run's name in a sweep, leave it out")
        values = _split(text)
        shown = key.removeprefix("optimizer.").removeprefix("run.")
        parts = [f"_{shown}={value.replace('/', '-')}" if len(values) > 1 else "" for value in values]
        axes.append([(part, f"{key}={value}") for part, value in zip(parts, values, strict=True)])
    runs: dict[str, list[str]] = {}
    for choice in itertools.product(*axes):
        name = "".join(part for part, _ in choice)
        if name in runs:
            raise SettingsError(f"two runs would be called {name}")
        runs[name] = [argument for _, argument in choice]
    return runs


def _split(text: str) -> list[str]:
    """`text` cut at the commas that stand outside all brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _file_names(files: list[str]) -> list[str]:
    """The shortest ends of the paths that tell the files apart, as alice, or 60m_alice and 130m_alice."""
    parts = [Path(file).resolve().with_suffix("").parts for file in files]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["_".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(files):
            return names
    raise SettingsError(f"a settings file is given twice in {','.join(files)}")


def check(name: str, arguments: list[str], out: Path) -> tuple[Config, bool]:
    """The settings of a run, and whether its folder holds a run that is to go on with these instead of others. Raises
    SettingsError where train.py would refuse them, or where the run's folder holds a run with others, which would be
    skipped or gone on with under a wrong name; RunFolderError if that is unreadable."""
    try:
        config = load([*arguments, argument("run.dir", str(out / name))]).config
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    before, now = RunFolder(out / name).read_config(), to_dict(config)
    if before is None:
        return config, False
    changed = differences(before, now)
    if config.run.allow_config_change:
        return config, bool(changed)
    if before["run"]["seed"] != now["run"]["seed"]:
        changed.append("run.seed")
    if changed:
        raise SettingsError(f"{out / name} holds a run with other settings ({', '.join(changed)}): choose another OUT")
    return config, False


def wandb_sweep(arguments: argparse.Namespace, names: list[str], config: Config) -> str:
    """YAML of a sweep in which each run of wandb's agents is one of `names`, made by this script."""
    launcher = ["-l", arguments.launcher] if arguments.launcher else []
    grid = {
        "name": arguments.out,
        "project": config.wandb.project,
        **({"entity": config.wandb.entity} if config.wandb.entity else {}),
        "program": "scripts/sweep.sh",
        "command": [
            "bash", "${program}", arguments.out, arguments.files, *arguments.settings, "wandb.mode=online", *launcher,
            "${args}",
        ],
        "method": "grid",
        "metric": {"name": "eval/perplexity", "goal": "minimize"},
        "parameters": {"only": {"values": names}},
    }  # fmt: skip
    return yaml.safe_dump(grid, sort_keys=False)


def check_machine(devices: list[str], launcher: list[str]) -> None:
    """Raises SettingsError for CUDA devices and a launcher that this machine does not have."""
    if launcher and shutil.which(launcher[0]) is None:
        raise SettingsError(f"-l: there is no program {launcher[0]}")
    if devices:
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        known = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        if unknown := [device for device in devices if device not in known]:
            raise SettingsError(f"-g: there is no CUDA device {unknown[0]}; there are {', '.join(known) or 'none'}")


def _words(launcher: str) -> list[str]:
    try:
        return shlex.split(launcher)
    except ValueError as error:
        raise SettingsError(f"-l: {launcher!r} is no command ({error})") from error


def main() -> int:
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
    parser.add_argument("-j", dest="jobs", type=positive, metavar="JOBS")
    parser.add_argument("-g", dest="devices", default="", metavar="DEVICES")
    parser.add_argument("-l", dest="launcher", default="", metavar="LAUNCHER")
    parser.add_argument("-n", dest="dry", action="store_true")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", metavar="NAME")
    choice.add_argument("--job-index", type=int, metavar="K")
    choice.add_argument("--wandb", action="store_true")
    arguments = parser.parse_intermixed_args()

    out = Path(arguments.out)
    devices = [device for device in arguments.devices.split(",") if device]
    try:
        launcher = _words(arguments.launcher)
        runs = combinations(arguments.files.split(","), arguments.settings)
        names = list(runs)
        checked = {name: check(name, runs[name], out) for name in names}
        if arguments.wandb:
            print(wandb_sweep(arguments, names, checked[names[0]][0]), end="")
            return 0
        if arguments.only is not None:
            if arguments.only not in names:
                raise SettingsError(f"--only: no run is called {arguments.only}; there are {', '.join(names)}")
            names = [arguments.only]
        if arguments.job_index is not None:
            if not 0 <= arguments.job_index < len(names):
                raise SettingsError(f"--job-index must be from 0 to {len(names) - 1}, got {arguments.job_index}")
            names = [names[arguments.job_index]]
        if not arguments.dry:
            check_machine(devices, launcher)
    except (SettingsError, RunFolderError) as error:
        parser.error(str(error))
    jobs = [training(name, runs[name], out, launcher, again=checked[name][1]) for name in names]
    return run_all(jobs, at_once=arguments.jobs or len(devices) or 1, devices=devices, dry=arguments.dry)


if __name__ == "__main__":
    sys.exit(main())
