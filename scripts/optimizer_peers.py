"""Other implementations of the same steps, as far as they are installed.

galore-torch and fira come with requirements-test.txt. apollo-torch (CC BY-NC 4.0) and pytorch_optimizer are compared
when they can be imported; nothing here needs them.
"""

from collections.abc import Callable
from typing import Any

import torch

Make = Callable[[list, int, int], torch.optim.Optimizer]  # parameters, rank, leading -> optimizer
LR = 1e-6


def peers() -> dict[str, tuple[str, Make]]:
    """Name -> (the registry's name of the same algorithm, constructor)."""
    found: dict[str, tuple[str, Make]] = {
        "torch AdamW, foreach": ("adam", lambda p, r, k: torch.optim.AdamW(p, LR, foreach=True)),
        "torch AdamW, loop": ("adam", lambda p, r, k: torch.optim.AdamW(p, LR, foreach=False)),
        "torch Muon": ("muon", lambda p, r, k: torch.optim.Muon(p, LR, adjust_lr_fn="match_rms_adamw")),
    }
    for add in (_galore_torch, _fira, _apollo_torch, _pytorch_optimizer):
        try:
            found |= add()
        except ImportError:
            continue
    if not torch.cuda.is_available():  # others' Muon multiplies in bfloat16, minutes a step without its hardware
        found = {name: peer for name, peer in found.items() if peer[0] != "muon"}
    return found


def _group(parameters: list, rank: int, **options: Any) -> list[dict]:
    return [{"params": parameters, "rank": rank, "update_proj_gap": 200, **options}]


def _galore_torch() -> dict:
    from galore_torch import GaLoreAdamW

    std = {"scale": 0.25, "proj_type": "std"}
    quiet = {"lr": LR, "no_deprecation_warning": True}
    return {"galore-torch": ("galore", lambda p, r, k: GaLoreAdamW(_group(p, r, **std), **quiet))}


def _fira() -> dict:
    from fira import FiraAdamW

    std = {"alpha": 0.25, "proj_type": "std"}
    return {
        "fira, its package": (
            "fira",
            lambda p, r, k: FiraAdamW(_group(p, r, **std), lr=LR, no_deprecation_warning=True),
        )
    }


def _apollo_torch() -> dict:
    from apollo_torch import APOLLOAdamW

    def make(proj: str, scale_type: str, scale: float) -> Make:
        options = {"proj": proj, "scale_type": scale_type, "scale": scale, "proj_type": "std"}
        return lambda p, r, k: APOLLOAdamW(_group(p, 1 if scale_type == "tensor" else r, **options), lr=LR)

    return {
        "apollo-torch": ("apollo", make("random", "channel", 1.0)),
        "apollo-torch svd": ("apollo_svd", make("svd", "channel", 1.0)),
        "apollo-torch mini": ("apollo_mini", make("random", "tensor", 128.0)),
    }


def _pytorch_optimizer() -> dict:
    import pytorch_optimizer as kozistr

    std = {"scale": 0.25, "projection_type": "std"}
    return {
        f"pytorch_optimizer {name}": (ours, make)
        for name, ours, make in (
            ("Alice", "alice", lambda p, r, k: kozistr.Alice(p, LR, rank=r, leading_basis=k)),
            ("RACS", "racs", lambda p, r, k: kozistr.RACS(p, LR)),
            ("GaLore", "galore", lambda p, r, k: kozistr.GaLore(_group(p, r, **std), LR)),
            ("Fira", "fira", lambda p, r, k: kozistr.Fira(_group(p, r, **std), LR)),
            ("Muon", "muon", lambda p, r, k: kozistr.Muon([{"params": p, "use_muon": True}], LR)),
            ("SOAP", "soap", lambda p, r, k: kozistr.SOAP(p, LR)),
        )
    }


INTERVALS = ("update_interval", "update_proj_gap", "precondition_frequency")


def interval(optimizer: torch.optim.Optimizer) -> int | None:
    """Steps between its refreshes; None if there are none."""
    group = optimizer.param_groups[0]
    return next((group[key] for key in INTERVALS if key in group), None)


def set_interval(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Let it refresh every so many steps; some packages hold the number in their state, or in projectors there."""
    for group in optimizer.param_groups:
        for key in INTERVALS:
            if key in group:
                group[key] = steps
    for state in optimizer.state.values():
        for key, value in state.items():
            if key in INTERVALS:
                state[key] = steps
            elif hasattr(value, "update_proj_gap"):
                value.update_proj_gap = steps


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors among its state, inside lists, dicts and objects too."""
    seen: set[int] = set()

    def count(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if id(value) in seen or isinstance(value, str | int | float | bool | None):
            return 0
        seen.add(id(value))
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
        return sum(map(count, parts if parts is not None else getattr(value, "__dict__", {}).values()))

    return sum(map(count, optimizer.state.values()))
