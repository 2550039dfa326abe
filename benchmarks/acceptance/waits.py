"""Nothing in a plain step, forward or backward may wait for the device."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.acceptance.device import SIZES, micro_batch, random_model, set_gradients
from benchmarks.acceptance.items import Item, Measured, Setup, holds
from optimizers import registry

SHAPES = [(512, 512), (1376, 512), (512, 1376)]


def waits(setup: Setup) -> Iterator[Item]:
    """torch's own mode for finding them raises an error where one would be."""
    for name in registry.names():
        yield Item(name, lambda name=name: [_of_steps(name, setup.device)])  # type: ignore[misc]
    for padded in (False, True):
        yield Item("60m", lambda padded=padded: [_of_pass(setup.device, padded)])  # type: ignore[misc]


@contextlib.contextmanager
def refused(device: torch.device) -> Iterator[None]:
    """Inside, a wait for a CUDA device is a RuntimeError."""
    if device.type != "cuda" or not torch.cuda.is_available():
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waiting(call: Callable[[], object], device: torch.device) -> str:
    """The error of the first wait in `call`; "none" where it does not wait."""
    try:
        with refused(device):
            call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "none"


def _of_steps(name: str, device: torch.device) -> Measured:
    weights = [nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in SHAPES]
    options = {"update_interval": 1000} if "update_interval" in registry.options(name) else {}
    optimizer = registry.get(name)[0](weights, lr=1e-3, **options)
    set_gradients(list(weights))
    for _ in range(3):  # bases, and whatever is made once; SOAP's first update is its second step
        optimizer.step()

    def steps() -> None:
        for _ in range(3):
            optimizer.step()

    found = waiting(steps, device)
    return holds(f"{name}, three plain steps", found, found == "none", "none")


def _of_pass(device: torch.device, padded: bool) -> Measured:
    model = random_model(SIZES["60m"], device)
    inputs = micro_batch(16, device, padded=padded).inputs

    def both() -> None:
        model(**inputs).loss_sum.backward()

    both()
    found = waiting(both, device)
    return holds(f"forward and backward, {'padded' if padded else 'packed'}", found, found == "none", "none")
