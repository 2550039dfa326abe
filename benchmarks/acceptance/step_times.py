"""Optimizer steps and refreshes against what the same kernels take at the card's own rates."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import optimizers
from benchmarks.acceptance.device import SIZES, Size, kernels_of, median_seconds, random_model, set_gradients
from benchmarks.acceptance.items import Item, Measured, Setup, at_most, near
from benchmarks.machine import rates, seconds
from benchmarks.peers import set_interval
from optimizers import BaseOptimizer, registry
from tests.phantom.count import Count, Kernel

NAMES = ("adam", "racs", "alice", "galore", "fira", "apollo_mini", "muon")
LAUNCH = 2.5e-6  # seconds that a launch takes at least
NEVER, INTERVAL = 10**9, 200
TIMES_ROOFLINE = {"adam": 1.3}
OTHERS = 1.6
REFRESH = {"60m": 1.0, "1_3b": 15.0}  # seconds of Alice's


class Rates(NamedTuple):
    """Bytes/s, and FLOP/s by the dtype of a product, as measured on the device."""

    bandwidth: float
    products: dict[torch.dtype, float]


def steps(setup: Setup) -> Iterator[Item]:
    """For each model and optimizer a plain step, its launches, and a refresh."""
    measured = _rates(setup.device)
    for size in ("60m", "1_3b"):
        for name in NAMES:
            yield Item(
                f"{size} {name}",
                lambda size=size, name=name: of_optimizer(size, name, setup, measured),  # type: ignore[misc]
            )


def _rates(device: torch.device) -> Rates:
    bandwidth, single = rates(device, torch.float32)()
    return Rates(bandwidth, {torch.float32: single, torch.bfloat16: rates(device, torch.bfloat16)()[1]})


def of_optimizer(size: str, name: str, setup: Setup, card: Rates) -> Iterator[Measured]:
    """The lines of one optimizer on the whole of a model."""
    label = f"{size} {name}"
    model, optimizer = prepared(SIZES[size], name, setup.device)
    with Count() as count:
        optimizer.step()
    took, least = median_seconds(optimizer.step), roofline(count.kernels, card)
    yield Measured(f"{label}, step ms", 1e3 * took)
    limit = TIMES_ROOFLINE.get(name, OTHERS)
    yield at_most(f"{label}, step over its roofline", took / least, limit, asked=setup.speed)
    if seen := kernels_of(optimizer.step):
        yield near(f"{label}, launches over those counted", seen.launches / count.launches, 0.1)
        yield at_most(f"{label}, share of the step without a kernel", seen.idle, 0.1, asked=setup.speed)
    if "update_interval" in registry.options(name):
        set_interval(optimizer, 1)
        more = seconds(optimizer.step) - took
        asked = setup.speed and name == "alice"
        yield at_most(f"{label}, refresh s", more, REFRESH[size], asked=asked)
    del model


def prepared(size: Size, name: str, device: torch.device) -> tuple[torch.nn.Module, BaseOptimizer]:
    """A model with gradients, and its optimizer after three steps, the first bases among them."""
    model = random_model(size, device)
    known = registry.options(name)
    given = {"rank": size.rank, "leading": size.rank // 3, "update_interval": INTERVAL}
    options: dict[str, Any] = {key: value for key, value in given.items() if key in known and known[key].default != 1}
    optimizer = optimizers.build(model, name, lr=1e-6, **options)
    set_gradients(list(model.parameters()))
    optimizer.step()
    if "update_interval" in known:
        set_interval(optimizer, NEVER)
    for _ in range(2):
        optimizer.step()
    return model, optimizer


def roofline(kernels: list[Kernel], card: Rates) -> float:
    """Seconds: of each kernel the longest of its bytes, its FLOPs and its launches."""
    total = 0.0
    for kernel in kernels:
        rate = card.products.get(kernel.dtype, card.products[torch.float32])
        total += max(kernel.bytes / card.bandwidth, kernel.flops / rate, kernel.launches * LAUNCH)
    return total
