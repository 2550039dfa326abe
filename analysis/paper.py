"""The published numbers of arXiv 2502.07752, as results/paper holds them."""

import csv
from pathlib import Path

from analysis.paths import PAPER

POSITIONS_A_STEP = 512 * 256  # in all of the paper's runs


def published(file: str) -> list[dict[str, str]]:
    """The rows of a table of results/paper, by the names of its columns."""
    return read_csv(PAPER / file)


def throughput() -> list[dict[str, str]]:
    """The rows of Table 2's throughput: method, model, tokens_per_second, effective_tokens_per_second."""
    return published("table2_throughput.csv")


def published_curves(file: str) -> list[dict[str, str]]:
    """The points read off a panel of the paper's: method, step, eval_ppl."""
    return published(f"curves/{file}.csv")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
