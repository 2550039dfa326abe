"""Stacks: matrices of one shape that are stepped together."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..functional.numerics import working_dtype
from ..kernels import replaceable
from ..parallel.exchange import whole_norms
from ..parallel.shards import local
from . import weights
from .direction import Direction


@dataclass(eq=False)
class Stack:
    """Matrices of one shape, learning rate, dtype and age, oriented as the method wants them (`Traits.oriented`).

    `state[key]` is [B, ...]. The i-th matrix's own state, `states[i][key]`, is a view of its i-th slice. B counts the
    matrices that this process owns: all of them, unless parameters are sharded. A single parameter of three dimensions
    is all B matrices.
    """

    parameters: list[Tensor]
    owned: list[Tensor]
    transposed: bool
    indices: list[int]  # positions among all parameters of the optimizer, for private random sources
    lr_factor: float
    decay_factor: float
    age: int  # steps of its matrices when the stack was made
    group_elements: int  # trainable elements of the group that the stack is a part of
    states: list[dict[str, Any]]  # of the owned parameters, as the optimizer holds them
    keys: tuple[str, ...]  # the names of the method's tensors of state; what others put beside them is left alone
    takes_narrow: bool  # `Traits.takes_narrow`
    state: dict[str, Tensor] = field(init=False)
    shape: torch.Size = field(init=False)  # of each parameter when the stack was made
    sharded = False

    def __post_init__(self) -> None:
        self.shape = self.parameters[0].shape
        keys = self.keys if self.owned else ()
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
        self._views = [{key: (state[key], _memory(state[key])) for key in keys} for state in self.states]

    @property
    def _is_one_tensor(self) -> bool:
        return self.parameters[0].ndim == 3

    def _matrices(self) -> list[Tensor]:
        """The stack's weights, not oriented, one by one; of a sharded one this process's rows."""
        if self._is_one_tensor:
            return list(self.parameters[0].unbind(0))
        return [local(parameter) for parameter in self.parameters]

    def _ordered(self, held: Tensor) -> Tensor:
        """State [r, n] of one transposed matrix, in the memory order of its gradient, which is stored by columns.

        Products and sums of tensors of one order are faster (docs/performance.md). bitsandbytes needs its
        bytes by rows.
        """
        wide = held.ndim == 2 and held.shape[-1] == max(self.parameters[0].shape) and held.is_floating_point()
        return held.mT.contiguous().mT if wide else held

    @property
    def working_dtype(self) -> torch.dtype:
        """The precision of the stack's gradients and averages."""
        return working_dtype(self.parameters[0].dtype)

    @property
    def elements(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def is_intact(self) -> bool:
        """Whether the matrices' state is still the stack's: loading a checkpoint replaces it, and `tensor.data = ...`
        its memory."""
        return all(
            _unmoved(state.get(key), view)
            for state, views in zip(self.states, self._views, strict=True)
            for key, view in views.items()
        )

    def release(self, copied: set[Tensor]) -> None:
        """Give the matrices whose state is not `copied` to a new stack memory of their own: a view keeps all of this
        one's."""
        if len(self.owned) == 1:
            return
        for parameter, state, views in zip(self.owned, self.states, self._views, strict=True):
            for key, view in views.items() if parameter not in copied else ():
                if _unmoved(state.get(key), view):
                    state[key] = state[key].clone()

    def gradient(self) -> Tensor | None:
        """The gradients [B, m, n] of the owned matrices in `gradient_dtype`; None where none is owned. A single
        matrix's is a view."""
        return self._stacked([local(parameter.grad) for parameter in self.parameters if parameter.grad is not None])

    def norms(self) -> Tensor | None:
        """float64 [B]: Frobenius norms of the owned matrices' weights; None where none is owned."""
        norms = whole_norms(self._matrices(), self.parameters)
        if self._is_one_tensor:
            return norms
        owned = set(self.owned)
        kept = [norm for parameter, norm in zip(self.parameters, norms, strict=True) if parameter in owned]
        return torch.stack(kept) if kept else None

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
        matrices = self._matrices()
        if self._is_one_tensor:
            noise = noise and noise * len(matrices)  # one source is drawn from again and again
        weights.subtract_direction(
            [self.oriented(matrix) for matrix in matrices],
            direction,
            gradient,
            step=group["lr"] * self.lr_factor * direction.scale,
            decay=group["lr"] * self.decay_factor * group["weight_decay"],
            decays_first=decays_first,
            noise=noise,
        )

    def _stacked(self, matrices: list[Tensor]) -> Tensor | None:
        if not matrices:
            return None
        dtype = gradient_dtype(matrices[0], self.takes_narrow)
        if self._is_one_tensor:
            stack = matrices[0].to(dtype)
        elif len(matrices) == 1:
            stack = matrices[0].unsqueeze(0).to(dtype)
        elif matrices[0].dtype == dtype:
            stack = torch.stack(matrices)
        else:  # converted as they are copied
            stack = torch.empty(len(matrices), *matrices[0].shape, dtype=dtype, device=matrices[0].device)
            torch._foreach_copy_(list(stack.unbind(0)), matrices)
        return self.oriented(stack)

    def oriented(self, tensors: Tensor) -> Tensor:
        """[..., rows, columns] -> [..., m, n], and of vectors [..., n] -> [..., 1, n]: a view."""
        if self.parameters[0].ndim == 1:
            return tensors.unsqueeze(-2)
        return tensors.mT if self.transposed else tensors

    def restored(self, matrices: Tensor) -> Tensor:
        """[..., m, n] -> the parameters' own shape: the inverse of `oriented`."""
        if self.parameters[0].ndim == 1:
            return matrices.squeeze(-2)
        return matrices.mT if self.transposed else matrices


def _memory(tensor: Tensor) -> int:
    """Identifies the memory of a tensor, of a fake one too."""
    return tensor.untyped_storage()._cdata


def _unmoved(held: Any, view: tuple[Tensor, int]) -> bool:
    """Whether `held` is the tensor that a stack has given, in the memory that it had then."""
    return held is view[0] and _memory(held) == view[1]


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix, or of each matrix of a stack; a vector is one row."""
    rows, columns = parameter.shape[-2:] if parameter.ndim > 1 else (1, parameter.shape[0])
    return rows, columns


@replaceable
def gradient_dtype(gradient: Tensor, takes_narrow: bool) -> torch.dtype:
    """In which precision a method gets such a gradient, if `Traits.takes_narrow` or not."""
    return working_dtype(gradient.dtype)
