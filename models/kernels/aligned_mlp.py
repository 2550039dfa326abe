"""The MLP of a layer with products of an even width.

llama_1_3b's MLP is 5,461 wide (Table 10 of arXiv 2502.07752). In bfloat16 a GPU's fast kernels load 16 bytes at once,
so they need rows of a multiple of 8 numbers; others take several times as long (docs/performance.md). So the products
are made on weights with zeros behind them. The weights themselves, their gradients and checkpoints keep their shape.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

ALIGNMENT = 8


class AlignedMLP(LlamaMLP):
    """W_down (silu(W_gate x) * (W_up x)), as transformers' own. On the devices `padded_on` W has zeros behind it."""

    padded_on = ("cuda",)

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self._missing = -config.intermediate_size % ALIGNMENT

    def forward(self, x: Tensor) -> Tensor:
        """The output [..., hidden] of x [..., hidden]."""
        if not self._missing or x.device.type not in self.padded_on:
            output: Tensor = super().forward(x)
            return output
        gate, up = (self._product(x, linear.weight, rows=self._missing) for linear in (self.gate_proj, self.up_proj))
        # silu(0) 0 = 0, and zeros of W_down meet it.
        return self._product(self.act_fn(gate) * up, self.down_proj.weight, columns=self._missing)

    def _product(self, x: Tensor, weight: Tensor, *, rows: int = 0, columns: int = 0) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x, weight = x.to(dtype), weight.to(dtype)
        product: Tensor = PaddedLinear.apply(x, weight, rows, columns)
        return product


class PaddedLinear(torch.autograd.Function):
    """x W^T of a W [out, in] that gets `rows` and `columns` of zeros. Backward pads it again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rows: int, columns: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.zeros = (0, columns, 0, rows)
        return F.linear(x, F.pad(weight, ctx.zeros))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_weight = gradient.flatten(0, -2).mT @ x.flatten(0, -2)
        (rows, columns) = weight.shape
        return gradient @ F.pad(weight, ctx.zeros), for_weight[:rows, :columns].contiguous(), None, None
