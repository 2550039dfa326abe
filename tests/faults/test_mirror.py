"""A whole run on a mirror of C4 that misbehaves."""

import json
from pathlib import Path

import pytest

import train
from tests import tiny
from tests.data.conftest import shard, texts

pytestmark = pytest.mark.faults


@pytest.fixture
def settings(mirror, impatient, tmp_path):
    """A tiny run on the mirror's four shards, evaluated on a local file."""
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(80)))
    tokenizer = Path(train.__file__).parent / "data" / "builtin_tokenizer"
    data = ("data.source=c4", f"data.path={mirror.url}", f"data.eval_path={held_out}", f"data.tokenizer={tokenizer}")
    return ("tests/tiny.yaml", *data)


@pytest.mark.parametrize("mirror", [True], indirect=True, ids=["ranges"])
def test_failures_that_a_retry_cures_change_no_row(mirror, settings, tmp_path):
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    assert train.main([*settings, f"run.dir={calm}"]) == 0
    mirror.faults = {shard(n): [503, ("reset", 300 + n), ("stall", 900), ("cut", 200)] for n in range(4)}
    assert train.main([*settings, f"run.dir={stormy}"]) == 0
    assert tiny.metrics(stormy) == tiny.metrics(calm)
    assert tiny.weights(stormy) == tiny.weights(calm)


@pytest.mark.parametrize("mirror", [True], indirect=True, ids=["ranges"])
def test_a_shard_that_is_gone_is_named_after_a_checkpoint(mirror, settings, tmp_path, capfd):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings += ("data.streams=2", "train.steps=40", "train.eval_every=20")
    assert train.main([*settings, f"run.dir={whole}"]) == 0
    served = list(dict.fromkeys(name for name in mirror.requests if "train" in name))
    mirror.faults = {name: [404] for name in served[2:]}  # the second shard of either stream
    assert train.main([*settings, f"run.dir={cut}", "train.checkpoint_every=0"]) == 1
    words = capfd.readouterr().err
    assert any(name in words for name in served[2:]) and "404" in words and "Traceback" not in words
    assert len(tiny.saved_steps(cut)) == 1 and 0 < tiny.saved_steps(cut)[0] < 40
    mirror.faults = {}
    assert train.main([*settings, f"run.dir={cut}", "train.checkpoint_every=0"]) == 0
    assert tiny.metrics(cut) == tiny.metrics(whole)
    assert tiny.weights(cut) == tiny.weights(whole)
