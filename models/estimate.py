"""What a run will hold and compute, counted on the meta device: no weight is allocated, no data is opened."""

import csv
from pathlib import Path
from typing import Any

import torch

import optimizers
from models.llama import LOSS_CHUNK, build_model
from optimizers import partition, registry

# The paper's measurements with 256 positions a batch. Its GB are 2^30 bytes, as in Table 3: weights, gradients and
# Adam's states of the 7B model alone are 53.9e9 bytes, and it shows 52.9.
FIGURE_4 = Path(__file__).parents[1] / "results" / "paper" / "figure4_memory.csv"
FIGURE_4_POSITIONS = 256


def plan(config: Any) -> dict[str, Any]:
    """Sizes, memory and work of the run that `config` describes, on one process without sharding. Fit for JSON.

    Exact: `parameters` (elements), `matrix_parameters` (stepped by the method), `adam_parameters` (the rest),
    `weight_bytes`, `gradient_bytes`, `optimizer_state_bytes` (the optimizer's own state, created on the meta device),
    `gradient_bytes` and `layerwise_gradient_bytes` (the most that exist at once with train.layerwise, where stacks are
    those of this machine's device), `steps`, `positions`, `evaluation_steps`, `checkpoint_steps`, `checkpoint_bytes`
    (weights and optimizer state).

    Counted from the eager graph, for `micro_batch_rows` x length = P positions, in bytes, with b bytes an element,
    width h, MLP width f, heads a, vocabulary V. Rows that end in padding take less: it is left out (unpadding.py).
    Temporary buffers of single operations are left out:
      a layer keeps P (8 h + 8 b h + 4 b f + 4 a + 8): two norms (a float32 input and 4 bytes of scale each, the
        normalised values, the output), q, k, v and the attention's output, its 4 a of log-sums, four MLP tensors;
      `activation_bytes` = layers x that, and P (4 h + 2 b h + 4) for the final norm and the loss's gradient of it;
      `checkpointed_activation_bytes` = the same with P b h for each layer (its input), and one whole layer;
      `logits_bytes` = min(P, chunk) V logits in float32, once more in the weights' dtype if that is narrower, and
        lm_head's gradient b V h, which waits there for the backward pass.

    `flops_per_position` is forward and backward: 6 an element of every matrix but the embedding, and 6 h x length a
    layer for attention, of which causality computes half; recomputation is not counted. `flops` = that x positions.
    """
    model_settings, train, length = config.model, config.train, config.data.sequence_length
    dtype = getattr(torch, train.dtype)
    model = build_model(model_settings, dtype=dtype, seed=0, device="meta")
    optimizer = _optimizer(model, config.optimizer)

    parameters = sum(p.numel() for p in model.parameters())
    method = (group for group in optimizer.param_groups if group["algorithm"] != "adam")
    matrix_parameters = sum(p.numel() for group in method for p in group["params"])
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    state_bytes = optimizers.state_bytes(optimizer)

    h, layers = model_settings.hidden_size, model_settings.num_hidden_layers
    rows = min(train.micro_batch_size or train.batch_size, train.batch_size)
    micro_batch = _forward_bytes(model_settings, rows * length, dtype.itemsize)
    layerwise_bytes = _layerwise_gradient_bytes(model, optimizer)

    positions = train.steps * train.batch_size * length
    multiplied = sum(p.numel() for p in model.parameters() if p.ndim == 2) - model_settings.vocab_size * h
    flops_per_position = 6 * multiplied + 6 * layers * h * length
    return {
        "model": model_settings.name,
        "optimizer": config.optimizer.name,
        "dtype": train.dtype,
        "parameters": parameters,
        "matrix_parameters": matrix_parameters,
        "adam_parameters": parameters - matrix_parameters,
        "destinations": partition.describe(optimizer).splitlines(),
        "weight_bytes": weight_bytes,
        "gradient_bytes": weight_bytes,
        "layerwise_gradient_bytes": layerwise_bytes,
        "optimizer_state_bytes": state_bytes,
        "micro_batch_rows": rows,
        "activation_checkpointing": train.activation_checkpointing,
        **micro_batch,
        "steps": train.steps,
        "batch_size": train.batch_size,
        "sequence_length": length,
        "positions": positions,
        "flops_per_position": flops_per_position,
        "flops": flops_per_position * positions,
        "evaluation_steps": _every(train.eval_every, train.steps),
        "checkpoint_steps": _every(train.checkpoint_every, train.steps),
        "checkpoint_bytes": weight_bytes + state_bytes,
    }


def figure_4(config: Any, plan: dict[str, Any]) -> dict[str, list[int]]:
    """Where Fig. 4 of arXiv 2502.07752 has the model and optimizer of `config` and its dtype is Fig. 4's bfloat16, for
    "plain" and "layerwise" [bytes measured there, the sum of `plan`'s parts at its 256 positions]; otherwise empty."""
    if plan["dtype"] != "bfloat16":
        return {}
    with FIGURE_4.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == plan["optimizer"]]
    size = plan["model"].removeprefix("llama_")
    forward = _forward_bytes(config.model, FIGURE_4_POSITIONS, torch.bfloat16.itemsize)
    held = plan["weight_bytes"] + plan["optimizer_state_bytes"] + forward["activation_bytes"] + forward["logits_bytes"]
    modes = {"false": ("plain", "gradient_bytes"), "true": ("layerwise", "layerwise_gradient_bytes")}
    measured = {modes[row["layerwise"]]: round(float(row[size]) * 2**30) for row in rows if size in row}
    return {mode: [found, held + plan[gradients]] for (mode, gradients), found in measured.items()}


