"""Memory that an optimizer's step on a GPU takes and gives back."""

from typing import Any

import torch
from torch import Tensor

from optimizers import Adam, BaseOptimizer
from optimizers.engine import byte_draws
from optimizers.engine.bounded_lists import LIST_BYTES, bounded_lists
from optimizers.engine.norm_scaled import NormScaled

# The most that is held at once, in float32 copies of the largest matrices that are stepped in one call: counted on
# bfloat16 models of 60M and 1.3B parameters (docs/gpu.md); tests/phantom holds these numbers against the count.
COPIES = {
    "adafactor": 3.2, "adam": 0.0, "adam_8bit": 0.0, "adam_mini": 3.0, "alice": 2.5, "alice_0": 2.5, "alice_soap": 4.4,
    "apollo": 1.5, "apollo_mini": 1.0, "apollo_svd": 1.5, "dion": 2.5, "eigen_adam": 4.0, "fira": 2.5, "flip_flop": 4.4,
    "galore": 2.5, "galore_8bit": 2.75, "lamb": 4.0, "lars": 3.0, "ldadam": 4.3, "lion": 2.0, "muon": 2.5,
    "natural_galore": 6.8, "normuon": 2.5, "octave": 3.5, "racs": 1.5, "racs_muon": 4.8, "scale": 3.0,
    "shampoo": 3.0, "sinkgd": 2.0, "soap": 6.0, "swan": 4.0,
}  # fmt: skip
ROUNDED = 2.5  # more of a moment in 8 bits that is rounded stochastically
UNCOUNTED = 8.0  # of a method that is not in the list: the most of all
EXCHANGED = 3.0  # more where owners get gradients from shards and send changes back: parts and whole, sent and received


def transient_bytes(name: str, optimizer: BaseOptimizer, *, processes: int, sharded: bool) -> int:
    """Bytes of a plain step of the method `name`, without a refresh, on one of `processes`. `optimizer` holds the whole
    model."""
    copies = COPIES.get(name, UNCOUNTED)
    if sharded and any(map(optimizer.steps_whole, optimizer.param_groups)):
        copies += EXCHANGED
    return round(4 * (copies * _largest(optimizer, processes if sharded else 1) + _widened(name, optimizer)))


def _largest(optimizer: BaseOptimizer, shares: int) -> int:
    """Elements of the largest matrices that one of `shares` processes steps in one call."""
    methods = [group for group in optimizer.param_groups if group["algorithm"] != "adam"]
    if isinstance(optimizer, NormScaled):
        totals = [sum(p.numel() for p in group["params"]) for group in methods]
        return max(total // shares if shares > 1 else min(total, LIST_BYTES["cuda"] // 4) for total in totals)
    mine = {parameter for group in methods for parameter in group["params"]}
    lists = [together for together in optimizer.stepped_together("cuda") if together[0] in mine]
    largest = max((sum(parameter.numel() for parameter in together) for together in lists), default=0)
    return largest if any(map(optimizer.steps_whole, methods)) else -(-largest // shares)


def _widened(name: str, optimizer: BaseOptimizer) -> float:
    """Elements of the moments in 8 bits that are wide at once. Names whose moments always are bytes were counted with
    them, and bitsandbytes' step of Adam makes none."""
    if isinstance(optimizer, Adam) or optimizer.traits.state_bits == 8:
        return 0
    methods = [group for group in optimizer.param_groups if group["algorithm"] != "adam"]
    if isinstance(optimizer, NormScaled):  # what more it takes to round one parameter is less than its whole lists
        lists = [members for group in methods for members in bounded_lists(group["params"], "cuda")]
        return max((sum(_byte_elements(optimizer.state[p]) for p in members) for members in lists), default=0)
    slow = {p: byte_draws.slow(optimizer, group) for group in methods for p in group["params"]}
    return max(
        (
            sum(_byte_elements(optimizer.state[p]) for p in members)
            + ROUNDED * sum(_rounded_elements(optimizer.state[p], slow.get(p, ())) for p in members)
            for members in optimizer.stepped_together("cuda")
        ),
        default=0,
    )


def _byte_elements(state: dict[str, Any]) -> int:
    return sum(value.numel() for value in state.values() if isinstance(value, Tensor) and value.dtype == torch.uint8)


def _rounded_elements(state: dict[str, Any], slow: tuple[str, ...]) -> int:
    """Elements of the larger of the moments that are rounded stochastically, one after the other."""
    return max((_byte_elements({key: state.get(key)}) for key in slow), default=0)
