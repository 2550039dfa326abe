"""The machine: device, driver, versions, and whether float32 products are those of IEEE's float32."""

import importlib.util
import os
from collections.abc import Iterator

import torch

from benchmarks.acceptance.items import Item, Measured, Setup, at_most
from optimizers.engine.precision import ieee_products

OVERRIDE = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"


def environment(setup: Setup) -> Iterator[Item]:
    """An optimizer's products must be exact to float32 whatever the environment says (docs/numerics.md)."""
    yield Item("machine", lambda: _machine(setup.device))
    yield Item("float32", lambda: [_precision(setup.device)])


def _machine(device: torch.device) -> Iterator[Measured]:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield Measured("device", properties.name)
        yield Measured("memory GiB", properties.total_memory / 2**30)
        driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
        yield Measured("CUDA of the driver", f"{driver // 1000}.{driver % 1000 // 10}")
    yield Measured("CUDA of torch", str(torch.version.cuda))
    yield Measured("torch", torch.__version__)
    yield Measured("triton", "there" if importlib.util.find_spec("triton") else "missing: nothing is compiled")
    yield Measured("solvers", str(torch.backends.cuda.preferred_linalg_library()).rpartition(".")[2])
    yield Measured(OVERRIDE, os.environ.get(OVERRIDE, "not set"))
    yield Measured("cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0)


def _precision(device: torch.device) -> Measured:
    """TF32 would be off by some 3e-4."""
    a, b = torch.randn(2, 512, 512, device=device)
    with ieee_products(device.type):
        product = a @ b
    exact = a.double() @ b.double()
    return at_most("float32 product, error", ((product - exact).norm() / exact.norm()).item(), 1e-5)
