"""The states of the global random generators, which a checkpoint holds."""

import random
from typing import Any

import numpy
import torch


def random_states() -> dict[str, Any]:
    """States of the random generators of Python, NumPy and torch (CPU, and the current CUDA device)."""
    name, keys, *rest = numpy.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Bring back what `random_states` returned; the CUDA state only where there is a CUDA device again."""
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
