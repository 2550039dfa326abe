"""The published numbers of arXiv 2502.07752, as results/paper holds them."""

import csv
from pathlib import Path

from analysis.paths import PAPER

POSITIONS_A_STEP = 512 * 256  # in all of the paper's runs


def paper_table(file: str) -> list[dict[str, str]]:
    """The rows of a file of results/paper, by the names of its columns: a table, or the points read off a figure."""
    return read_csv(PAPER / file)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
