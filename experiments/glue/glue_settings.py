"""The settings of a fine-tuning run: sections `glue` and `optimizer`, and what a file says of each task.

    tasks: {cola: {batch_size: 32, lr: 3e-5}}

The values under a task's name stand in for those of the sections when the run is of that task. Overrides (key=value)
come last.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from configs.checks import check_bounds, check_options
from configs.messages import nearest
from configs.reading import Settings, SettingsError
from configs.schema import Optimizer, read_into
from configs.setting import setting
from experiments.glue.tasks import TASKS

RECORD = "record.jsonl"  # in the folder of a finished run
# What may stand under a task's name -> the section that it is of.
OF_A_TASK = {"lr": "optimizer", "adam_lr": "optimizer", "batch_size": "glue", "epochs": "glue"}


@dataclass
class Glue:
    """The settings that are not the optimizer's."""

    task: str = setting(MISSING, "name of a task of GLUE")
    seed: int = setting(0, "of the classifier's first weights, the order of rows, and dropout", least=0, most=2**32 - 1)
    model: str = setting(MISSING, "the encoder: a name on the hub or a folder")
    data: str | None = setting(None, "folder of the task's files; null: nyu-mll/glue on the hub")
    epochs: int = setting(MISSING, "passes over the training rows", least=1)
    batch_size: int = setting(MISSING, "rows of a step", least=1)
    max_length: int = setting(MISSING, "tokens of a row; what is longer is cut", least=1)
    warmup: float = setting(0.0, "share of the steps in which the rates rise, before they fall to 0", least=0, below=1)


@dataclass
class GlueConfig:
    """All settings of a run."""

    glue: Glue = field(default_factory=Glue)
    optimizer: Optimizer = field(default_factory=Optimizer)


def known_task(name: str) -> str:
    """The name, if there is such a task. Raises SettingsError."""
    if name not in TASKS:
        raise SettingsError(f"unknown task {name!r}, must be one of {', '.join(TASKS)}{nearest(name, list(TASKS))}")
    return name


def load(file: str, overrides: list[str], task: str, seed: int) -> GlueConfig:
    """The checked settings of a run. Raises SettingsError, its text one sentence."""
    settings = Settings()
    settings.add_file(file)
    of_tasks = _section(settings, settings.values.pop("tasks", {}), "tasks")
    for name in of_tasks:
        known_task(name)
    for key, value in _section(settings, of_tasks.get(known_task(task), {}), f"tasks.{task}").items():
        where = f"tasks.{task}.{key}"
        settings.require(key in OF_A_TASK, where, f"is not one of the settings of a task: {', '.join(OF_A_TASK)}")
        _section(settings, settings.values.setdefault(OF_A_TASK[key], {}), OF_A_TASK[key])[key] = value
    settings.add_overrides([*overrides, f"glue.task={task}", f"glue.seed={seed}"])
    config = read_into(GlueConfig, settings)
    check_bounds(config, settings)
    check_options(config.optimizer, settings)
    for key in ("last_layer", "embeddings"):
        unset = getattr(config.optimizer, key) is None
        settings.require(unset, f"optimizer.{key}", "has no use here: Adam steps all that is outside the layers")
    if config.optimizer.adam_lr is None:
        config.optimizer.adam_lr = config.optimizer.lr
    return config


def _section(settings: Settings, values: Any, key: str) -> dict[str, Any]:
    """`values`, if they are keys and values. Raises SettingsError."""
    settings.require(isinstance(values, dict), key, f"must hold keys and values, got {values!r}")
    found: dict[str, Any] = values
    return found


def plain(config: GlueConfig) -> dict[str, Any]:
    """The settings as plain dicts, fit for YAML and JSON."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return settings


def folder_of(name: str, folder: str) -> Path:
    """The folder that holds a task's files."""
    nested = Path(folder) / name
    return nested if nested.is_dir() else Path(folder)
