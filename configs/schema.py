"""The strict reading of settings files and overrides into a `Config`. The rooms declare what each setting means:

    models/model_settings.py    model
    data/data_settings.py       data
    training/train_settings.py  run, schedule, train, wandb
    configs/sections.py         optimizer

    python train.py [FILE.yaml ...] [key=value ...] [--plan | --plan=json] [--processes=N] [--card=NAME]

Files merge left to right over the defaults; no file means configs/quickstart.yaml. In a file and on the command line,
`model`, `data` and `optimizer` may name a file of that group (`optimizer: alice`, or with changes `optimizer: {base:
alice, rank: 64}`): it replaces the whole section. On the command line groups are read before dotted overrides
(`optimizer.rank=64`), in whatever order they are given. A file may build on another one: `base: ../60m.yaml`, relative
to itself.
"""

import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from configs.checks import check
from configs.identity import flatten
from configs.messages import first_line, nearest
from configs.method_files import register_file
from configs.reading import GROUPS, Settings, SettingsError, value_of
from configs.sections import Config, Optimizer, optimizer_options, optimizer_section
from configs.user_paths import expanded, is_file
from data.data_settings import Data
from models.model_settings import Model
from optimizers import registry
from training.train_settings import Run, Schedule, Train, Wandb

__all__ = [
    "Config",
    "Data",
    "Invocation",
    "Model",
    "Optimizer",
    "Run",
    "Schedule",
    "SettingsError",
    "Train",
    "Wandb",
    "build",
    "load",
    "optimizer_options",
    "read_into",
    "set_seed",
]

USAGE = "train.py [FILE.yaml ...] [key=value ...] [--plan | --plan=json] [--processes=N] [--card=NAME]"
# Table 8 of arXiv 2502.07752: Adam's learning rate, where it is not 0.001.
ADAM_LR = {"llama_1_3b": 0.0007}
Sections = TypeVar("Sections")  # a dataclass of sections, one of them `optimizer`


@dataclass
class Invocation:
    """What the command line asks for. `plan` is the form in which to print the plan instead of training, `processes`
    and `card` are for the plan; None where they are not given."""

    config: Config
    plan: Literal["text", "json"] | None
    processes: int | None = None
    card: str | None = None


def load(argv: list[str]) -> Invocation:
    """Read the arguments of train.py. Raises SettingsError, its text one sentence."""
    plan: Literal["text", "json"] | None = None
    files, overrides = [], []
    planned: dict[str, str] = {}
    for argument in argv:
        flag, _, value = argument.partition("=")
        if argument in ("--plan", "--plan=json"):
            plan = "json" if argument.endswith("json") else "text"
        elif flag in ("--processes", "--card"):
            planned[flag] = value
        elif argument.startswith("-"):
            raise SettingsError(f"unknown flag {argument}; usage: {USAGE}")
        elif "=" in argument and not is_file(argument):
            overrides.append(argument)
        else:
            files.append(argument)
    settings = Settings()
    for file in files or ["configs/quickstart.yaml"]:
        settings.add_file(file)
    settings.add_overrides(overrides)
    if planned and plan is None:
        raise SettingsError(f"{next(iter(planned))} is for --plan: a launcher starts the processes of a run")
    processes = _count(planned["--processes"]) if "--processes" in planned else None
    return Invocation(build(settings), plan, processes, planned.get("--card"))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise SettingsError(f"--processes must be a whole number above 0, got {text!r}")
    return int(text)


def build(settings: Settings) -> Config:
    """The checked `Config` of the merged settings. Raises SettingsError."""
    config = read_into(Config, settings)
    check(config, settings)
    if config.optimizer.adam_lr is None:
        config.optimizer.adam_lr = ADAM_LR.get(config.model.name, 0.001)
    config.run.name = config.run.name or _default_name(config)
    config.run.dir = str(expanded(config.run.dir or f"runs/{config.run.name}"))
    return config


def set_seed(config: Config, seed: int) -> None:
    """Give a run the seed with which it began, and the name that goes with it, unless it has a name of its own."""
    unnamed = config.run.name == _default_name(config)
    config.run.seed = seed
    if unnamed:
        config.run.name = _default_name(config)


def _default_name(config: Config) -> str:
    return f"{config.model.name}_{config.optimizer.name}_s{config.run.seed}"


def read_into(sections: type[Sections], settings: Settings) -> Sections:
    """The merged settings as a dataclass of sections; its `optimizer` gets the options of the optimizer that is named.

    Raises SettingsError for unknown keys, wrong types, and required settings that are not set.
    """
    schema = OmegaConf.structured(sections)
    schema.optimizer = OmegaConf.structured(_optimizer_class(settings))
    _fill(schema, settings)
    filled = _to_object(schema, settings)
    assert isinstance(filled, sections)
    return filled


