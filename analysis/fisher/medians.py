"""Medians and quartiles of the errors of each structure over the matrices of a model."""

import statistics
from typing import NamedTuple

from analysis.tables.table import markdown

Row = dict[str, str]  # of fim_error.csv
COLUMNS = ["structure", "rank", "numbers of state", "error", "error on other sequences"]
# structure -> label, in the order of legend and table: diagonal, block and Kronecker families.
LABELS = {
    "normalization": "Normalization   S ⊗ I",
    "racs": "RACS   S ⊗ Q",
    "adam": "Adam   diagonal",
    "whitening": "Whitening (Muon)   I ⊗ M",
    "galore": "GaLore   low rank",
    "alice_switched": "Alice after a switch",
    "alice": "Alice   low rank + compensation",
    "eigen_adam": "Eigen-Adam   U Dᵢ Uᵀ",
    "full_blocks": "the best block diagonal   Mᵢ",
    "shampoo": "Shampoo   √R ⊗ √L",
    "kronecker": "its bases, the best R ⊗ L in them",
    "soap": "SOAP   its bases, free diagonal",
}


class Quartiles(NamedTuple):
    """Over the matrices."""

    low: float
    median: float
    high: float


class Entry(NamedTuple):
    """A structure at one rank: numbers that its optimizer holds, errors on the sequences fitted to and on others."""

    numbers: int
    error: Quartiles
    unseen_error: Quartiles


Summary = dict[tuple[str, int], Entry]  # by structure, and rank or 0


def summarise(rows: list[Row]) -> Summary:
    """The entries of rows of one shape of matrix, in the order of LABELS."""
    summary = {}
    for structure in LABELS:
        for rank in sorted({int(row["rank"] or 0) for row in rows if row["structure"] == structure}):
            chosen = [row for row in rows if row["structure"] == structure and int(row["rank"] or 0) == rank]
            fitted, unseen = (_quartiles([float(row[key]) for row in chosen]) for key in ("error", "unseen_error"))
            summary[structure, rank] = Entry(int(chosen[0]["numbers"]), fitted, unseen)
    return summary


def by_shape(rows: list[Row]) -> dict[tuple[int, int], list[Row]]:
    """Rows of each shape (m, n) of matrix, in the order of the table."""
    shapes = dict.fromkeys((int(row["m"]), int(row["n"])) for row in rows)
    return {shape: [row for row in rows if (int(row["m"]), int(row["n"])) == shape] for shape in shapes}


def matrices(rows: list[Row]) -> str:
    """'16 matrices: q, k, v, o_proj'."""
    names = list(dict.fromkeys(row["matrix"] for row in rows))
    kinds = list(dict.fromkeys(name.rpartition(".")[2].removesuffix("_proj") for name in names))
    return f"{len(names)} matrices: {', '.join(kinds)}"


def describe(rows: list[Row]) -> str:
    """Medians and quartiles as Markdown, a table for each shape of matrix."""
    samples, length, seed = (rows[0][key] for key in ("samples", "length", "seed"))
    lines = [
        "# Relative Frobenius error of each structure",
        "",
        f"By scripts/fim_error.py: fitted to {samples} sequences of {length} tokens, {samples} others, seed {seed}.",
        "Median over the matrices, in brackets the quartiles.",
    ]
    for (m, n), members in by_shape(rows).items():
        cells = [
            [", ".join(LABELS[structure].split("   ")), rank or "", f"{entry.numbers:,}",
             *(f"{e.median:.4f} ({e.low:.4f} to {e.high:.4f})" for e in (entry.error, entry.unseen_error))]
            for (structure, rank), entry in summarise(members).items()
        ]  # fmt: skip
        lines += ["", f"## {m} × {n} ({matrices(members)})", "", markdown(COLUMNS, cells, COLUMNS[1:3])]
    return "\n".join(lines) + "\n"


def _quartiles(values: list[float]) -> Quartiles:
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)