def describe(plan: dict[str, Any], figure_4: dict[str, list[int]]) -> str:
    """A plan as a table to read, beside what `figure_4` gives."""
    checkpointed = plan["activation_checkpointing"]
    activations = plan["checkpointed_activation_bytes" if checkpointed else "activation_bytes"]
    parts = {  # plain, layer-wise
        f"weights ({plan['dtype']})": (plan["weight_bytes"],) * 2,
        "gradients": (plan["gradient_bytes"], plan["layerwise_gradient_bytes"]),
        f"states of {plan['optimizer']}": (plan["optimizer_state_bytes"],) * 2,
        f"activations{', checkpointed' if checkpointed else ''}": (activations,) * 2,
        "logits": (plan["logits_bytes"],) * 2,
    }
    parts["sum"] = tuple(map(sum, zip(*parts.values(), strict=True)))
    rows, length = plan["micro_batch_rows"], plan["sequence_length"]
    other = plan["activation_bytes" if checkpointed else "checkpointed_activation_bytes"]
    return "\n".join(
        [
            f"{plan['model']} with {plan['optimizer']}: {plan['parameters']:,} parameters, "
            f"{plan['matrix_parameters']:,} stepped by the method, {plan['adam_parameters']:,} by Adam",
            "",
            *plan["destinations"],
            "",
            f"memory of one process, micro-batches of {rows} x {length} positions",
            f"  {'':32} {'plain':>12} {'layer-wise':>12}",
            *(f"  {name:32} {_size(plain):>12} {_size(released):>12}" for name, (plain, released) in parts.items()),
            f"  ({'without' if checkpointed else 'with'} activation checkpointing: {_size(other)} of activations)",
            *(
                f"  Fig. 4, {FIGURE_4_POSITIONS} positions, {mode}: {_size(measured)} measured; the parts give "
                f"{_size(planned)}, which leaves {_size(measured - planned)} for CUDA, buffers and its own loss"
                for mode, (measured, planned) in figure_4.items()
            ),
            "",
            f"{plan['steps']:,} steps of {plan['batch_size']} rows x {length} = {plan['positions']:,} positions",
            f"{plan['flops_per_position']:.3g} FLOP a position, {plan['flops']:.3g} in all",
            f"evaluation: {_steps(plan['evaluation_steps'])}",
            f"checkpoints: {_steps(plan['checkpoint_steps'])}, {_size(plan['checkpoint_bytes'])} each",
        ]
    )


def _optimizer(model: torch.nn.Module, section: Any) -> torch.optim.Optimizer:
    """The optimizer of a run with all the state it will hold, on the model's device."""
    optimizer = optimizers.build(
        model,
        section.name,
        lr=section.lr,
        adam_lr=section.adam_lr,
        last_layer=section.last_layer,
        **{option: getattr(section, option) for option in registry.options(section.name)},
    )
    optimizer.allocate_state()
    return optimizer


def _forward_bytes(section: Any, positions: int, b: int) -> dict[str, int]:
    """What a forward pass over so many positions keeps for backward, at b bytes an element (see `plan`)."""
    h, f, layers = section.hidden_size, section.intermediate_size, section.num_hidden_layers
    layer = positions * (8 * h + 8 * b * h + 4 * b * f + 4 * section.num_attention_heads + 8)
    outside = positions * (4 * h + 2 * b * h + 4)
    logit_width = 4 if b >= 4 else 4 + b
    return {
        "activation_bytes": layers * layer + outside,
        "checkpointed_activation_bytes": layers * positions * b * h + layer + outside,
        "logits_bytes": min(positions, LOSS_CHUNK) * section.vocab_size * logit_width + b * section.vocab_size * h,
    }


def _layerwise_gradient_bytes(model: torch.nn.Module, optimizer: optimizers.BaseOptimizer) -> int:
    """The most bytes of gradients at once when backward, from the last parameter to the first, frees what it can."""
    lists = optimizer.stepped_together("cuda" if torch.cuda.is_available() else "cpu")
    together = {parameter: members for members in lists for parameter in members}
    arrived, held, most = set(), 0, 0
    for parameter in reversed(list(model.parameters())):
        arrived.add(parameter)
        held += parameter.numel() * parameter.element_size()
        most = max(most, held)
        if arrived.issuperset(together[parameter]):
            held -= sum(p.numel() * p.element_size() for p in together[parameter])
    return most


def _every(interval: int, steps: int) -> list[int]:
    """Multiples of `interval` (0: none) up to `steps`, which is always the last."""
    return [*range(interval, steps, interval), steps] if interval else [steps]


def _size(number: int) -> str:
    return f"{number / 2**30:.3f} GiB" if number >= 2**27 else f"{number / 2**20:.2f} MiB"


def _steps(steps: list[int]) -> str:
    shown = [*map(str, steps[:3]), "...", str(steps[-1])] if len(steps) > 5 else map(str, steps)
    return f"{len(steps)} ({', '.join(shown)})"
