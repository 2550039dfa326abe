"""torch's fused AdamW on a list of parameters: the step of `Adam` and of every group with algorithm="adam"."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from .sharded import local

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def allocate(parameter: Tensor) -> dict:
    """Adam's state of one parameter, at zero: exp_avg, exp_avg_sq (shape and dtype of the parameter), step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def step(state: dict, group: dict, parameters: list[Tensor]) -> None:
    """One fused AdamW step of `parameters`, all with a gradient, by the group's lr, betas, eps, weight_decay.

    Of sharded parameters the local rows are stepped: through DTensor each call would cost more than its work.
    """
    states = [state[parameter] for parameter in parameters]
    beta1, beta2 = group["betas"]
    adamw(
        [local(parameter) for parameter in parameters],
        [local(parameter.grad) for parameter in parameters],
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        [s["step"] for s in states],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
