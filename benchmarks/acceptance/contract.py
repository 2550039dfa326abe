"""Every optimizer against its plain float64 form, and a resume to the last bit, on the device."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.acceptance.items import Item, Measured, Setup, at_most, holds
from optimizers import BaseOptimizer, registry
from tests.optimizers import harness
from tests.optimizers.harness import gradient, largest_difference, options_of, parameters, reference

SHAPES = [(64, 96), (96, 64), (80, 80)]
# Float32 does not determine the roots and eigenvectors of larger factors: these have the shapes of the CPU's tests.
ILL_CONDITIONED = {"eigen_adam", "shampoo", "soap"}
STEPS, RESUMED = 12, 6
INTERVAL, LR = 5, 0.01
FLOAT32 = 5e-4  # as the contract on a CPU


def contract(setup: Setup) -> Iterator[Item]:
    """Errors over their limits: those of tests/optimizers/test_contract.py."""
    for name in registry.names():
        yield Item(name, lambda name=name: _one(name, setup.device))  # type: ignore[misc]


def _one(name: str, device: torch.device) -> Iterator[Measured]:
    limit, options = registry.get(name)[0].traits.reference_tolerance, _options(name)
    forms = [{}, {"stagger": True}] if "stagger" in options else [{}]
    try:
        errors = [_error(name, device, torch.float64, {**options, **form}) / limit for form in forms]
    except ImportError as error:
        yield Measured(name, f"not checked: {error}")
        return
    exact = {**options, **({"ns_dtype": "float32"} if "ns_dtype" in options else {})}
    errors.append(_error(name, device, torch.float32, exact) / max(FLOAT32, limit))
    errors.append(_bfloat16(name, device, options) / 0.5)
    yield at_most(f"{name}, error over its limit", max(errors), 1.0)
    yield holds(f"{name}, resumed", *_resumed(name, device, options))


def _options(name: str) -> dict[str, Any]:
    options = options_of(name)
    # Between refreshes Shampoo stretches what its roots have not seen by as much as rounding allows.
    interval = {"update_interval": INTERVAL if name != "shampoo" else 1} if "update_interval" in options else {}
    return {**options, **interval, "state_bits": 32}  # bytes have a check of their own, tests/gpu/test_cuda.py


def _shapes(name: str) -> list[tuple[int, int]]:
    return harness.SHAPES if name in ILL_CONDITIONED else SHAPES


def _make(name: str, weights: list[nn.Parameter], options: dict[str, Any]) -> BaseOptimizer:
    return registry.get(name)[0](weights, lr=LR, **options)


def _on(device: torch.device, weights: Sequence[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(weight.detach().to(device, copy=True)) for weight in weights]


def _step(optimizer: BaseOptimizer, weights: list[nn.Parameter], steps: range) -> list[Tensor]:
    for number in steps:
        for index, weight in enumerate(weights):
            weight.grad = gradient((weight.shape[0], weight.shape[1]), number, index).to(weight)
        optimizer.step()
    return [weight.detach().cpu().clone() for weight in weights]


def _moved(name: str, device: torch.device, start: Sequence[Tensor], options: dict[str, Any]) -> tuple[
        list[Tensor], list[Tensor]]:  # fmt: skip
    """The weights after all steps, and those of the plain form."""
    weights = _on(device, start)
    expected = reference(registry.get(name)[0], list(start), options, range(1, STEPS + 1), LR)
    return _step(_make(name, weights, options), weights, range(1, STEPS + 1)), expected


def _error(name: str, device: torch.device, dtype: torch.dtype, options: dict[str, Any]) -> float:
    return largest_difference(*_moved(name, device, parameters(_shapes(name), dtype=dtype), options))


def _bfloat16(name: str, device: torch.device, options: dict[str, Any]) -> float:
    """The largest distance from the plain form, over the way that the plain form went."""
    start = parameters(_shapes(name), dtype=torch.bfloat16, scale=0.02)
    moved, expected = _moved(name, device, start, options)
    pairs = zip(moved, expected, start, strict=True)
    return max(((a.double() - e).norm() / (e - s.double()).norm()).item() for a, e, s in pairs)


def _resumed(name: str, device: torch.device, options: dict[str, Any]) -> tuple[str, bool, str]:
    weights = _on(device, parameters(_shapes(name), dtype=torch.float32))
    optimizer = _make(name, weights, options)
    torch.use_deterministic_algorithms(True)
    try:
        _step(optimizer, weights, range(1, RESUMED))
        file = io.BytesIO()
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True, map_location="cpu")
        again = _on(device, saved["weights"])
        resumed = _make(name, again, options)
        resumed.load_state_dict(saved["optimizer"])
        rest = range(RESUMED, STEPS + 1)
        difference = largest_difference(_step(optimizer, weights, rest), _step(resumed, again, rest))
    finally:
        torch.use_deterministic_algorithms(False)
    return f"{difference:g}", difference == 0, "the same bits"
