"""A finished run on other text: whose settings count, and results that are saved at the same time."""

import json
import multiprocessing
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from analysis.run_evaluation import evaluate_run, evaluation_settings, save
from configs import identity
from configs.schema import SettingsError, load
from training.evaluation import Evaluation
from training.processes.world import World


@pytest.fixture
def run(tmp_path):
    (tmp_path / "model").mkdir()
    own = load(["data.sequence_length=32", "data.packing=false"]).config
    (tmp_path / "config.yaml").write_text(json.dumps(identity.to_dict(own)))
    return tmp_path


@pytest.mark.parametrize(("changes", "rows"), [([], (32, False)), (["data.sequence_length=64"], (64, False))])
def test_rows_are_the_runs_own_unless_they_are_named(run, changes, rows):
    data = evaluation_settings(str(run), ["data=files", f"data.eval_path={run}/other.jsonl", *changes]).data
    assert (data.sequence_length, data.packing) == rows and data.source == "files"


def test_other_text_for_a_builtin_run_needs_its_source(run):
    with pytest.raises(SettingsError, match=r"was trained on the builtin text: other text needs data=files beside"):
        evaluation_settings(str(run), [f"data.eval_path={run}/other.jsonl"])


def test_other_text_for_a_prepared_run_needs_its_source(run):
    prepared = load(["data=prepared", "data.path=store"]).config
    (run / "config.yaml").write_text(json.dumps(identity.to_dict(prepared)))
    with pytest.raises(SettingsError, match=r"was trained on a prepared store: other text needs data=files beside"):
        evaluation_settings(str(run), [f"data.eval_path={run}/other.jsonl"])


def test_a_plan_is_refused_not_ignored(run):
    with pytest.raises(SettingsError, match=r"^--plan is an option of train\.py"):
        evaluation_settings(str(run), ["--plan"])


def test_of_other_text_all_is_evaluated_on(run):
    """A share was held out of the text of training."""
    held_out = load(["data=files", "data.path=x.jsonl", "data.held_out=0.01"]).config
    (run / "config.yaml").write_text(json.dumps(identity.to_dict(held_out)))
    assert evaluation_settings(str(run), []).data.held_out == 0.01
    assert evaluation_settings(str(run), [f"data.eval_path={run}/other.jsonl"]).data.held_out is None


def test_an_evaluation_computes_in_the_launchers_precision(text, whole_run):
    """And says so before: 8 bits of a factor change the loss, a little."""
    config = evaluation_settings(str(whole_run), [])
    losses = []
    for precision in ("no", "bf16", "no"):
        world = SimpleNamespace(device=torch.device("cpu"), count=1, index=0, mixed_precision=precision)
        world.sum, world.stop_signal = (lambda sums: sums), (lambda: 0)
        world.autocast = partial(World.autocast, world)
        losses.append(evaluate_run(config, world).loss)
    assert losses[0] == losses[2] != losses[1] == pytest.approx(losses[0], rel=1e-2)


def _save_many(run, first):
    for number in range(first, first + 20):
        save(Evaluation(5.0, 10, None), run, str(number))


def test_evaluations_that_end_at_once_are_all_kept(run):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_save_many, args=(run, first)) for first in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(json.loads((run / "evaluations.json").read_text())) == 40
