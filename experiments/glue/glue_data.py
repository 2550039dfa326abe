"""The rows of a task, from the hub or a folder, checked, and as tokens."""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import httpx
import transformers

from configs.messages import first_line
from configs.reading import SettingsError
from experiments.glue.glue_settings import folder_of
from experiments.glue.tasks import TASKS, Task

HUB = "nyu-mll/glue"
# Suffix of a file -> its reader of `datasets` and that reader's options.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"sep": "\t", "keep_default_na": False}),
    ".parquet": ("parquet", {}),
}
IN_QUOTES = re.compile(r'"(?:[^"]|"")*"')  # a field of a .tsv file


def read(name: str, folder: str | None) -> tuple[datasets.Dataset, datasets.Dataset]:
    """(training, validation) rows of a task, in the columns of the task's texts and `label`.

    A folder has train.* and validation.* (MNLI: or validation_matched.*), itself or in a folder of the task's name.
    Raises SettingsError for files, columns, texts or labels that are missing or not the task's.
    """
    task = TASKS[name]
    found = []
    for split in ("train", task.validation):
        if folder is None:
            where, rows = f"{HUB}/{name} {split}", _from_hub(name, split)
        else:
            file = _file(folder_of(name, folder), split)
            where, rows = str(file), _from_file(file)
        check_rows(rows, name, where, whole=split == "train")
        found.append(rows.select_columns([*task.texts, "label"]))
    return found[0], found[1]


def _file(folder: Path, split: str) -> Path:
    """The file of a split in a folder. Raises SettingsError where there is none, or more than one."""
    names = dict.fromkeys((split, split.partition("_")[0]))
    for name in names:
        files = [folder / f"{name}{suffix}" for suffix in READERS if (folder / f"{name}{suffix}").is_file()]
        if len(files) > 1:
            raise SettingsError(f"{folder} has both {files[0].name} and {files[1].name}, leave one")
        if files:
            return files[0]
    raise SettingsError(f"{folder} has no {' or '.join(names)} file ({', '.join(READERS)})")


def _from_file(file: Path) -> datasets.Dataset:
    kind, options = READERS[file.suffix]
    if file.suffix == ".tsv":
        options = {**options, "quoting": _quoting(file)}
    try:
        return datasets.load_dataset(kind, data_files=[str(file)], split="train", **options)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError) as error:
        reason = first_line(error.__cause__ or error)
        raise SettingsError(f"{file} cannot be read as {kind}: {reason}") from error


def _quoting(file: Path) -> int:
    """How the fields of a .tsv file are quoted, as `csv` names it.

    A line is a row. If every field with a quotation mark is in quotation marks, those inside doubled, they are of the
    format (QUOTE_MINIMAL); otherwise, as in GLUE's own files, of the text (QUOTE_NONE).

    Raises SettingsError for a row with another number of columns than the first line.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        lines = (line.removesuffix("\n") for line in opened)
        columns, *rows = [line.split("\t") for line in lines if line.strip(" ")] or [[]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise SettingsError(
                f"{file} row {number} has {len(row)} columns instead of {len(columns)}: in a .tsv file a text can have "
                "no tab and no new line; write it as .jsonl"
            )
    marked = (field for row in (columns, *rows) for field in row if '"' in field)
    return csv.QUOTE_MINIMAL if all(map(IN_QUOTES.fullmatch, marked)) else csv.QUOTE_NONE


def _from_hub(name: str, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(HUB, name, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, httpx.HTTPError) as error:
        reason = first_line(error)
        raise SettingsError(f"{HUB} cannot be read from the hub, name a folder with --data: {reason}") from error


def check_rows(rows: datasets.Dataset, name: str, where: str, *, whole: bool) -> None:
    """Refuse rows that are not the task's; with `whole` each of its labels must occur. Raises SettingsError."""
    task = TASKS[name]
    if not len(rows):
        raise SettingsError(f"{where} has no rows")
    for column in (*task.texts, "label"):
        if column not in rows.column_names:
            raise SettingsError(
                f"{where} has no column {column}, which {name} needs; it has {_some(rows.column_names)}"
            )
    for column in task.texts:
        for number, text in enumerate(rows[column][:], start=1):
            if not isinstance(text, str):
                raise SettingsError(f"{where} row {number}: {column} must be a text, got {text!r}")
    check = _check_numbers if task.is_regression else _check_classes
    check(rows["label"][:], task, name, where, whole)


def _check_numbers(labels: Iterable[object], task: Task, name: str, where: str, whole: bool) -> None:
    for number, label in enumerate(labels, start=1):
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise SettingsError(f"{where} row {number}: the label of {name} must be a number, got {label!r}")


def _check_classes(labels: Iterable[object], task: Task, name: str, where: str, whole: bool) -> None:
    classes = range(task.labels)
    for number, label in enumerate(labels, start=1):
        if isinstance(label, bool) or not isinstance(label, int) or label not in classes:
            raise SettingsError(
                f"{where} row {number}: the label of {name} must be one of {_some(classes)}, got {label!r}"
            )
    if whole and (missing := set(classes) - set(labels)):
        raise SettingsError(f"{where} has no row of the label {min(missing)}: {name} has {task.labels} labels")


def _some(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def tokenize(
    rows: datasets.Dataset, task: Task, tokenizer: transformers.PreTrainedTokenizerBase, max_length: int
) -> datasets.Dataset:
    """Rows of `input_ids`, `attention_mask` (and what else the tokenizer makes) and `labels`, cut at `max_length`."""

    def convert(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made = tokenizer(*(batch[column] for column in task.texts), truncation=True, max_length=max_length)
        kind = float if task.is_regression else int
        return {**made, "labels": [kind(label) for label in batch["label"]]}

    return rows.map(convert, batched=True, remove_columns=rows.column_names)
