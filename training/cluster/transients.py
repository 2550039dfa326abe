"""Memory that an optimizer's step on a GPU takes and gives back."""

from typing import Any

import torch
from torch import Tensor

from optimizers import Adam, BaseOptimizer
from optimizers.engine import eight_bit, moment_draws, wide_moments
from optimizers.engine.bounded_lists import LIST_BYTES, bounded_lists
from optimizers.engine.norm_scaled import NormScaled
from optimizers.functional import rounding

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
PIECES = 5.5  # of a piece of a parameter that Adam steps and rounds stochastically
NOISE = 1.75  # of a piece of a weight that is rounded stochastically from a float32 copy
UNCOUNTED = 8.0  # of a method that is not in the list: the most of all
EXCHANGED = 3.0  # more where owners get gradients from shards and send changes back: parts and whole, sent and received


def transient_bytes(name: str, optimizer: BaseOptimizer, *, processes: int, sharded: bool) -> int:
    """Bytes of a plain step of the method `name`, without a refresh, on one of `processes`. `optimizer` holds the whole
    model."""
    copies = COPIES.get(name, UNCOUNTED)
    if sharded and any(map(optimizer.steps_whole, optimizer.param_groups)):
        copies += EXCHANGED
    held = copies * _largest(optimizer, processes if sharded else 1) + _widened(optimizer)
    return round(4 * (max(held, _rounded(copies, optimizer)) if optimizer.rounds else held))


def _largest(optimizer: BaseOptimizer, shares: int) -> int:
    """Elements of the largest matrices that one of `shares` processes steps in one call."""
    methods = _methods(optimizer)
    if isinstance(optimizer, NormScaled):
        totals = [sum(p.numel() for p in group["params"]) for group in methods]
        return max(total // shares if shares > 1 else min(total, LIST_BYTES["cuda"] // 4) for total in totals)
    mine = {parameter for group in methods for parameter in group["params"]}
    lists = [together for together in optimizer.stepped_together("cuda") if together[0] in mine]
    largest = max((sum(parameter.numel() for parameter in together) for together in lists), default=0)
    return largest if any(map(optimizer.steps_whole, methods)) else -(-largest // shares)


def _widened(optimizer: BaseOptimizer) -> float:
    """Elements of narrow moments that are wide at once. Names whose moments always are bytes were counted with them,
    and bitsandbytes' step of Adam makes none."""
    if isinstance(optimizer, Adam) or optimizer.traits.state_bits == 8:
        return 0
    wide = {p: _wide_elements(optimizer, group, p) for group in _methods(optimizer) for p in group["params"]}
    if isinstance(optimizer, NormScaled):  # what more it takes to round one parameter is less than its whole lists
        lists = [members for group in _methods(optimizer) for members in bounded_lists(group["params"], "cuda")]
        return max((sum(wide[p][0] for p in members) for members in lists), default=0)
    lists = [members for members in optimizer.stepped_together("cuda") if members[0] in wide]
    return max((sum(wide[p][0] + ROUNDED * wide[p][1] for p in members) for members in lists), default=0)


def _wide_elements(optimizer: BaseOptimizer, group: dict[str, Any], parameter: Tensor) -> tuple[int, int]:
    """Elements of the narrow moments of `parameter`, and of the larger of those bytes that are rounded stochastically,
    one after the other."""
    state = optimizer.state[parameter]
    draws = moment_draws.draws(optimizer, group, [state], [0])
    elements = {key: state[key].numel() for key in wide_moments.seen_wide(state, draws)}
    rounded = [elements[key] for key in elements if key in draws.keys and state[key].dtype == torch.uint8]
    return sum(elements.values()), max(rounded, default=0)


def _rounded(copies: float, optimizer: BaseOptimizer) -> float:
    """Elements in float32 when weights are rounded stochastically: gradients and what is subtracted, which are no more
    than `copies`, one weight, and the noise of a piece of it; or a piece of what Adam steps."""
    pieces = held = 0.0
    for group in optimizer.param_groups:
        largest = max((parameter.numel() for parameter in group["params"]), default=0)
        noise = NOISE * min(rounding.PIECE, largest)
        if group["algorithm"] != "adam" and not isinstance(optimizer, Adam):
            held = max(held, min(copies, 2) * _largest(optimizer, 1) + largest + noise)
        elif eight_bit.is_narrow(group):  # a weight, with its gradient or noise
            held = max(held, largest + max(largest, noise))
        else:
            pieces = max(pieces, PIECES * min(rounding.PIECE, largest))
    return max(pieces, held)


def _methods(optimizer: BaseOptimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group["algorithm"] != "adam"]
