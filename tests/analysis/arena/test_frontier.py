"""The picture of perplexity against bytes of state."""

import itertools

from analysis.arena.ledger import Ledger
from analysis.arena.spec import Entrant
from analysis.figures import frontier
from analysis.figures.frontier import front, frontier_figure
from analysis.rows import style
from tests.analysis.arena.on_paper import CELL, loss_of, made


def test_a_picture_has_each_label_apart_and_no_ablation(spec, tmp_path):
    spec.rows["ablation_racs_no_ema"] = spec.rows.pop("plain_racs")
    spec.rows["muon"] = Entrant(lr=0.02, adam_lr=0.03)
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of, stages=("tuning", "final"))
    figure = frontier_figure(spec, ledger, [CELL])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in axes.texts) == ["Adam", "Muon", "RACS"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert len(axes.containers) == 3  # with error bars
    assert not any("$" in label.get_text() for label in axes.get_xticklabels(which="both"))
    assert style("ablation_racs_no_ema") == style("racs_no_ema")


def test_of_many_rows_only_the_front_and_the_usual_have_their_label(spec, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, lambda entry: loss_of(entry) + 0.1 * (entry.row == "plain_racs"))
    for few, labels in ((3, {"Adam", "RACS", "plain racs"}), (2, {"Adam", "RACS"})):
        monkeypatch.setattr(frontier, "FEW", few)
        axes = frontier_figure(spec, ledger, [CELL]).axes[0]
        assert {text.get_text() for text in axes.texts if text.get_text()} == labels


def test_a_label_says_that_seeds_are_not_made_yet(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    made(spec, ledger, loss_of)
    spec.rows["racs"].seeds += 1
    (label,) = [
        text.get_text() for text in frontier_figure(spec, ledger, [CELL]).axes[0].texts if "RACS" in text.get_text()
    ]
    assert label == f"RACS ({spec.rows['racs'].seeds - 1} of {spec.rows['racs'].seeds})"


def test_the_front_are_the_rows_that_no_other_beats_in_both():
    assert front({"a": (1, 9.0), "b": (2, 8.0), "c": (2, 8.5), "d": (3, 8.2), "e": (4, 7.0)}) == ["a", "b", "e"]
