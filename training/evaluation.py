"""Perplexity on a fixed set of rows, shared out over the processes."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from data.held_out import EvaluationData
from models.unpadding import model_inputs
from training.distributed import World
from training.progress import perplexity

GALORE_MIN_BATCHES = 10  # below, the batch that its mean divides by too much is more than a tenth of them


@dataclass(frozen=True)
class Evaluation:
    """`loss`: nats per target over all `targets`; `galore_perplexity`: see `evaluate`."""

    loss: float
    targets: int
    galore_perplexity: float | None


@torch.no_grad()
def evaluate(
    model: nn.Module, held_out: EvaluationData, world: World, *, rows: int, galore_rows: int
) -> Evaluation | None:
    """The mean loss over every target of `held_out`; the same on any number of processes, within rounding.

    `rows` are held by a process at a time. `galore_perplexity` is what GaLore's `evaluate_model` prints for batches
    of `galore_rows`: exp(sum of the batches' mean losses / (batches + 1)), over the whole batches; None for fewer
    than 10. It is lower than the perplexity, the more so the fewer the batches, and kept to compare with papers
    that used that code.

    None when a process was sent a signal meanwhile.
    """
    # No piece straddles two of GaLore's batches, whose sums are kept apart.
    pieces = [
        slice(start, min(start + rows, end, len(held_out)))
        for end in range(galore_rows, len(held_out) + galore_rows, galore_rows)
        for start in range(end - galore_rows, min(end, len(held_out)), rows)
    ]
    batches = math.ceil(len(held_out) / galore_rows)
    sums = torch.zeros(2, batches, dtype=torch.float64, device=world.device)  # losses, targets
    training = model.training
    model.eval()
    try:
        for first in range(0, len(pieces), world.count):
            if world.stop_signal():
                return None
            # Where pieces run out, a process computes the last one once more: in shards, a layer is only whole
            # while all processes compute it.
            piece = pieces[min(first + world.index, len(pieces) - 1)]
            input_ids, labels = held_out.batch(piece)
            loss_sum = model(**model_inputs(input_ids, labels, world.device)).loss_sum
            if first + world.index < len(pieces):
                batch = piece.start // galore_rows
                sums[0, batch] += loss_sum
                sums[1, batch] += (labels[:, 1:] != -100).sum()
    finally:
        model.train(training)
    losses, targets = world.sum(sums).tolist()
    whole = len(held_out) // galore_rows
    galore_perplexity = None
    if whole >= GALORE_MIN_BATCHES:
        means = [loss / count for loss, count in zip(losses[:whole], targets[:whole], strict=True)]
        galore_perplexity = perplexity(sum(means) / (whole + 1))
    return Evaluation(sum(losses) / sum(targets), round(sum(targets)), galore_perplexity)
