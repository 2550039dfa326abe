"""Fig. 4: its measurements, and the parts that a plan counts."""

import pytest

from analysis.paper_memory import figure_4, settings
from analysis.plans import plan


def test_planned_parts_are_a_little_less_than_measured_memory():
    found = figure_4(plan(*settings("llama_7b", "racs")))
    for mode, gibibytes in (("plain", 29.2), ("layerwise", 16.8)):
        assert found[mode].measured == round(gibibytes * 2**30)
        # The parts leave out CUDA, buffers and the paper's own loss: small, and not negative.
        assert 0.9 * found[mode].measured < found[mode].planned < found[mode].measured


def test_runs_that_figure_4_does_not_have_are_empty():
    assert figure_4(plan("model=llama_7b", "optimizer=racs")) == {}, "float32"
    assert figure_4(plan("optimizer=racs", "train.dtype=bfloat16")) == {}, "another model"


def test_a_plan_of_other_batches_is_refused():
    with pytest.raises(ValueError, match=r"Fig\. 4 has 256 positions a batch, this plan 2048"):
        figure_4(plan("model=llama_7b", "optimizer=racs", "train.dtype=bfloat16"))
