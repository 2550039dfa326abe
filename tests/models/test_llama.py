"""The model against transformers' own: the same loss, gradients, architecture and files."""

import pytest
import torch
import transformers

from models.kernels import cross_entropy
from models.llama import build_model
from models.model_settings import Model

VOCABULARY = 101


def build(dtype=torch.float32, seed=0, activation_checkpointing=False, **changes):
    """A model of two layers; `changes` are those to its settings."""
    sizes = {
        "name": "two_layers",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    }
    section = Model(**sizes | changes)
    return build_model(section, dtype=dtype, seed=seed, activation_checkpointing=activation_checkpointing)


def batch(rows=3, length=20, seed=0):
    """Ids and labels [rows, length]: one row ends in padding, one has no targets in its middle, one has none at all."""
    ids = torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[0, 12:] = labels[1, 4:7] = labels[2] = -100
    return ids, labels


def plain(model):
    """transformers' own class with the weights of `model`."""
    own = transformers.LlamaForCausalLM(model.config).to(model.dtype)
    own.load_state_dict(model.state_dict())
    return own.train()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture(params=["one chunk", "chunks"])
def chunked(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 8)


def test_loss_and_gradients_equal_those_of_transformers(chunked):
    ours = build(initializer_range=0.3)
    theirs, (ids, labels) = plain(ours), batch()
    targets = (labels[:, 1:] != -100).sum()
    loss_sum = ours(ids, labels).loss_sum
    expected = theirs(ids, labels=labels).loss
    assert loss_sum.dtype == torch.float32 and loss_sum.shape == ()
    torch.testing.assert_close(loss_sum / targets, expected)
    loss_sum.div(targets).backward()
    expected.backward()
    # Both in float32, but their kernels sum in different orders, which also differ among processors.
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_add_up_over_forwards_and_take_the_losss_factor(dtype, chunked):
    """Whether each loss is backpropagated at once or both together, with or without a factor."""
    first, second = batch(seed=1), batch(seed=2)
    apart, together = build(dtype, initializer_range=0.3), build(dtype, initializer_range=0.3)
    for inputs in (first, second):
        (apart(*inputs).loss_sum * 0.5).backward()
    losses = [together(*inputs).loss_sum for inputs in (first, second)]
    (sum(losses) * 0.5).backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(gradients(apart), gradients(together), **tolerance)
    unscaled = build(dtype, initializer_range=0.3)
    (unscaled(*first).loss_sum + unscaled(*second).loss_sum).backward()
    halved = {name: 0.5 * grad for name, grad in gradients(unscaled).items()}
    torch.testing.assert_close(halved, gradients(together), **tolerance)


def test_bfloat16_loss_is_summed_in_float32():
    # Near 500, neighbouring bfloat16 numbers differ by 2; the single losses are wrong by at most 1/64, either way.
    low, (ids, labels) = build(torch.bfloat16), batch(rows=8, length=32)
    exact = plain(low).float()(ids, labels=labels).loss * (labels[:, 1:] != -100).sum()
    loss_sum = low(ids, labels).loss_sum
    assert loss_sum.dtype == torch.float32
    assert abs(loss_sum - exact) < 5e-4 * exact


def test_evaluation_without_gradients_gives_the_same_loss():
    model, inputs = build(), batch()
    trained = model(*inputs).loss_sum
    with torch.no_grad():
        evaluated = model.eval()(*inputs).loss_sum
    assert not evaluated.requires_grad
    torch.testing.assert_close(evaluated, trained.detach())


def test_a_batch_without_targets_has_loss_and_gradients_zero():
    model = build()
    ids, labels = batch()
    loss_sum = model(ids, labels.fill_(-100)).loss_sum
    loss_sum.backward()
    assert loss_sum == 0 and all(not grad.any() for grad in gradients(model).values())


