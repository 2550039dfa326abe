"""Which parameter goes where, and optimizers.build."""

import pytest
import torch
from torch import nn
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


def of(kind: str, **layers: nn.Module) -> nn.Module:
    """A module of a class of this name, which holds `layers`."""
    module = type(kind, (nn.Module,), {})()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return module


@pytest.mark.parametrize(
    ("model", "by_adam"),
    [
        (of("TopKSAE", encoder=nn.Linear(8, 24), decoder=nn.Linear(24, 8)), set()),
        (of("SpatialGatingUnit", proj=nn.Linear(8, 8)), set()),
        (of("GatingMLP", fc1=nn.Linear(8, 24), fc2=nn.Linear(12, 8)), set()),
        (
            of("Block", qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), router=nn.Linear(8, 4), experts=nn.ModuleList()),
            {"router.weight"},
        ),
        (of("Moe", gate=nn.Linear(8, 4), latent_proj=nn.Linear(8, 4), experts=nn.ModuleList()), {"gate.weight"}),
        (of("TopKGating", layer=nn.Linear(8, 4), up=nn.Linear(8, 4)), {"layer.weight", "up.weight"}),
        (of("SwitchTop1Router", classifier=nn.Linear(8, 4)), {"classifier.weight"}),
    ],
)
def test_only_what_chooses_among_experts_is_a_router(model, by_adam):
    where = destinations(optimizers.build(nn.Sequential(model, nn.Linear(8, 8)), "muon", lr=0.01))
    assert {name for name, label in where.items() if label == "adam" and "bias" not in name} == {
        f"0.{name}" for name in by_adam
    }


def test_any_optimizer_is_described():
    model = nn.Linear(8, 4)
    assert partition.describe(torch.optim.AdamW(model.parameters())).split()[:2] == ["AdamW", "unnamed"]
    assert partition.describe(optimizers.Muon([model.weight])).split()[:2] == ["method", "unnamed"]


@pytest.mark.parametrize("name", registry.names())
def test_default_last_layer_follows_the_paper(name):
    everything = {"lion", "adafactor"}
    norms, embeddings = everything | {"adam_mini"}, everything | {"adam_mini", "scale"}
    by_method = {
        "alice",
        "alice_0",
        "alice_soap",
        "galore",
        "fira",
        "natural_galore",
        "octave",
        "flip_flop",
        "racs_muon",
    } | embeddings
    where = destinations(optimizers.build(llama(), name, lr=0.01))
    assert where["lm_head.weight"] == ("method" if name in by_method else "adam")
    assert where["model.embed_tokens.weight"] == ("method" if name in embeddings else "adam")
    assert where["model.norm.weight"] == ("method" if name in norms else "adam")


def test_embeddings_go_where_they_are_told():
    for name, embeddings in (("racs", "method"), ("lion", "adam")):
        optimizer = optimizers.build(llama(), name, lr=0.01, embeddings=embeddings)
        assert destinations(optimizer)["model.embed_tokens.weight"] == embeddings
    with pytest.raises(ValueError, match=r"^embeddings must be method or adam, got 'both'"):
        optimizers.build(llama(), "racs", lr=0.01, embeddings="both")
    with pytest.raises(ValueError, match=r"^embeddings=method is refused for shampoo: .*vocabulary"):
        optimizers.build(llama(), "shampoo", lr=0.01, embeddings="method")


def test_vectors_of_a_method_that_steps_everything_do_not_decay():
    optimizer = optimizers.build(llama(attention_bias=True), "lion", lr=0.01, weight_decay=0.3)
    assert {group["algorithm"] for group in optimizer.param_groups} == {"method"}
    for group in optimizer.param_groups:
        assert group["lr"] == 0.01
        assert all(group["weight_decay"] == (0.3 if p.ndim == 2 else 0.0) for p in group["params"])


def test_a_last_layer_tied_to_embeddings_of_the_methods_is_the_methods():
    optimizer = optimizers.build(llama(tie_word_embeddings=True), "lion", lr=0.01)
    assert destinations(optimizer)["model.embed_tokens.weight"] == "method"


def test_a_role_the_method_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"^role must be one of matrix, got 'key'"):
        optimizers.RACS([{"params": [torch.nn.Parameter(torch.ones(4, 4))], "role": "key"}])


def test_an_uncovered_parameter_is_named():
    model = llama()
    model.surprise = torch.nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"surprise of shape \(3, 3\)"):
        optimizers.build(model, "racs", lr=0.01)


def test_a_layers_flat_weight_is_named_and_is_no_vector():
    """As FSDP1 and ZeRO-3 leave it. Adam would step it under the method's name."""
    model = llama()
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().flatten())
    with pytest.raises(ValueError, match=r"q_proj\.weight of shape \(\d+,\)"):
        optimizers.build(model, "racs", lr=0.01)


def test_frozen_parameters_are_left_out():
    model = llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    assert "model.embed_tokens.weight" not in destinations(optimizers.build(model, "racs", lr=0.01))


@pytest.mark.parametrize("name", ["adam", "racs"])
def test_a_model_that_gives_the_method_nothing_is_said(name):
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match=f"^lr and the options of {name} reach no parameter of this model: .* adam_lr"):
        optimizers.build(convolution, name, lr=0.01)


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
    with pytest.raises(ValueError, match=r"^name must be the name of an optimizer, as 'alice', got <class"):
        optimizers.build(llama(), optimizers.RACS, lr=0.01)
    with pytest.raises(ValueError, match=r"^model must be an nn.Module, got list; a class as Alice takes parameters"):
        optimizers.build(list(llama().parameters()), "racs", lr=0.01)


def test_8bit_adam_keeps_no_wider_moments_for_any_parameter():
    optimizer = optimizers.build(llama(), "adam_8bit", lr=0.01, adam_lr=0.002)
    assert [group["algorithm"] for group in optimizer.param_groups] == ["method", "method"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.002]
