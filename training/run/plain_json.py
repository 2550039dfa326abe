"""Values as JSON can hold them."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """`value`, nested dicts included, with None for every number that JSON has no word for (NaN, infinities)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
