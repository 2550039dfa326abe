"""The numbers that describe a run at a step boundary."""

from dataclasses import dataclass


@dataclass
class Counters:
    """A checkpoint holds them, and a resumed run continues from them."""

    step: int = 0  # updates made
    tokens: int = 0  # targets that entered the loss, all processes
    train_seconds: float = 0.0  # in training steps: evaluations and checkpoints excluded
    evaluated: int = 0  # step of the last evaluation
    evaluation_loss: float | None = None  # of that evaluation, nats per target
