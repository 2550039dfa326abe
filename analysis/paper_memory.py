"""Fig. 4 of arXiv 2502.07752: measured memory of whole training steps, and the sum of the parts that a plan counts."""

from typing import NamedTuple

from analysis.paper import paper_table
from training.plan import Plan

# The paper's GB are 2^30 bytes, as in Table 3: weights, gradients and Adam's states of the 7B model alone are 53.9e9
# bytes, and it shows 52.9.
GIB = 2**30
POSITIONS = 256  # of a batch in all of Fig. 4


class Footprint(NamedTuple):
    """Bytes of one training step."""

    measured: int  # by the paper
    planned: int  # weights, gradients, optimizer state, activations and logits


def settings(model: str, optimizer: str, *options: str) -> list[str]:
    """Arguments of train.py for a run as Fig. 4 measures it: bfloat16, one row of 256 positions at once."""
    batch = ("train.dtype=bfloat16", "train.micro_batch_size=1", f"data.sequence_length={POSITIONS}")
    return [f"model={model}", f"optimizer={optimizer}", *batch, *options]


def figure_4(plan: Plan) -> dict[str, Footprint]:
    """Footprints of a plan's model and optimizer, by mode ("plain", "layerwise"): Fig. 4's and the plan's.

    Empty where Fig. 4 has no such run, and for other weights than its bfloat16. Raises ValueError for a plan of other
    than its 256 positions at once.
    """
    if plan["dtype"] != "bfloat16":
        return {}
    size = plan["model"].removeprefix("llama_")
    rows = [row for row in paper_table("figure4_memory.csv") if row["method"] == plan["optimizer"] and size in row]
    positions = plan["micro_batch_rows"] * plan["sequence_length"]
    if rows and positions != POSITIONS:
        raise ValueError(f"Fig. 4 has {POSITIONS} positions a batch, this plan {positions}: see paper_memory.settings")
    shared = plan["weight_bytes"] + plan["optimizer_state_bytes"] + plan["activation_bytes"] + plan["logits_bytes"]
    modes = {"false": ("plain", plan["gradient_bytes"]), "true": ("layerwise", plan["layerwise_gradient_bytes"])}
    footprints = {}
    for row in rows:
        mode, gradients = modes[row["layerwise"]]
        footprints[mode] = Footprint(round(float(row[size]) * GIB), shared + gradients)
    return footprints
