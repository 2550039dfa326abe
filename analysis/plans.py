"""Plans of runs (`train.py --plan`): parameters, memory and work, counted without allocating a weight."""

from functools import cache
from typing import Any

from configs.schema import load
from models import estimate


@cache
def plan(*arguments: str) -> dict[str, Any]:
    """The plan of a run with these arguments of train.py, as `--plan=json` prints it. Raises SettingsError."""
    return estimate.plan(load(list(arguments)).config)
