"""Which parameter goes where, and optimizers.build."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import optimizers
from optimizers import partition, registry


def llama(**changes) -> LlamaForCausalLM:
    config = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**config, "pad_token_id": None, **changes}))


def destinations(optimizer) -> dict[str, str]:
    return {name: group["label"] for group in optimizer.param_groups for name in group["param_names"]}


@pytest.mark.parametrize("last_layer", ["method", "adam"])
def test_matrices_to_the_method_and_the_rest_to_adam(last_layer):
    model = llama()
    optimizer = optimizers.build(model, "alice", lr=0.02, adam_lr=0.003, last_layer=last_layer, rank=4, leading=2)
    where = destinations(optimizer)
    assert where.keys() == dict(model.named_parameters()).keys()
    expected = {name for name in where if "proj" in name} | ({"lm_head.weight"} if last_layer == "method" else set())
    assert {name for name, label in where.items() if label == "method"} == expected
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.003]
    assert "lm_head.weight" in partition.describe(optimizer)


@pytest.mark.parametrize("name", registry.names())
def test_default_last_layer_follows_the_paper(name):
    by_method = {"alice", "alice_0", "galore", "fira", "natural_galore"}
    optimizer = optimizers.build(llama(), name, lr=0.01)
    assert destinations(optimizer)["lm_head.weight"] == ("method" if name in by_method else "adam")


def test_an_uncovered_parameter_is_named():
    model = llama()
    model.surprise = torch.nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"surprise of shape \(3, 3\)"):
        optimizers.build(model, "racs", lr=0.01)


def test_frozen_parameters_are_left_out():
    model = llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    assert "model.embed_tokens.weight" not in destinations(optimizers.build(model, "racs", lr=0.01))


def test_a_tied_last_layer_cannot_be_the_methods():
    model = llama(tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"last_layer=method"):
        optimizers.build(model, "alice", lr=0.01)
    optimizers.build(model, "alice", lr=0.01, last_layer="adam")


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'alice'"):
        optimizers.build(llama(), "alise", lr=0.01)
    with pytest.raises(ValueError, match=r"^rnk is not an option of alice; did you mean 'rank'"):
        optimizers.build(llama(), "alice", lr=0.01, rnk=4)
    with pytest.raises(ValueError, match=r"^last_layer must be method or adam"):
        optimizers.build(llama(), "alice", lr=0.01, last_layer="both")


def test_8bit_adam_keeps_no_wider_moments_for_any_parameter():
    optimizer = optimizers.build(llama(), "adam_8bit", lr=0.01, adam_lr=0.002)
    assert [group["algorithm"] for group in optimizer.param_groups] == ["method", "method"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.002]
