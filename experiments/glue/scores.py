"""The scores of GLUE's tasks, each from predictions and labels `[n]`, in float64."""

import numpy as np
from numpy.typing import NDArray

from experiments.glue.tasks import Task

Array = NDArray[np.number]


def accuracy(predictions: Array, labels: Array) -> float:
    """The share of equal pairs."""
    return float(np.mean(predictions == labels))


def f1(predictions: Array, labels: Array) -> float:
    """Harmonic mean of precision and recall of class 1; 0 where that class is neither predicted nor a label."""
    hits = np.sum((predictions == 1) & (labels == 1))
    named = np.sum(predictions == 1) + np.sum(labels == 1)
    return float(2 * hits / named) if named else 0.0


def pearson(predictions: Array, labels: Array) -> float:
    """Correlation of two series of numbers; 0 where one of them is constant."""
    x, y = (values.astype(np.float64) - np.mean(values, dtype=np.float64) for values in (predictions, labels))
    size = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / size) if size else 0.0


def matthews(predictions: Array, labels: Array) -> float:
    """Matthews's correlation of two classes 0 and 1: that of Pearson, between indicators."""
    return pearson(predictions, labels)


SCORES = {"accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson}


def scores(task: Task, logits: Array, labels: Array) -> dict[str, float]:
    """Every score of the task by name, from the logits `[n, task.labels]`."""
    predictions = logits[:, 0] if task.is_regression else logits.argmax(axis=1)
    return {name: SCORES[name](predictions, labels) for name in task.scores}
