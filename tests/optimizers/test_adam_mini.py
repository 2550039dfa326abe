"""Adam-mini, against the authors' package on a LLaMA with fewer key heads than query heads."""

import adam_mini
import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import optimizers
from optimizers import Adam, AdamMini

from .harness import gradient, largest_difference, parameters, reference_step, train
from .test_partition import llama

STEPS = range(1, 9)
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}


def models(count=2, **changes):
    made = [llama(**{**GROUPED, **changes}).double() for _ in range(count)]
    for model in made[1:]:
        model.load_state_dict(made[0].state_dict())
    return made


def run(model, optimizer, steps=6):
    """Losses of a few steps on one batch a step."""
    losses = []
    for step in range(steps):
        ids = (torch.arange(48).view(3, 16) * (step + 3)) % 64
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_follows_the_authors_package_on_a_whole_model(weight_decay, bias):
    ours, theirs = models(attention_bias=bias)
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": weight_decay}
    package = adam_mini.Adam_mini(theirs.named_parameters(), dim=16, n_heads=4, n_kv_heads=2, verbose=False, **options)
    run(theirs, package)
    optimizer = optimizers.build(ours, "adam_mini", adam_lr=0.01, **options)
    for group in optimizer.param_groups:
        if group["algorithm"] == "adam":
            group.update(betas=(0.8, 0.9), eps=1e-6)
    run(ours, optimizer)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12), name


def test_build_counts_key_heads_by_themselves():
    optimizer = optimizers.build(models(1)[0], "adam_mini", lr=0.01)
    optimizer.allocate_state()
    blocks = {
        name: optimizer.state[p]["exp_avg_sq"].numel()
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }
    layer = {name.split(".")[-2]: count for name, count in blocks.items() if ".layers.0." in name}
    assert layer == {
        "q_proj": 4, "k_proj": 2, "v_proj": 8, "o_proj": 16, "gate_proj": 24, "up_proj": 24, "down_proj": 16,
        "input_layernorm": 1, "post_attention_layernorm": 1,
    }  # fmt: skip
    assert blocks["lm_head.weight"] == blocks["model.embed_tokens.weight"] == 64


def test_one_block_for_a_whole_v_proj():
    optimizer = optimizers.build(models(1)[0], "adam_mini", lr=0.01, value="tensor")
    (group,) = [group for group in optimizer.param_groups if group.get("role") == "value"]
    optimizer.allocate_state()
    assert [optimizer.state[p]["exp_avg_sq"].numel() for p in group["params"]] == [1, 1]


@pytest.mark.parametrize(
    ("group", "blocks"),
    [({"role": "query", "heads": 4}, 4), ({"role": "value"}, 8), ({"role": "value", "value": "tensor"}, 1)],
)
def test_equals_its_plain_form_for_every_kind_of_block(group, blocks):
    weights = parameters([(8, 20), (8, 4)])
    expected, states = [weight.detach() for weight in weights], [{}, {}]
    options = {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}
    for step in STEPS:
        for i, state in enumerate(states):
            more = {"t": step, "index": i, "lr": 0.02, "blocks": blocks, **options}
            expected[i] = reference_step(
                AdamMini, expected[i], gradient(tuple(weights[i].shape), step, i), state, **more
            )
    moved = train(AdamMini([{"params": weights, **group}], lr=0.02, **options), STEPS)
    assert largest_difference(moved, expected) < 1e-12


def test_blocks_of_one_element_are_adam():
    mini, adam = parameters([(40, 1)]), parameters([(40, 1)])
    options = {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.3}
    assert largest_difference(train(AdamMini(mini, **options), STEPS), train(Adam(adam, **options), STEPS)) < 1e-14


def test_a_zero_row_does_not_move_inside_a_head_either():
    weight = parameters([(8, 12)], dtype=torch.float32)[0]
    start = weight.detach().clone()
    optimizer = AdamMini([{"params": [weight], "role": "key", "heads": 2}], lr=0.1)
    for step in STEPS:
        weight.grad = gradient((8, 12), step, 0).float()
        weight.grad[3] = 0
        optimizer.step()
    assert torch.equal(weight[3], start[3]) and not torch.equal(weight[2], start[2])


@pytest.mark.parametrize("heads", [3, 0, 16, None, "2", -2])
def test_heads_that_do_not_divide_the_rows_are_refused(heads):
    """And the group is not kept."""
    optimizer = AdamMini(parameters([(8, 12)]))
    with pytest.raises(ValueError, match=rf"^heads must divide the 8 rows of a query matrix, got {heads!r}"):
        optimizer.add_param_group({"params": parameters([(8, 12)]), "role": "query", "heads": heads})
    assert len(optimizer.param_groups) == 1


def test_a_model_whose_heads_cannot_be_counted_is_refused():
    model = llama()
    model.config = None
    with pytest.raises(ValueError, match=r"^the query heads of the model cannot be counted"):
        optimizers.build(model, "adam_mini", lr=0.01)
    optimizers.build(model, "scale", lr=0.01)


@pytest.mark.parametrize("wrapper", [torch.compile, checkpoint_wrapper])
def test_heads_of_wrapped_layers_are_heads(wrapper):
    """Otherwise it would be another method, and have another state."""
    plain, wrapped = llama(), llama()
    for layer in wrapped.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(layer.self_attn, name, wrapper(getattr(layer.self_attn, name)))
    of_plain, of_wrapped = (
        {
            group.get("role"): len(group["params"])
            for group in optimizers.build(model, "adam_mini", lr=0.01).param_groups
        }
        for model in (plain, wrapped)
    )
    assert of_wrapped == of_plain and {"query", "key", "value"} <= of_plain.keys()
