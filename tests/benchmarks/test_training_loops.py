"""The comparison of train.py with a plain loop: its documents, its plain loop, and its ratios."""

import json

import pytest

from benchmarks.plain_loop import LoopRun, train_plainly
from benchmarks.training import Loop, evaluate, write_documents
from configs.schema import load
from training.plan import plan_run

SMALL = ["model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=1", "data.sequence_length=16"]
SETTINGS = [*SMALL, "optimizer=adam", "optimizer.lr=0.001", "train.batch_size=8", "train.steps=4", "train.threads=1"]


def test_ratios_are_of_the_rounds_and_without_the_first_steps():
    config = load(SETTINGS).config

    def run(seconds: float, tokens: int) -> LoopRun:
        return LoopRun([9.0, 9.0, seconds, seconds], [1.0, 1.0, seconds / 4, 0.0], tokens, peak_bytes=tokens)

    positions = 8 * 16
    whole = 4 * positions
    rounds = {
        Loop("plain", False): [run(2.0, whole // 2), run(4.0, whole // 2)],
        Loop("train.py", True): [run(1.0, whole), run(2.0, whole)],
    }
    plain, ours = evaluate(rounds, [1e9, 1e9], config)
    assert (plain.ratio, plain.tokens_ratio, plain.peak_ratio) == (1, 1, 1)
    assert (ours.loop, ours.checkpointing) == ("train.py", True)
    assert (ours.ratio, ours.tokens_ratio, ours.peak_ratio) == (2, 4, 2)
    assert ours.positions_per_second == pytest.approx((positions / 1 + positions / 2) / 2)
    assert (ours.first_seconds, ours.data_percent) == (9.0, pytest.approx(12.5))
    products = plan_run(config)["flops_per_position"] - 6 * 1 * 32 * 16  # attention has none of the matrices
    assert ours.of_bound == pytest.approx(products * ours.tokens_per_second / 1e9)


def test_the_plain_loop_counts_tokens_without_padding(tmp_path):
    documents = tmp_path / "documents.jsonl"
    write_documents(documents)
    assert len(json.loads(documents.read_text().splitlines()[0])["text"]) > 100
    documents.write_text(32 * '{"text": "one two three"}\n')
    found = train_plainly(
        load([*SETTINGS, "data=files", "data.path=unused", "data.eval_path=unused"]).config, documents
    )
    assert len(found.seconds) == len(found.data_seconds) == 4
    assert 0 < found.tokens < 4 * 8 * 16 and found.tokens % 32 == 0, "32 rows of one document"
