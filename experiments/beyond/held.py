"""How much of its state `alice_adaptive_rank` holds at a checkpoint (line 10 of results/beyond/README.md).

    python experiments/beyond/held.py RUN/checkpoints/step_00000250

A column that is not held is zero in the basis, and so are its rows of both moments and its row and column of Qt.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor


def held(state: dict[str, Tensor]) -> tuple[int, int, int, int]:
    """(columns held, columns, numbers held, numbers) of one matrix's state, of basis, moments, Qt and the rest."""
    basis, average = state["basis"], state["exp_avg"]
    (m, r), n = basis.shape[-2:], average.shape[-1]
    k = int((basis != 0).any(-2).sum())
    rest = sum(numbers.numel() for numbers in state.values() if isinstance(numbers, Tensor)) - r * (m + 2 * n + r)
    return k, r, k * (m + 2 * n + k) + rest, r * (m + 2 * n + r) + rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    saved = torch.load(parser.parse_args().checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    counts = [held(state) for state in saved["state"].values() if "basis" in state]
    columns, all_columns, numbers, all_numbers = (sum(column) for column in zip(*counts, strict=True))
    print(f"{columns} of {all_columns} columns, {numbers:,} of {all_numbers:,} numbers ({numbers / all_numbers:.1%})")


if __name__ == "__main__":
    main()
