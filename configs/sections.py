"""The sections of a `Config`: those that the rooms declare, and the optimizer's, made from the signature of its
class."""

import dataclasses
import inspect
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any, Literal

from omegaconf import MISSING

from configs.setting import setting
from data.data_settings import Data
from models.model_settings import Model
from optimizers import registry
from training.train_settings import Run, Schedule, Train, Wandb


@dataclass
class Optimizer:
    """The settings that every optimizer has. `optimizer_section` adds the options of one class."""

    name: str = setting(MISSING, "name in optimizers.registry")
    file: str | None = setting(None, "Python file that registers the name, of a method outside optimizers/; null: none")
    lr: float = setting(MISSING, "learning rate of the method", above=0)
    adam_lr: float | None = setting(
        None, "learning rate of the parameters stepped by Adam; null: Table 8's, 0.001, for llama_1_3b 0.0007", above=0
    )
    last_layer: Literal["method", "adam"] | None = setting(None, "who steps lm_head; null: the class's default")
    embeddings: Literal["method", "adam"] | None = setting(None, "who steps embeddings; null: the class's default")


@dataclass
class Config:
    """All settings of a run."""

    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    wandb: Wandb = field(default_factory=Wandb)


@cache
def optimizer_section(name: str) -> type[Optimizer]:
    """`Optimizer` with the options of the optimizer `name`, typed and defaulted by its class's signature."""
    fields = []
    for option, parameter in registry.options(name).items():
        default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
        fields.append((option, parameter.annotation, field(default=default)))
    return make_dataclass(f"Optimizer_{name}", fields, bases=(Optimizer,))


def optimizer_options(section: Optimizer) -> dict[str, Any]:
    """The settings of an optimizer's section that are options of its class, for `optimizers.build`."""
    common = {f.name for f in dataclasses.fields(Optimizer)}
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in common}
