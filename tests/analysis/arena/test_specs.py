"""What a spec may say, and that the project's own can be run."""

import re

import pytest
import yaml

from analysis.arena import spec as spec_module
from analysis.arena.entries import arguments, due
from analysis.arena.ledger import Ledger
from analysis.arena.spec import all_specs, read_spec
from analysis.paths import ROOT
from configs.schema import SettingsError, load
from tests.analysis.arena.on_paper import AGAIN, SPEC


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("racs: {seeds: 3}", "racs: {lr: 1.0}"), r"rows\.racs: its values are those of small, so it needs none"),
        (("  racs: {seeds: 3}", "  racs: {seeds: 3}\n  muon: {seeds: 3}"), "tuned_in: small has no row muon"),
        (("[8]", "[16]"), "tuned_in: small has no llama_nano with a batch size of 16"),
        (("tuned_in: small", "tuned_in: big"), r"no files below configs/arena are called big\.yaml"),
    ],
)
def test_an_arena_that_cannot_take_anothers_values_is_refused(spec, tmp_path, monkeypatch, change, sentence):
    named = spec_module.spec_named
    monkeypatch.setattr(spec_module, "spec_named", lambda name: spec if name == "small" else named(name))
    (tmp_path / "again.yaml").write_text(AGAIN.replace(*change))
    with pytest.raises(SettingsError, match=sentence):
        read_spec(tmp_path / "again.yaml")


def test_an_arena_that_takes_its_own_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spec_module, "ARENAS", tmp_path)
    for name, source in (("self", "self"), ("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(AGAIN.replace("tuned_in: small", f"tuned_in: {source}"))
        with pytest.raises(SettingsError, match=r"tuned_in: \w+ is not tuned itself|no files below"):
            read_spec(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("seeds: 2, ladder: true}\n  racs", "seeds: 0}\n  racs"), r"rows\.adam\.seeds must be at least 1"),
        (("against: [adam]", "against: [sgd]"), "against: there is no row sgd"),
        (("against: [adam]", "against: []"), "against is empty"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [0.9, 0.9]}"), r"rows\.racs\.own\.beta needs values .* given twice"),
        (("rates_of: racs", "rates_of: plain_racs"), r"rows\.plain_racs\.rates_of: plain_racs is no row that is tuned"),
        (("tokens: 40960", "tokens: 40961"), "40961 positions are no whole number of steps of 2048"),
        (("runs: 4", "runs: 0"), "tuning needs at least one run"),
        (("title: small", "titel: small"), "titel"),
        (("own: {beta: [0.9, 0.95]}", "own: {bta: [0.9]}"), r"rows\.racs: unknown key optimizer\.bta"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [0.9, 1.5]}"), r"rows\.racs: optimizer\.beta"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: []}"), r"rows\.racs\.own\.beta needs values to try"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [null, 0.9]}"), r"rows\.racs\.own\.beta needs values to try, none"),
        (("batch_sizes: [8]", "batch_sizes: []"), "batch_sizes is empty"),
        (("lr: 0.004", "lr: -0.004"), r"rows\.adam: optimizer\.lr must be greater than 0"),
        (("rows:", "held_out: {books: [data.eval_pth=a]}\nrows:"), r"held_out\.books: unknown key data\.eval_pth"),
        (("own: {beta: [0.9, 0.95]}", "own: {beta: [0.9, much]}"), r"rows\.racs\.own\.beta has names and numbers"),
        (("title: small", "refreshes: 0"), "refreshes must be at least 1, got 0"),
        (("title: small", "significance: 7"), "significance must be above 0 and below 1, got 7"),
        (("title: small", "budget: {positions_per_second: 0}"), "budget needs positions_per_second above 0"),
        (("against: [adam]", "against: [adam, adam]"), "against has adam twice"),
        (("batch_sizes: [8]", "batch_sizes: [8, 8]"), "batch_sizes has 8 twice"),
        (("rates_of: racs}", "rates_of: racs, style: racs}"), "two rows are called RACS in tables: give one of them"),
        (("  adam: {", "  sgd: {lr: 1}\n  adam: {"), r"rows\.sgd: there is no file configs/experiment/nano/sgd.yaml"),
    ],
)
def test_a_wrong_spec_is_one_sentence(tmp_path, change, sentence):
    (tmp_path / "small.yaml").write_text(SPEC.replace(*change))
    with pytest.raises(SettingsError, match=sentence) as error:
        read_spec(tmp_path / "small.yaml")
    assert "\n" not in str(error.value)


def test_an_arena_that_takes_anothers_values_asks_nothing_of_its_tuning(spec, tmp_path, monkeypatch):
    """4,096,000 positions, the default of tuning, are no whole number of steps of 512 rows."""
    monkeypatch.setattr(spec_module, "spec_named", lambda name: spec)
    spec.batch_sizes = [512]
    text = AGAIN.replace("[8]", "[512]").replace("40960", "131072")
    (tmp_path / "again.yaml").write_text(text)
    assert read_spec(tmp_path / "again.yaml").batch_sizes == [512]


def test_a_row_of_other_data_than_the_first_is_refused(tmp_path):
    other = SPEC.replace("nano/ablations/racs_no_ema.yaml", "table2/60m/racs.yaml")
    (tmp_path / "small.yaml").write_text(f"{other}settings: [train.micro_batch_size=8]\n")
    with pytest.raises(
        SettingsError, match=r"rows\.plain_racs: data\.\w+ is not that of the first row, so their losses"
    ):
        read_spec(tmp_path / "small.yaml")


def test_the_array_of_jobs_that_the_docs_show_has_one_for_each_tuned_row():
    nano = yaml.safe_load((ROOT / "configs" / "arena" / "nano.yaml").read_text())
    tuned = [row for row, entrant in nano["rows"].items() if "rates_of" not in entrant]
    (last,) = re.findall(r"--array=0-(\d+) \S+ scripts/arena.sh", (ROOT / "docs" / "arena.md").read_text())
    assert int(last) == len(tuned) - 1


@pytest.mark.slow
def test_every_run_of_the_projects_arenas_has_settings_that_load(tmp_path):
    for found in all_specs():
        for stage in ("tuning", "published"):
            for entry in due(found, Ledger(tmp_path / "none.jsonl"), list(found.rows), stage):
                config = load(arguments(found, entry)).config
                assert config.train.steps * config.train.batch_size * config.data.sequence_length == entry.tokens
                assert config.optimizer.lr == entry.point["lr"]
