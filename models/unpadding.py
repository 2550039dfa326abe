"""Leaving out the padding: a row that ends in padding costs no more than its text.

C4's published results have one document a row (`data.packing=false`), which makes 23 % of the positions padding.
Everything but attention treats positions one by one, so a micro-batch becomes a list of the positions that its loss
needs; `models.kernels.attention` makes rows of them. The loss and its gradients stay the same.
"""

import torch
from torch import Tensor


def unpadded_indices(labels: Tensor) -> Tensor | None:
    """The positions that a micro-batch's loss needs: in each row, those up to the one that predicts its last target.

    Every row keeps at least two positions: attention takes no empty row, and a compiler would make a graph of its own
    for a list of one position.

    Args:
        labels: int64 [rows, length] on the CPU, not shifted, -100 is no target.

    Returns:
        int64 [N], ascending indices into the flattened rows; None if every row is full, because leaving out only the
        last position of each row does not pay.
    """
    targets = labels[:, 1:] != -100
    if targets[:, -1].all():
        return None
    ends = torch.arange(1, labels.shape[1]) * targets
    lengths = ends.amax(1, keepdim=True).clamp(min=2)
    return (torch.arange(labels.shape[1]) < lengths).flatten().nonzero().squeeze(1)


def model_inputs(input_ids: Tensor, labels: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The arguments of the model's forward for a micro-batch on the CPU, each [rows, length], moved to `device`."""
    inputs = {"input_ids": input_ids, "labels": labels}
    if (indices := unpadded_indices(labels)) is not None:
        inputs["indices"] = indices
    if device.type == "cuda":  # from other memory the host would wait for the copy; a pinned batch is not copied again
        inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
