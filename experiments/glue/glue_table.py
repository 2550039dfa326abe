"""The table of all finished runs below a folder: a row for each setting, a column for each task, over seeds."""

import json
from pathlib import Path
from typing import Any

from analysis import comparison
from analysis.tables.table import Table
from configs.identity import flatten
from configs.schema import SettingsError
from experiments.glue.glue_settings import RECORD
from experiments.glue.tasks import TASKS

Rows = dict[str, dict[str, list[dict[str, Any]]]]  # the records of a setting's runs, by setting and task


def read(out: Path) -> Rows:
    """The records of the runs below `out`. Raises SettingsError for a damaged one, and for two of one row and task that
    differ in more than their seeds: a setting of one value is not in a run's name."""
    rows: Rows = {}
    for path in sorted(out.glob(f"*/{RECORD}")):
        try:
            kept = json.loads(path.read_text())
            setting = path.parent.name.removesuffix(f"_{kept['task']}_s{kept['seed']}")
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} is no whole record of a run; move it away") from error
        alike = rows.setdefault(setting, {}).setdefault(kept["task"], [])
        for other in alike[:1]:
            _check_alike(path.parent, kept["settings"], other["settings"])
        alike.append(kept)
    return rows


def _check_alike(folder: Path, settings: dict[str, Any], others: dict[str, Any]) -> None:
    mine, its = flatten(settings), flatten(others)
    for key in sorted((mine.keys() | its.keys()) - {"glue.seed"}):
        if mine.get(key) != its.get(key):
            raise SettingsError(
                f"{folder} has {key}={mine.get(key)}, and its other seeds {its.get(key)}: keep runs of other settings "
                "in a folder of their own"
            )


def glue_table(rows: Rows, title: str) -> Table:
    """Mean and, from two seeds on, sample standard deviation of each run's best epoch, in hundredths."""
    tasks = [task for task in TASKS if any(task in found for found in rows.values())]
    cells = [
        [setting, *(_score(found.get(task, [])) for task in tasks), *_sums(found)] for setting, found in rows.items()
    ]
    return Table(
        "table",
        title,
        "Scores in hundredths on the validation split, at the epoch that is best on it, as mean ± sample standard "
        "deviation (number of seeds). CoLA: Matthews's correlation; STS-B: Pearson's; MRPC: F1; others: accuracy. "
        "Average: of the eight means, empty where a task is missing. State: of the optimizer, the most of any task. "
        "Hours: of training, all runs of the row together.",
        ["settings", *(TASKS[task].title for task in tasks), "average", "state bytes", "hours"],
        cells,
    )


def _score(runs: list[dict[str, Any]]) -> str:
    best = [100 * run["best"] for run in runs]
    mean, deviation = comparison.mean(best), comparison.deviation(best)
    if mean is None:
        return ""
    return f"{mean:.2f} (1)" if deviation is None else f"{mean:.2f} ± {deviation:.2f} ({len(best)})"


def _sums(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Average over the tasks, state bytes, hours."""
    runs = [run for each in found.values() for run in each]
    means = [100 * sum(run["best"] for run in each) / len(each) for each in found.values()]
    average = f"{sum(means) / len(means):.2f}" if len(found) == len(TASKS) else ""
    hours = sum(run["train_seconds"] for run in runs) / 3600
    return [average, str(max(run["optimizer_state_bytes"] for run in runs)), f"{hours:.2f}"]
