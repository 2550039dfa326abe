"""Figures and report show what the records say, and equal records make equal bytes."""

import csv
import json
import math
import re
import statistics

import numpy as np
import pytest

from scripts import comparison, curves, plot_results, records, report
from scripts.tables import Table
from tests.made_records import NANO, STEPS, kept, nano_study

PACE = {"adam": 0.4, "racs": 0.5, "alice": 0.6}  # seconds of a step


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The records of a nano study, its figures as files, and as matplotlib has them."""
    folder = tmp_path_factory.mktemp("study")
    nano_study(folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        figures = drawn(patch, keep=True)
        plot_results.nano_size(folder / "runs", PACE, folder / "figures")
    return folder, figures


def drawn(patch, keep=False):
    """The figures that plot_results draws from now on, by name; written as well if `keep`."""
    figures, write = {}, plot_results._write

    def note(figure, path):
        figures[path.stem] = figure
        if keep:
            write(figure, path)

    patch.setattr(plot_results, "_write", note)
    return figures


def has_line(axes, points):
    """Whether a panel has a line through these points."""
    arrays = [line.get_xydata() for line in axes.get_lines()]
    return any(array.shape == np.shape(points) and np.allclose(array, points) for array in arrays)


def means(runs):
    """Step and mean perplexity of each evaluation."""
    return [
        (rows[0]["step"], statistics.fmean(row["perplexity"] for row in rows))
        for rows in zip(*(run["evaluations"] for run in runs), strict=True)
    ]


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_equal_records_make_equal_figures(study, tmp_path):
    folder, _ = study
    plot_results.nano_size(folder / "runs", PACE, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["figure2.svg", "figure3.svg", "figure5.svg", "figure6.svg"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / "figures" / name).read_bytes()


def test_lines_are_the_means_of_the_records(study):
    folder, figures = study
    runs = records.read(folder / "runs")
    panels = figures["figure2"].axes
    assert len(panels[0].get_lines()) == len(list((NANO / "study").glob("*.yaml")))
    for name in ("alice", "alice_last_layer_adam", "muon"):
        assert has_line(panels[0], means([runs[f"{name}_s{seed}"] for seed in (0, 1, 2)]))
    assert has_line(figures["figure5"].axes[2], means([runs[f"ablation_gaussian_s{seed}"] for seed in (0, 1, 2)]))
    assert len(panels[1].get_lines()) == len(curves.TABLE_2)
    assert has_line(panels[1], paper_points("fig2a_60M", "AdamW"))


def paper_points(file, method):
    rows = csv.DictReader((curves.PAPER / "curves" / f"{file}.csv").read_text().splitlines())
    return [(float(row["step"]), float(row["eval_ppl"])) for row in rows if row["method"] == method]


def test_cosines_are_those_of_the_records(study):
    folder, figures = study
    run = records.read(folder / "runs")["ablation_none_s0"]  # all seeds have the same
    for axes, number in zip(figures["figure6"].axes, records.EIGENVECTORS, strict=True):
        assert len(axes.get_lines()) == 2
        assert has_line(axes, [(refresh["step"], refresh[str(number)]) for refresh in run["basis_cosines"]])


def test_throughput_is_that_of_the_pace(study):
    folder, figures = study
    runs = records.read(folder / "runs")
    lengths = [bar.get_width() for bar in figures["figure3"].axes[0].patches]
    rate, ups = 8 * 256 / PACE["alice"], []
    for seed in (0, 1, 2):
        adam, alice = runs[f"adam_s{seed}"], runs[f"alice_s{seed}"]
        at = comparison.crossed(alice, adam["summary"]["final_loss"])
        ups.append(adam["summary"]["steps"] / at)
    for length in (8 * 256 / PACE["adam"], rate, rate * statistics.fmean(ups)):
        assert any(math.isclose(length, found) for found in lengths)


def test_without_records_the_papers_curves_are_drawn(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    plot_results.full_size(tmp_path / "missing", tmp_path)
    assert sorted(figures) == [f"figure{i}" for i in range(1, 6)]
    assert has_line(figures["figure1"].axes[0], paper_points("fig1_1.3B", "RACS"))
    assert {3.7, 2.7} <= {round(bar.get_width(), 9) for bar in figures["figure4"].axes[0].patches}
    figures.clear()
    plot_results.nano_size(tmp_path / "missing", {}, tmp_path)
    assert not figures
    sets = data_of(report.page([], [], []))
    assert {found["group"] for found in sets} == {"The paper"} and len(sets) == 9


def test_our_runs_lie_over_the_papers(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    monkeypatch.setattr(plot_results, "_memory", lambda: None)  # which is slow, and not of the runs
    steps = range(500, 10001, 500)
    runs = [kept(f"configs/experiment/table2/60m/{name}.yaml", 0, 30, steps) for name in ("racs", "muon")]
    for run in runs:
        records.write(run, tmp_path / f"{run['summary']['optimizer']}.json")
    shorter = kept("configs/experiment/table2/60m/racs.yaml", 1, 40, range(50, 501, 50))  # a trial, not the paper's run
    records.write(shorter, tmp_path / "trial.json")
    plot_results.full_size(tmp_path, tmp_path)
    panel = figures["figure2"].axes[0]
    assert len(panel.get_lines()) == len(curves.TABLE_2) + 2
    assert has_line(panel, means(runs[:1])) and has_line(panel, paper_points("fig2a_60M", "RACS"))
    mixed = next(found for found in data_of(report.page(runs, [], [])) if found["group"].startswith("Ours"))
    assert {(curve["row"], curve["ours"]) for curve in mixed["curves"]} >= {("racs", True), ("racs", False)}


def test_a_study_that_has_begun_is_drawn(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    records.write(kept(NANO / "study" / "muon.yaml", 0, 200), tmp_path / "muon_s0.json")
    plot_results.nano_size(tmp_path, {"muon": 0.4}, tmp_path)
    assert sorted(figures) == ["figure2", "figure3", "figure5"]


def test_the_report_holds_the_numbers_of_the_records(study):
    folder, _ = study
    runs = records.read(folder / "runs")
    table = Table("t", "A <title>", "see `--plan`", ["method", "ppl", "none"], [["Alice", "28.7", ""]], "nano")
    page = report.page([], list(runs.values()), [table])
    assert page == report.page([], list(runs.values()), [table])
    assert len(page.encode()) < 700_000
    methods = data_of(page)[0]
    assert (methods["group"], methods["title"]) == ("Ours, nano", "every method")
    (curve,) = (found for found in methods["curves"] if found["row"] == "soap")
    seeds = [runs[f"soap_s{seed}"]["evaluations"] for seed in (0, 1, 2)]
    assert curve["step"] == list(STEPS) and curve["seeds"] == 3
    for k, rows in enumerate(zip(*seeds, strict=True)):
        values = [row["perplexity"] for row in rows]
        expected = (statistics.fmean(values), min(values), max(values))
        assert [curve[key][k] for key in ("perplexity", "low", "high")] == pytest.approx(expected, rel=1e-4)
        assert curve["seconds"][k] == pytest.approx(statistics.fmean(row["train_seconds"] for row in rows), rel=1e-4)
    assert "A &lt;title&gt;" in page and "<code>--plan</code>" in page
    assert re.search(r'<th scope="row"><i [^>]*></i>Alice</th><td class="number">28.7</td></tr>', page)


def test_the_report_refers_to_nothing_outside():
    page = report.page([], [], [])
    targets = re.findall(r"""\b(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]+)""", page)
    assert targets and all(t.startswith(("#", "https://arxiv.org/")) for t in targets)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", page)
