"""Alice's bases after two refreshes: orthonormal, and the residual's power right although it is never formed."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.acceptance.items import Item, Measured, Setup, at_most
from optimizers import Alice
from optimizers.functional.moments import column_sumsq
from optimizers.functional.residual import residual_sumsq
from optimizers.functional.subspace import project

SHAPES = {(512, 1376): 128, (2048, 2048): 512, (2048, 5461): 512}  # of a matrix: rank
SHARE = 1e-3  # of a column's power: below it the residual is rounding
ORTHONORMAL = {torch.bfloat16: 1e-2, torch.float32: 5e-6}  # max abs of U'U - I, by the basis' dtype


def bases(setup: Setup) -> Iterator[Item]:
    """Gradients whose singular values fall as i^-0.5."""
    for shape, rank in SHAPES.items():
        for dtype in ORTHONORMAL:
            yield Item(
                f"{shape[0]}x{shape[1]}",
                lambda shape=shape, rank=rank, dtype=dtype: of_matrix(shape, rank, dtype, setup.device),  # type: ignore[misc]
            )


def of_matrix(shape: tuple[int, int], rank: int, dtype: torch.dtype, device: torch.device) -> list[Measured]:
    """The basis of a weight of `dtype`, and so of a basis of that dtype."""
    name = f"{shape[0]}x{shape[1]} {str(dtype).rpartition('.')[2]}"
    weight = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))
    optimizer = Alice([weight], lr=1e-3, rank=rank, leading=rank // 3, update_interval=3)
    for _ in range(4):  # refreshes at 1 and 3
        weight.grad = spectrum(*shape, device=device).to(dtype)
        optimizer.step()
    basis = optimizer.state[weight]["basis"]
    return [
        at_most(f"{name}, U'U - I", off_orthonormal(basis), ORTHONORMAL[dtype]),
        at_most(f"{name}, residual's power", power_error(basis, spectrum(*shape, device=device)), 1e-3),
    ]


def spectrum(rows: int, columns: int, device: torch.device) -> Tensor:
    """A random matrix with singular values i^-0.5."""
    left = torch.linalg.qr(torch.randn(rows, rows, device=device)).Q
    right = torch.linalg.qr(torch.randn(columns, rows, device=device)).Q
    return (left * torch.arange(1, rows + 1, device=device) ** -0.5) @ right.mT


def off_orthonormal(basis: Tensor) -> float:
    """max abs of U'U - I, in float64."""
    exact = basis.double()
    return (exact.mT @ exact - torch.eye(exact.shape[1], device=exact.device)).abs().max().item()


def power_error(basis: Tensor, gradient: Tensor) -> float:
    """The median relative error, over columns, of the residual's power by Pythagoras against the residual itself."""
    rounded, exact = basis.dtype == torch.bfloat16, gradient.double()
    held, whole = basis.float()[None], gradient[None]
    sigma = project(held, whole)
    found = residual_sumsq(column_sumsq(whole), held, sigma, column_sumsq(sigma), rounded=rounded)[0].double()
    residual = exact - basis.double() @ (basis.double().mT @ exact)
    direct, power = residual.square().sum(0), exact.square().sum(0)
    error = ((found - direct) / direct).abs()[direct > SHARE * power]
    return error.median().item()
