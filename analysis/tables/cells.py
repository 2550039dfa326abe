"""Cells that several tables have: rounded numbers, means over seeds, and where runs come from."""

from collections.abc import Sequence
from typing import Any

from analysis import comparison
from analysis.records import Record
from optimizers import registry

PROVENANCE = ["settings", "commit", "config hash"]


def text(value: float | None, digits: int = 2) -> str:
    """The number with so many digits after the point; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def whole(value: float | None) -> str:
    """The number without digits after the point; empty for None."""
    return text(value, 0)


def mean_of_reached(values: Sequence[float], digits: int = 2, of: int | None = None) -> str:
    """The mean of the values above 0. If some are 0, because a run never gets there, the number averaged follows; so
    does it if there are fewer values than runs, `of` which they are."""
    above = [value for value in values if value > 0]
    if len(above) in (0, of or len(values)):
        return text(comparison.mean(values), digits)
    return f"{text(comparison.mean(above), digits)} ({len(above)} of {of or len(values)})"


def size_name(size: str) -> str:
    """1.3B for 1_3b."""
    return size.upper().replace("_", ".")


def of_model(runs: Sequence[Record], model: str, steps: int | None) -> list[Record]:
    """The runs of the best settings on a model over so many steps (None: any), by seed."""
    chosen = [run for run in runs if run["summary"]["model"] == model and steps in (None, run["summary"]["steps"])]
    return comparison.best_settings(chosen) if chosen else []


def provenance(runs: Sequence[Record]) -> list[str]:
    """Settings, commit and config hash of runs that share them; empty cells for no runs."""
    if not runs:
        return ["", "", ""]
    section = runs[0]["settings"]["optimizer"]
    defaults = registry.options(section["name"])
    changed = {
        key: value
        for key, value in section.items()
        if key not in ("name", "last_layer") and (key not in defaults or not _same(value, defaults[key].default))
    }
    settings = " ".join(f"{key}={_setting(value)}" for key, value in changed.items() if value is not None)
    commits = sorted({commit[:7] for run in runs if (commit := run["summary"]["git_commit"])})
    return [settings, " ".join(commits), runs[0]["summary"]["config_hash"]]


def _same(value: Any, default: Any) -> bool:
    return list(value) == list(default) if isinstance(default, tuple) else bool(value == default)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
