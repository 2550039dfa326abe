"""Layer-wise training: each parameter is stepped, and its gradient freed, while backward goes on."""

import torch
from torch import Tensor, nn

from optimizers import BaseOptimizer
from training.clock import DeviceClock


class GradientRelease:
    """Steps `parameters` by `optimizer` as their gradients arrive; `clock` measures the time of the steps.

    Every parameter must get its whole gradient in one backward pass of this process: no accumulation, no
    clipping by the norm of all gradients, no averaging over processes.
    """

    def __init__(self, parameters: list[nn.Parameter], optimizer: BaseOptimizer, clock: DeviceClock):
        self._parameters, self._optimizer, self._clock = parameters, optimizer, clock
        self._norms: dict[Tensor, Tensor] = {}
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def _arrived(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        dtype = torch.promote_types(parameter.grad.dtype, torch.float32)  # as training.processes.layout.norm_of_all
        self._norms[parameter] = torch.linalg.vector_norm(parameter.grad, dtype=dtype)
        with self._clock:
            self._optimizer.step_parameter(parameter)

    def take_norm(self) -> Tensor:
        """Scalar: the norm of all gradients that arrived since the last call."""
        # In the parameters' order, not in that of arrival: the sum then rounds as in plain training.
        norms = [self._norms[parameter] for parameter in self._parameters if parameter in self._norms]
        self._norms.clear()
        return torch.linalg.vector_norm(torch.stack(norms))
