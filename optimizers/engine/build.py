"""From a model and a name to an optimizer."""

from typing import Any, Literal

from torch import Tensor, nn

from . import partition, registry
from .base import BaseOptimizer


def build(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    adam_lr: float = 1e-3,
    last_layer: Literal["method", "adam"] | None = None,
    embeddings: Literal["method", "adam"] | None = None,
    **options: Any,
) -> BaseOptimizer:
    """The optimizer `name` for a transformers causal LM, its parameters parted by `partition.RULES`.

    Args:
        lr: learning rate of the method.
        adam_lr: learning rate of the parameters stepped by Adam: norms, and embeddings and lm_head where it steps them.
        last_layer, embeddings: who steps lm_head and the embeddings; None: the method's own default.
        options: of the method, by the names of its constructor.

    Raises ValueError, the text naming the option, for an unknown name or option, a value out of bounds, or a last layer
    or embeddings that the method cannot step.
    """
    cls, presets = registry.get(name)
    registry.check(name, **options)
    by = {"last_layer": last_layer or cls.traits.last_layer, "embeddings": embeddings or cls.traits.embeddings}
    for option, who in by.items():
        if who not in ("method", "adam"):
            raise ValueError(f"{option} must be method or adam, got {who!r}")
        if who == "method" and cls.traits.last_layer_refusal:
            raise ValueError(f"{option}=method is refused for {name}: {cls.traits.last_layer_refusal}")
    groups = partition.parameter_groups(model, **by, traits=cls.traits)
    for group in groups:
        group["lr"] = adam_lr if group.get("algorithm") == "adam" else lr
        if cls.traits.steps_everything:
            group.pop("algorithm", None)
    return cls(groups, **{**presets, **options, "lr": lr})


def state_bytes(optimizer: BaseOptimizer) -> int:
    """Bytes of all tensors that the optimizer holds as state, each view counted by its own elements."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
