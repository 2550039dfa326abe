"""Effective throughput against a reference run."""

import pytest

from tests.training.run.rows import eval_row
from training.run.folder import RunFolder
from training.run.reference import Reference, effective_tokens_per_second


def test_effective_throughput():
    reference = Reference(name="adam", final_loss=3.0, tokens=6000)
    rows = [eval_row(0, 2.0), eval_row(4, None), eval_row(8, 3.5), eval_row(12, 3.0), eval_row(16, 2.5)]
    assert effective_tokens_per_second(reference, rows[:3]) == 0.0
    assert rows[3]["tokens"] != reference.tokens
    assert effective_tokens_per_second(reference, rows) == 6000 / 3.0


def test_a_reference_is_a_run_folder_or_its_summary(tmp_path):
    RunFolder(tmp_path).write_summary({"name": "adam", "final_loss": 3.25, "tokens": 1000})
    assert Reference.read(tmp_path) == Reference.read(tmp_path / "summary.json") == Reference("adam", 3.25, 1000)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"name": "a", "tokens": 3}', '{"name":"a","final_loss":null,"tokens":3}']
)
def test_a_folder_that_is_no_reference_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"^run\.reference: [^\n]*summary"):
        Reference.read(tmp_path)
