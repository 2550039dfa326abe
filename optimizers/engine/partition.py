"""Which parameter goes where: rules on names, the first match decides, and every parameter is covered."""

import re

import torch
from torch import nn

# The matrices of attention and MLP blocks go to the method; embeddings, norms and biases to Adam; the last
# layer (lm_head) where the caller says.
RULES: tuple[tuple[str, str], ...] = (
    (r"(^|\.)lm_head\.weight$", "last_layer"),
    (r"embed|(^|\.)wte\.|(^|\.)wpe\.", "adam"),
    (r"norm|(^|\.)ln_|\.bias$", "adam"),
    (r"(^|[._])(attn|attention|mlp|feed_forward)\..*weight$", "matrix"),
)


def parameter_groups(model: nn.Module, *, last_layer: str) -> list[dict]:
    """Groups for an optimizer of matrices: the method's, then Adam's (marked algorithm="adam").

    last_layer: "method" or "adam", for lm_head. Each group holds (name, parameter) pairs under "params" and a
    "label". Frozen parameters are left out. Raises ValueError naming a parameter that no rule covers, and
    for last_layer="method" on a model whose lm_head is tied to its embedding.
    """
    method: list[tuple[str, nn.Parameter]] = []
    adam: list[tuple[str, nn.Parameter]] = []
    seen_last_layer = False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((part for pattern, part in RULES if re.search(pattern, name)), None)
        if part is None or (part == "matrix" and parameter.ndim != 2):
            raise ValueError(f"no rule says who steps the parameter {name} of shape {tuple(parameter.shape)}")
        seen_last_layer |= part == "last_layer"
        to_method = part == "matrix" or (part == "last_layer" and last_layer == "method")
        (method if to_method else adam).append((name, parameter))
    if last_layer == "method" and not seen_last_layer:
        raise ValueError("last_layer=method needs a trainable lm_head.weight of its own (this model ties or lacks it)")
    groups = [{"params": method, "label": "method"}, {"params": adam, "label": "adam", "algorithm": "adam"}]
    return [group for group in groups if group["params"]]


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
