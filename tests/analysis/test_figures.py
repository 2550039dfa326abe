"""Figures and report show the numbers of the records, and equal records make equal bytes."""

import base64
import csv
import json
import math
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest

from analysis import comparison, records
from analysis.curves import of_seeds
from analysis.figures import all_figures
from analysis.figures.all_figures import full_size_figures, nano_figures
from analysis.figures.canvas import write_svgs
from analysis.panels import TABLE_2
from analysis.paths import PAPER, ROOT
from analysis.records import EIGENVECTORS
from analysis.report.page import page
from analysis.rows import ABLATIONS, EIGHT_BITS, METHODS, style
from analysis.tables.table import Table
from experiments.nano_files import STUDY, file_of
from tests.made_records import NANO, STEPS, kept, nano_study

pytestmark = pytest.mark.slow

PACE = {"adam": 0.4, "racs": 0.5, "alice": 0.6}  # seconds of a step


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a nano study's records, and its figures."""
    folder = tmp_path_factory.mktemp("study")
    nano_study(folder)
    return folder, nano_figures(records.read(folder).values(), PACE)


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
    folder, figures = study
    write_svgs(figures, tmp_path / "one")
    write_svgs(nano_figures(records.read(folder).values(), PACE), tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["figure2.svg", "figure3.svg", "figure5.svg", "figure6.svg"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_lines_are_the_means_of_the_records(study):
    folder, figures = study
    runs = records.read(folder)
    panels = figures["figure2"].axes
    assert len(panels[0].get_lines()) == len(STUDY)
    for name in ("alice", "alice_last_layer_adam", "muon"):
        assert has_line(panels[0], means([runs[f"{name}_s{seed}"] for seed in (0, 1, 2)]))
    assert has_line(figures["figure5"].axes[2], means([runs[f"ablation_gaussian_s{seed}"] for seed in (0, 1, 2)]))
    assert len(panels[1].get_lines()) == len(TABLE_2)
    assert has_line(panels[1], paper_points("fig2a_60M", "AdamW"))


def paper_points(file, method):
    rows = csv.DictReader((PAPER / "curves" / f"{file}.csv").read_text().splitlines())
    return [(float(row["step"]), float(row["eval_ppl"])) for row in rows if row["method"] == method]


def test_cosines_are_those_of_the_records(study):
    folder, figures = study
    runs = records.read(folder)
    seeds = [runs[f"ablation_none_s{seed}"]["basis_cosines"] for seed in (0, 1, 2)]
    for axes, number in zip(figures["figure6"].axes, EIGENVECTORS, strict=True):
        assert len(axes.get_lines()) == 2
        found = [(at[0]["step"], [refresh[str(number)] for refresh in at]) for at in zip(*seeds, strict=True)]
        assert has_line(axes, [(step, statistics.fmean(cosines)) for step, cosines in found])
        bands = [path.vertices[:, 1] for band in axes.collections for path in band.get_paths()]
        assert {min(found[3][1]), max(found[3][1])} <= {float(y) for band in bands for y in band}


def test_throughput_is_that_of_the_pace(study):
    folder, figures = study
    runs = records.read(folder)
    lengths = [bar.get_width() for bar in figures["figure3"].axes[0].patches]
    rate, ups = 8 * 256 / PACE["alice"], []
    for seed in (0, 1, 2):
        adam, alice = runs[f"adam_s{seed}"], runs[f"alice_s{seed}"]
        at = comparison.crossed(alice, adam["summary"]["final_loss"])
        ups.append(adam["summary"]["steps"] / at)
    for length in (8 * 256 / PACE["adam"], rate, rate * statistics.fmean(ups)):
        assert any(math.isclose(length, found) for found in lengths)


def test_bars_and_cosines_are_of_the_best_settings_as_the_tables_are(study):
    """Runs at other settings, with fewer refreshes, change neither Fig. 3 nor Fig. 6."""
    folder, figures = study
    others = [kept(NANO / file, 0, 900, range(50, 501, 50)) for file in ("alice.yaml", "ablations/tracking.yaml")]
    for other in others:
        other["summary"]["config_hash"] = "other"
    with_others = nano_figures([*records.read(folder).values(), *others], PACE)
    bars, found = ([bar.get_width() for bar in each["figure3"].axes[0].patches] for each in (figures, with_others))
    assert found == bars
    for axes, axes_found in zip(figures["figure6"].axes, with_others["figure6"].axes, strict=True):
        for line in axes.get_lines():
            assert has_line(axes_found, line.get_xydata())


def luminance(colour):
    """Of sRGB, as in WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("row", [*METHODS, *ABLATIONS, *EIGHT_BITS])
def test_a_rows_colour_shows_on_the_light_and_on_the_dark_page(row):
    template = (ROOT / "analysis" / "report" / "template.html").read_text()
    papers = re.findall(r"--paper: (#[0-9a-f]{6})", template)
    assert len(papers) == 2
    for paper in papers:
        low, high = sorted((luminance(paper), luminance(style(row).colour)))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG's bound for graphics


def test_without_records_the_papers_curves_are_drawn():
    figures = full_size_figures([])
    assert sorted(figures) == [f"figure{i}" for i in range(1, 6)]
    assert has_line(figures["figure1"].axes[0], paper_points("fig1_1.3B", "RACS"))
    assert {3.7, 2.7} <= {round(bar.get_width(), 9) for bar in figures["figure4"].axes[0].patches}
    assert nano_figures([], {}) == {}
    sets = data_of(page([], [], []))
    assert {found["group"] for found in sets} == {"The paper"} and len(sets) == 9


def test_our_runs_are_drawn_over_the_papers(monkeypatch):
    monkeypatch.setattr(all_figures, "memory_figure", lambda: None)  # slow, and without runs
    steps = range(500, 10001, 500)
    runs = [kept(f"configs/experiment/table2/60m/{name}.yaml", 0, 30, steps) for name in ("racs", "muon")]
    shorter = kept("configs/experiment/table2/60m/racs.yaml", 1, 40, range(50, 501, 50))  # a trial, not the paper's run
    figures = full_size_figures([*runs, shorter])
    panel = figures["figure2"].axes[0]
    assert len(panel.get_lines()) == len(TABLE_2) + 2
    assert has_line(panel, means(runs[:1])) and has_line(panel, paper_points("fig2a_60M", "RACS"))
    mixed = next(found for found in data_of(page(runs, [], [])) if found["group"].startswith("Ours"))
    assert {(curve["row"], curve["ours"]) for curve in mixed["curves"]} >= {("racs", True), ("racs", False)}


def test_a_study_that_has_begun_is_drawn():
    figures = nano_figures([kept(file_of("muon"), 0, 200)], {"muon": 0.4})
    assert sorted(figures) == ["figure2", "figure3", "figure5"]


def test_the_report_holds_the_numbers_of_the_records(study):
    folder, _ = study
    runs = records.read(folder)
    cells = ["Alice", "28.7", "", "**<1e-15**"]
    table = Table("t", "A <title>", "see `--plan`", ["method", "ppl", "none", "p"], [cells], "nano")
    text = page([], list(runs.values()), [table])
    assert text == page([], list(runs.values()), [table])
    assert len(text.encode()) < 700_000
    methods = data_of(text)[0]
    assert (methods["group"], methods["title"]) == ("Ours, nano study", "every method")
    (curve,) = (found for found in methods["curves"] if found["row"] == "soap")
    seeds = [runs[f"soap_s{seed}"]["evaluations"] for seed in (0, 1, 2)]
    assert curve["step"] == list(STEPS) and curve["seeds"] == 3
    for k, rows in enumerate(zip(*seeds, strict=True)):
        values = [row["perplexity"] for row in rows]
        expected = (statistics.fmean(values), min(values), max(values))
        assert [curve[key][k] for key in ("perplexity", "low", "high")] == pytest.approx(expected, rel=1e-4)
        assert curve["seconds"][k] == pytest.approx(statistics.fmean(row["train_seconds"] for row in rows), rel=1e-4)
    assert "A &lt;title&gt;" in text and "<code>--plan</code>" in text
    assert re.search(r'<th scope="row"><i [^>]*></i>Alice</th><td class="number">28.7</td>', text)
    assert '<td class="number"><strong>&lt;1e-15</strong></td></tr>' in text


def test_the_report_shows_the_curves_and_the_picture_of_an_arena(study):
    folder, _ = study
    runs = [records.read(folder)[f"muon_s{seed}"] for seed in (0, 1)]
    tables = [Table(name, name, "", ["method"], [["Muon"]], "arena", picture="front") for name in ("one", "two")]
    text = page([], [], tables, {"small": [of_seeds("muon", "Muon", runs)]}, {"front": "<svg/>"})
    shown = data_of(text)[0]
    assert (shown["group"], shown["title"], shown["curves"][0]["seeds"]) == ("The arena", "small", 2)
    assert "2 compared runs in the arena" in text and '<a href="#arena">' in text
    picture = base64.b64encode(b"<svg/>").decode()
    assert text.count(picture) == 1 and text.index(picture) < text.index('id="arena-one"')
    of_no_table = page([], [], [replace(table, picture="") for table in tables], {}, {"front": "<svg/>"})
    assert of_no_table.index(picture) > of_no_table.index('id="arena-two"')


def test_findings_lead_to_the_tables_of_the_page():
    findings = """# What runs say

[ours](arena/one.md), [another](beyond/README.md), **a < b**, <b>no HTML</b>

| method | ppl |
|---|---|
| Muon | 117.5 |
"""
    text = page([], [], [Table("one", "t", "", ["method"], [["Muon"]], "arena")], findings=findings)
    assert '<a href="#findings">' in text and 'id="arena-one"' in text
    assert '<h2 id="findings-heading">What runs say</h2>' in text
    assert '<a href="#arena-one">ours</a>' in text and '<a href="beyond/README.md">another</a>' in text
    assert "<strong>a &lt; b</strong>" in text and "<b>" not in text
    assert re.search(r'<div class="wide"[^>]*><table>\s*<thead>\s*<tr>\s*<th>method</th>', text)
    assert '"#findings"' not in page([], [], []) and 'id="findings"' not in page([], [], [])


def test_the_report_refers_to_nothing_outside():
    text = page([], [], [])
    targets = re.findall(r"""\b(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]+)""", text)
    assert targets and all(t.startswith(("#", "data:", "https://arxiv.org/")) for t in targets)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)
