"""Alice that holds only the directions which are worth their state (line 10 of results/beyond/README.md).

    after a refresh, with e_i = ||u_i^T G||^2 and e_out = (||G||^2 - sum_i e_i) / (m - r), the mean of the complement:
        a column u_i with e_i < e_out is not held: u_i = 0, and so are its rows of m and v, its row and column of Qt
    everything else as in Alice; the size of C stays sqrt(m - r)

Alice's compensation treats all directions outside the basis alike. So a direction below their mean gains nothing by
being inside. Numbers that are not held stay in memory as zeros. How much of a run's state is held:

    python -m experiments.beyond.adaptive_rank RUN/checkpoints/step_00000250
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizers import Alice
from optimizers.engine import register
from optimizers.functional.subspace import project
from optimizers.functional.switching import reference_basis


@register("alice_adaptive_rank")
class AdaptiveRank(Alice):
    """Alice whose rank is, at each refresh, the number of columns with more than the complement's mean energy."""

    traits = replace(Alice.traits, refreshed=("basis", "tracked", "exp_avg", "exp_avg_sq"))

    def refresh(self, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], t: int, sources: list) -> None:
        super().refresh(gradient, state, group, t, sources)
        m, r = state["basis"].shape[-2:]
        if r == m:
            return
        energies = project(state["basis"].to(gradient.dtype), gradient).square().sum(-1)
        outside = (gradient.square().sum((-2, -1)) - energies.sum(-1)) / (m - r)
        held = (energies >= outside.unsqueeze(-1)).to(gradient.dtype)
        state["basis"].mul_(held.unsqueeze(-2))
        for key in ("exp_avg", "exp_avg_sq"):
            state[key].mul_(held.unsqueeze(-1))
        if group["tracking"]:
            state["tracked"].mul_(held.unsqueeze(-1) * held.unsqueeze(-2))

    @staticmethod
    def reference_update(
        G: Tensor, state: dict[str, Any], t: int, *, clock: int, source: torch.Generator, **options: Any
    ) -> Tensor:
        """D of W <- W - lr D, in plain float64."""
        m, r = G.shape[0], min(options["rank"], G.shape[0])
        if t == 1 or clock % options["update_interval"] == 0:
            zero = G.new_zeros(m, r), G.new_zeros(r, r)
            b3 = options["betas"][2] if options["tracking"] else 0.0
            U, Qt = state.get("U", zero[0]), state.get("Qt", zero[1])
            U = reference_basis(G, U, Qt, b3, options["leading"], options["switching"], source, first=t == 1)
            if r < m:
                e = ((U.T @ G) ** 2).sum(1)
                held = (e >= ((G**2).sum() - e.sum()) / (m - r)).double()
                U, Qt = U * held, Qt * held[:, None] * held
                for key in ("m", "v"):
                    state[key] = state.get(key, 0) * held[:, None]
            state.update(U=U, Qt=Qt)
        options["update_interval"] = clock + 1  # the basis is renewed already
        return Alice.reference_update(G, state, t + 1, clock=clock, source=source, **options)


def held(state: dict[str, Any]) -> tuple[int, int, int, int]:
    """Of one matrix's state: (columns held, columns, numbers held, numbers)."""
    (m, r), n = state["basis"].shape, state["exp_avg"].shape[1]
    k = int((state["basis"] != 0).any(0).sum())
    numbers = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    tracked = r * r - k * k if "tracked" in state else 0
    return k, r, numbers - (r - k) * (m + 2 * n) - tracked, numbers


if __name__ == "__main__":
    saved = torch.load(Path(sys.argv[1]) / "optimizer.pt", map_location="cpu", weights_only=True)
    counts = zip(*(held(state) for state in saved["state"].values() if "basis" in state), strict=True)
    print("{} of {} columns, {:,} of {:,} numbers".format(*map(sum, counts)))
