"""What a parameter is to its model, found by the kind of module that holds it, and by its name where kinds do not say.

Kinds of other packages are known by the names of their classes, so that nothing but torch is imported.
"""

import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

# Hidden weights are "matrix" and "experts", a stack of matrices [experts, rows, columns]. "tied" is an embedding that
# is the last layer too. "other" multiplies in another way or starts from nothing: routers, convolutions, task heads.
Part = Literal["matrix", "experts", "last_layer", "tied", "embedding", "norm", "bias", "other"]

# What compiling a layer, or recomputing its activations, adds to the names of its parameters.
WRAPPER = r"(_orig_mod|_checkpoint_wrapped_module)\."
WRAPPERS = rf"({WRAPPER})*"
# Names that say more than a kind: the last layer, and heads of tasks.
HEADS: tuple[tuple[str, Part], ...] = (
    (rf"(^|\.)(lm_head|embed_out)\.{WRAPPERS}weight$", "last_layer"),
    (r"(^|\.)(classifier|classification_head|score|qa_outputs)(\.|$)", "other"),
)
# Names of tensors whose module's kind says nothing: tables of positions and tokens, a state space's decay rates, and
# the matrices of blocks whose layers are of a kind of their own.
NAMES: tuple[tuple[str, Part], ...] = (
    (r"embed|position|(^|\.)w[tp]e\.|bias_table|[_.](cls|mask|dist\w*|query)_tokens?$", "embedding"),
    (r"norm|(^|\.)ln_", "norm"),
    (r"bias\d*$", "bias"),
    (r"(^|\.)A_log$", "other"),
    (r"(^|[._])(attn|attention|mlp|feed_forward)\..*weight$", "matrix"),
)
# What chooses among experts: by its kind, and, of layers beside them, by its own name.
_ROUTER = re.compile(r"Router|TopKGat|Top\dGate|MoEGate")
_ROUTER_NAME = re.compile(r"(^|[._])(gate|gating|router|switch)$")


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Part | None]]:
    """Every parameter once, in the order and by the name of `model.named_parameters()`, with its part.

    None: nothing tells what the parameter is.
    """
    output = _output_layers(model)
    found: dict[nn.Parameter, list[Part | None]] = {}
    for path, module in model.named_modules():
        holder = model.get_submodule(path.rpartition(".")[0])
        for key, parameter in module.named_parameters(recurse=False):
            if key == "weight" and module in output:
                part: Part | None = "last_layer"
            else:
                part = _part(f"{path}.{key}".lstrip("."), key, parameter, module, holder)
            found.setdefault(parameter, []).append(part)
    for name, parameter in model.named_parameters():
        yield name, parameter, _shared(found[parameter])


def _shared(found: list[Part | None]) -> Part | None:
    """The part of a parameter from those that it is to the modules which hold it, the first of them first."""
    if "embedding" in found:
        return "tied" if "last_layer" in found else "embedding"
    return "last_layer" if "last_layer" in found else found[0]


def _output_layers(model: nn.Module) -> list[nn.Module]:
    """What transformers' `get_output_embeddings` returns, of the model or of what a wrapper holds.

    That layer may be a wrapper itself (a compiled layer, or a layer with a copy that is trained): every layer inside of
    it whose weight has this shape counts.
    """
    for module in model.modules():
        if callable(get := getattr(module, "get_output_embeddings", None)) and (layer := get()) is not None:
            return [part for part in layer.modules() if _weight_shape(part) == _weight_shape(layer)]
    return []


def _weight_shape(module: nn.Module) -> torch.Size | None:
    return getattr(getattr(module, "weight", None), "shape", None)


def _part(name: str, key: str, parameter: nn.Parameter, module: nn.Module, holder: nn.Module) -> Part | None:
    """The part of the parameter `key` of `module`, which is a child of `holder`; `name` is its whole name."""
    kind = type(module).__name__
    if "Embedding" in kind and key != "bias":
        return "embedding"
    if parameter.ndim <= 1:
        # A layer's flat or empty matrix, as FSDP1 and ZeRO-3 leave it, cannot be stepped as one.
        return None if _multiplies(module, key) else "bias" if key.endswith("bias") else "norm"
    for pattern, part in HEADS:
        if re.search(pattern, name):
            return part
    if isinstance(module, _ConvNd) or _ROUTER.search(kind) or _ROUTER.search(type(holder).__name__):
        return "other"
    if "Expert" in kind and parameter.ndim == 3 and "bias" not in key:
        return "experts"
    if parameter.ndim == 2 and _multiplies(module, key):
        routes = hasattr(holder, "experts") and _ROUTER_NAME.search(name.removesuffix(f".{key}"))
        return "other" if routes or 1 in parameter.shape else "matrix"  # one of a single row or column is a vector
    for pattern, part in NAMES:
        if re.search(pattern, name) and (part != "matrix" or parameter.ndim == 2):
            return part
    return None


def _multiplies(module: nn.Module, key: str) -> bool:
    """Whether a layer multiplies by the matrix `key`.

    transformers' Conv1D (GPT-2) is a linear layer that stores its weight as inputs x outputs.
    """
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return "weight" in key
    named = type(module).__name__
    return key == "weight" and (isinstance(module, nn.Linear) or "Linear" in named or named.endswith("Conv1D"))
