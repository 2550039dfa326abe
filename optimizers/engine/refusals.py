"""Refusals of tensors that no method here steps."""

import torch
from torch import Tensor


def check_gradient(parameter: Tensor, optimizer: str) -> None:
    """Raises ValueError for a gradient of a kind that no method here reads."""
    if parameter.grad is not None and parameter.grad.layout != torch.strided:
        raise ValueError(
            f"{optimizer} reads dense gradients; a parameter of shape {tuple(parameter.shape)} has one of layout "
            f"{parameter.grad.layout} (an embedding with sparse=True makes such)"
        )


def check_tensor(parameter: Tensor, optimizer: str) -> None:
    """Raises ValueError for a parameter of a kind that no method here steps."""
    if not parameter.is_floating_point():
        raise ValueError(f"{optimizer} steps real floating-point parameters, got one of dtype {parameter.dtype}")
    if parameter.dtype == torch.float16:
        raise ValueError(
            f"{optimizer} does not step float16 parameters: squares of small gradients would be 0. Keep weights in "
            "float32 and use autocast, or take bfloat16"
        )
    if parameter.layout != torch.strided:
        raise ValueError(f"{optimizer} steps dense parameters, got one of layout {parameter.layout}")
