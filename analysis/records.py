"""Records of finished runs: the source of all tables and figures, small enough to be committed.

A record is results/<study>/<kind>/<name>.json. It holds `summary` (summary.json), `settings` (config.yaml without its
run folder), `evaluations` (rows of metrics.jsonl) and `training` (at most TRAIN_ROWS rows, as columns). Some runs add
`held_out` (evaluations.json: other texts by name) and `basis_cosines` (medians over the matrices).
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import yaml

from configs.messages import one_line
from configs.schema import SettingsError
from configs.yaml_values import from_yaml
from training.run.atomic import write_atomically
from training.run.metrics import read_metrics

TRAIN_ROWS = 200
DAMAGED = (KeyError, TypeError, ValueError, OSError, yaml.YAMLError)  # of a folder that holds no whole run
COLUMNS = ("step", "tokens", "loss", "grad_norm", "tokens_per_second", "optimizer_seconds", "data_seconds",
           "train_seconds")  # fmt: skip
EIGENVECTORS = (1, 2, 4, 8)  # of Fig. 6

Clock = Literal["step", "tokens", "train_seconds"]


class Summary(TypedDict):
    """summary.json, as far as tables and figures read it."""

    name: str
    model: str
    optimizer: str
    seed: int
    steps: int
    tokens: int
    lr: float
    adam_lr: float
    final_loss: float
    final_perplexity: float
    tokens_per_second: float
    optimizer_state_bytes: int
    config_hash: str
    git_commit: str | None
    mixed_precision: NotRequired[str]


class Evaluation(TypedDict):
    """A row of metrics.jsonl of the kind "eval"."""

    step: int
    tokens: int
    train_seconds: float
    loss: float
    perplexity: float | None
    galore_perplexity: float | None


class Record(TypedDict):
    """What is kept of a finished run. `settings` are the resolved config.yaml: sections of plain values."""

    summary: Summary
    settings: dict[str, dict[str, Any]]
    evaluations: list[Evaluation]
    training: dict[str, list[float | None]]
    held_out: NotRequired[dict[str, dict[str, float]]]
    basis_cosines: NotRequired[list[dict[str, float]]]


def record(folder: Path) -> Record:
    """The record of the finished run in `folder`."""
    rows = read_metrics(folder / "metrics.jsonl")
    settings = from_yaml((folder / "config.yaml").read_text())
    settings["run"]["dir"] = None  # a record's name says its settings; a reader has no use for the folder
    kept: Record = {
        "summary": json.loads((folder / "summary.json").read_text()),
        "settings": settings,
        "evaluations": [cast(Evaluation, row) for row in rows if row["kind"] == "eval"],
        "training": _columns([row for row in rows if row["kind"] == "train"]),
    }
    if (folder / "evaluations.json").is_file():
        kept["held_out"] = json.loads((folder / "evaluations.json").read_text())
    if (folder / "basis_cosines.jsonl").is_file():
        kept["basis_cosines"] = _cosines(read_metrics(folder / "basis_cosines.jsonl"))
    return kept


def write(kept: Record, path: Path) -> None:
    """Write a record, a line for each of its parts and each evaluation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, value in kept.items():
        text = json.dumps(value, sort_keys=True)
        if key == "evaluations":
            text = "[\n" + ",\n".join(json.dumps(row) for row in kept["evaluations"]) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    write_atomically(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def gather(runs: Path, records: Path, refusal: Callable[[Record], str | None] = lambda run: None) -> int:
    """Write the record of every finished run below `runs` into `records`; returns their number.

    A record is named after its run's settings, so that runs of any folders keep apart. What the folder has lost since
    its record was written stays there. Raises SettingsError for a folder that holds no whole run, for a run that
    `refusal` has a reason against, and where another run or a damaged record has the name: no record is lost.
    """
    folders = [path.parent for path in sorted(runs.rglob("summary.json"))]
    for folder in folders:
        try:
            kept = record(folder)
            path = records / f"{_settings_name(kept)}.json"
        except DAMAGED as error:
            raise SettingsError(f"{folder} holds no whole run ({type(error).__name__}: {one_line(error)})") from error
        if reason := refusal(kept):
            raise SettingsError(f"{folder}: {reason}")
        if path.is_file():
            before = _read(path)
            if before["summary"] != kept["summary"]:
                raise SettingsError(f"{path} is of another run than {folder}, of equal settings and seed; move it away")
            kept = _with_parts_of(before, kept)
        write(kept, path)
    return len(folders)


def _with_parts_of(before: Record, kept: Record) -> Record:
    """A run's record with the parts that only the one `before` has: its folder may have lost files, or been copied
    without them."""
    joined: Record = {**before, **kept}
    if "held_out" in before:
        joined["held_out"] = before["held_out"] | kept.get("held_out", {})
    return joined


def _settings_name(kept: Record) -> str:
    """The run's name, its seed and its config hash."""
    summary = kept["summary"]
    return f"{summary['name']}_s{summary['seed']}_{summary['config_hash']}".replace("/", "-")


def read(records: Path) -> dict[str, Record]:
    """Every record of a folder, by name. Raises SettingsError for one that is damaged."""
    return {path.stem: _read(path) for path in sorted(records.glob("*.json"))}


def _read(path: Path) -> Record:
    """The record in a file. Raises SettingsError if it is not whole."""
    try:
        kept: Record = json.loads(path.read_text())
        whole = kept.keys() >= Record.__required_keys__
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise SettingsError(f"{path} is no whole record of a run; move it away, and take it from the run folder again")
    return kept


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    every = -(-len(rows) // TRAIN_ROWS)
    kept = rows[every - 1 :: every] if rows else []
    return {name: [None if row[name] is None else _six_digits(row[name]) for row in kept] for name in COLUMNS}


def _six_digits(number: float) -> float:
    """The number, rounded if it is a float; integers are exact."""
    return float(f"{number:.6g}") if isinstance(number, float) else number


def _cosines(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """For each refresh the median |cosine| between a basis column before and after it, over the matrices.

    The columns are those of EIGENVECTORS that the bases of all matrices have.
    """
    by_step: dict[int, list[list[float]]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row["cosines"])
    return [
        {
            "step": step,
            **{
                str(i): _six_digits(statistics.median(c[i - 1] for c in cosines))
                for i in EIGENVECTORS
                if i <= min(map(len, cosines))
            },
        }
        for step, cosines in sorted(by_step.items())
    ]
