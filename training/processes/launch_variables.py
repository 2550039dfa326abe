"""The environment variables by which a launcher tells a process its place. They may be left over from another job."""

import os
import re

from configs.schema import SettingsError

# accelerate's launcher sets all of these, for one process too. A shell may hold some, as defaults of its programs.
BY_ACCELERATE = tuple(
    f"ACCELERATE_{name}"
    for name in (
        "MIXED_PRECISION",
        "DYNAMO_BACKEND",
        "DYNAMO_MODE",
        "DYNAMO_USE_FULLGRAPH",
        "DYNAMO_USE_DYNAMIC",
        "DYNAMO_USE_REGIONAL_COMPILATION",
    )
)


def launched(name: str, default: int) -> int:
    """The number in the variable `name`, `default` if it is not set. Raises SettingsError if it cannot be one."""
    text = os.environ.get(name, str(default))
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise SettingsError(f"the environment variable {name} is {text!r}, not a number: unset it")
    if name == "WORLD_SIZE" and int(text) == 0:
        raise SettingsError(f"the environment variable {name} is {text}, no number of processes: unset it")
    return int(text)


def check_launch() -> None:
    """Refuse variables that no launcher would set together. Raises SettingsError that names one to unset."""
    rank, count = launched("RANK", 0), launched("WORLD_SIZE", 1)
    launched("LOCAL_RANK", 0), launched("MASTER_PORT", 0)
    if rank >= count:
        raise SettingsError(f"the environment says RANK={rank} of WORLD_SIZE={count}: unset both, or launch again")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if count > 1 and missing:
        raise SettingsError(
            f"the environment says WORLD_SIZE={count}, but {missing[0]} is not set: "
            "unset WORLD_SIZE, or start with accelerate launch"
        )


def by_accelerate() -> bool:
    """Whether accelerate's launcher has started this process."""
    return all(name in os.environ for name in BY_ACCELERATE)
