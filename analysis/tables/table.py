"""A table, and the one writer of tables as CSV and Markdown: equal tables give equal bytes."""

import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """`name` is the stem of its files in results/<scale>/; `note` is printed below it. Unknown cells are empty.
    `picture`: the stem of one that shows the same numbers; empty without."""

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]
    scale: str = "full"
    picture: str = ""


def write_table(path: Path, heading: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str) -> None:
    """Write `path`.md and `path`.csv; no CSV and no table in the Markdown where there are no rows. What is **bold** in
    the Markdown is plain in the CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (heading, markdown(columns, rows) if rows else "", note)
    path.with_name(f"{path.name}.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    if rows:
        write_csv(
            path.with_name(f"{path.name}.csv"), columns, [[str(cell).replace("**", "") for cell in row] for row in rows]
        )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]], flush_right: Collection[str] = ()) -> str:
    """The rows as a Markdown table, without a new line at its end; the columns `flush_right` are aligned so."""
    lines = ["| " + " | ".join(columns) + " |"]
    lines += ["|" + "".join("---:|" if column in flush_right else "---|" for column in columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]], comment: str = "") -> None:
    """Write the rows as CSV, under their columns and, where there is a `comment`, a first line `# comment`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        if comment:
            file.write(f"# {comment}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
