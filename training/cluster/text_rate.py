"""How much of a row is text, and how fast text is made into rows."""

import math

from data.data_settings import Data

# Tokens of a document of C4 by T5's tokenizer: log-normal, as benchmarks/training.py makes them.
MEDIAN, SPREAD = 267, 1.1
# Targets a second of one core's time, on a loaded Xeon (docs/gpu.md): one document a row, and packed.
TOKENISED = (300_000, 200_000)
PREPARED = (4_400_000, 5_800_000)


def filled(data: Data) -> float:
    """The share of a row's positions that its loss needs: all if rows are packed, else that of C4's documents."""
    if data.packing:
        return 1.0
    mean, log = math.log(MEDIAN), math.log(data.sequence_length)
    below = math.exp(mean + SPREAD**2 / 2) * _normal((log - mean - SPREAD**2) / SPREAD)
    whole = data.sequence_length * (1 - _normal((log - mean) / SPREAD))
    return (below + whole) / data.sequence_length


def _normal(x: float) -> float:
    """The share of a normal distribution below `x` standard deviations."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


def targets_per_row(data: Data) -> float:
    """Each position but a row's first is predicted; of a row that ends in padding those that hold text."""
    return (data.sequence_length - 1) if data.packing else data.sequence_length * filled(data)


def targets_per_core_second(data: Data, *, prepared: bool) -> int:
    """Targets that the data's thread makes with one core."""
    return (PREPARED if prepared else TOKENISED)[data.packing]
