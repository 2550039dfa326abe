"""Other implementations of the same steps, as far as they are installed.

galore-torch and fira come with requirements-test.txt. apollo-torch (CC BY-NC 4.0) and pytorch_optimizer are compared
when they can be imported; nothing here needs them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

LR = 1e-6
Part = list[nn.Parameter]  # of a model
Make = Callable[[Part, Part, int, int], torch.optim.Optimizer]  # from matrices, the rest, rank and leading


class Peer(NamedTuple):
    """An implementation by another package; `algorithm` is the registry's name of the same method."""

    algorithm: str
    make: Make
    takes_rest: bool = True  # whether it steps the rest of the model by Adam; if not, `make` gets none of it


def peers() -> dict[str, Peer]:
    """All that can be imported, by name."""
    found = {
        "torch AdamW, foreach": Peer("adam", lambda p, rest, r, k: torch.optim.AdamW(p + rest, LR, foreach=True)),
        "torch AdamW, loop": Peer("adam", lambda p, rest, r, k: torch.optim.AdamW(p + rest, LR, foreach=False)),
        "torch Muon": Peer(
            "muon", lambda p, rest, r, k: torch.optim.Muon(p, LR, adjust_lr_fn="match_rms_adamw"), takes_rest=False
        ),
    }
    for add in (_galore_torch, _fira, _apollo_torch, _pytorch_optimizer):
        try:
            found |= add()
        except ImportError:
            continue
    if not torch.cuda.is_available():  # others' Muon multiplies in bfloat16: minutes a step on a CPU without it
        found = {name: peer for name, peer in found.items() if peer.algorithm != "muon"}
    return found


def _groups(matrices: Part, rest: Part, rank: int, **options: Any) -> list[dict[str, Any]]:
    """A model in groups, as the packages' READMEs say: the group with a rank is projected, the other is Adam's."""
    projected: dict[str, Any] = {"params": matrices, "rank": rank, "update_proj_gap": 200, **options}
    return [projected, {"params": rest}] if rest else [projected]


def _galore_torch() -> dict[str, Peer]:
    from galore_torch import GaLoreAdamW

    std = {"scale": 0.25, "proj_type": "std"}
    quiet = {"lr": LR, "no_deprecation_warning": True}
    return {"galore-torch": Peer("galore", lambda p, rest, r, k: GaLoreAdamW(_groups(p, rest, r, **std), **quiet))}


def _fira() -> dict[str, Peer]:
    from fira import FiraAdamW

    std = {"alpha": 0.25, "proj_type": "std"}
    quiet = {"lr": LR, "no_deprecation_warning": True}
    return {"fira, its package": Peer("fira", lambda p, rest, r, k: FiraAdamW(_groups(p, rest, r, **std), **quiet))}


def _apollo_torch() -> dict[str, Peer]:
    from apollo_torch import APOLLOAdamW

    def make(proj: str, scale_type: str, scale: float) -> Make:
        options = {"proj": proj, "scale_type": scale_type, "scale": scale, "proj_type": "std"}
        mini = scale_type == "tensor"
        return lambda p, rest, r, k: APOLLOAdamW(_groups(p, rest, 1 if mini else r, **options), lr=LR)

    return {
        "apollo-torch": Peer("apollo", make("random", "channel", 1.0)),
        "apollo-torch svd": Peer("apollo_svd", make("svd", "channel", 1.0)),
        "apollo-torch mini": Peer("apollo_mini", make("random", "tensor", 128.0)),
    }


def _pytorch_optimizer() -> dict[str, Peer]:
    import pytorch_optimizer as kozistr

    std = {"scale": 0.25, "projection_type": "std"}
    return {
        f"pytorch_optimizer {name}": Peer(ours, make, takes_rest)
        for name, ours, make, takes_rest in (
            ("Alice", "alice", lambda p, rest, r, k: kozistr.Alice(p, LR, rank=r, leading_basis=k), False),
            ("RACS", "racs", lambda p, rest, r, k: kozistr.RACS(p, LR), False),
            ("GaLore", "galore", lambda p, rest, r, k: kozistr.GaLore(_groups(p, rest, r, **std), LR), True),
            ("Fira", "fira", lambda p, rest, r, k: kozistr.Fira(_groups(p, rest, r, **std), LR), True),
            ("Muon", "muon", lambda p, rest, r, k: kozistr.Muon(_muon_groups(p, rest), LR), True),
            ("SOAP", "soap", lambda p, rest, r, k: kozistr.SOAP(p, LR), False),
        )
    }


def _muon_groups(matrices: Part, rest: Part) -> list[dict[str, Any]]:
    return [{"params": part, "use_muon": part is matrices} for part in (matrices, rest) if part]


INTERVALS = ("update_interval", "update_proj_gap", "precondition_frequency")


def interval(optimizer: torch.optim.Optimizer) -> int | None:
    """Steps between its refreshes; None if there are none."""
    group = optimizer.param_groups[0]
    return next((group[key] for key in INTERVALS if key in group), None)


def set_interval(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Make it refresh every `steps` steps. Some packages hold the number in their state, or in projectors there."""
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
    """Bytes of all tensors in its state, inside lists, dicts and objects too."""
    seen: set[int] = set()

    def count(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if id(value) in seen or isinstance(value, str | int | float | bool | None):
            return 0
        seen.add(id(value))
        parts: Iterable[Any] = getattr(value, "__dict__", {}).values()
        if isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        return sum(map(count, parts))

    return sum(map(count, optimizer.state.values()))
