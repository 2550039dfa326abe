"""The solvers behind refreshes, alone."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.acceptance.device import median_seconds
from benchmarks.acceptance.items import Item, Measured, Setup, at_most

SYMMETRIC = [(32, 512), (97, 512), (4, 2048)]  # matrices in a call, size
SINGULAR = (512, 2048)
REFLECTED = (4, 2048, 512)
# GaLore's refresh at 1.3B parameters: 168 matrices each 200 steps of 2.7 s, which may take 3 % of them.
MATRICES, LIMIT = 168, 0.03 * 200 * 2.7


def solvers(setup: Setup) -> Iterator[Item]:
    """Batches against one matrix after the other, and the ways to singular vectors."""
    for count, size in SYMMETRIC:
        yield Item(f"eigh {count}x{size}", lambda count=count, size=size: _eigh(count, size, setup.device))  # type: ignore[misc]
    for size in SINGULAR:
        yield Item(f"svd {size}", lambda size=size: _svd(size, setup))  # type: ignore[misc]
    yield Item("qr", lambda: _reflectors(setup.device))


def _eigh(count: int, size: int, device: torch.device) -> Iterator[Measured]:
    root = torch.randn(count, size, size, device=device)
    matrices = root @ root.mT
    together = median_seconds(lambda: torch.linalg.eigh(matrices), 2)
    single = median_seconds(lambda: [torch.linalg.eigh(matrix) for matrix in matrices[:4]], 2) / min(4, count)
    yield Measured(f"eigh [{count}, {size}, {size}] ms a matrix", 1e3 * together / count)
    yield Measured(f"eigh [{count}, {size}, {size}], together over one by one", together / count / single)


def eigenvectors_of_squares(matrix: Tensor) -> Tensor:
    """Left singular vectors by the eigenproblem of A A^T in float64."""
    exact = matrix.double()
    return torch.linalg.eigh(exact @ exact.mT).eigenvectors.flip(-1)


def _svd(size: int, setup: Setup) -> Iterator[Measured]:
    matrix = torch.randn(size, size, device=setup.device)
    ways: dict[str, Callable[[], object]] = {
        "default": lambda: torch.linalg.svd(matrix),
        "eigh in float64": lambda: eigenvectors_of_squares(matrix),
    }
    if setup.device.type == "cuda":
        for driver in ("gesvdj", "gesvd"):
            ways[driver] = lambda driver=driver: torch.linalg.svd(matrix, driver=driver)  # type: ignore[misc]
    times = {name: median_seconds(way, 2) for name, way in ways.items()}
    for name, took in times.items():
        yield Measured(f"svd {size} ms, {name}", 1e3 * took)
    if size == max(SINGULAR):
        took = MATRICES * times["default"]
        yield at_most("GaLore's refresh at 1.3B, s", took, LIMIT, asked=setup.speed)


def _reflectors(device: torch.device) -> Iterator[Measured]:
    columns = torch.randn(REFLECTED, device=device)
    vectors, tau = torch.geqrf(columns)
    yield Measured("geqrf ms a matrix", 1e3 * median_seconds(lambda: torch.geqrf(columns), 2) / REFLECTED[0])
    product = median_seconds(lambda: torch.linalg.householder_product(vectors, tau), 2)
    yield Measured("householder_product ms a matrix", 1e3 * product / REFLECTED[0])
    applied = median_seconds(lambda: torch.ormqr(vectors, tau, columns), 2)
    yield Measured("ormqr ms a matrix", 1e3 * applied / REFLECTED[0])
