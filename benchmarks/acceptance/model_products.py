"""Products: of odd widths, of the loss in bfloat16, and of float32 models with and without TF32."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.acceptance.device import SIZES, median_seconds, micro_batch, random_model
from benchmarks.acceptance.items import Item, Measured, Setup, at_most
from models.kernels.aligned_mlp import ALIGNMENT, PaddedLinear
from models.kernels.cross_entropy import chunk_gradients, summed_cross_entropy
from optimizers.functional.newton_schulz import QUINTIC, newton_schulz

POSITIONS, HIDDEN, ODD = 6144, 2048, 5461
SLOWER = 1.1  # odd over even
LOSS_SHAPE = (8192, 512, 32_000)  # positions, width, vocabulary
LOSS_ERROR, GRADIENT_ERROR, LOSS_MS = 1e-4, 5e-3, 12.0


def widths(setup: Setup) -> Iterator[Item]:
    """The MLP of llama_1_3b is 5,461 wide: what is done about it against a width of 5,464, and what is not."""
    yield Item("mlp", lambda: of_mlp(setup, POSITIONS, HIDDEN, ODD))
    yield Item("newton_schulz", lambda: of_iterations(setup, HIDDEN, ODD))


def of_mlp(setup: Setup, positions: int, hidden: int, width: int) -> list[Measured]:
    """Forward and both backward products of a matrix: padded as the model does it, as it is, and of an even width."""
    x = torch.randn(positions, hidden, device=setup.device, dtype=torch.bfloat16, requires_grad=True)
    missing = -width % ALIGNMENT

    def through(columns: int, zeros: int) -> float:
        weight = torch.randn(columns, hidden, device=x.device, dtype=x.dtype, requires_grad=True)
        gradient = torch.randn(positions, columns + zeros, device=x.device, dtype=x.dtype)

        def both() -> None:
            out = PaddedLinear.apply(x, weight, zeros, 0) if zeros else F.linear(x, weight)
            out.backward(gradient)

        return median_seconds(both)

    even = through(width + missing, 0)
    return [
        at_most(f"[{hidden}, {width}] padded over an even width", through(width, missing) / even, SLOWER,
                asked=setup.speed),
        Measured(f"[{hidden}, {width}] as it is, over an even width", through(width, 0) / even),
    ]  # fmt: skip


def of_iterations(setup: Setup, rows: int, columns: int) -> list[Measured]:
    """Muon's iterations of one matrix in float16."""

    def through(width: int) -> float:
        matrix = torch.randn(1, rows, width, device=setup.device, dtype=torch.float16) / (rows * width) ** 0.5
        return median_seconds(lambda: newton_schulz(matrix.clone(), QUINTIC, 5))

    ratio = through(columns) / through(columns - columns % -ALIGNMENT)
    return [at_most(f"Newton-Schulz of [{rows}, {columns}] over an even width", ratio, SLOWER, asked=setup.speed)]


def loss(setup: Setup) -> Iterator[Item]:
    """The loss in bfloat16 against float64, plainly and from float32 under autocast."""
    yield Item("bfloat16", lambda: of_loss(setup, *LOSS_SHAPE, autocast=False))
    yield Item("autocast", lambda: of_loss(setup, *LOSS_SHAPE, autocast=True))


def of_loss(setup: Setup, positions: int, width: int, vocabulary: int, *, autocast: bool) -> Iterator[Measured]:
    """Errors relative to float64 on the same bfloat16 numbers; targets by Zipf's law."""
    name = "loss under autocast" if autocast else "loss"
    source = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=source).bfloat16()
    weight = (0.02 * torch.randn(vocabulary, width, generator=source)).bfloat16()
    targets = torch.multinomial(1 / torch.arange(1, vocabulary + 1), positions, replacement=True, generator=source)
    hidden, weight, targets = (tensor.to(setup.device) for tensor in (hidden, weight, targets))
    exact = [tensor.double().requires_grad_() for tensor in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].mT, targets, reduction="sum")
    expected.backward()
    kept = torch.float32 if autocast else torch.bfloat16
    ours = [tensor.to(kept).requires_grad_() for tensor in (hidden, weight)]

    def both() -> Tensor:
        for tensor in ours:
            tensor.grad = None
        context = torch.autocast(setup.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
        with context:
            found = summed_cross_entropy(ours[0], ours[1], targets, chunk_gradients)
        found.backward()
        return found

    found = both()
    yield at_most(f"{name}, error", abs(found.item() / expected.item() - 1), LOSS_ERROR)
    for part, mine, true in zip(("hidden states", "weight"), ours, exact, strict=True):
        assert mine.grad is not None and true.grad is not None
        error = ((mine.grad.double() - true.grad).norm() / true.grad.norm()).item()
        yield at_most(f"{name}, error of the gradient of the {part}", error, GRADIENT_ERROR)
    yield at_most(f"{name}, ms", 1e3 * median_seconds(both), LOSS_MS, asked=setup.speed)


def tf32(setup: Setup) -> Iterator[Item]:
    """A float32 micro-batch at 60M with and without train.tf32."""
    yield Item("60m", lambda: _of_tf32(random_model(SIZES["60m"], setup.device, torch.float32), setup))


def _of_tf32(model: nn.Module, setup: Setup) -> Iterator[Measured]:
    inputs, losses = micro_batch(64, setup.device, padded=True).inputs, []
    before = torch.get_float32_matmul_precision()

    def both() -> Tensor:
        found: Tensor = model(**inputs).loss_sum
        found.backward()
        return found

    try:
        for precision, name in (("highest", "IEEE"), ("high", "TF32")):
            torch.set_float32_matmul_precision(precision)
            losses.append(both().item())
            yield Measured(f"60m in float32, {name}, 64 rows ms", 1e3 * median_seconds(both))
    finally:
        torch.set_float32_matmul_precision(before)
    yield Measured("60m in float32, loss by TF32 over that by IEEE - 1", losses[1] / losses[0] - 1)
