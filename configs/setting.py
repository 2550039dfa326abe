"""How a room declares a setting. No import of the project: every room may use it."""

from dataclasses import field
from typing import Any


def setting(default: Any, meaning: str, **bounds: float) -> Any:
    """A dataclass field with its meaning and, for numbers, its bounds.

    Args:
        default: an immutable value, or `omegaconf.MISSING` for a setting that has to be given.
        bounds: `least` and `most` (inclusive), `above` and `below` (exclusive).
    """
    return field(default=default, metadata={"meaning": meaning, **bounds})
