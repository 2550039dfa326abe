"""Tables from the records of runs; records from run folders.

    python scripts/collect_results.py [--runs FOLDER ...]
    python scripts/collect_results.py STUDY [--runs FOLDER ...] [--title TEXT]

The first writes every table of the paper, with its numbers and ours, into results/full and results/nano, and those of
the arenas into results/arena, as CSV and Markdown. The second writes STUDY/table.md and table.csv, a row for each
optimizer with its best learning rate.
--runs takes the records of the finished runs below these folders first, into results/full/runs or STUDY/runs. Tables
come from records alone, so they can be made again, byte for byte, without the run folders.
"""

import argparse
import re
import sys
from pathlib import Path

from analysis import records
from analysis.paths import FULL, RESULTS
from analysis.tables import best_runs
from analysis.tables.all_tables import all_tables
from analysis.tables.protocol import refusal_beside_the_paper
from analysis.tables.table import write_table
from configs.schema import SettingsError
from training.processes.failures import report


def write_paper_tables() -> None:
    """Every table of results/full, results/nano and results/arena. Tables of arenas that have no rows any more go."""
    written = []
    for table in all_tables():
        path = RESULTS / table.scale / table.name
        write_table(path, f"# {table.title}", table.columns, table.rows, table.note)
        written.append(path)
        print(f"{path}.md")
    for ledger in (RESULTS / "arena").glob("*.jsonl"):
        ours = re.compile(rf"{re.escape(ledger.stem)}_(tuning|.+_\d+(_ratios|_other_points)?)\.(md|csv)")
        for path in ledger.parent.iterdir():
            if ours.fullmatch(path.name) and path.with_suffix("") not in written:
                path.unlink()


def write_study(study: Path, title: str | None) -> int:
    """The table of a study under its title, which STUDY/title.txt keeps; returns the exit code."""
    found = records.read(study / "runs")
    if not found:
        print(f"{study / 'runs'} holds no records; take them from run folders with --runs", file=sys.stderr)
        return 2
    best_runs.check_comparable(found.values())
    kept = study / "title.txt"
    if title is not None:
        kept.write_text(title + "\n")
    heading = kept.read_text().strip() if kept.is_file() else ""
    write_table(study / "table", heading, best_runs.COLUMNS, best_runs.best_rows(found.values()), "")
    print((study / "table.md").read_text(), end="")
    return 0


def main() -> int:
    """Take the records, write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--title", help="heading of STUDY/table.md, kept in title.txt")
    arguments = parser.parse_args()
    try:
        for runs in arguments.runs:
            if arguments.study is None:
                found = records.gather(runs, FULL / "runs", refusal_beside_the_paper)
            else:
                found = records.gather(runs, arguments.study / "runs")
            if not found:
                raise SettingsError(f"{runs} holds no finished run")
        if arguments.study is not None:
            return write_study(arguments.study, arguments.title)
        write_paper_tables()
    except (SettingsError, OSError) as error:
        return report(error, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
