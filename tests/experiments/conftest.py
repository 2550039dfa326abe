"""A small arena, on texts of the tests, whose runs and records are in a folder of the test."""

import sys

import pytest

from analysis.arena import ledger, spec
from experiments.arena import conduct
from scripts import arena

SPEC = """
title: small
settings: [{data}, train.threads=1, train.compile=false, data.sequence_length=32, data.eval_tokens=500,
  data.tokenizer=null, model.hidden_size=32, model.intermediate_size=64, model.num_hidden_layers=1,
  model.num_attention_heads=2, train.eval_every=2, data.streams=4]
batch_sizes: [4]
tokens: 512
ladder: [512]
tuning: {{tokens: 256, runs: 2, factor: 1.0e+30}}
published: false
against: [adam]
held_out: {{same: [{held_out}, data.eval_tokens=300]}}
rows:
  adam: {{lr: 0.01, adam_lr: 0.01}}
  racs: {{lr: 0.02, adam_lr: 0.01}}
"""


@pytest.fixture
def small(tmp_path, text, monkeypatch):
    """Calls scripts/arena.sh on a small spec with these arguments; its runs and records are in tmp_path."""
    data = f"data.path={text}/train.jsonl, data.eval_path={text}/eval.jsonl"
    held_out = f"data.eval_path={text}/eval.jsonl"
    (tmp_path / "arenas").mkdir()
    (tmp_path / "arenas" / "small.yaml").write_text(SPEC.format(data=data, held_out=held_out))
    monkeypatch.setattr(conduct, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(ledger, "ARENA_RESULTS", tmp_path)
    monkeypatch.setattr(spec, "ARENAS", tmp_path / "arenas")

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["arena.py", str(tmp_path / "arenas" / "small.yaml"), *arguments])
        return arena.main()

    return call
