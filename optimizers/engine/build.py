"""From a model and a name to an optimizer."""

import warnings
from typing import Any, Literal

from torch import Tensor, nn

from . import partition, registry
from .base import BaseOptimizer
from .matrix import MatrixOptimizer
from .options import LearningRate, declare


def build(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    adam_lr: float = 1e-3,
    last_layer: Literal["method", "adam"] | None = None,
    embeddings: Literal["method", "adam"] | None = None,
    rules: partition.Rules = (),
    **options: Any,
) -> BaseOptimizer:
    """The optimizer `name` for a model of transformers or one's own, its parameters parted by `partition`.

    Args:
        lr: learning rate of the method.
        adam_lr: learning rate of all that Adam steps; `print(partition.describe(optimizer))` shows who steps what.
        last_layer, embeddings: who steps lm_head and the embeddings; None: the method's own default.
        rules: pairs of a regular expression and "method" or "adam". The first that is found in a parameter's name
            decides, before the kind of the parameter does.
        options: of the method, by the names of its constructor.

    Raises ValueError, the text naming the option, for what is no model, an unknown name or option, a value out of
    bounds, a last layer or embeddings that the method cannot step, a rule that matches nothing, or a parameter of which
    nothing says what it is. Methods for any shape leave the latter to Adam. Warns if everything is Adam's.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an nn.Module, got {type(model).__name__}; a class as Alice takes parameters")
    cls, presets = registry.get(name)
    registry.check(name, **options)
    declare("adam_lr", LearningRate, 1e-3).check(adam_lr)
    by = {"last_layer": last_layer or cls.traits.last_layer, "embeddings": embeddings or cls.traits.embeddings}
    for option, who in by.items():
        if who not in ("method", "adam"):
            raise ValueError(f"{option} must be method or adam, got {who!r}")
        if who == "method" and cls.traits.last_layer_refusal:
            raise ValueError(f"{option}=method is refused for {name}: {cls.traits.last_layer_refusal}")
    any_shape = not issubclass(cls, MatrixOptimizer)
    groups = partition.parameter_groups(model, **by, traits=cls.traits, rules=rules, any_shape=any_shape)
    if all(group.get("algorithm") == "adam" for group in groups):
        what = f"lr and the options of {name} reach no parameter of this model"
        warnings.warn(f"{what}: by their kinds or by rules Adam steps them all, at adam_lr", stacklevel=2)
    for group in groups:
        rate = adam_lr if group["label"] == "adam" else lr
        group["lr"] = rate.clone() if isinstance(rate, Tensor) else rate  # schedulers change each group's in place
    return cls(groups, **{**presets, **options, "lr": lr})


def state_bytes(optimizer: BaseOptimizer, *, dealt: bool = False) -> int:
    """Bytes of all tensors that the optimizer holds here as state, each view counted by its own elements; `dealt`: only
    of the matrices whose state a single process holds."""
    return sum(
        value.numel() * value.element_size()
        for parameter, state in optimizer.state.items()
        if not dealt or optimizer.owner(parameter) is not None
        for value in state.values()
        if isinstance(value, Tensor)
    )