def _optimizer_class(settings: Settings) -> type[Optimizer]:
    """The class of the optimizer's section, by the name in the settings. A file's only method needs no name."""
    section = settings.values.get("optimizer")
    if not isinstance(section, dict):
        return Optimizer
    names = _names_to_choose(settings, section)
    if "file" in section and len(names) == 1:
        section.setdefault("name", names[0])
    name = value_of(section.get("name", MISSING), str, "optimizer.name")
    if name == MISSING:
        if section.get("file") is not None:
            where = settings.where("optimizer.file")
            raise SettingsError(f"{where}optimizer.name is required: one of {', '.join(names)}")
        return Optimizer
    if name not in names:
        raise SettingsError(
            f"{settings.where('optimizer.name')}optimizer.name must be one of {', '.join(names)}, "
            f"got {name!r}{nearest(str(name), names)}"
        )
    return optimizer_section(name)


def _names_to_choose(settings: Settings, section: dict[Any, Any]) -> list[str]:
    """The methods that `optimizer.name` may name: those of `optimizer.file`, if it is set."""
    file = value_of(section.get("file"), str | None, "optimizer.file")
    if file is None:
        return registry.names()
    try:
        return list(register_file(file).names)
    except SettingsError as error:
        raise SettingsError(f"{settings.where('optimizer.file')}{error}") from error


def _fill(schema: DictConfig, settings: Settings) -> None:
    """Write the merged settings into the structured `schema`, refusing unknown keys and wrong types."""
    defaults = OmegaConf.to_container(schema)
    assert isinstance(defaults, dict)
    known = list(flatten(defaults))
    sections = {name for name, value in defaults.items() if isinstance(value, dict)}

    def fill(node: DictConfig, values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            where = settings.where(key)
            if not prefix and name in sections:
                if not isinstance(value, dict):
                    raise SettingsError(f"{where}{key} is a section of settings, set {key}.<key> instead of {value!r}")
                fill(node[name], value, f"{key}.")
                continue
            if "." in str(name):
                raise SettingsError(f"{where}{name} must be written as nested keys in a file")
            if key not in known:
                raise SettingsError(_unknown(settings, key, value, known))
            hint = typing.get_type_hints(OmegaConf.get_type(node))[name]
            value = value_of(value, hint, key)
            try:
                if hint is bool and isinstance(value, int) and value not in (0, 1):
                    raise ValidationError  # OmegaConf takes every number but 0 for true
                OmegaConf.update(node, name, value, merge=False)
            except (OmegaConfBaseException, OverflowError) as error:  # a whole number too large for a float
                raise SettingsError(f"{where}{key} must be {_expected(hint)}, got {value!r}") from error

    fill(schema, settings.values, "")


def _to_object(schema: DictConfig, settings: Settings) -> object:
    """The filled `schema` as dataclasses; refuses required settings that are not set."""
    try:
        missing = sorted(OmegaConf.missing_keys(schema))
        filled = None if missing else OmegaConf.to_object(schema)
    except OmegaConfBaseException as error:  # an interpolation of a key that does not exist
        key = str(error.full_key)
        raise SettingsError(f"{settings.where(key)}{key}: {first_line(error)}") from error
    if missing:
        section = missing[0].partition(".")[0]
        unset = section in GROUPS and section not in settings.values
        pick = f"; pick {section}={'|'.join(settings.choices(section))}" if unset else ""
        raise SettingsError(f"{missing[0]} is required and not set{pick}")
    return filled


def _unknown(settings: Settings, key: str, value: Any, known: list[str]) -> str:
    """The sentence about a key, of this value, that no section declares."""
    if isinstance(value, dict):  # a section: its first key tells more of what was meant
        key = ".".join([key, *list(flatten(value))[:1]])
    where = settings.where(key)
    name = settings.typed("optimizer.name")
    if key.startswith("optimizer.") and where and name in settings.choices("optimizer"):
        hint = f"; optimizer.name={name} leaves the rest of the section as it is, optimizer={name} replaces it"
    else:
        hint = _nearest_key(key, known)
    return f"{where}unknown key {key}{hint}"


def _nearest_key(key: str, known: list[str]) -> str:
    """A hint: the keys with the same last part, else the one spelled most like it in its section or, without such a
    section, in all; else all of its section, or the sections."""
    section, _, last = key.rpartition(".")
    if namesakes := [k for k in known if k.rpartition(".")[2] == last]:
        return f"; did you mean {' or '.join(namesakes)}?"
    inside = {k.rpartition(".")[2]: k for k in known if k.startswith(f"{section}.")}
    if inside:
        return nearest(last, inside) or f"; known: {', '.join(sorted(inside))}"
    sections = sorted({k.partition(".")[0] for k in known})
    spelled = known if section else {k.rpartition(".")[2]: k for k in known} | {name: name for name in sections}
    return nearest(key, spelled) or f"; known: {', '.join(sections)}"


def _expected(hint: Any) -> str:
    """The words for a field's type."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)}"
    if origin is dict:
        return "a mapping"
    if origin is list:
        return "a list"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    return " or ".join(map(_expected, arguments))
