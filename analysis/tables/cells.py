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
    """The mean of the values above 0, or 0 if none is, because no run gets there. The number averaged follows where it
    is not that of all runs: `of`, or as many as there are values."""
    averaged = [value for value in values if value > 0] or values
    mean, count = text(comparison.mean(averaged), digits), of or len(values)
    return mean if len(averaged) in (0, count) else f"{mean} ({len(averaged)} of {count})"


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
    settings = " ".join(f"{key}={setting(value)}" for key, value in changed.items() if value is not None)
    return [settings, commits(runs), runs[0]["summary"]["config_hash"]]


def commits(runs: Sequence[Record]) -> str:
    """The commits of runs, shortened; of a tree with uncommitted changes they end in -dirty."""
    found = {run["summary"]["git_commit"] or "" for run in runs} - {""}
    return " ".join(sorted({commit[:7] + "-dirty" * commit.endswith("-dirty") for commit in found}))


def _same(value: Any, default: Any) -> bool:
    return list(value) == list(default) if isinstance(default, tuple) else bool(value == default)


def setting(value: Any) -> str:
    """An option's value: 0.02, or 0.9,0.99."""
    if isinstance(value, list):
        return ",".join(map(setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
