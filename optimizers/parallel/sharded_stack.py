"""A stack of matrices whose rows are sharded over processes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..engine import weights
from ..engine.direction import Direction
from ..engine.stack import Stack
from ..functional.numerics import working_dtype
from .exchange import Exchange


@dataclass(eq=False)
class ShardedStack(Stack):
    """`state`, `indices` and so on are those of the matrices that this process owns."""

    exchange: Exchange
    sharded = True

    def gradient(self) -> Tensor | None:
        gradients = [p.grad for p in self.parameters]
        return self._stacked(self.exchange.gather([g.to_local() for g in gradients if isinstance(g, DTensor)]))

    def subtract(
        self,
        direction: Direction | None,
        gradient: Tensor | None,
        group: dict[str, Any],
        decays_first: bool,
        noise: list[torch.Generator] | None,
    ) -> None:
        assert noise is None, "stochastic rounding of sharded parameters"
        rows = [parameter.to_local() for parameter in self.parameters if isinstance(parameter, DTensor)]
        dtype, changes = working_dtype(rows[0].dtype), list[Tensor]()
        if direction is not None and gradient is not None:
            step = group["lr"] * self.lr_factor * direction.scale
            changes = list(self.restored(direction.formed(gradient).to(dtype).mul(step)).unbind(0))
        weights.subtract_changes(
            rows,
            self.exchange.scatter(changes, dtype),
            step=1.0,
            decay=group["lr"] * self.decay_factor * group["weight_decay"],
            decays_first=decays_first,
        )
