"""A plan as a table to read."""

import torch

from training.cluster.cluster_table import cluster_lines, size
from training.plan import Plan


def plan_table(plan: Plan, *, bounded: bool = False) -> str:
    """`plan` as text: sizes, memory of plain and of layer-wise training in columns, and work; if `bounded`, the
    cluster's part of it too, which has the memory of one of several processes."""
    rows, length = plan["micro_batch_rows"], plan["sequence_length"]
    memory = [f"memory of one process, micro-batches of {rows} x {length} positions", *_memory_lines(plan), ""]
    return "\n".join(
        [
            f"{plan['model']} with {plan['optimizer']}: {plan['parameters']:,} parameters, "
            f"{plan['matrix_parameters']:,} stepped by the method, {plan['adam_parameters']:,} by Adam",
            "",
            *plan["destinations"],
            "",
            *(memory if plan["cluster"]["processes"] == 1 else []),
            f"{plan['steps']:,} steps of {plan['batch_size']} rows x {length} = {plan['positions']:,} positions",
            f"{plan['flops_per_position']:.3g} FLOP a position, {plan['flops']:.3g} in all",
            f"evaluation: {_steps(plan['evaluation_steps'])}",
            f"checkpoints: {_steps(plan['checkpoint_steps'])}, {size(plan['checkpoint_bytes'])} each",
            *(cluster_lines(plan["cluster"]) if bounded else []),
        ]
    )


def _memory_lines(plan: Plan) -> list[str]:
    activations, other = plan["activation_bytes"], plan["checkpointed_activation_bytes"]
    label, contrary = "activations", "with"
    if plan["activation_checkpointing"]:
        activations, other = other, activations
        label, contrary = "activations, checkpointed", "without"
    device = "GPU" if torch.cuda.is_available() else "CPU; a GPU: --card"
    parts = [  # label, plain, layer-wise
        (f"weights ({plan['dtype']})", plan["weight_bytes"], plan["weight_bytes"]),
        ("gradients", plan["gradient_bytes"], plan["layerwise_gradient_bytes"]),
        (f"states of {plan['optimizer']}", plan["optimizer_state_bytes"], plan["optimizer_state_bytes"]),
        (label, activations, activations),
        (f"logits ({device})", plan["logits_bytes"], plan["logits_bytes"]),
    ]
    parts.append(("sum", sum(plain for _, plain, _ in parts), sum(layerwise for _, _, layerwise in parts)))
    return [
        f"  {'':32} {'plain':>12} {'layer-wise':>12}",
        *(f"  {name:32} {size(plain):>12} {size(layerwise):>12}" for name, plain, layerwise in parts),
        f"  ({contrary} activation checkpointing: {size(other)} of activations)",
    ]


def _steps(steps: list[int]) -> str:
    shown = [*map(str, steps[:3]), "...", str(steps[-1])] if len(steps) > 5 else map(str, steps)
    return f"{len(steps)} ({', '.join(shown)})"
