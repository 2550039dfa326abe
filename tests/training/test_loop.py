"""What a step does, seen in the rows of short runs."""

import itertools

import pytest
import torch

import train
from models.llama import LlamaForCausalLM, Loss
from optimizers import Adam
from tests import tiny
from training.loop import Trainer
from training.schedule import lr_factor


def run(text, folder, *changes):
    assert train.main(tiny.command(text, folder, "train.steps=4", "train.eval_every=0", *changes)) == 0
    return [row for row in tiny.metrics(folder) if row["kind"] == "train"]


def test_the_loss_is_a_mean_over_targets_not_over_micro_batches(text, tmp_path):
    """Rows of one document each hold between 5 and 31 targets."""
    whole = run(text, tmp_path / "whole", "data.packing=false")
    parts = run(text, tmp_path / "parts", "data.packing=false", "train.micro_batch_size=1")
    assert len({after["tokens"] - before["tokens"] for before, after in itertools.pairwise(whole)}) > 1
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["tokens"] == theirs["tokens"]


def test_every_group_follows_the_schedule_from_its_own_learning_rate(text, tmp_path):
    rows = run(text, tmp_path / "run", "optimizer.lr=0.5", "optimizer.adam_lr=0.25", "schedule.warmup_fraction=0.5")
    factors = [
        lr_factor(step, steps=4, warmup_fraction=0.5, final_fraction=0.1, first_lr_zero=False) for step in range(1, 5)
    ]
    assert [row["lr"] for row in rows] == [0.5 * factor for factor in factors]
    assert [row["adam_lr"] for row in rows] == [0.25 * factor for factor in factors]


def test_clipping_bounds_the_gradient_and_rows_show_the_norm_before(text, tmp_path, monkeypatch):
    """The optimizer steps on a gradient of the norm asked for, or of its own where that is smaller."""
    stepped = []

    def step(self, *arguments, original=Adam.step):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        stepped.append(torch.cat(gradients).norm().item())
        return original(self, *arguments)

    monkeypatch.setattr(Adam, "step", step)  # torch gives each class a `step` of its own when it is first made
    for limit in (None, 1e-4, 1e4):
        stepped.clear()
        changes = () if limit is None else (f"train.clip_grad_norm={limit}",)
        before = [row["grad_norm"] for row in run(text, tmp_path / str(limit), "optimizer=adam", *changes)]
        assert min(before) > 0.1
        assert stepped == pytest.approx([min(norm, limit or norm) for norm in before], rel=1e-4)


def behind_the_step(self, *arguments, original=Trainer.__init__, **named):
    """A trainer that reads the loss as on a GPU."""
    original(self, *arguments, **named)
    self._reads_first = False


@pytest.mark.slow
def test_a_loss_read_behind_the_step_is_the_same(text, tmp_path, monkeypatch):
    before = run(text, tmp_path / "before")
    monkeypatch.setattr(Trainer, "__init__", behind_the_step)
    behind = run(text, tmp_path / "behind")
    assert [row["loss"] for row in behind] == [row["loss"] for row in before]


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 5], ids=["refresh", "plain step"])
def test_what_a_bad_gradient_changed_is_not_kept(text, tmp_path, monkeypatch, capfd, interval):
    """A GPU reads the loss behind the step. A basis that cannot be renewed of such a gradient is no other failure."""
    losses = []

    def faulty(self, *arguments, original=LlamaForCausalLM.forward, **named):
        losses.append(original(self, *arguments, **named).loss_sum)
        return Loss(losses[-1] * float("nan") if len(losses) == 2 else losses[-1])

    monkeypatch.setattr(Trainer, "__init__", behind_the_step)
    monkeypatch.setattr(LlamaForCausalLM, "forward", faulty)
    changes = ("train.checkpoint_every=1", "train.eval_every=0", f"optimizer.update_interval={interval}")
    assert train.main(tiny.command(text, tmp_path / "run", *changes)) == 1
    said = capfd.readouterr().err
    assert "step 2 was applied but not kept: its loss is nan" in said and "Traceback" not in said
    assert tiny.saved_steps(tmp_path / "run") == [1]
