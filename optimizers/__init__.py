"""Memory-efficient optimizers for matrices, usable with torch alone.

    from optimizers import Alice, build
    optimizer = build(model, "alice", lr=0.02, adam_lr=1e-3, rank=128)

Every module of this package is imported here, and the class it registers is handed on: a new optimizer is
one new file.
"""

import importlib
import pkgutil

from torch import Tensor, nn

from . import partition, registry
from .base import BaseOptimizer

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
globals().update({cls.__name__: cls for cls in registry.classes()})

__all__ = ["build", "state_bytes", *(cls.__name__ for cls in registry.classes())]


def build(
    model: nn.Module, name: str, *, lr: float, adam_lr: float = 1e-3, last_layer: str | None = None, **options
) -> BaseOptimizer:
    """The optimizer `name` for a transformers causal LM, its parameters parted by `partition.RULES`.

    lr is the method's learning rate, adam_lr that of the parameters stepped by Adam (embeddings, norms,
    and lm_head with last_layer="adam"; None: the method's own default). Raises ValueError, the text naming
    the option, for an unknown name or option, a value out of range, or a last layer the method cannot take.
    """
    cls, presets = registry.get(name)
    registry.check(name, **options)
    last_layer = last_layer or cls.last_layer
    if last_layer not in ("method", "adam"):
        raise ValueError(f"last_layer must be method or adam, got {last_layer!r}")
    if last_layer == "method" and cls.last_layer_refusal:
        raise ValueError(f"last_layer=method is refused for {name}: {cls.last_layer_refusal}")
    groups = partition.parameter_groups(model, last_layer=last_layer)
    for group in groups:
        group["lr"] = adam_lr if group.get("algorithm") == "adam" else lr
        if cls.steps_everything:
            group.pop("algorithm", None)
    return cls(groups, lr=lr, **{**presets, **options})


def state_bytes(optimizer: BaseOptimizer) -> int:
    """Bytes of all tensors the optimizer holds as state, each view counted by its own elements."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
