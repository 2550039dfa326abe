"""Runs that step each matrix during backward."""

import pytest
import torch

import train
from configs.checks import check_layout
from configs.schema import SettingsError, load
from models.llama import LlamaForCausalLM, Loss
from tests import tiny
from training.loop import Trainer

LAYERWISE = "train.layerwise=true"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), ("optimizer=racs", "train.dtype=bfloat16", "train.steps=3")])
def test_ends_like_plain_training_to_the_bit(text, whole_run, tmp_path, changes):
    plain, released = whole_run, tmp_path / "layerwise"
    if changes:
        plain = tmp_path / "plain"
        assert train.main(tiny.command(text, plain, *changes)) == 0
    assert train.main(tiny.command(text, released, *changes, LAYERWISE)) == 0
    assert tiny.metrics(released) == tiny.metrics(plain)  # the gradient norms among them
    assert tiny.weights(released) == tiny.weights(plain)


def test_never_holds_all_gradients(text, tmp_path, monkeypatch):
    held = []

    def counted(self, batch, targets, original=Trainer._update):
        def count(parameter):
            held.append(sum(p.grad is not None for p in self._parameters))

        handles = [p.register_post_accumulate_grad_hook(count) for p in self._parameters]
        result = original(self, batch, targets)
        for handle in handles:
            handle.remove()
        return result

    monkeypatch.setattr(Trainer, "_update", counted)
    # q, k, v and o wait for each other, so do gate, up and down; embedding, norms and lm_head are stepped at once.
    assert train.main(tiny.command(text, tmp_path / "run", LAYERWISE, "train.steps=2")) == 0
    assert len(held) == 2 * 12 and max(held) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("loss", "step 2 was not applied: its loss is nan"),
        ("gradient", "step 2 was applied but not kept: its loss is"),
        ("gradient at a refresh", "step 2 was not kept: its loss is"),
    ],
)
def test_a_non_finite_loss_or_gradient_ends_the_run(text, tmp_path, monkeypatch, capfd, fault, words):
    calls, weights = [], {}

    def faulty(self, input_ids, labels, original=LlamaForCausalLM.forward):
        loss = original(self, input_ids=input_ids, labels=labels).loss_sum
        calls.append(loss)
        if len(calls) == 2:
            weights.update({name: p.detach().clone() for name, p in self.named_parameters()})
            weights["model"] = self
            return Loss(loss * float("nan") if fault == "loss" else loss + (loss * 0).sqrt())
        return Loss(loss)

    monkeypatch.setattr(LlamaForCausalLM, "forward", faulty)
    run = tmp_path / "run"
    changes = (
        "train.eval_every=0",
        "train.checkpoint_every=1",
        f"optimizer.update_interval={1 if 'refresh' in fault else 5}",
    )
    assert train.main(tiny.command(text, run, LAYERWISE, *changes)) == 1
    said = capfd.readouterr().err
    assert words in said and "Traceback" not in said
    assert tiny.saved_steps(run) == [1]
    model = weights.pop("model")
    unchanged = [torch.equal(p, weights[name]) for name, p in model.named_parameters()]
    if "refresh" not in fault:  # there some layers may have been stepped before
        assert all(unchanged) == (fault == "loss")


@pytest.mark.parametrize(
    ("changes", "processes", "words"),
    [
        (("train.micro_batch_size=4",), 1, "cannot accumulate 2 micro-batches; set train.micro_batch_size=null"),
        (("train.clip_grad_norm=1",), 1, "cannot clip by the norm of all gradients; set train.clip_grad_norm=null"),
        ((), 2, "cannot wait for the gradients of 2 processes"),
    ],
)
def test_refused_where_a_gradient_must_wait(changes, processes, words):
    with pytest.raises(SettingsError, match=words):
        check_layout(load([LAYERWISE, *changes]).config, processes)
