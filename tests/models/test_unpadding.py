"""Leaving out padding: which positions are computed, and that the loss and its gradients stay the same."""

import pytest
import torch

from models.unpadding import model_inputs, unpadded_indices
from tests.models.test_llama import VOCABULARY, build, gradients

CPU = torch.device("cpu")


def padded_rows(lengths, length=16, seed=0):
    """Ids and labels [rows, length] of rows that end in padding after `lengths` ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (len(lengths), length), generator=generator)
    return ids, ids.masked_fill(torch.arange(length) >= torch.tensor(lengths).unsqueeze(1), -100)


def test_rows_are_cut_after_the_position_of_the_last_target():
    _, labels = padded_rows([4, 6, 2, 1, 0], length=6)
    labels[1, 2:4] = -100  # not targets, but later positions attend to them
    assert unpadded_indices(labels).tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 12, 13, 18, 19, 24, 25]


def test_full_rows_stay_as_they_are():
    ids, labels = padded_rows([6, 6], length=6)
    labels[0, :3] = -100
    assert unpadded_indices(labels) is None
    assert set(model_inputs(ids, labels, CPU)) == {"input_ids", "labels"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_those_of_all_positions(checkpointing):
    ids, labels = padded_rows([16, 3, 9, 0, 1, 12])
    labels[5, 4:7] = -100
    padded = build(torch.float64, initializer_range=0.3)
    unpadded = build(torch.float64, initializer_range=0.3, activation_checkpointing=checkpointing)
    losses = [padded(ids, labels).loss_sum, unpadded(**model_inputs(ids, labels, CPU)).loss_sum]
    for loss_sum in losses:
        loss_sum.backward()
    torch.testing.assert_close(*losses)  # both summed in float32
    torch.testing.assert_close(gradients(unpadded), gradients(padded), rtol=1e-9, atol=1e-12)


def test_no_layer_computes_padding():
    ids, labels = padded_rows([16, 3, 9])
    model, widths = build(), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].shape[:-1]))
    hidden = model.hidden_states(ids, unpadded_indices(labels))
    assert widths == [(1, 15 + 2 + 8)] * 2 and hidden.shape == (1, 25, 32)
    torch.testing.assert_close(hidden[0], model.hidden_states(ids).flatten(0, 1)[unpadded_indices(labels)])


@pytest.mark.slow
@torch._dynamo.config.patch(error_on_recompile=True)
def test_one_compiled_graph_serves_every_number_of_positions():
    torch._dynamo.reset()  # forget the graphs of other tests
    model = build()
    model.compile(dynamic=False, backend="aot_eager")
    for lengths in ([16, 3, 9], [5, 2, 14], [1, 0, 1]):
        ids, labels = padded_rows(lengths)
        inputs, plain = model_inputs(ids, labels, CPU), build()
        losses = [one(**inputs).loss_sum for one in (model, plain)]
        for loss_sum in losses:
            loss_sum.backward()
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(gradients(model), gradients(plain))
        model.zero_grad()


def test_padding_is_left_out_under_autocast():
    ids, labels = padded_rows([16, 3, 9])
    model, exact = build(), build()
    with torch.autocast("cpu", torch.bfloat16):
        loss_sum = model(**model_inputs(ids, labels, CPU)).loss_sum
    loss_sum.backward()
    expected = exact(ids, labels).loss_sum
    torch.testing.assert_close(loss_sum, expected, rtol=0.01, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
