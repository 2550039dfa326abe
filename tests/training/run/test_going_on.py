"""Runs that were interrupted in their last evaluation, and go on."""

import json

import pytest

import train
from tests import tiny
from training import loop
from training.processes.signals import Interrupted

MORE = ("train.steps=5", "run.allow_config_change=true")


def rows(run):
    """Kind, step and loss of each row of metrics."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["kind"], line["step"], line["loss"]) for line in lines]


@pytest.fixture
def interrupted(text, tmp_path, monkeypatch):
    """Folder and command of a finished run of three steps whose checkpoint does not know of its evaluation."""

    def signal(*_, **__):
        raise Interrupted(15)

    argv = tiny.command(
        text, tmp_path / "run", "optimizer=adam", "train.steps=3", "train.eval_every=0", "train.checkpoint_every=0"
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", signal)
        assert train.main(argv) == 128 + 15
    assert train.main(argv) == 0
    return tmp_path / "run", argv


def test_no_evaluation_is_lost_when_such_a_run_is_prolonged(interrupted, text, tmp_path):
    run, argv = interrupted
    undisturbed = [*argv, f"run.dir={tmp_path / 'undisturbed'}"]
    assert train.main(undisturbed) == 0 and train.main([*undisturbed, *MORE]) == 0
    assert train.main([*argv, *MORE]) == 0
    assert rows(run) == rows(tmp_path / "undisturbed")
    assert [step for kind, step, _ in rows(run) if kind == "eval"] == [3, 5]


def test_settings_that_do_not_fit_leave_metrics_and_wandb_alone(interrupted, capsys):
    run, argv = interrupted
    before = rows(run)
    assert train.main([*argv, *MORE, "model.hidden_size=64", "wandb.mode=offline"]) == 2
    assert "does not fit these settings" in capsys.readouterr().err
    assert rows(run) == before and not (run / "wandb").exists()
    assert train.main(argv) == 0 and "is finished" in capsys.readouterr().out
