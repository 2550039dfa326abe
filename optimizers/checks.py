"""Checks of options: each raises ValueError, its text starting with the option's name."""

import math
import numbers
from typing import Any


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options among a constructor's `locals()`."""
    return {key: value for key, value in arguments.items() if key not in ("self", "params", "__class__")}


def check_range(name: str, value: float, *, low: float, high: float = math.inf, open_low: bool = False) -> None:
    """Raises ValueError unless low <= value <= high (low < value with open_low); infinity and NaN never pass."""
    inside = (low < value if open_low else low <= value) and value <= high and math.isfinite(value)
    if not inside:
        bound = f"{'above' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        raise ValueError(f"{name} must be a number {bound}, got {value}")


def check_whole(name: str, value: int, *, low: int) -> None:
    """Raises ValueError unless value is a whole number >= low."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value}")


def check_decay(name: str, value: float) -> None:
    """Raises ValueError unless 0 <= value < 1."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def check_betas(betas, count: int) -> None:
    """Raises ValueError unless betas are `count` numbers in [0, 1)."""
    if len(betas) != count:
        raise ValueError(f"betas must be {count} numbers, got {len(betas)}")
    for beta in betas:
        check_decay("betas", beta)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
