"""Records of finished runs: what tables and figures are made from, small enough to be committed.

A record is results/<study>/<kind>/<name>.json: `summary` (summary.json), `settings` (config.yaml, without where the run
lay), `evaluations` (rows of metrics.jsonl), `training` (at most TRAIN_ROWS rows, as columns), and where the run has
them `held_out` (evaluations.json: other texts by name) and `basis_cosines` (medians over the matrices).
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from training.run.metrics import read_metrics

TRAIN_ROWS = 200
COLUMNS = ("step", "tokens", "loss", "grad_norm", "tokens_per_second", "optimizer_seconds", "data_seconds",
           "train_seconds")  # fmt: skip
EIGENVECTORS = (1, 2, 4, 8)  # of Fig. 6

Record = dict[str, Any]


def record(folder: Path) -> Record:
    """The record of the finished run in `folder`."""
    rows = read_metrics(folder / "metrics.jsonl")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["run"]["dir"] = None  # the name says the settings; where the run lay says nothing to a reader
    kept = {
        "summary": json.loads((folder / "summary.json").read_text()),
        "settings": settings,
        "evaluations": [row for row in rows if row["kind"] == "eval"],
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
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def gather(runs: Path, records: Path, name: Callable[[Path, Record], str] | None = None) -> int:
    """Write the record of every finished run below `runs` into `records`; returns how many there were. Names are of
    the settings, so runs of any folders keep apart, unless `name` makes one from a run's folder and record."""
    folders = [path.parent for path in sorted(runs.rglob("summary.json"))]
    for folder in folders:
        kept = record(folder)
        write(kept, records / f"{(name or _settings_name)(folder, kept)}.json")
    return len(folders)


def _settings_name(folder: Path, kept: Record) -> str:
    """The run's name, its seed and its config hash."""
    summary = kept["summary"]
    return f"{summary['name']}_s{summary['seed']}_{summary['config_hash']}".replace("/", "-")


def read(records: Path) -> dict[str, Record]:
    """Every record of a folder, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(records.glob("*.json"))}


def _columns(rows: list[dict]) -> dict[str, list]:
    every = -(-len(rows) // TRAIN_ROWS)
    kept = rows[every - 1 :: every] if rows else []
    return {name: [_short(row[name]) for row in kept] for name in COLUMNS}


def _short(number: float | None) -> float | None:
    return float(f"{number:.6g}") if isinstance(number, float) else number


def _cosines(rows: list[dict]) -> list[dict[str, float]]:
    """For each refresh, the median over the matrices of |cosine| before and after it, of each of EIGENVECTORS that all
    their bases have."""
    by_step: dict[int, list[list[float]]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row["cosines"])
    return [
        {
            "step": step,
            **{
                str(i): _short(statistics.median(c[i - 1] for c in cosines))
                for i in EIGENVECTORS
                if i <= min(map(len, cosines))
            },
        }
        for step, cosines in sorted(by_step.items())
    ]
