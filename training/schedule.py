"""The learning rate as a pure function of the step: there is no scheduler to save, to prepare or to step too often."""

import math


def lr_factor(step: int, *, steps: int, warmup_fraction: float, final_fraction: float, first_lr_zero: bool) -> float:
    """The factor on every group's base learning rate at update `step`, counted from 1.

    Linear warm-up over the first `warmup_fraction` of the steps, then a half cosine that reaches `final_fraction` at
    the last update. With `first_lr_zero` every update has the factor of the update before it, and update 1 has 0, as in
    GaLore's `torchrun_main.py`; where there is no warm-up, update 1 has 1, as there.
    """
    at = step - 1 if first_lr_zero else step
    warmup = round(warmup_fraction * steps)
    if at < warmup:
        return at / warmup
    progress = (at - warmup) / max(1, steps - warmup)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2
