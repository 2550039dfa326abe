"""Rows of metrics, and a disk that fills up."""

import resource
from contextlib import contextmanager


def train_row(step: int) -> dict:
    row = {"kind": "train", "step": step, "tokens": 10 * step, "loss": 1 / 3 / step, "train_seconds": step / 4}
    return row | {"adam_lr": None}


def eval_row(step: int, loss: float = 2.0) -> dict:
    return {"kind": "eval", "step": step, "tokens": 10 * step, "loss": loss, "train_seconds": step / 4}


@contextmanager
def files_of_at_most(size: int):
    """The kernel writes a part of a line, then refuses, as a disk does that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
