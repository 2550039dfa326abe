"""curve.png: the same for the same rows, and readable whatever the run was like."""

import json
import logging
import math
import struct
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.training.run.rows import files_of_at_most
from training.run import curve
from training.run.folder import RunFolder
from training.run_errors import SaveError


def train(step: int, loss: float | None) -> dict:
    return {"kind": "train", "step": step, "loss": loss, "train_seconds": step * 0.3}


def evaluation(step: int, loss: float | None) -> dict:
    return {"kind": "eval", "step": step, "loss": loss, "train_seconds": step * 0.3}


def drawn(path: Path, rows: list[dict], name: str = "llama_nano_alice_s0") -> bytes:
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    folder.write_config({"run": {"name": name}})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve.draw(folder)
    return folder.curve.read_bytes()


RUN = [train(step, 9.0 / step**0.2) for step in range(1, 61)] + [evaluation(step, 9.1 / step**0.2) for step in (30, 60)]


def test_equal_rows_give_equal_bytes_whatever_the_users_style(tmp_path):
    import matplotlib

    first = drawn(tmp_path / "a", RUN)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert drawn(tmp_path / "b", RUN) == first
    assert drawn(tmp_path / "c", RUN[:-1]) != first
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", first[16:24]) == (1500, 630)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [evaluation(5, 3.0)],
        [train(1, 3.0)],
        [train(1, None), train(2, 800.0), evaluation(2, None)],
        [train(step, 2.0) for step in range(1, 4)],
        [train(1, 10.0), evaluation(0, 10.0), evaluation(1, 1e-3)],
        [train(1, 10.0), train(2, 3000.0), evaluation(2, 690.0)],
    ],
    ids=["nothing", "one evaluation", "one step", "not finite", "constant", "wide", "lost"],
)
def test_odd_runs_are_drawn_without_a_complaint(tmp_path, rows, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        assert len(drawn(tmp_path, rows)) > 5000
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["lr_$1_$2", r"$\frac{$", "$"])
def test_a_name_is_no_formula(tmp_path, name):
    assert len(drawn(tmp_path, RUN, name)) > 5000


def test_a_curve_that_cannot_be_written_is_a_sentence(tmp_path):
    with files_of_at_most(5000), pytest.raises(SaveError, match=rf"^cannot write {tmp_path}/curve\.png: File too"):
        drawn(tmp_path, RUN[:10])


@pytest.mark.parametrize("low", [1.01, 15.3, 164.0, 999.0])
@pytest.mark.parametrize("ratio", [1.02, 1.3, 2.0, 30.0, 1e3, 1e9])
def test_perplexities_are_labelled_by_a_few_round_numbers(low, ratio):
    figure = Figure(figsize=(5, 4.2))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_yscale("log")
    curve._label_perplexities(axes, [low, low * ratio])
    canvas.draw()
    bottom, top = axes.get_ylim()
    assert bottom < low < low * ratio < top
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert 3 <= len(labels) <= 9
    assert len({label.get_text() for label in labels}) == len(labels)
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))
    for label in labels:
        value = float(label.get_text().replace(",", ""))
        assert bottom <= value * 1.0001
        assert value <= top * 1.0001


def test_smoothing_is_a_centred_mean():
    assert curve._smoothed([]) == []
    assert curve._smoothed([1.0, 2.0]) == [1.5, 1.5]
    line = [float(n) for n in range(1000)]
    smooth = curve._smoothed(line)
    assert all(math.isclose(a, b) for a, b in zip(smooth[10:-10], line[10:-10], strict=True))
