"""One study's optimizers in a table, each at its best settings, made from the study's records alone."""

import statistics
from collections.abc import Iterable

from analysis import comparison
from analysis.records import Record
from analysis.tables.cells import commits, mean_of_reached, setting, text
from configs.identity import differences, flatten
from configs.schema import SettingsError

TARGET = "adam"  # the others are timed to the mean final loss of its best settings
COLUMNS = ["optimizer", "perplexity", "sd", "lr", "tried", "adam_lr", "steps", "tokens", f"steps to {TARGET}'s loss",
           "optimizer state, bytes", "seeds", "config hash", "commit"]  # fmt: skip
# What runs of one study have in common beside the model and the data, but for the order of documents.
COMMON = ("train.batch_size", "train.steps", "train.dtype")
ORDER = ("data.seed", "data.streams", "data.shuffle_buffer")


def check_comparable(records: Iterable[Record]) -> None:
    """Raises SettingsError for records of other models, texts, rows, batches or lengths: losses would not compare."""
    found = [record["settings"] for record in records]
    for other in found[1:]:
        for key in differences(found[0], other):
            if key in COMMON or (key.startswith(("model.", "data.")) and key not in ORDER):
                values = (str(flatten(settings).get(key)) for settings in (found[0], other))
                raise SettingsError(f"these runs differ in {key} ({', '.join(values)}): make a study of each")


def best_rows(records: Iterable[Record]) -> list[list[str]]:
    """A row of COLUMNS for each optimizer and last layer, by perplexity: the mean of its best settings over their
    seeds.

    The records are of runs that differ in settings of the optimizer and in seeds alone.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = record["summary"]["optimizer"], record["settings"]["optimizer"]["last_layer"] or ""
        groups.setdefault(key, []).append(record)
    best = {key: comparison.best_settings(group) for key, group in groups.items()}
    targets = best.get((TARGET, ""))
    target = None if targets is None else statistics.fmean(run["summary"]["final_loss"] for run in targets)
    ordered = sorted(best, key=lambda key: statistics.fmean(comparison.perplexities(best[key])))
    return [_row(*key, best[key], _tried(groups[key]), target) for key in ordered]


def _row(optimizer: str, last_layer: str, runs: list[Record], tried: str, target: float | None) -> list[str]:
    """`runs`: of one setting, by seed; `target`: the loss whose step is shown."""
    first, section, found = runs[0]["summary"], runs[0]["settings"]["optimizer"], comparison.perplexities(runs)
    reached = [] if target is None else [comparison.reached(run, target) or 0.0 for run in runs]
    cells = [
        optimizer + (f", last layer {last_layer}" if last_layer else ""), text(statistics.fmean(found)),
        text(comparison.deviation(found)), section["lr"], tried, section["adam_lr"], first["steps"], first["tokens"],
        mean_of_reached(reached, 0) if any(reached) else "", first["optimizer_state_bytes"],
        " ".join(str(run["summary"]["seed"]) for run in runs), first["config_hash"], commits(runs),
    ]  # fmt: skip
    return list(map(str, cells))


def _tried(group: list[Record]) -> str:
    """Options that differ among runs of one optimizer, and the mean perplexity of each setting, by learning rate."""
    sections = [run["settings"]["optimizer"] for run in group]
    varied = [name for name in sections[0] if any(section.get(name) != sections[0][name] for section in sections)]
    settings: dict[str, list[Record]] = {}
    for run in sorted(group, key=lambda run: run["settings"]["optimizer"]["lr"]):
        values = run["settings"]["optimizer"]
        shown = " ".join(f"{name}={setting(values.get(name))}" for name in varied or ["lr"])
        settings.setdefault(shown, []).append(run)
    return " · ".join(
        f"{shown}: {text(statistics.fmean(comparison.perplexities(runs)), 1)}" for shown, runs in settings.items()
    )
