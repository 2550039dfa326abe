"""The scores of GLUE against their definitions and against another package."""

import math

import numpy as np
import pytest

from experiments.glue.scores import SCORES, scores
from experiments.glue.tasks import TASKS

PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0])  # 3 hits of class 1, 1 false alarm, 2 misses, 2 hits of class 0
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0])


def test_each_score_is_its_definition():
    hits, alarms, misses, rest = 3, 1, 2, 2
    root = math.sqrt((hits + alarms) * (hits + misses) * (rest + alarms) * (rest + misses))
    assert SCORES["accuracy"](PREDICTIONS, LABELS) == (hits + rest) / 8
    assert SCORES["f1"](PREDICTIONS, LABELS) == 2 * hits / (2 * hits + alarms + misses)
    assert SCORES["matthews"](PREDICTIONS, LABELS) == pytest.approx((hits * rest - alarms * misses) / root, abs=1e-15)
    x, y = np.array([0.0, 1.0, 5.0]), np.array([1.0, 2.0, 3.0])
    assert SCORES["pearson"](x, y) == pytest.approx(5 / math.sqrt(14 * 2), abs=1e-15)
    assert SCORES["pearson"](-x, y) == -SCORES["pearson"](x, y)


def test_a_constant_answer_has_no_correlation_and_no_f1():
    zeros = np.zeros(8, dtype=int)
    assert SCORES["matthews"](zeros, LABELS) == SCORES["pearson"](zeros, LABELS) == SCORES["f1"](zeros, zeros) == 0.0


@pytest.mark.slow
def test_they_agree_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional", reason="comes with lightning")
    import torch

    draw = np.random.default_rng(0)
    predictions, labels = draw.integers(0, 2, 200), draw.integers(0, 2, 200)
    p, y = torch.tensor(predictions), torch.tensor(labels)
    for name, theirs in (("accuracy", "accuracy"), ("f1", "f1_score"), ("matthews", "matthews_corrcoef")):
        expected = getattr(functional, theirs)(p, y, task="binary").item()
        assert SCORES[name](predictions, labels) == pytest.approx(expected, abs=1e-6)
    x, z = draw.normal(size=200).astype(np.float32), draw.normal(size=200).astype(np.float32) + 100
    expected = functional.pearson_corrcoef(torch.tensor(x).double(), torch.tensor(z).double()).item()
    assert SCORES["pearson"](x, z) == pytest.approx(expected, abs=1e-9)


def test_logits_become_classes_or_numbers():
    logits = np.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert scores(TASKS["mnli"], logits, np.array([1, 0, 0])) == {"accuracy": 2 / 3}
    both = scores(TASKS["mrpc"], logits[:, :2], np.array([1, 0, 1]))
    assert both == {"f1": 2 / 3, "accuracy": 2 / 3}
    assert scores(TASKS["stsb"], np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0])) == {
        "pearson": pytest.approx(1.0)
    }
