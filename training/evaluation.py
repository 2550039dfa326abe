"""Loss and perplexity on a fixed set of rows, which the processes share."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from data.held_out import EvaluationData
from models.unpadding import model_inputs
from training.processes.signals import Interrupted
from training.processes.world import World

GALORE_MIN_BATCHES = 10  # below, its division by one batch too many lowers the exponent by a tenth or more


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        loss: nats per target, the mean over all targets.
        targets: how many there are.
        galore_perplexity: GaLore's figure, see `evaluate`.
    """

    loss: float
    targets: int
    galore_perplexity: float | None


def perplexity(loss: float) -> float:
    """exp(loss), for a loss in nats; infinite where a double cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def evaluate(model: nn.Module, held_out: EvaluationData, world: World, *, rows: int, galore_rows: int) -> Evaluation:
    """The mean loss over every target of `held_out`; the same on any number of processes, within rounding.

    Args:
        rows: how many a process holds at a time.
        galore_rows: rows of a batch in `galore_perplexity`, which is what GaLore's `evaluate_model` prints:
            exp(sum of the batches' mean losses / (batches + 1)), over the whole batches; None for fewer than 10. It is
            lower than the perplexity, the more so the fewer the batches; it compares with papers that used that code.

    Raises Interrupted, on every process, when one was sent a signal.
    """
    pieces = _pieces(len(held_out), rows, galore_rows)
    batches = math.ceil(len(held_out) / galore_rows)
    sums = torch.zeros(2, batches, dtype=torch.float64, device=world.device)  # losses, targets
    training = model.training
    model.eval()
    try:
        for first in range(0, len(pieces), world.count):
            if signum := world.stop_signal():
                raise Interrupted(signum)
            # A process without a piece left computes the last one again: a sharded layer is whole only while all
            # processes compute it.
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
    galore_perplexity = _galore_perplexity(losses[:whole], targets[:whole])
    return Evaluation(sum(losses) / sum(targets), round(sum(targets)), galore_perplexity)


def _pieces(length: int, rows: int, galore_rows: int) -> list[slice]:
    """All of `length` rows in pieces of at most `rows`, none of them across a boundary of GaLore's batches."""
    return [
        slice(start, min(start + rows, end, length))
        for end in range(galore_rows, length + galore_rows, galore_rows)
        for start in range(end - galore_rows, min(end, length), rows)
    ]


def _galore_perplexity(losses: list[float], targets: list[float]) -> float | None:
    """GaLore's figure from the sums of losses and of targets of each whole batch."""
    if len(losses) < GALORE_MIN_BATCHES:
        return None
    means = [loss / count for loss, count in zip(losses, targets, strict=True)]
    return perplexity(sum(means) / (len(means) + 1))
