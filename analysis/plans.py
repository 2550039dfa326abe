"""Plans of runs (`train.py --plan`): parameters, memory and work, counted without allocating a weight."""

from functools import cache

from configs.schema import load
from training.plan import Plan, plan_run


@cache
def plan(*arguments: str) -> Plan:
    """The plan of a run with these arguments of train.py, as `--plan=json` prints it. Raises SettingsError."""
    return plan_run(load(list(arguments)).config)
