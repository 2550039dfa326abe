"""Leaving out padding: which positions stay, and that the loss and its gradients do not notice."""

import pytest
import torch

from models.row_attention import row_attention
from models.unpadding import attention, model_inputs, needed_positions, place
from tests.models.test_llama import VOCABULARY, build, gradients

CPU = torch.device("cpu")


def padded_rows(lengths, length=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (len(lengths), length), generator=generator)
    return ids, ids.masked_fill(torch.arange(length) >= torch.tensor(lengths).unsqueeze(1), -100)


def test_positions_up_to_the_last_predicted_target_are_needed():
    _, labels = padded_rows([4, 6, 2, 1, 0], length=6)
    labels[1, 2:4] = -100  # no target, but seen by what comes after it
    assert needed_positions(labels).tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 12, 13, 18, 19, 24, 25]


def test_full_rows_are_left_alone():
    ids, labels = padded_rows([6, 6], length=6)
    labels[0, :3] = -100
    assert needed_positions(labels) is None
    assert set(model_inputs(ids, labels, CPU)) == {"input_ids", "labels"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_all_positions(checkpointing):
    ids, labels = padded_rows([16, 3, 9, 0, 1, 12])
    labels[5, 4:7] = -100
    every = build(torch.float64, initializer_range=0.3)
    needed = build(torch.float64, initializer_range=0.3, activation_checkpointing=checkpointing)
    losses = [every(ids, labels).loss_sum, needed(**model_inputs(ids, labels, CPU)).loss_sum]
    for loss_sum in losses:
        loss_sum.backward()
    torch.testing.assert_close(*losses)  # summed in float32
    torch.testing.assert_close(gradients(needed), gradients(every), rtol=1e-9, atol=1e-12)


def test_no_layer_computes_padding():
    ids, labels = padded_rows([16, 3, 9])
    model, widths = build(), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].shape[:-1]))
    hidden = model.hidden_states(ids, needed_positions(labels))
    assert widths == [(1, 15 + 2 + 8)] * 2 and hidden.shape == (1, 25, 32)
    torch.testing.assert_close(hidden[0], model.hidden_states(ids).flatten(0, 1)[needed_positions(labels)])


@torch._dynamo.config.patch(error_on_recompile=True)
def test_one_compiled_graph_serves_every_number_of_positions():
    torch._dynamo.reset()  # graphs of other tests' layers would count
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


def test_autocast_takes_padded_rows():
    ids, labels = padded_rows([16, 3, 9])
    model, exact = build(), build()
    with torch.autocast("cpu", torch.bfloat16):
        loss_sum = model(**model_inputs(ids, labels, CPU)).loss_sum
    loss_sum.backward()
    expected = exact(ids, labels).loss_sum
    torch.testing.assert_close(loss_sum, expected, rtol=0.01, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 1e-2)])
def test_rows_one_by_one_and_padded_again_are_the_same_attention(dtype, tolerance):
    _, labels = padded_rows([16, 3, 9, 0])
    needed, generator = needed_positions(labels), torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, len(needed), 2, 8, generator=generator).to(dtype).transpose(1, 2) for _ in range(3)]
    module, found = build().model.layers[0].self_attn, []
    for arguments in ({"lengths": torch.tensor([15, 2, 8, 2])}, {"needed": needed, "rows": (4, 16)}):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output, _ = attention(module, *inputs, None, **arguments)
        output.square().sum().backward()
        found.append([output.detach(), *(tensor.grad for tensor in inputs)])
    assert found[0][0].shape == (1, len(needed), 2, 8)
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


def test_a_cpu_takes_rows_one_by_one_unless_it_has_more_threads_than_heads(monkeypatch):
    _, labels = padded_rows([16, 3, 9, 0])
    needed = needed_positions(labels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert place(needed, (4, 16), heads=4)["lengths"].tolist() == [15, 2, 8, 2]
    assert place(needed, (4, 16), heads=2) == {"needed": needed, "rows": (4, 16)}
    assert place(None, (4, 16), heads=4) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_row_attention_is_a_sound_operator(dtype):
    # Its gradients, and the shapes, strides and types that a compiler is told.
    query, key, value = (torch.randn(8, 2, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    lengths = torch.tensor([5, 2, 1])
    torch.library.opcheck(row_attention, (query, key, value, lengths))
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda *rows: row_attention(*rows, lengths)[0], (query, key, value))
