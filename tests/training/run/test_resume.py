"""Where a run starts, whatever is left of the one before."""

import logging

import pytest
import torch

from configs.identity import to_dict
from configs.schema import Config, SettingsError, load
from tests import tiny
from training.run import checkpoint
from training.run.folder import RunFolder
from training.run.provenance import beside_settings, environment
from training.run.resume import Start, find_start
from training.run_errors import RunFolderError


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path) as folder:
        yield folder


def config(*changes: str) -> Config:
    return load(["train.steps=6", *changes]).config


def save(folder: RunFolder, step: int, settings: Config, beside: dict | None = None) -> None:
    weights = {"weight": torch.zeros(1)}
    nothing = {"optimizer_state": {}, "streams": {}, "random_states": {}, "counters": {}}
    kept = to_dict(settings) | (beside or {})
    checkpoint.save(folder.checkpoints, step, model_state=weights, config=kept, **nothing)


def finish(folder: RunFolder, settings: Config, *saved: int) -> None:
    """A finished run with checkpoints of the steps `saved`."""
    for step in saved:
        save(folder, step, settings)
    folder.write_config(to_dict(settings))
    folder.write_summary({"steps": settings.train.steps, "final_loss": 2.0, "tokens_per_second": 5.0})


def start(folder: RunFolder, *changes: str) -> Start:
    return find_start(folder, config(*changes))


def test_another_mixed_precision_is_another_setting(folder):
    weights = {"weight": torch.zeros(1)}
    nothing = {"optimizer_state": {}, "streams": {}, "random_states": {}, "counters": {}}
    settings = to_dict(config()) | {"mixed_precision": "bf16"}
    checkpoint.save(folder.checkpoints, 3, model_state=weights, config=settings, **nothing)
    assert find_start(folder, config(), "bf16").checkpoint.step == 3
    with pytest.raises(SettingsError, match=r"has other settings \(mixed_precision\)"):
        find_start(folder, config(), "no")
    assert find_start(folder, config("run.allow_config_change=true"), "no").checkpoint.step == 3


def test_a_checkpoint_that_does_not_say_its_precision_goes_on_with_any(folder):
    save(folder, 3, config())
    assert (
        find_start(folder, config(), "bf16").checkpoint.step == find_start(folder, config(), "no").checkpoint.step == 3
    )


def test_a_method_file_that_was_edited_is_another_setting(folder, tmp_path):
    method = f"optimizer={tiny.method_file(tmp_path, 'mine_r')}", "optimizer.lr=0.01"
    settings = config(*method)
    save(folder, 2, settings)  # of before the digest
    assert start(folder, *method).checkpoint.step == 2
    save(folder, 3, settings, beside_settings(settings.optimizer, "no"))
    assert start(folder, *method).checkpoint.step == 3
    save(folder, 4, settings, {"mixed_precision": "no", "optimizer_file_sha256": "of before"})
    folder.write_environment(environment(torch.device("cpu"), settings.optimizer))  # of a start that saved nothing
    with pytest.raises(SettingsError, match=r"has other settings \(optimizer_file_sha256\)"):
        start(folder, *method)
    assert start(folder, *method, "run.allow_config_change=true").checkpoint.step == 4


def test_a_finished_run_of_another_method_file_is_not_finished(folder, tmp_path):
    method = f"optimizer={tiny.method_file(tmp_path, 'mine_f')}", "optimizer.lr=0.01"
    settings = config(*method)
    finish(folder, settings)
    made_in = environment(torch.device("cpu"), settings.optimizer)
    for found in ({}, made_in):
        folder.write_environment(found)
        assert start(folder, *method).summary is not None
    folder.write_environment({**made_in, "optimizer_file_sha256": "of before"})
    with pytest.raises(
        SettingsError, match=r"other settings \(optimizer_file_sha256\) and no checkpoint to go on from"
    ):
        start(folder, *method)


@pytest.mark.parametrize("change", ["data.prefetch=8", "train.layerwise=true", "train.activation_checkpointing=true"])
def test_what_changes_memory_alone_may_change(folder, change):
    save(folder, 3, config())
    assert start(folder, change).checkpoint.step == 3


