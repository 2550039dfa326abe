"""scripts/fim_error.py on a model small enough to check."""

import csv
import itertools

import pytest
import torch

from analysis.fisher.measurement import sampled_gradients
from analysis.fisher.medians import LABELS
from analysis.fisher.picture import MARKERS
from configs.schema import load
from models.llama import build_model
from scripts import fim_error

TINY = ("model.hidden_size=16", "model.intermediate_size=24", "model.num_hidden_layers=1", "data.sequence_length=32")


@pytest.fixture
def tiny():
    return build_model(load(["configs/quickstart.yaml", *TINY]).config.model, dtype=torch.float32, seed=0)


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr("sys.argv", ["fim_error.py", *map(str, arguments)])
    fim_error.main()


def test_gradients_are_those_of_each_sequence_alone_oriented(tiny):
    """One gradient of the mean loss a sequence, padding left out, wide side last."""
    ids = torch.randint(3, 4096, (3, 16), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[2, 9:] = -100
    weights = [tiny.model.layers[0].self_attn.q_proj.weight, tiny.model.layers[0].mlp.up_proj.weight]
    tall = sampled_gradients(tiny, weights, ids, labels)[1]
    assert tall.shape == (3, 16, 24)
    logits = torch.nn.functional.linear(tiny.hidden_states(ids[2:]), tiny.lm_head.weight)
    loss = torch.nn.functional.cross_entropy(logits[0, :8], ids[2, 1:9])
    torch.testing.assert_close(tall[2], torch.autograd.grad(loss, weights[1])[0].T, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_model_folder_gives_table_picture_and_medians(tiny, tmp_path, monkeypatch):
    """Every matrix and structure once, the guaranteed orders in the table, and the same files again from it alone."""
    tiny.save_pretrained(tmp_path / "model")
    results = tmp_path / "results"
    run(monkeypatch, tmp_path / "model", *TINY, "--samples", 6, "--results", results)
    with (results / "fim_error.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["structure"] for row in rows} == set(LABELS) == set(MARKERS)
    assert len({row["matrix"] for row in rows}) == 7
    assert len({(row["matrix"], row["structure"], row["rank"]) for row in rows}) == len(rows)
    errors = {(row["matrix"], row["structure"]): float(row["error"]) for row in rows if row["rank"] in ("", "4")}
    chain = ("normalization", "racs", "adam", "full_blocks"), ("normalization", "alice", "eigen_adam", "full_blocks")
    for worse, better in [(a, b) for names in chain for a, b in itertools.pairwise(names)]:
        assert all(errors[name, better] <= errors[name, worse] for name, _ in errors), (worse, better)

    first = {path.name: path.read_bytes() for path in results.iterdir()}
    assert set(first) == {"fim_error.csv", "fim_error.png", "medians.md"}
    run(monkeypatch, "--results", results)
    assert {path.name: path.read_bytes() for path in results.iterdir()} == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nowhere",), "config.json"), ((), "give a run folder"), (("nowhere", "--samples", "1"), "--samples")],
    ids=str,
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments, "--results", tmp_path)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
