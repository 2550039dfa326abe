"""Paths as users type them. No import of the project: every room may use it."""

import os.path
from pathlib import Path


def expanded(path: str) -> Path:
    """`path` with a leading ~ or ~USER replaced. Where there is no such user it stays, as in a shell."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises there


def is_file(path: str | Path) -> bool:
    """Whether there is a file of that name, which may be too long for one."""
    return os.path.isfile(path)  # noqa: PTH113  Path.is_file raises for a long one


def is_dir(path: str | Path) -> bool:
    """Whether there is a folder of that name, which may be too long for one."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a long one
