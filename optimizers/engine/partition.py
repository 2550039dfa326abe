"""Which parameter goes where: the caller's rules first, then what the parameter is to its model."""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from . import kinds

# (regular expression, destination): the first whose expression is found in a parameter's name decides.
Rules = Sequence[tuple[str, Literal["method", "adam"]]]


def parameter_groups(model: nn.Module, *, last_layer: str, rules: Rules = (), any_shape: bool = False) -> list[dict]:
    """Groups for an optimizer of matrices: the method's, then Adam's (marked algorithm="adam").

    The matrices of hidden layers go to the method; embeddings, norms, biases, routers, convolutions and heads of tasks
    to Adam (`kinds.Part`). Each group holds (name, parameter) pairs under "params" and a "label". Experts that a model
    holds in one tensor [experts, rows, columns] are a group of their own, marked stacked=True. Frozen parameters are
    left out.

    Args:
        last_layer: "method" or "adam", for lm_head.
        rules: are asked before the kind of a parameter is. "method" takes a tensor of three dimensions for experts.
        any_shape: whether the method takes any shape. What no rule covers then goes to Adam.

    Raises ValueError for a rule that cannot be read or matches nothing, a parameter that no rule covers, and
    last_layer="method" on a model whose lm_head is tied to its embedding.
    """
    chosen = _chosen(model, rules)
    method: list[tuple[str, nn.Parameter]] = []
    experts: list[tuple[str, nn.Parameter]] = []
    adam: list[tuple[str, nn.Parameter]] = []
    for name, parameter, part in kinds.parts(model):
        if not parameter.requires_grad:
            continue
        destination = chosen.get(name)
        if destination is None and part is None and not any_shape:
            raise ValueError(
                f"no rule says who steps the parameter {name} of shape {tuple(parameter.shape)}; say it with "
                f'rules=[("{re.escape(name)}", "adam")], or "method" for a matrix'
            )
        if destination is None and part == "tied" and last_layer == "method":
            raise ValueError(
                f"last_layer=method needs an lm_head of its own, but this model ties it to the embedding {name}: with "
                "last_layer=adam both are Adam's"
            )
        by_method = part in ("matrix", "experts") or (part == "last_layer" and last_layer == "method")
        if destination == "adam" or (destination is None and not by_method):
            adam.append((name, parameter))
        else:
            (experts if parameter.ndim == 3 else method).append((name, parameter))
    groups: list[dict] = [
        {"params": method, "label": "method"},
        {"params": experts, "label": "method", "stacked": True},
        {"params": adam, "label": "adam", "algorithm": "adam"},
    ]
    return [group for group in groups if group["params"]]


def _chosen(model: nn.Module, rules: Rules) -> dict[str, str]:
    """Name of a parameter -> the destination that the caller's rules give it. Raises ValueError for a bad rule."""
    chosen: dict[str, str] = {}
    names = [name for name, _ in model.named_parameters()]
    for pattern, destination in rules:
        if destination not in ("method", "adam"):
            raise ValueError(f"rules: the destination of {pattern!r} must be method or adam, got {destination!r}")
        try:
            matched = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"rules: {pattern!r} is no regular expression: {error}") from error
        if not matched:
            raise ValueError(f"rules: {pattern!r} matches no parameter of the model, whose first is {names[0]}")
        chosen = {**dict.fromkeys(matched, destination), **chosen}
    return chosen


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
