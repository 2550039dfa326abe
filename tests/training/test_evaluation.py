"""The evaluation: exact means, GaLore's figure, and the same on several processes."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.llama import Loss
from training.evaluation import evaluate
from training.processes.signals import Interrupted


class Lookup(nn.Module):
    """A model whose loss at a position is the id there: every sum can be checked by hand."""

    def forward(self, input_ids, labels, indices=None):
        assert not self.training
        return Loss(input_ids[:, 1:][labels[:, 1:] != -100].sum().float())


class Rows:
    """`count` rows of 5 positions; row i has 1 + i % 4 targets, whose losses are i % 3."""

    def __init__(self, count):
        self.input_ids = (torch.arange(count) % 3).repeat_interleave(5).view(count, 5)
        self.labels = self.input_ids.clone()
        for row in range(count):
            self.labels[row, 2 + row % 4 :] = -100

    def __len__(self):
        return len(self.input_ids)

    def batch(self, rows):
        return self.input_ids[rows], self.labels[rows]


def world(index=0, count=1, add=lambda sums: sums, signum=0):
    return SimpleNamespace(index=index, count=count, device=torch.device("cpu"), sum=add, stop_signal=lambda: signum)


def by_hand(rows, galore_rows):
    counts = [1 + row % 4 for row in range(rows)]
    losses = [(row % 3) * count for row, count in enumerate(counts)]
    starts = range(0, rows - galore_rows + 1, galore_rows)
    means = [sum(losses[s : s + galore_rows]) / sum(counts[s : s + galore_rows]) for s in starts]
    return sum(losses) / sum(counts), sum(counts), math.exp(sum(means) / (len(means) + 1))


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_means_are_exact_whatever_a_process_holds_at_once(rows):
    loss, targets, galore = by_hand(47, 4)
    found = evaluate(Lookup(), Rows(47), world(), rows=rows, galore_rows=4)
    assert (found.loss, found.targets) == (pytest.approx(loss, rel=1e-12), targets)
    assert found.galore_perplexity == pytest.approx(galore, rel=1e-12)


def test_galore_figure_needs_ten_batches():
    assert evaluate(Lookup(), Rows(39), world(), rows=4, galore_rows=4).galore_perplexity is None
    assert evaluate(Lookup(), Rows(40), world(), rows=4, galore_rows=4).galore_perplexity is not None


@pytest.mark.parametrize("count", [2, 5])
def test_processes_share_the_rows(count):
    parts = []
    for index in range(count):
        mine = world(index, count, lambda sums: parts.append(sums) or torch.ones_like(sums))  # parts may lack batches
        evaluate(Lookup(), Rows(47), mine, rows=3, galore_rows=4)
    found = evaluate(Lookup(), Rows(47), world(0, count, lambda sums: sum(parts)), rows=3, galore_rows=4)
    assert found == evaluate(Lookup(), Rows(47), world(), rows=3, galore_rows=4)


def test_a_signal_cuts_it_short_and_the_model_trains_on():
    model = Lookup()
    with pytest.raises(Interrupted) as interrupted:
        evaluate(model, Rows(47), world(signum=15), rows=3, galore_rows=4)
    assert interrupted.value.signum == 15
    assert model.training
