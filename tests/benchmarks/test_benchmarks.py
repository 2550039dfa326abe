"""The benchmarks run and count right; their measurements are not tested."""

import csv
import sys

import pytest
import torch

from benchmarks import optimizers, peers, sticking
from benchmarks.optimizer_rows import evaluate
from configs.schema import load
from optimizers import registry
from scripts import benchmark_optimizers
from training.cluster.bounds import BOUNDS

SMALL = ["model=llama_nano", "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=1"]


def test_bounds_are_of_registered_optimizers_and_count_right():
    """An optimizer may come without a bound; then its cells are empty (below)."""
    assert set(BOUNDS) <= set(registry.names())
    adam, racs, alice = (BOUNDS[name](8, 16, 4, 2) for name in ("adam", "racs", "alice"))
    assert (adam.bytes, racs.bytes) == (14 * 8 * 16, 8 * 8 * 16)
    assert alice.flops == 4 * 8 * 16 * 4 + 2 * 4 * 4 * 16 + 6 * 8 * 16
    assert alice.bytes == 2 * (4 * 8 * 16 + 9 * 4 * 16 + 2 * 8 * 4)


def test_second_moments_are_compared_before_and_after_the_drop(capsys):
    sticking.main(2, 2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [[s, end] for s in ("0.5", "1.5") for end in ("before:", "after:")]
    assert all(0.5 < float(row[3]) < 2 for row in rows)


@pytest.mark.slow
def test_optimizers_are_measured_with_their_peers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("galore_torch")
    options = ["--optimizers=adam,galore,alice,soap", "--rank=4", "--leading=2", "--rounds=1", "--refreshes=1"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *SMALL, *options, "--results", str(tmp_path)])
    monkeypatch.delitem(BOUNDS, "soap")
    benchmark_optimizers.main()
    path = tmp_path / "optimizers_llama_nano_cpu_float32.csv"
    assert path.with_suffix(".png").stat().st_size > 0 and "7 matrices, rank 4" in capsys.readouterr().out
    rows = {row["optimizer"]: row for row in csv.DictReader(path.read_text().splitlines()[1:])}
    elements = 4 * 32 * 32 + 3 * 32 * 48
    assert int(rows["adam"]["state_bytes"]) == 8 * elements + 7 * 4  # two moments, and a step count for each matrix
    assert int(rows["torch AdamW, fused"]["state_bytes"]) == int(rows["adam"]["state_bytes"])
    assert int(rows["galore-torch"]["state_bytes"]) == int(rows["galore"]["state_bytes"])
    assert rows["alice"]["interval"] == "200" and rows["adam"]["interval"] == ""
    assert int(rows["galore"]["peak_bytes"]) > 0
    assert rows["soap"]["bound_ms"] == rows["soap"]["times_bound"] == "" and float(rows["alice"]["bound_ms"]) > 0


@pytest.mark.slow
def test_the_whole_model_is_stepped_by_packages_with_an_adam(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a peer without an Adam for the rest")

    made_up = {
        "other Adam": peers.Peer("adam", lambda p, rest, r, k: torch.optim.AdamW(p + rest, 1e-6)),
        "matrices only": peers.Peer("racs", refuse, takes_rest=False),
    }
    monkeypatch.setattr(optimizers, "peers", lambda: made_up)
    config = load([*SMALL, "model.vocab_size=40"]).config
    model = optimizers.parts(config, whole=True)
    matrices, rest = (sum(p.numel() for p in part) for part in (model.matrices, model.rest))
    assert (len(model.matrices), rest) == (7, 2 * 40 * 32 + 3 * 32)
    assert all(p.shape == g.shape for p, g in zip(model.matrices + model.rest, model.gradients, strict=True))
    candidates = optimizers.race(model, registry.names(), 4, 2, with_peers=True)
    for candidate in candidates:
        groups = candidate.optimizer.param_groups
        assert [p for group in groups for p in group["params"]] == model.matrices + model.rest, candidate.name
        candidate.seconds[0] = 1.0
    machine = optimizers.Machine(bandwidth=[1e9], gemm=[1e30])
    rows = evaluate(candidates, model, machine, config, 4)
    bounds = {row.optimizer: row.bound_ms for row in rows}
    assert bounds["adam"] == pytest.approx(1e-6 * 4 * 7 * (matrices + rest))
    assert bounds["racs"] == pytest.approx(1e-6 * 4 * (4 * matrices + 7 * rest)), "the rest is Adam's"
    assert bounds["lars"] == pytest.approx(1e-6 * 4 * 7 * (matrices + rest)), "the rest is its own"

    options = ["--whole", "--optimizers=adam,racs", "--rounds=1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark", *SMALL, "model.vocab_size=40", *options])
    benchmark_optimizers.main()
    text = (tmp_path / "optimizers_llama_nano_whole_cpu_float32.csv").read_text()
    rows = {row["optimizer"]: row for row in csv.DictReader(text.splitlines()[1:])}
    assert "7 matrices and 5 others" in text and rows.keys() == {"torch AdamW, fused", "adam", "racs", "other Adam"}


def test_intervals_are_set_wherever_a_package_keeps_them():
    weight = torch.nn.Parameter(torch.ones(8, 8))
    optimizer = registry.get("galore")[0]([weight])
    optimizer.state[weight] = {"precondition_frequency": 10, "projector": type("P", (), {"update_proj_gap": 200})()}
    assert peers.interval(optimizer) == 200
    peers.set_interval(optimizer, 7)
    state = optimizer.state[weight]
    assert peers.interval(optimizer) == state["precondition_frequency"] == 7
    assert state["projector"].update_proj_gap == 7
