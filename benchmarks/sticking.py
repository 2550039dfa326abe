"""How far second moments in 8 bits are from wide ones, before and after many gradients have become smaller.

    python -m benchmarks.sticking [STEADY DROPPED]

GaLore at full rank on a 64 x 256 matrix, b2 = 0.999; each column of the gradients has a scale exp(SPREAD N). After
STEADY steps (default 1500) half of the columns go to 1/100, for DROPPED steps (3000). A row for each spread and each of
the two ends: 5, 50 and 95 % and the mean of the second moment over that of float32, and the share of the map's least
value. After the drop these are of the columns that fell.
"""

import sys

import torch
from torch import Tensor

from optimizers import BaseOptimizer, registry
from optimizers.engine import wide_moments
from optimizers.engine.moment_draws import Draws

SHAPE = (64, 256)
SPREADS = (0.5, 1.5)


def held(optimizer: BaseOptimizer) -> dict[str, Tensor]:
    """The state of an optimizer of one matrix."""
    state: dict[str, Tensor] = next(iter(optimizer.state.values()))
    return state


def second_moment(optimizer: BaseOptimizer) -> Tensor:
    """float32 [rank, n], bytes read as the numbers that they stand for."""
    with wide_moments.wide(held(optimizer), torch.float32, Draws((), 0, [], []), if_written=True) as moments:
        moment: Tensor = moments["exp_avg_sq"].clone()
    return moment


def compare(narrow: BaseOptimizer, wide: BaseOptimizer, columns: Tensor) -> str:
    """The numbers of a row, of the `columns` (bool [n]) of both second moments."""
    ratios = (second_moment(narrow) / second_moment(wide))[:, columns]
    least = (held(narrow)["exp_avg_sq"][:, columns] == 1).float().mean()
    shown = [*ratios.quantile(torch.tensor([0.05, 0.5, 0.95])), ratios.mean(), least]
    return " ".join(f"{each.item():.2f}" for each in shown)


def follow(spread: float, steady: int, dropped: int) -> None:
    """Print both rows of a spread."""
    source = torch.Generator().manual_seed(0)
    scales = torch.randn(SHAPE[1], generator=source).mul_(spread).exp_()
    falls = torch.rand(SHAPE[1], generator=source) < 0.5
    weights = [torch.nn.Parameter(torch.zeros(SHAPE)) for _ in range(2)]
    galore = registry.get("galore")[0]
    narrow, wide = (
        galore([weight], rank=SHAPE[0], update_interval=1 << 30, state_bits=bits)
        for weight, bits in zip(weights, (8, 32), strict=True)
    )
    for step in range(1, steady + dropped + 1):
        gradient = torch.randn(SHAPE, generator=source) * scales
        gradient[:, falls] *= 0.01 if step > steady else 1
        for weight, optimizer in zip(weights, (narrow, wide), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
        if step == steady:
            print(spread, "before:", compare(narrow, wide, torch.ones_like(falls)), flush=True)
    print(spread, "after: ", compare(narrow, wide, falls), flush=True)


def main(steady: int = 1500, dropped: int = 3000) -> None:
    """Print the rows of all spreads."""
    for spread in SPREADS:
        follow(spread, steady, dropped)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
