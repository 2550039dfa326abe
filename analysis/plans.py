"""Plans of runs (`train.py --plan`): parameters, memory and work, counted without allocating a weight."""

from functools import cache
from typing import Any

from configs.schema import Config, load
from models import estimate


@cache
def plan(*arguments: str) -> dict[str, Any]:
    """The plan of a run with these arguments of train.py, as `--plan=json` prints it. Raises SettingsError."""
    return plan_of(load(list(arguments)).config)


def plan_of(config: Config) -> dict[str, Any]:
    """The plan of a run with these settings."""
    return estimate.plan(config)
