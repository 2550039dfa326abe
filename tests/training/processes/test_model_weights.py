"""Weights that do not belong to the model are refused by name; two processes are in tests/distributed."""

from dataclasses import replace

import pytest
import torch

from benchmarks.parallel import MODEL
from models.llama import build_model
from training.processes.model_weights import check_weights

TIED = replace(MODEL, tie_word_embeddings=True)


def on_meta(section):
    return build_model(section, dtype=torch.float32, seed=0, device="meta")


@pytest.mark.parametrize(
    ("saved", "model", "sentence"),
    [
        (MODEL, replace(MODEL, num_hidden_layers=1), r"^the saved model has model\.layers\.1\.\S+, this model has not"),
        (replace(MODEL, num_hidden_layers=1), MODEL, r"^this model has model\.layers\.1\.\S+, the saved model has not"),
        (TIED, MODEL, r"^this model has lm_head\.weight, the saved model has not"),
        (MODEL, replace(MODEL, vocab_size=102), r"has the shape \(101, 36\), this model needs \(102, 36\)"),
    ],
)
def test_weights_of_another_model_are_refused(saved, model, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_weights(on_meta(model), on_meta(saved).state_dict() if saved is not TIED else once(on_meta(saved)))


def once(model):
    return {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}


def test_a_tied_weight_is_saved_once():
    saved = once(on_meta(TIED))
    check_weights(on_meta(TIED), saved)
    with pytest.raises(ValueError, match=r"^the saved model has lm_head\.weight, this model has not"):
        check_weights(on_meta(TIED), {**saved, "lm_head.weight": saved["model.embed_tokens.weight"]})
