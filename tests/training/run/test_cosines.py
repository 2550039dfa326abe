"""The record of how far bases turn at a refresh."""

import json

import pytest
import torch

import train
from tests import tiny
from training.run.cosines import column_cosines


def rows_of(run):
    return [json.loads(line) for line in (run / "basis_cosines.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_basis_has_a_row_for_each_refresh_but_the_first(text, tmp_path):
    """A resume repeats no row."""
    settings = ("run.record_basis_cosines=true", "optimizer.update_interval=3", "optimizer.switching=none")
    assert train.main(tiny.command(text, tmp_path / "run", *settings)) == 0
    rows = rows_of(tmp_path / "run")
    names = {row["parameter"] for row in rows}
    assert {"lm_head.weight", "model.layers.0.mlp.up_proj.weight"} <= names
    assert [row["step"] for row in rows] == [step for step in (3, 6, 9, 12) for _ in names]
    assert all(0 <= cosine <= 1 + 1e-6 for row in rows for cosine in row["cosines"])
    # One step of subspace iteration keeps the leading direction, more or less.
    assert max(max(row["cosines"]) for row in rows) > 0.5

    (tmp_path / "run" / "summary.json").unlink()
    again = (*settings, "train.steps=15", "run.allow_config_change=true")
    assert train.main(tiny.command(text, tmp_path / "run", *again)) == 0
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [step for step in (3, 6, 9, 12, 15) for _ in names]


def test_columns_are_compared_by_direction():
    turned = torch.tensor([[0.0, 1.0, 3.0], [-2.0, 0.0, 3.0]])
    assert torch.allclose(column_cosines(torch.eye(2)[:, [1, 1, 0]], turned), torch.tensor([1.0, 0.0, 0.5**0.5]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer=racs", "keeps no basis"),
        ("train.layerwise=true", "needs train.parallel=ddp and train.layerwise=false"),
    ],
)
def test_refused_where_a_basis_cannot_be_recorded(text, tmp_path, capsys, change, words):
    command = tiny.command(text, tmp_path / "run", "run.record_basis_cosines=true", change)
    assert train.main(command) == 2
    assert words in capsys.readouterr().err
