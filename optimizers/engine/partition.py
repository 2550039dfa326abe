"""Which parameter goes where: rules on names, the first match decides, and every parameter is covered."""

import re
from typing import Any

import torch
from torch import nn

from .traits import Traits

# The matrices of attention and MLP blocks go to the method; norms and biases to Adam, unless the method's traits say
# otherwise; the last layer (lm_head) and the embeddings where the caller says.
RULES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)lm_head\.weight$", "last_layer"),
    (r"embed|(^|\.)wte\.|(^|\.)wpe\.", "embedding"),
    (r"\.bias$", "bias"),
    (r"norm|(^|\.)ln_", "norm"),
    (r"(^|[._])(attn|attention|mlp|feed_forward)\..*weight$", "matrix"),
)
# Of the matrices, those of heads; the method's traits say whether it tells them apart.
HEADS = {"q_proj.weight": "query", "k_proj.weight": "key", "v_proj.weight": "value"}
VECTORS = ("norm", "bias")


def parameter_groups(
    model: nn.Module, *, last_layer: str, embeddings: str = "adam", traits: Traits | None = None
) -> list[dict]:
    """Groups for an optimizer of matrices: the method's, then Adam's (marked algorithm="adam").

    Each group holds (name, parameter) pairs under "params" and a "label", "method" or "adam". The method has one group,
    and one more for each role that its `traits` tell apart (with "role", and "heads" for queries and keys) and for its
    vectors, whose weights do not decay. Frozen parameters are left out.

    Args:
        last_layer, embeddings: "method" or "adam".

    Raises ValueError naming a parameter that no rule covers, for last_layer="method" on a model whose lm_head is tied
    to an embedding that Adam steps, and where heads cannot be counted.
    """
    traits = traits or Traits()
    by_method = {"matrix", *traits.also_steps}
    by_method |= {part for part, by in (("last_layer", last_layer), ("embedding", embeddings)) if by == "method"}
    method: dict[str, list[tuple[str, nn.Parameter]]] = {}
    adam: list[tuple[str, nn.Parameter]] = []
    parts = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((part for pattern, part in RULES if re.search(pattern, name)), None)
        if part is None or (part == "matrix" and parameter.ndim != 2):
            raise ValueError(f"no rule says who steps the parameter {name} of shape {tuple(parameter.shape)}")
        parts.add(part)
        members = method.setdefault(_role(name, part, traits), []) if part in by_method else adam
        members.append((name, parameter))
    if last_layer == "method" and "last_layer" not in parts and embeddings != "method":
        raise ValueError("last_layer=method needs a trainable lm_head.weight of its own (this model ties or lacks it)")
    groups: list[dict] = [
        {"params": members, "label": "method", **_options(role, model)} for role, members in method.items()
    ]
    return groups + ([{"params": adam, "label": "adam", "algorithm": "adam"}] if adam else [])


def _role(name: str, part: str, traits: Traits) -> str:
    """The role of a parameter of the method's: "vector", one that the traits tell apart, or "matrix"."""
    if part in VECTORS:
        return "vector"
    role = HEADS.get(".".join(name.split(".")[-2:]), part) if part == "matrix" else part
    return role if role in traits.roles else "matrix"


def _options(role: str, model: nn.Module) -> dict[str, Any]:
    """What the group of a role says beside its parameters."""
    if role == "vector":
        return {"weight_decay": 0.0}
    if role not in ("query", "key"):
        return {} if role == "matrix" else {"role": role}
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None)
    if role == "key":
        heads = getattr(config, "num_key_value_heads", None) or heads
    if heads is None:
        raise ValueError(f"the {role} heads of the model cannot be counted: it has no config.num_attention_heads")
    return {"role": role, "heads": heads}


def describe(optimizer: torch.optim.Optimizer) -> str:
    """A line per group and name pattern: who steps it, how many tensors, their shapes and elements."""
    lines = []
    for group in optimizer.param_groups:
        label = group.get("label", group["algorithm"])
        kinds: dict[str, list] = {}
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(parameter)
        for name, members in kinds.items():
            shapes = " ".join(sorted({"x".join(map(str, p.shape)) for p in members}))
            elements = sum(p.numel() for p in members)
            lines.append(f"{label:8} {name:48} {len(members):4} x {shapes:14} {elements:>13,}")
    return "\n".join(lines)
