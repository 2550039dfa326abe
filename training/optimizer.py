"""The optimizer that the settings describe."""

from torch import nn

import optimizers
from configs.schema import Optimizer, optimizer_options
from optimizers import BaseOptimizer


def build_optimizer(model: nn.Module, section: Optimizer) -> BaseOptimizer:
    """The optimizer of the `optimizer` section of the settings, for the parameters of a transformers causal LM.

    Raises ValueError for an option that the method cannot take (`optimizers.build` names it), and ImportError for a
    method whose package is not installed.
    """
    assert section.adam_lr is not None, "configs.schema fills it in"
    return optimizers.build(
        model,
        section.name,
        lr=section.lr,
        adam_lr=section.adam_lr,
        last_layer=section.last_layer,
        embeddings=section.embeddings,
        **optimizer_options(section),
    )
