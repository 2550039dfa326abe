"""Tables from the records of runs; records from run folders.

    python scripts/collect_results.py [--runs FOLDER ...]
    python scripts/collect_results.py STUDY [--runs FOLDER ...] [--title TEXT]

The first writes every table of the paper, its numbers beside ours, into results/full and results/nano, as CSV and
Markdown. The second writes STUDY/table.md and table.csv, a row for each optimizer with its best learning rate.
--runs takes the records of the finished runs below these folders first, into results/full/runs or STUDY/runs. Tables
come from records alone, so they can be made again, byte for byte, without the run folders.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import comparison, records  # noqa: E402
from scripts.tables import tables  # noqa: E402

RESULTS = ROOT / "results"
TARGET = "adam"  # whose best final loss the others are timed against


def arena_table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each optimizer and last layer, sorted by perplexity: its best run by final loss. The records are of
    runs that differ in settings of the optimizer alone."""
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
        reached = adam and comparison.reached(kept, adam["summary"]["final_loss"])
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
                "commit": (summary["git_commit"] or "")[:7],
            }
        )
    return sorted(rows, key=lambda row: float(row["perplexity"]))


def write(heading: str, note: str, rows: list[dict[str, Any]], path: Path) -> None:
    """`path`.md and `path`.csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] if rows else []
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    parts = (heading, "\n".join(lines), note)
    path.with_suffix(".md").write_text("\n\n".join(part for part in parts if part) + "\n")
    if rows:
        with path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def write_paper_tables() -> None:
    for table in tables():
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        path = RESULTS / table.scale / table.name
        write(f"# {table.title}", table.note, rows, path)
        print(path.with_suffix(".md"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--title", help="heading of STUDY/table.md, kept in title.txt")
    arguments = parser.parse_args()
    into = (arguments.study or RESULTS / "full") / "runs"
    for runs in arguments.runs:
        if not records.gather(runs, into):
            print(f"{runs} holds no finished run", file=sys.stderr)
            return 2
    if arguments.study is None:
        write_paper_tables()
        return 0
    found = records.read(into)
    if not found:
        print(f"{into} holds no records; take them from run folders with --runs", file=sys.stderr)
        return 2
    title = arguments.study / "title.txt"
    if arguments.title is not None:
        title.write_text(arguments.title + "\n")
    heading = title.read_text().strip() if title.is_file() else ""
    write(heading, "", arena_table(list(found.values())), arguments.study / "table")
    print((arguments.study / "table.md").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