def largest_allocation(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_never_all_logits_at_once(monkeypatch):
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 32)
    model, (ids, labels) = build(vocab_size=2000), batch(rows=16)
    logits = ids.numel() * 2000 * 4
    assert largest_allocation(lambda: plain(model)(ids, labels=labels).loss.backward()) >= logits
    assert largest_allocation(lambda: model(ids, labels).loss_sum.backward()) < logits / 4


def test_attention_is_causal_without_a_mask(monkeypatch):
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watch(*args, attn_mask=None, is_causal=False, **kwargs):
        masks.append((attn_mask, is_causal))
        return attention(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    model = build()
    ids, _ = batch()
    hidden = model.hidden_states(ids)
    assert masks == [(None, True)] * 2
    changed = ids.clone()
    changed[:, 10] = (ids[:, 10] + 1) % VOCABULARY
    difference = (model.hidden_states(changed) - hidden).abs().amax(-1)
    assert not difference[:, :10].any() and difference[:, 10:].all()


def test_activation_checkpointing_changes_no_gradient():
    ordinary, checkpointed, inputs = build(), build(activation_checkpointing=True), batch()
    kept = []
    for model in (ordinary, checkpointed):
        saved = 0

        def count(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss_sum = model(*inputs).loss_sum
        kept.append(saved)
        loss_sum.backward()
    torch.testing.assert_close(gradients(ordinary), gradients(checkpointed), rtol=0, atol=0)
    assert kept[1] < kept[0] / 3


# ---- initial weights


def test_the_initial_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other, low = build(), build(), build(seed=1), build(torch.bfloat16)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    weights = [dict(model.named_parameters()) for model in (first, again, other, low)]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])
        assert torch.equal(weight.bfloat16(), weights[3][name])
        assert weight.ndim == 1 or not torch.equal(weight, weights[2][name])


def test_initial_weights_follow_the_paper():
    model = build(hidden_size=128, vocab_size=1000)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert (weight == 1).all()
        else:
            assert abs(weight.std() / 0.02 - 1) < 0.05 and abs(weight.mean()) < 1e-3
            assert weight.any(-1).all(), "a row is zero, as that of a padding id would be"
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_frequencies_stay_in_float32(dtype):
    ours = build(dtype).model.rotary_emb.inv_freq
    torch.testing.assert_close(ours, 10000.0 ** -(torch.arange(0, 8, 2) / 8), rtol=1e-6, atol=0)


# ---- files


def test_a_saved_model_opens_as_plain_transformers_and_as_ours(tmp_path):
    model, (ids, labels) = build(seed=5), batch()
    model.save_pretrained(tmp_path)
    opened, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(opened) is transformers.LlamaForCausalLM
    assert opened.config.architectures == ["LlamaForCausalLM"]
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    targets = (labels[:, 1:] != -100).sum()
    with torch.no_grad():
        torch.testing.assert_close(opened(ids, labels=labels).loss * targets, model(ids, labels).loss_sum)
    for dtype in (torch.float32, torch.bfloat16):
        again = build(dtype, init_from=str(tmp_path), seed=6)
        assert again.training
        for ours, saved in zip(again.parameters(), model.parameters(), strict=True):
            assert torch.equal(ours, saved.to(dtype))


def test_init_from_is_refused_with_the_reason(tmp_path):
    build().save_pretrained(tmp_path / "good")
    with pytest.raises(ValueError, match="has vocab_size 101, the settings say 99"):
        build(init_from=str(tmp_path / "good"), vocab_size=99)
    with pytest.raises(ValueError, match=r"model\.rope_theta=10000\.0 model\.rope_scaling=null"):
        build(init_from=str(tmp_path / "good"), rope_theta=5e5)
    with pytest.raises(ValueError, match=r"no config\.json"):
        build(init_from=str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    with pytest.raises(ValueError, match="cannot be read: it comes with code of its own, which is never run"):
        build(init_from=str(tmp_path / "own"))
    for weights in (tmp_path / "good").glob("*.safetensors"):
        weights.write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read"):
        build(init_from=str(tmp_path / "good"))
    for weights in (tmp_path / "good").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        build(init_from=str(tmp_path / "good"))
