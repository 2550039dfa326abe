"""One study's optimizers in a table, each at its best learning rate, made from the study's records alone."""

from collections.abc import Iterable

from analysis import comparison
from analysis.records import Record
from configs.identity import differences, flatten
from configs.schema import SettingsError

TARGET = "adam"  # the others are timed to its best final loss
COLUMNS = ["optimizer", "perplexity", "lr", "lr tried", "adam_lr", "steps", "tokens", f"steps to {TARGET}'s loss",
           "optimizer state, bytes", "seed", "config hash", "commit"]  # fmt: skip
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
    """A row of COLUMNS for each optimizer and last layer, by perplexity: its best run by final loss.

    The records are of runs that differ in settings of the optimizer alone.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        key = record["summary"]["optimizer"], record["settings"]["optimizer"]["last_layer"] or ""
        groups.setdefault(key, []).append(record)
    best = {key: min(group, key=lambda record: record["summary"]["final_loss"]) for key, group in groups.items()}
    target = best.get((TARGET, ""))
    rows = []
    for key, record in best.items():
        reached = target and comparison.reached(record, target["summary"]["final_loss"])
        rows.append(_row(*key, record, _rates_tried(groups[key]), str(reached or "")))
    return sorted(rows, key=lambda row: float(row[1]))


def _row(optimizer: str, last_layer: str, record: Record, rates_tried: str, reached: str) -> list[str]:
    summary, section = record["summary"], record["settings"]["optimizer"]
    cells = [
        optimizer + (f", last layer {last_layer}" if last_layer else ""), f"{summary['final_perplexity']:.2f}",
        section["lr"], rates_tried, section["adam_lr"], summary["steps"], summary["tokens"], reached,
        summary["optimizer_state_bytes"], summary["seed"], summary["config_hash"], (summary["git_commit"] or "")[:7],
    ]  # fmt: skip
    return list(map(str, cells))


def _rates_tried(group: list[Record]) -> str:
    """`lr: perplexity` of all runs of one optimizer, by learning rate."""
    by_rate = sorted(group, key=lambda record: record["settings"]["optimizer"]["lr"])
    return " ".join(
        f"{record['settings']['optimizer']['lr']:g}: {record['summary']['final_perplexity']:.1f}" for record in by_rate
    )
