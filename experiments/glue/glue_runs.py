"""Many fine-tuning runs: every settings file and combination of settings, on every task, with every seed."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from configs.identity import flatten
from configs.reading import SettingsError
from experiments.glue.glue_settings import GlueConfig, folder_of, known_task, load, plain
from experiments.glue.tasks import TASKS
from experiments.grid import combinations
from training.run.folder import RunFolder
from training.run.provenance import changed_method


def chosen_tasks(text: str) -> list[str]:
    """The tasks of a list with commas, each once. Raises SettingsError for an unknown one."""
    return [known_task(name) for name in dict.fromkeys(text.split(","))]


def chosen_seeds(text: str) -> list[int]:
    """The seeds of a list with commas, each once. Raises SettingsError for what is no whole number."""
    names = dict.fromkeys(text.split(","))
    for name in names:
        if not name.isdecimal():
            raise SettingsError(f"--seeds: a seed must be a whole number, got {name!r}")
    return [int(name) for name in names]


def plan(
    files: Sequence[str], settings: Sequence[str], shared: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]
) -> dict[str, GlueConfig]:
    """The checked settings of every run, by its name <file>[_<key>=<value> ...]_<task>_s<seed>.

    settings: key=value[,value...]; shared: key=value of all runs. Raises SettingsError.
    """
    for setting in settings:
        if setting.partition("=")[0] in ("glue.task", "glue.seed"):
            raise SettingsError(f"{setting}: tasks and seeds are named by --tasks and --seeds")
    runs = {}
    for row, (file, *overrides) in combinations(list(files), list(settings)).items():
        for task in tasks:
            for seed in seeds:
                name = f"{row}_{task}_s{seed}"
                try:
                    runs[name] = load(file, [*overrides, *shared], task, seed)
                except SettingsError as error:
                    raise SettingsError(f"{name}: {error}") from error
    _check_shared_files(runs)
    return runs


def _check_shared_files(runs: dict[str, GlueConfig]) -> None:
    """Refuse one folder of files for two tasks. Raises SettingsError."""
    task_of: dict[Path, str] = {}
    for config in runs.values():
        if config.glue.data is not None:
            folder, task = folder_of(config.glue.task, config.glue.data), config.glue.task
            if task_of.setdefault(folder, task) != task:
                raise SettingsError(f"{folder} has no folder {task}: for several tasks, each has one of its name")


def check_folder(folder: Path, config: GlueConfig) -> None:
    """Refuse a folder that holds a run with other settings. Raises SettingsError, RunFolderError where unreadable."""
    kept = RunFolder(folder).read_config()
    if kept is None:
        return
    before, now = flatten(kept), flatten(plain(config))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed := changed + changed_method(RunFolder(folder).read_environment(), config.optimizer):
        raise SettingsError(f"{folder} holds a run with other settings ({', '.join(changed)}): choose another OUT")


def describe(config: GlueConfig) -> str:
    """The settings that are set, as key=value."""
    sections = (config.glue, config.optimizer)
    values = [(f.name, getattr(section, f.name)) for section in sections for f in dataclasses.fields(section)]
    return " ".join(f"{key}={value}".replace(" ", "") for key, value in values if value is not None)


def all_tasks() -> str:
    """The names of all tasks, as --tasks takes them."""
    return ",".join(TASKS)
