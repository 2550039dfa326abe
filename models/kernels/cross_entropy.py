"""The summed cross entropy of a linear layer's outputs, of which only a chunk exists at once.

On a CPU in full precision it is torch's own chunked form. In low precision, under autocast and on CUDA it is the form
below: torch's would add up the weight's gradient in bfloat16 and know nothing of autocast (docs/numerics.md). For a
chunk with rows H, W the weight and P the softmax of the logits H W^T,

    dH = (P - Y) W        dW += (P - Y)^T H        Y: one at the target of each row.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORE = -100
# Rows whose logits exist at once: at vocabulary 32,000 1 GB of float32 on CUDA, where the weight is read for every
# chunk; on a CPU 131 MB, as fast as any size that was measured (docs/performance.md).
CHUNK = {"cuda": 8192, "cpu": 1024}

Gradients = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, gradients: Gradients) -> Tensor:
    """Scalar in float32 at least: the sum over i of -log softmax(weight @ hidden[i])[targets[i]], in nats.

    Under autocast the products take its dtype. Gradients are computed with the loss, and scaled in backward.

    Args:
        hidden: [N, width].
        weight: [vocabulary, width], of the same dtype.
        targets: int64 [N]; -100 is no target.
        gradients: `chunk_gradients`, or a `CompiledChunk`.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if _torchs_own(device, dtype):
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK["cpu"])
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    with torch.autocast(device, enabled=False):  # its products are cast here, and nothing else
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            found: Tensor = ChunkedCrossEntropy.apply(hidden, weight, targets, dtype, CHUNK[device], gradients)
            return found
        low = weight.to(dtype)
        chunks = _chunks(hidden, targets, CHUNK[device])
        return torch.cat([chunk_losses(rows.to(dtype), low, wanted) for rows, wanted in chunks]).sum()


def working_bytes(positions: int, vocabulary: int, width: int, *, dtype: torch.dtype, device: str) -> int:
    """The most that `summed_cross_entropy` holds for a micro-batch: a chunk's logits, and the weight's gradient until
    backward."""
    logits = min(positions, CHUNK[device]) * vocabulary
    weights = 4 * vocabulary * width
    if _torchs_own(device, dtype):
        return 4 * logits + weights
    # Logits and their logarithms of the softmax; later the logarithms, the gradient for the logits, and a chunk's
    # product for the weight's.
    low = dtype.itemsize if dtype.itemsize < 4 else 0
    return max(8 * logits, (4 + low) * logits + weights) + weights


def _torchs_own(device: str, dtype: torch.dtype) -> bool:
    return device == "cpu" and dtype in (torch.float32, torch.float64)


def _chunks(hidden: Tensor, targets: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and targets in pieces of at most `most` rows, alike in size: a compiler would specialise for one row."""
    count = max(-(-len(hidden) // most), 1)
    return zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)


class ChunkedCrossEntropy(torch.autograd.Function):
    """`summed_cross_entropy` with gradients: at most `chunk` rows at a time, products in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        chunk: int,
        gradients: Gradients,
    ) -> Tensor:
        low = weight.to(dtype)
        # In float32 until backward has scaled it: rounded once, after everything was added up.
        weight_gradient = weight.new_zeros(weight.shape, dtype=torch.promote_types(dtype, torch.float32))
        losses, hidden_gradients = [], []
        for rows, wanted in _chunks(hidden, targets, chunk):
            loss, gradient = gradients(rows.to(dtype), low, wanted, weight_gradient)
            losses.append(loss)
            hidden_gradients.append(gradient)
        ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        return torch.cat(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        scaled = ((gradient * scale).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return *scaled, None, None, None, None


class CompiledChunk:
    """`chunk_gradients` compiled: one graph for every number of rows, with kernels chosen for the most."""

    def __init__(self, **options: Any):
        self._compiled = torch.compile(chunk_gradients, **options)

    def __call__(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, weight_gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `chunk_gradients`."""
        for tensor in (hidden, targets):
            torch._dynamo.mark_dynamic(tensor, 0, hint_override=CHUNK[hidden.device.type])
        found: tuple[Tensor, Tensor] = self._compiled(hidden, weight, targets, weight_gradient)
        return found


def chunk_gradients(hidden: Tensor, weight: Tensor, targets: Tensor, weight_gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of a chunk, and its gradients.

    Args:
        hidden, weight, targets: [rows, width], [vocabulary, width] and int64 [rows], as `summed_cross_entropy` takes
            them.
        weight_gradient: [vocabulary, width] in float32 at least, to which the weight's gradient is added.

    Returns:
        The losses [rows] in float32 at least, 0 where there is no target; the gradient of their sum for `hidden`.
    """
    log_probabilities = _product(hidden, weight.mT).log_softmax(1)
    losses, wanted, kept, picked = _losses(log_probabilities, targets)
    difference = _difference(log_probabilities, wanted, picked, hidden.dtype)
    # Rows without a target are masked where they are short.
    weight_gradient += _product(difference.mT, hidden * kept)
    return losses, (difference @ weight) * kept


def chunk_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The losses of `chunk_gradients` alone."""
    return _losses(_product(hidden, weight.mT).log_softmax(1), targets)[0]


def _losses(log_probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses [rows], and as [rows, 1] what they come from: the logarithm at the target, whether there is one, which."""
    kept, picked = (targets != IGNORE).unsqueeze(1), targets.clamp(min=0).unsqueeze(1)
    wanted = log_probabilities.gather(1, picked)
    return torch.where(kept, -wanted, 0.0).squeeze(1), wanted, kept, picked


def _difference(log_probabilities: Tensor, wanted: Tensor, picked: Tensor, dtype: torch.dtype) -> Tensor:
    """P - Y [rows, vocabulary] in `dtype`: e^wanted - 1 at a target, not the difference of nearly equal numbers."""
    # Compiled, no write of its own: a part of the pass that makes P. A deterministic scatter_ would wait for the GPU.
    if torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled():
        places = torch.arange(log_probabilities.shape[1], device=picked.device)
        return torch.where(places == picked, wanted.expm1(), log_probabilities.exp()).to(dtype)
    low = dtype != log_probabilities.dtype
    place = torch.empty_like(log_probabilities, dtype=dtype) if low else log_probabilities
    return torch.exp(log_probabilities, out=place).scatter_(1, picked, wanted.expm1().to(dtype))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, added up and returned in float32 at least."""
    if left.dtype in (torch.float32, torch.float64):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
