"""SCALE: its equations for each role, and what build makes of a model."""

import pytest
import torch

import optimizers
from optimizers import SCALE

from .harness import gradient, largest_difference, parameters, reference_step, train
from .test_partition import llama

STEPS = range(1, 7)
ROLES = ["matrix", "embedding", "last_layer"]


def of_role(role, weights, **options):
    return SCALE([{"params": weights, "role": role}], **options)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_equals_its_plain_form_in_every_role(role, weight_decay):
    weights, options = parameters(), {"momentum": 0.8, "weight_decay": weight_decay}
    expected, states = [weight.detach() for weight in weights], [{} for _ in weights]
    for step in STEPS:
        for i, state in enumerate(states):
            g = gradient(tuple(expected[i].shape), step, i)
            more = {"t": step, "index": i, "lr": 0.02, "role": role, **options}
            expected[i] = reference_step(SCALE, expected[i], g, state, **more)
    assert largest_difference(train(of_role(role, weights, lr=0.02, **options), STEPS), expected) < 1e-12


def test_rows_of_a_matrix_and_columns_of_an_embedding_have_rms_1():
    for role, dim in (("matrix", 1), ("embedding", 0), ("last_layer", 1)):
        weight = torch.nn.Parameter(torch.zeros(24, 16, dtype=torch.float64))
        weight.grad = gradient((24, 16), 1, 0)
        of_role(role, [weight], lr=1.0).step()
        assert torch.allclose(weight.square().mean(dim).sqrt(), torch.ones(1, dtype=torch.float64))
        assert (weight.square().mean(1 - dim).sqrt() - 1).abs().max() > 0.1


def test_only_the_last_layer_has_momentum_and_state():
    for role in ROLES:
        weight = parameters([(8, 16)])[0]
        optimizer = of_role(role, [weight])
        train(optimizer, range(1, 3))
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        assert torch.equal(weight, before) == (role != "last_layer")
        assert list(optimizer.state[weight]) == (["exp_avg"] if role == "last_layer" else [])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_does_not_depend_on_the_gradients_scale(role, scale):
    plain = train(of_role(role, parameters(dtype=torch.float32), lr=0.01), STEPS)
    scaled = train(of_role(role, parameters(dtype=torch.float32), lr=0.01), STEPS, scale=scale)
    assert largest_difference(plain, scaled) < 1e-5


def test_a_token_that_is_absent_does_not_move():
    model = llama()
    weight = model.model.embed_tokens.weight
    before = weight.detach().clone()
    optimizer = optimizers.build(model, "scale", lr=0.01)
    ids = torch.arange(20)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    assert torch.equal(weight[20:], before[20:])
    assert (weight[:19] != before[:19]).any(1).all()  # the last one has no target


def test_build_tells_the_roles_apart():
    groups = optimizers.build(llama(), "scale", lr=0.01, adam_lr=0.002).param_groups
    roles = {name: group.get("role", group["algorithm"]) for group in groups for name in group["param_names"]}
    assert roles["model.embed_tokens.weight"] == "embedding"
    assert roles["lm_head.weight"] == "last_layer"
    assert roles["model.norm.weight"] == "adam"
    assert roles["model.layers.1.mlp.up_proj.weight"] == "method"
    assert {group["lr"] for group in groups} == {0.01, 0.002}


def test_roles_survive_a_checkpoint():
    model, again = llama(), llama()
    again.load_state_dict(model.state_dict())
    first, second = (optimizers.build(m, "scale", lr=0.01) for m in (model, again))
    ids = torch.arange(20)[None]
    for m, optimizer in ((model, first), (again, second)):
        m(ids, labels=ids).loss.backward()
        if m is model:
            optimizer.step()
    second.load_state_dict(first.state_dict())
    again.load_state_dict(model.state_dict())
    first.step(), second.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
