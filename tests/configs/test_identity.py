"""Which settings decide a run's result: the hash of its settings, and how two runs differ."""

import json

import pytest
import yaml

from configs import identity
from configs.reading import FOLDER
from configs.schema import load


def config(*argv):
    return load(list(argv)).config


def test_the_hash_ignores_only_what_a_resume_may_change():
    ours = identity.config_hash(config())
    free = "run.name=x run.seed=4 wandb.mode=offline train.threads=1 train.compile=true train.log_every=5 "
    free += "train.eval_every=0 train.checkpoint_every=0 train.micro_batch_size=4"
    assert identity.config_hash(config(*free.split())) == ours
    for binding in (
        "train.steps=301",
        "optimizer.rank=31",
        "data.seed=1",
        "train.tf32=true",
        "train.galore_batch_size=8",
    ):
        changed = config(*free.split(), binding)
        assert identity.config_hash(changed) != ours
        key = binding.partition("=")[0]
        assert identity.differences(identity.to_dict(config()), identity.to_dict(changed)) == [key]


def test_the_hash_does_not_depend_on_the_style_of_the_yaml(write):
    block = write("train:\n  steps: 30   # short\nschedule:\n  warmup_fraction: 0.20\n", "a.yaml")
    flow = write("schedule: {warmup_fraction: 2e-1}\ntrain: {steps: 30}\n", "b.yaml")
    first, second = (config("configs/quickstart.yaml", file) for file in (block, flow))
    assert identity.config_hash(first) == identity.config_hash(second)


@pytest.mark.parametrize("record", sorted((FOLDER.parent / "results" / "nano" / "runs").glob("*_s0.json"))[::9])
def test_settings_of_a_committed_record_still_have_its_hash(record, write):
    """Settings that came later do not enter it while they are null."""
    kept = json.loads(record.read_text())
    again = config(write(yaml.safe_dump(kept["settings"])))
    assert identity.config_hash(again) == kept["summary"]["config_hash"]
    assert identity.differences(kept["settings"], identity.to_dict(again)) == []


@pytest.mark.parametrize(("name", "usual", "other"), [("muon", 32, 8), ("adam_8bit", 8, 32)])
def test_state_bits_enter_the_hash_where_they_are_not_the_methods(name, usual, other):
    ours, changed = config(f"optimizer={name}"), config(f"optimizer={name}", f"optimizer.state_bits={other}")
    before = identity.to_dict(ours)
    assert before["optimizer"].pop("state_bits") == usual
    assert identity.differences(before, identity.to_dict(ours)) == []
    assert identity.differences(before, identity.to_dict(changed)) == ["optimizer.state_bits"]
    assert identity.config_hash(changed) != identity.config_hash(ours)


def test_options_that_came_later_leave_recorded_runs_of_their_method_their_identity():
    now = identity.to_dict(config("optimizer=alice_soap"))
    before = {**now, "optimizer": {k: v for k, v in now["optimizer"].items() if k != "basis_dtype"}}
    assert before != now and identity.differences(before, now) == []
    changed = identity.to_dict(config("optimizer=alice_soap", "optimizer.basis_dtype=float32"))
    assert identity.differences(before, changed) == ["optimizer.basis_dtype"]


@pytest.mark.parametrize("embeddings", ["method", "adam"])
def test_embeddings_enter_the_hash_once_they_are_set(embeddings):
    ours, changed = config("optimizer=racs"), config("optimizer=racs", f"optimizer.embeddings={embeddings}")
    assert identity.config_hash(changed) != identity.config_hash(ours)
    assert identity.differences(identity.to_dict(ours), identity.to_dict(changed)) == ["optimizer.embeddings"]


def test_the_resolved_settings_load_again(write):
    ours = config("optimizer.betas=[0.8, 0.9, 0.99]")
    resolved = write(yaml.safe_dump(identity.to_dict(ours)))
    again = config(resolved)
    assert identity.to_dict(again) == identity.to_dict(ours)


def test_settings_that_came_later_leave_recorded_runs_their_identity():
    now = identity.to_dict(config())
    before = {**now, "model": {k: v for k, v in now["model"].items() if f"model.{k}" not in identity.LATER}}
    assert before != now and identity.differences(before, now) == []
    later = identity.to_dict(config("model.num_key_value_heads=2"))
    assert identity.differences(before, later) == ["model.num_key_value_heads"]
    assert identity.config_hash(config("model.num_key_value_heads=2")) != identity.config_hash(config())


def test_differences_include_added_and_removed_keys():
    old, new = identity.to_dict(config()), identity.to_dict(config("optimizer=racs"))
    assert {"optimizer.name", "optimizer.rank", "optimizer.beta"} <= set(identity.differences(old, new))
