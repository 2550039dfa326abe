"""The snippets of docs/in-your-own-loop.md, and small data to run them with."""

import re
from pathlib import Path

import torch
from torch import Tensor

PAGE = Path(__file__).parents[1] / "docs" / "in-your-own-loop.md"


def snippet(heading: str) -> str:
    """The block of Python under a heading of the page."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    (found,) = (part for part in section if part.startswith(f"{heading}\n"))
    (block,) = re.findall(r"```python\n(.*?)```", found, flags=re.S)
    return block


def sentences() -> list[dict[str, Tensor]]:
    """48 rows of 16 ids that follow each other by one rule, so that there is something to learn."""
    starts = torch.arange(48)
    ids = (starts[:, None] * 7 + 5 * torch.arange(16)) % 64
    return [{"input_ids": row, "labels": row} for row in ids]


def batches(count: int, first: int = 0) -> list[dict[str, Tensor]]:
    """`count` batches of 8 sentences, from the batch numbered `first` on."""
    rows = sentences()
    picked = [[rows[(8 * (first + i) + j) % 48]["input_ids"] for j in range(8)] for i in range(count)]
    return [{"input_ids": torch.stack(ids), "labels": torch.stack(ids)} for ids in picked]
