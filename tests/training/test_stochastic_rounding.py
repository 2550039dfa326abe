"""Runs whose bfloat16 weights are rounded stochastically."""

import pytest

import train
from configs.schema import SettingsError, load
from tests import tiny

SETTINGS = ("train.dtype=bfloat16", "train.stochastic_rounding=true", "train.steps=4", "train.checkpoint_every=2")


@pytest.mark.slow
def test_resumes_and_releases_gradients_to_the_same_bits(text, tmp_path, monkeypatch):
    runs = {name: tmp_path / name for name in ("whole", "resumed", "layerwise", "nearest")}
    assert train.main(tiny.command(text, runs["whole"], *SETTINGS)) == 0
    assert train.main(tiny.command(text, runs["layerwise"], *SETTINGS, "train.layerwise=true")) == 0
    assert train.main(tiny.command(text, runs["nearest"], *SETTINGS, "train.stochastic_rounding=false")) == 0
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Trainer._update", tiny.unplugged_after(2))
        assert train.main(tiny.command(text, runs["resumed"], *SETTINGS)) == 1
    assert tiny.saved_steps(runs["resumed"]) == [2]
    assert train.main(tiny.command(text, runs["resumed"], *SETTINGS)) == 0
    assert tiny.weights(runs["resumed"]) == tiny.weights(runs["layerwise"]) == tiny.weights(runs["whole"])
    assert tiny.weights(runs["nearest"]) != tiny.weights(runs["whole"])


def test_refused_for_float32_and_for_methods_that_cannot(text, tmp_path, capfd):
    with pytest.raises(SettingsError, match=r"train\.stochastic_rounding needs train\.dtype=bfloat16"):
        load(["train.stochastic_rounding=true"])
    assert train.main(tiny.command(text, tmp_path / "run", *SETTINGS, "optimizer=lars")) == 2
    assert "stochastic_rounding is not possible with LARS" in capfd.readouterr().err
