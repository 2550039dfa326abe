"""Which parameter goes where: the caller's rules first, then what the parameter is to its model."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from . import kinds
from .traits import Traits

# (regular expression, destination): the first whose expression is found in a parameter's name decides.
Rules = Sequence[tuple[str, Literal["method", "adam"]]]
# Of the matrices, those of heads; the method's traits say whether it tells them apart.
HEADS = {"q_proj.weight": "query", "k_proj.weight": "key", "v_proj.weight": "value"}


def parameter_groups(
    model: nn.Module,
    *,
    last_layer: str,
    embeddings: str = "adam",
    traits: Traits | None = None,
    rules: Rules = (),
    any_shape: bool = False,
) -> list[dict]:
    """Groups for an optimizer of matrices: the method's, then Adam's. Adam's is marked algorithm="adam", unless the
    method steps it too (`traits.steps_everything`).

    The matrices of hidden layers go to the method. Norms and biases are Adam's, unless the method's `traits` say
    otherwise; routers, convolutions and heads of tasks always are (`kinds.Part`), and so is an embedding, norm or bias
    of more than two dimensions.

    Each group holds (name, parameter) pairs under "params" and a "label", "method" or "adam". The method has one group,
    and one more for each role that its traits tell apart (with "role", and "heads" for queries and keys), for its
    vectors, whose weights do not decay, and for experts that a model holds in one tensor [experts, rows, columns]
    (stacked=True). Frozen parameters are left out.

    Args:
        last_layer, embeddings: "method" or "adam". An embedding that is lm_head too goes where embeddings go.
        rules: are asked before the kind of a parameter is. "method" takes a tensor of three dimensions for experts.
        any_shape: whether the method takes any shape. What no rule covers then goes to Adam.

    Raises ValueError for a rule that cannot be read or matches nothing, a parameter that no rule covers,
    last_layer="method" on a model whose lm_head is tied to an embedding that Adam steps, and where heads cannot be
    counted.
    """
    traits = traits or Traits()
    by_method = {"matrix", "experts", *traits.also_steps}
    by_method |= {"last_layer"} if last_layer == "method" else set()
    by_method |= {"embedding", "tied"} if embeddings == "method" else set()
    chosen = _chosen(model, rules)
    method: dict[str, list[tuple[str, nn.Parameter]]] = {}
    adam: list[tuple[str, nn.Parameter]] = []
    for name, parameter, part in kinds.parts(model):
        if not parameter.requires_grad:
            continue
        destination = chosen.get(name)
        if destination is None:
            _check_part(name, parameter, part, last_layer, embeddings, any_shape)
            fits = any_shape or part == "experts" or 1 <= parameter.ndim <= 2
            destination = "method" if part in by_method and fits else "adam"
        members = adam if destination == "adam" else method.setdefault(_role(name, parameter, part, traits), [])
        members.append((name, parameter))
    groups: list[dict] = [
        {"params": members, "label": "method", **_options(role, model)} for role, members in method.items()
    ]
    mark = {} if traits.steps_everything else {"algorithm": "adam"}
    return groups + ([{"params": adam, "label": "adam", **mark}] if adam else [])


def _check_part(
    name: str, parameter: nn.Parameter, part: kinds.Part | None, last_layer: str, embeddings: str, any_shape: bool
) -> None:
    """Raises ValueError for a parameter, without a rule of the caller's, that can be sent nowhere."""
    if part is None and not any_shape:
        raise ValueError(
            f"no rule says who steps the parameter {name} of shape {tuple(parameter.shape)}; say it with "
            f'rules=[("{re.escape(name)}", "adam")], or "method" for a matrix'
        )
    if part == "tied" and last_layer == "method" and embeddings != "method":
        raise ValueError(
            f"last_layer=method needs an lm_head of its own, but this model ties it to the embedding {name}: with "
            "last_layer=adam both are Adam's, with embeddings=method both are the method's"
        )


def _role(name: str, parameter: nn.Parameter, part: kinds.Part | None, traits: Traits) -> str:
    """The group of a parameter of the method's: "vector", "experts", a role that the traits tell apart, or "matrix"."""
    if part in ("norm", "bias"):
        return "vector"
    if parameter.ndim == 3:
        return "experts"
    name = re.sub(kinds.WRAPPER, "", name)
    role = HEADS.get(".".join(name.split(".")[-2:])) if part == "matrix" else part
    role = "embedding" if role == "tied" else role
    return role if role in traits.roles else "matrix"


def _options(role: str, model: nn.Module) -> dict[str, Any]:
    """What a group says beside its parameters."""
    if role == "vector":
        return {"weight_decay": 0.0}
    if role == "experts":
        return {"stacked": True}
    if role not in ("query", "key"):
        return {} if role == "matrix" else {"role": role}
    # A wrapper has no configuration, what it holds does.
    config = next((module.config for module in model.modules() if hasattr(module, "config")), None)
    heads = getattr(config, "num_attention_heads", None)
    if role == "key":
        heads = getattr(config, "num_key_value_heads", None) or heads
    if heads is None:
        raise ValueError(f"the {role} heads of the model cannot be counted: it has no config.num_attention_heads")
    return {"role": role, "heads": heads}


def _chosen(model: nn.Module, rules: Rules) -> dict[str, str]:
    """Name of a parameter -> the destination that the caller's rules give it. Raises ValueError for a bad rule."""
    chosen: dict[str, str] = {}
    names = [name for name, _ in model.named_parameters()]
    for rule in rules:
        pair = isinstance(rule, Sequence) and not isinstance(rule, str) and len(rule) == 2
        if not pair or not all(isinstance(part, str) for part in rule):
            raise ValueError(f'rules must be pairs of a regular expression and "method" or "adam", got {rule!r}')
        pattern, destination = rule
        if destination not in ("method", "adam"):
            raise ValueError(f"rules: the destination of {pattern!r} must be method or adam, got {destination!r}")
        try:
            matched = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"rules: {pattern!r} is no regular expression: {error}") from error
        if not matched:
            first = f"whose first is {names[0]}" if names else "which has none"
            raise ValueError(f"rules: {pattern!r} matches no parameter of the model, {first}")
        chosen = {**dict.fromkeys(matched, destination), **chosen}
    return chosen


def describe(optimizer: torch.optim.Optimizer) -> str:
    """A line per group and name pattern: who steps it, how many tensors, their shapes and elements.

    Tensors of groups without names, which a constructor that is called by hand makes, are called "unnamed". A group of
    another package's optimizer is stepped by its class.
    """
    lines = []
    for group in optimizer.param_groups:
        label = group.get("label", group.get("algorithm", type(optimizer).__name__))
        patterns: dict[str, list] = {}
        names = group.get("param_names", ["unnamed"] * len(group["params"]))
        for name, parameter in zip(names, group["params"], strict=True):
            patterns.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(parameter)
        for name, members in patterns.items():
            shapes = " ".join(sorted({"x".join(map(str, p.shape)) for p in members}))
            elements = sum(p.numel() for p in members)
            lines.append(f"{label:8} {name:48} {len(members):4} x {shapes:14} {elements:>13,}")
    return "\n".join(lines)
