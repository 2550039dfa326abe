"""The files of configs/experiment/nano, and the comparison on the builtin text."""

import pytest

from analysis import rows
from analysis.paths import ROOT
from configs.identity import to_dict
from configs.schema import load
from experiments.nano_files import STUDY, comparison_runs, file_of, study_settings
from optimizers import registry

COMPARISON = comparison_runs()


def test_the_nano_files_are_those_of_the_plans():
    files = {path.stem for path in (ROOT / "configs/experiment/nano").glob("*.yaml")}
    assert files == {*STUDY, *COMPARISON}
    assert set(COMPARISON) == files & set(registry.names())


# Learning rate of the method, and options that are not those of configs/optimizer at this size.
LOW_RANK = {"rank": 32, "update_interval": 50}
SUBSPACE = {**LOW_RANK, "scale": 0.3}
ALICE = {**LOW_RANK, "leading": 10}
ROWS = {
    "adam": (0.001, {}),
    "adam_8bit": (0.001, {}),
    "alice": (0.02, ALICE),
    "alice_0": (0.02, ALICE),
    "alice_soap": (0.02, ALICE),
    "alice_two_sided": (0.02, {**ALICE, "compensation": "two_sided"}),
    "apollo": (0.01, LOW_RANK),
    "apollo_mini": (0.01, {"scale": 32.0, "update_interval": 50}),
    "apollo_svd": (0.01, LOW_RANK),
    "eigen_adam": (0.002, {}),
    "fira": (0.02, SUBSPACE),
    "galore": (0.02, SUBSPACE),
    "galore_8bit": (0.02, SUBSPACE),
    "lamb": (0.01, {}),
    "lars": (0.02, {}),
    "muon": (0.002, {}),
    "natural_galore": (0.02, SUBSPACE),
    "racs": (0.02, {}),
    "shampoo": (0.1, {}),
    "soap": (0.003, {}),
    "swan": (0.0015, {}),
    "sinkgd": (0.02, {}),
    "scale": (0.004, {}),
    "normuon": (0.002, {}),
    "octave": (0.002, {}),
    "flip_flop": (0.002, {}),
    "racs_muon": (0.002, {}),
    "adam_mini": (0.001, {}),
    "ldadam": (0.002, {"rank": 32}),
    "dion": (0.01, {"rank": 32}),
    "adafactor": (0.02, {}),
    "lion": (0.0005, {}),
}
ROWS |= {f"{name}_last_layer_adam": (*ROWS[name], "adam") for name in ("alice", "alice_0", "fira", "galore")}
TEXT = [
    *("data=files", "data.path=runs/nano/corpus", "data.eval_path=runs/nano/text/c4"),
    *("data.tokenizer=runs/nano/tokenizer", "data.eval_tokens=50000"),
]
TRAIN = [f"train.{setting}" for setting in ("steps=1000", "batch_size=8", "eval_every=50", "log_every=5", "threads=1")]


@pytest.mark.parametrize("row", ROWS)
def test_a_nano_file_is_what_its_row_says(row, tmp_path):
    """Everything but the optimizer is shared; the optimizer is that of configs/optimizer with the row's changes."""
    lr, options, *last_layer = ROWS[row]
    name = row.removesuffix("_last_layer_adam").removesuffix("_two_sided")
    (tmp_path / "model.yaml").write_text("model: llama_nano")  # without a file the quick start's would be read
    expected = [str(tmp_path / "model.yaml"), *TEXT, *TRAIN, f"optimizer={name}", f"optimizer.lr={lr}"]
    expected += [f"optimizer.{key}={value}" for key, value in options.items()]
    expected += [f"optimizer.last_layer={who}" for who in last_layer]
    run = f"run.name=llama_nano_{row}_s0"
    assert to_dict(load([str(ROOT / file_of(row))]).config) == to_dict(load([*expected, run]).config)


def test_every_row_is_in_a_plan_and_every_plan_has_rows():
    assert set(ROWS) == {*STUDY, *COMPARISON}


@pytest.mark.parametrize("row", COMPARISON)
def test_the_comparison_has_short_runs_on_the_builtin_text(row):
    config, study = (load(arguments).config for arguments in (COMPARISON[row], study_settings(file_of(row))))
    assert (config.data.source, config.data.sequence_length, config.data.tokenizer) == ("builtin", 128, None)
    assert (config.train.steps, config.train.batch_size, config.train.compile) == (300, 8, "auto")
    assert study.train.compile is True and study.data.source == "files"
    own = {"adam_lr": 0.006} | (
        {"update_interval": 15} if {"rank", "update_interval"} <= vars(study.optimizer).keys() else {}
    )
    assert vars(config.optimizer) == vars(study.optimizer) | own


@pytest.mark.parametrize("row", ["muon_8bit", "normuon_8bit", "alice_8bit"])
def test_a_row_in_8_bits_is_the_wide_row_but_for_its_bits(row):
    files = ROOT / "configs/experiment/nano/eight_bit" / f"{row}.yaml", ROOT / file_of(row.removesuffix("_8bit"))
    narrow, wide = (load([str(file)]).config for file in files)
    assert (narrow.optimizer.state_bits, wide.optimizer.state_bits) == (8, 32)
    assert vars(narrow.optimizer) == vars(wide.optimizer) | {"state_bits": 8}
    assert (narrow.train, narrow.data, narrow.model) == (wide.train, wide.data, wide.model)
    settings = {"optimizer": vars(narrow.optimizer)}
    assert rows.row_of({"settings": settings}) == row and rows.style(row).label.startswith("8-bit")
    assert narrow.run.name == f"llama_nano_{row}_s0"
