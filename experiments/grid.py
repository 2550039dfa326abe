"""Runs of every combination of lists of settings: names, arguments, and the checks before any run starts."""

import itertools
from pathlib import Path

import yaml

from configs.identity import differences, flatten, to_dict
from configs.reading import argument
from configs.schema import Config, SettingsError, Wandb, load
from training.run.folder import RunFolder
from training.run.provenance import changed_method


def combinations(files: list[str], settings: list[str]) -> dict[str, list[str]]:
    """Arguments of train.py for every combination, by the run's name; the last setting varies fastest.

    Raises SettingsError for an argument that is no setting, for a list of values that a later argument would replace,
    and for two runs of one name.
    """
    lists: set[str] = set()
    axes = [list(zip(_file_names(files), files, strict=True))]  # of (part of the name, argument)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SettingsError(f"argument {setting!r} is not of the form key=value")
        if key == "run.dir":
            raise SettingsError("run.dir is OUT and the run's name in a sweep, leave it out")
        if key in lists:
            raise SettingsError(f"{key} is given again behind its list of values, which the runs would be named after")
        values = _split(text)
        lists |= {key} if len(values) > 1 else set()
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
    """The settings of a run, and whether it is to resume a run with other settings that its folder holds.

    Raises:
        SettingsError: train.py would refuse the settings, or the folder holds a run with others, which would be skipped
            or resumed under a wrong name, or the config.yaml of something else.
        RunFolderError: the folder's config.yaml is unreadable.
    """
    try:
        config = load([*arguments, argument("run.dir", str(out / name))]).config
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    folder = RunFolder(out / name)
    before, now = folder.read_config(), to_dict(config)
    if before is None:
        return config, False
    seed = flatten(before).get("run.seed")
    if seed is None:
        raise SettingsError(f"{out / name} holds a config.yaml that is of no run: choose another OUT")
    changed = differences(before, now) + changed_method(folder.read_environment(), config.optimizer)
    if config.run.allow_config_change:
        return config, bool(changed)
    if seed != now["run"]["seed"]:
        changed.append("run.seed")
    if changed:
        raise SettingsError(f"{out / name} holds a run with other settings ({', '.join(changed)}): choose another OUT")
    return config, False


def wandb_sweep(out: str, files: str, settings: list[str], launcher: str, names: list[str], wandb: Wandb) -> str:
    """YAML of a sweep in which each run of wandb's agents is one of `names`, made by scripts/sweep.sh."""
    start = ["-l", launcher] if launcher else []
    grid = {
        "name": out,
        "project": wandb.project,
        **({"entity": wandb.entity} if wandb.entity else {}),
        "program": "scripts/sweep.sh",
        "command": ["bash", "${program}", out, files, *settings, "wandb.mode=online", *start, "${args}"],
        "method": "grid",
        "metric": {"name": "eval/perplexity", "goal": "minimize"},
        "parameters": {"only": {"values": names}},
    }
    return yaml.safe_dump(grid, sort_keys=False)


def choose(names: list[str], only: str | None, index: int | None) -> list[str]:
    """The run of the name `only` or the one at `index`, or all. Raises SettingsError where there is no such run."""
    if only is not None:
        if only not in names:
            raise SettingsError(f"--only: no run is called {only}; there are {', '.join(names)}")
        return [only]
    if index is not None:
        if not 0 <= index < len(names):
            raise SettingsError(f"--job-index must be from 0 to {len(names) - 1}, got {index}")
        return [names[index]]
    return names
