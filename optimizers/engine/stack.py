"""Stacks: matrices of one shape that are stepped together."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..functional.numerics import working_dtype
from . import weights
from .direction import Direction


@dataclass(eq=False)
class Stack:
    """Matrices of one shape, learning rate, dtype and age, oriented so that m <= n.

    `state[key]` is [B, ...]. The i-th matrix's own state, `states[i][key]`, is a view of its i-th slice. B counts the
    matrices that this process owns: all of them, unless parameters are sharded. A single parameter of three dimensions
    is all B matrices.
    """

    parameters: list[Tensor]
    owned: list[Tensor]
    transposed: bool
    indices: list[int]  # positions among all parameters of the optimizer, for private random sources
    lr_factor: float
    group_elements: int  # trainable elements of the group that the stack is a part of
    states: list[dict[str, Any]]  # of the owned parameters, as the optimizer holds them
    state: dict[str, Tensor] = field(init=False)
    sharded = False

    def __post_init__(self) -> None:
        keys = [key for key, value in self.states[0].items() if isinstance(value, Tensor)] if self.owned else []
        if self._is_one_tensor:
            self.state = {key: self.states[0][key] for key in keys}
        elif len(self.owned) == 1:
            for key in keys if self.transposed else ():
                self.states[0][key] = self._ordered(self.states[0][key])
            self.state = {key: self.states[0][key].unsqueeze(0) for key in keys}
        else:
            self.state = {key: torch.stack([state[key] for state in self.states]) for key in keys}
            for key in keys:
                for state, view in zip(self.states, self.state[key].unbind(0), strict=True):
                    state[key] = view
        self._views = [{key: state[key] for key in keys} for state in self.states]

    @property
    def _is_one_tensor(self) -> bool:
        return self.parameters[0].ndim == 3

    def _ordered(self, held: Tensor) -> Tensor:
        """State [r, n] of one transposed matrix, in the memory order of its gradient, which goes by columns.

        Products and sums of tensors of one order are faster (docs/performance.md).
        """
        wide = held.ndim == 2 and held.shape[-1] == max(self.parameters[0].shape) and held.is_floating_point()
        return held.mT.contiguous().mT if wide else held

    @property
    def elements(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def is_intact(self) -> bool:
        """Whether the matrices' state is still the stack's: loading a checkpoint replaces it."""
        return all(
            state.get(key) is tensor
            for state, views in zip(self.states, self._views, strict=True)
            for key, tensor in views.items()
        )

    def gradient(self) -> Tensor | None:
        """The gradients [B, m, n] of the owned matrices in the working precision; None where none is owned. A single
        matrix's is a view."""
        return self._stacked([parameter.grad for parameter in self.parameters if parameter.grad is not None])

    def subtract(
        self,
        direction: Direction | None,
        gradient: Tensor | None,
        group: dict[str, Any],
        decays_first: bool,
        noise: list[torch.Generator] | None,
    ) -> None:
        """W <- W - lr lr_factor D, before or after weight decay, in all matrices of the stack."""
        assert direction is not None and gradient is not None
        matrices = self.parameters
        if self._is_one_tensor:
            matrices = list(matrices[0].unbind(0))
            noise = noise and noise * len(matrices)  # one source is drawn from again and again
        weights.subtract_direction(
            [self.oriented(matrix) for matrix in matrices],
            direction,
            gradient,
            step=group["lr"] * self.lr_factor * direction.scale,
            decay=group["lr"] * group["weight_decay"],
            decays_first=decays_first,
            noise=noise,
        )

    def _stacked(self, matrices: list[Tensor]) -> Tensor | None:
        if not matrices:
            return None
        if self._is_one_tensor:
            stack = matrices[0]
        else:
            stack = matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
        return self.oriented(stack).to(working_dtype(stack.dtype))

    def oriented(self, matrices: Tensor) -> Tensor:
        """[..., rows, columns] <-> [..., m, n]."""
        return matrices.mT if self.transposed else matrices


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix, or of each matrix of a stack."""
    rows, columns = parameter.shape[-2:]
    return rows, columns
