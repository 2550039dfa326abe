"""Tables from run folders.

    python scripts/collect_results.py results/builtin [--runs runs/builtin] [--title TEXT]

--runs copies what a table needs of every finished run below that folder (summary, settings, evaluations) into
results/.../runs/<name>.json. The tables then come from those files alone, so they can be made again, byte for byte,
without the run folders: table.md and table.csv, a row for each optimizer with its best learning rate.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = "adam"  # whose best final loss the others are timed against


def record(folder: Path) -> dict[str, Any] | None:
    """What is kept of a finished run: its summary, settings and evaluation rows; None for an unfinished one."""
    if not (folder / "summary.json").is_file():
        return None
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "summary": json.loads((folder / "summary.json").read_text()),
        "settings": yaml.safe_load((folder / "config.yaml").read_text()),
        "evaluations": [row for row in rows if row["kind"] == "eval"],
    }


def gather(runs: Path, results: Path) -> int:
    """Write the record of every finished run below `runs`; returns how many there were."""
    (results / "runs").mkdir(parents=True, exist_ok=True)
    count = 0
    for folder in sorted(path.parent for path in runs.rglob("config.yaml")):
        kept = record(folder)
        if kept is None:
            print(f"{folder} is not finished", file=sys.stderr)
            continue
        # The name says the settings; where the run lay and how it was reached says nothing to a reader.
        kept["settings"]["run"].update(dir=None)
        name = str(folder.relative_to(runs)).replace("/", "__")
        (results / "runs" / f"{name}.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        count += 1
    return count


def steps_to(evaluations: list[dict[str, Any]], loss: float) -> int | None:
    """Step of the first evaluation at or below `loss`."""
    return next((row["step"] for row in evaluations if row["loss"] <= loss), None)


def table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each optimizer and last layer: its best run by final loss, among those that differ from it only in
    settings of the optimizer; sorted by perplexity."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for kept in records:
        groups.setdefault((kept["summary"]["optimizer"], kept["settings"]["optimizer"]["last_layer"] or ""), []).append(
            kept
        )
    best = {key: min(group, key=lambda kept: kept["summary"]["final_loss"]) for key, group in groups.items()}
    adam = best.get((TARGET, ""))
    rows = []
    for (optimizer, last_layer), kept in best.items():
        summary, section = kept["summary"], kept["settings"]["optimizer"]
        reached = adam and steps_to(kept["evaluations"], adam["summary"]["final_loss"])
        rows.append(
            {
                "optimizer": optimizer + (f", last layer {last_layer}" if last_layer else ""),
                "perplexity": f"{summary['final_perplexity']:.2f}",
                "lr": section["lr"],
                "lr tried": " ".join(
                    f"{tried['settings']['optimizer']['lr']:g}: {tried['summary']['final_perplexity']:.1f}"
                    for tried in sorted(
                        groups[optimizer, last_layer], key=lambda tried: tried["settings"]["optimizer"]["lr"]
                    )
                ),
                "adam_lr": section["adam_lr"],
                "steps": summary["steps"],
                "tokens": summary["tokens"],
                f"steps to {TARGET}'s loss": reached or "",
                "optimizer state, bytes": summary["optimizer_state_bytes"],
                "seed": summary["seed"],
                "config hash": summary["config_hash"],
                "commit": summary["git_commit"][:7],
            }
        )
    return sorted(rows, key=lambda row: float(row["perplexity"]))


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="folder of the tables and the records behind them")
    parser.add_argument("--runs", type=Path, help="folder of run folders to take records from first")
    parser.add_argument("--title", help="heading of table.md, kept in title.txt")
    arguments = parser.parse_args()
    if arguments.runs is not None and not gather(arguments.runs, arguments.results):
        print(f"{arguments.runs} holds no finished run", file=sys.stderr)
        return 2
    if arguments.title is not None:
        (arguments.results / "title.txt").write_text(arguments.title + "\n")
    files = sorted((arguments.results / "runs").glob("*.json"))
    if not files:
        print(f"{arguments.results}/runs holds no records; take them from run folders with --runs", file=sys.stderr)
        return 2
    rows = table([json.loads(file.read_text()) for file in files])
    title = arguments.results / "title.txt"
    heading = title.read_text() + "\n" if title.is_file() else ""
    (arguments.results / "table.md").write_text(heading + markdown(rows))
    with (arguments.results / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(heading + markdown(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