@pytest.mark.parametrize("saved", [(3, 6), (3,), ()])
def test_a_finished_run_is_finished_whatever_checkpoints_are_left(folder, saved):
    finish(folder, config(), *saved)
    assert start(folder).summary is not None
    assert start(folder, "run.allow_config_change=true", "train.eval_every=1").summary is not None


@pytest.mark.parametrize("change", ["train.steps=9", "optimizer.lr=0.5"])
@pytest.mark.parametrize("allow", ["true", "false"])
def test_a_finished_run_without_a_checkpoint_does_not_go_on(folder, change, allow):
    finish(folder, config())
    with pytest.raises(SettingsError, match=rf"finished run .* \({change.partition('=')[0]}\) and no checkpoint to go"):
        start(folder, change, f"run.allow_config_change={allow}")


@pytest.mark.parametrize("saved", [(3, 6), (3,)])
def test_more_steps_go_on_from_the_newest_checkpoint(folder, saved):
    finish(folder, config(), *saved)
    further = start(folder, "train.steps=9", "run.allow_config_change=true")
    assert further.summary is None and further.checkpoint.step == saved[-1]


def test_a_run_that_was_prolonged_is_finished_without_its_last_checkpoint(folder):
    """An older checkpoint has the settings of before."""
    finish(folder, config(), 6)
    finish(folder, config("train.steps=9"), 6)
    assert start(folder, "train.steps=9").summary is not None


def test_other_settings_without_a_step_to_train_are_said(folder, caplog):
    finish(folder, config(), 6)
    with caplog.at_level(logging.WARNING):
        assert start(folder, "optimizer.lr=0.5", "run.allow_config_change=true").summary is not None
    assert "other settings (optimizer.lr), and no step is left to train" in caplog.text


@pytest.mark.parametrize("summary", [{}, {"steps": 6}, {"steps": "6", "final_loss": 2.0, "tokens_per_second": 5.0}])
def test_another_file_by_the_name_of_the_summary_finishes_nothing(folder, summary):
    folder.write_summary(summary)
    assert start(folder) == Start(None, None, 0)


def test_a_run_does_not_begin_anew_over_damaged_checkpoints(folder):
    for step in (3, 5):
        save(folder, step, config())
        (folder.checkpoints / f"step_{step:08d}" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(RunFolderError, match=r"run\.dir: no checkpoint in .*checkpoints is whole; mend one, choose"):
        start(folder)
    finish(folder, config())
    assert start(folder).summary is not None


def test_a_run_begins_anew_where_its_first_save_was_cut_short(folder):
    save(folder, 3, config())
    (folder.checkpoints / "step_00000003" / checkpoint.MARKER).unlink()
    assert start(folder) == Start(None, None, 0)


def test_fewer_steps_than_the_checkpoint_has_are_refused(folder):
    """The summary would have the steps of the one and the settings of the other."""
    save(folder, 5, config())
    with pytest.raises(SettingsError, match=r"^train\.steps=4, but the run in .* is at step 5 already; train\.steps=5"):
        start(folder, "train.steps=4", "run.allow_config_change=true")
    assert start(folder, "train.steps=5", "run.allow_config_change=true").checkpoint.step == 5


@pytest.mark.parametrize("wrong", [{"final_loss": "x"}, {"tokens_per_second": None}, {"steps": [6]}])
def test_a_summary_without_its_numbers_is_of_no_finished_run(folder, wrong):
    finish(folder, config(), 6)
    folder.write_summary({"steps": 6, "final_loss": 2.0, "tokens_per_second": 5.0} | wrong)
    assert start(folder).summary is None


def test_a_file_in_the_place_of_a_left_over_save_is_no_hindrance(folder):
    save(folder, 3, config())
    (folder.checkpoints / "step_00000009.tmp").write_text("")
    assert checkpoint.reclaimable(folder.checkpoints, start(folder).checkpoint.path) == 0
