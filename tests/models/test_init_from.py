"""Architectures beyond the paper's: fewer heads of keys and values, heads of another width, scaled rotary positions and
tied embeddings; and the folders of models that have them."""

import json
import re
from dataclasses import replace

import pytest
import torch
import transformers

from configs.reading import SettingsError
from configs.schema import load
from models.llama import build_model
from models.model_settings import Model
from models.unpadding import unpadded_indices

from .test_llama import batch, gradients, plain

LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# What distinguishes each family, small.
FAMILIES = {
    "llama_2": {"rms_norm_eps": 1e-5, "max_position_embeddings": 128},
    "llama_3": {"num_key_value_heads": 2, "rope_theta": 5e5, "rope_scaling": LLAMA_3_ROPE, "rms_norm_eps": 1e-5},
    "llama_3_2": {
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_theta": 5e5,
        "rope_scaling": LLAMA_3_ROPE,
        "tie_word_embeddings": True,
    },
    "tinyllama": {"num_key_value_heads": 1, "rms_norm_eps": 1e-5},
    "smollm": {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_theta": 1e5,
    },
    "long_chat": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def section(family: str, **changes) -> Model:
    return Model(**{"name": family, **SIZES, "vocab_size": 101, **FAMILIES[family], **changes})


def saved(family: str, folder, **changes) -> transformers.LlamaForCausalLM:
    """A random model of the family, written by transformers with the keys that its folders have."""
    keys = {**SIZES, "vocab_size": 101, "tie_word_embeddings": False, "initializer_range": 0.3, **FAMILIES[family]}
    torch.manual_seed(0)
    rope = {"rope_type": "default", **keys.pop("rope_scaling", {}), "rope_theta": keys.pop("rope_theta", 1e4)}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**keys, "rope_parameters": rope, **changes}))
    model.save_pretrained(folder)
    return model


@every_family
def test_a_saved_family_opens_and_computes_what_transformers_does(family, tmp_path):
    theirs = saved(family, tmp_path)
    ours = build_model(section(family, init_from=str(tmp_path)), dtype=torch.float32, seed=0)
    ids, labels = batch(length=40)
    targets = (labels[:, 1:] != -100).sum()
    loss = ours(ids, labels).loss_sum / targets
    torch.testing.assert_close(loss, theirs(ids, labels=labels).loss)
    # Without padding, on rows that each end in it; keys and values are repeated for their heads.
    labels[:, 30:] = -100
    padded, indices = ours(ids, labels).loss_sum, unpadded_indices(labels)
    assert indices is not None
    torch.testing.assert_close(ours(ids, labels, indices=indices).loss_sum, padded)


@every_family
def test_a_new_model_of_a_family_has_transformers_loss_and_gradients(family):
    ours = build_model(section(family, initializer_range=0.3), dtype=torch.float32, seed=0)
    theirs, (ids, labels) = plain(ours), batch(length=40)
    (ours(ids, labels).loss_sum / (labels[:, 1:] != -100).sum()).backward()
    theirs(ids, labels=labels).loss.backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-4, atol=1e-6)
    tied = ours.lm_head.weight is ours.model.embed_tokens.weight
    assert tied == ours.config.tie_word_embeddings == ("lm_head.weight" not in gradients(ours))


def test_rotary_scaling_under_its_former_key_is_read(tmp_path):
    expected = saved("long_chat", tmp_path).model.rotary_emb.inv_freq
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "linear", "factor": rope["factor"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = build_model(section("long_chat", init_from=str(tmp_path)), dtype=torch.float32, seed=0)
    assert torch.equal(read.model.rotary_emb.inv_freq, expected)


def test_rotary_frequencies_of_a_bfloat16_model_stay_in_float32(tmp_path):
    expected = saved("llama_3", tmp_path).model.rotary_emb.inv_freq
    read = build_model(section("llama_3", init_from=str(tmp_path)), dtype=torch.bfloat16, seed=0)
    new = build_model(section("llama_3"), dtype=torch.bfloat16, seed=0)
    for model in (read, new):
        assert torch.equal(model.model.rotary_emb.inv_freq, expected)


def test_how_a_saved_model_generates_is_kept(tmp_path):
    """A run starts on the meta device and saves the model that it has trained."""
    theirs = saved("llama_2", tmp_path)
    theirs.generation_config.update(eos_token_id=[7, 9], temperature=0.6, do_sample=True)
    theirs.save_pretrained(tmp_path)
    read = build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0, device="meta")
    assert (read.generation_config.eos_token_id, read.generation_config.temperature) == ([7, 9], 0.6)
    (tmp_path / "generation_config.json").unlink()
    build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0, device="meta")


@pytest.mark.parametrize(
    "content",
    [
        '{"temperature": 0.5, "do_sample": false}',  # is read, and refused when it is saved
        '{"do_sample": false, "top_p": 0.9}',
        '{"max_new_tokens": -4}',
        '{"watermarking_config": {"x": 1}}',
        "[]",
        "{",
    ],
)
def test_what_cannot_be_saved_again_of_how_a_model_generates_is_left_out(tmp_path, caplog, content):
    """A run would end at it when all is trained."""
    saved("llama_2", tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    read = build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0)
    assert f"{tmp_path / 'generation_config.json'} is left out: " in caplog.text
    read.save_pretrained(tmp_path / "trained")


def test_weights_that_are_no_tensors_are_refused(tmp_path):
    saved("llama_2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=r"^model\.init_from: .* pytorch_model\.bin holds no tensors, as the pointer"):
        build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0)


def test_a_resumed_model_needs_no_folder(tmp_path):
    gone = section("llama_2", init_from=str(tmp_path / "gone"))
    model = build_model(gone, dtype=torch.float32, seed=0, device="meta", resumed=True)
    assert model.generation_config.eos_token_id is None
    with pytest.raises(ValueError, match=r"no config\.json"):
        build_model(gone, dtype=torch.float32, seed=0, device="meta")


def test_tying_changes_no_other_initial_weight():
    tied = build_model(section("smollm"), dtype=torch.float32, seed=0)
    untied = build_model(section("smollm", tie_word_embeddings=False), dtype=torch.float32, seed=0)
    for name, weight in tied.named_parameters():
        assert torch.equal(weight, untied.get_parameter(name))


# ---- what differs is said


def settings_in(message: str) -> dict:
    """The model section after the key=value settings that a message proposes."""
    proposed = re.findall(r"(model\.\w+=(?:\{.*?\}|\S+))", message)
    assert proposed, message
    start = ["model=llama_nano", *(f"model.{key}={value}" for key, value in SIZES.items()), "optimizer=racs"]
    model = load([*start, *proposed]).config.model
    return {setting.split("=")[0][6:]: getattr(model, setting.split("=")[0][6:]) for setting in proposed}


@pytest.mark.parametrize(
    ("family", "other"),
    [
        ("llama_3", {"num_key_value_heads": None}),
        ("llama_3_2", {"head_dim": None}),
        ("llama_3_2", {"tie_word_embeddings": False}),
        ("llama_3", {"rope_scaling": None}),
        ("llama_3", {"rope_scaling": {**LLAMA_3_ROPE, "factor": 8.0}}),
        ("tinyllama", {"rope_scaling": LLAMA_3_ROPE}),
        ("smollm", {"rope_theta": 1e4}),
        ("llama_2", {"rms_norm_eps": 1e-6}),
        ("tinyllama", {"max_position_embeddings": 1024}),
    ],
)
def test_the_sentence_about_a_difference_names_the_settings_that_mend_it(family, other, tmp_path):
    saved(family, tmp_path)
    wrong = section(family, init_from=str(tmp_path), **other)
    with pytest.raises(ValueError, match=r"^model\.init_from: .* the settings") as error:
        build_model(wrong, dtype=torch.float32, seed=0)
    build_model(replace(wrong, **settings_in(str(error.value))), dtype=torch.float32, seed=0)


@pytest.mark.parametrize(
    ("saved_as", "message"),
    [
        ({"hidden_act": "relu"}, "has hidden_act relu, only silu can be trained"),
        ({"attention_bias": True}, "has attention_bias True, only False can be trained"),
        ({"mlp_bias": True}, "has mlp_bias True, only False can be trained"),
        ({"attention_dropout": 0.1}, "has attention_dropout 0.1, only 0.0 can be trained"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "cannot be trained: model.rope_scaling needs a rope_type of linear, llama3, yarn, got 'dynamic'",
        ),
    ],
)
def test_an_architecture_that_cannot_be_trained_is_refused(saved_as, message, tmp_path):
    saved("llama_2", tmp_path, **saved_as)
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("model.num_key_value_heads=3", "model.num_key_value_heads must divide model.num_attention_heads 4, got 3"),
        ("model.head_dim=7", "model.head_dim must be even"),
        ("model.rope_scaling=8", "model.rope_scaling must be a mapping or null, got 8"),
        ("model.rope_scaling={factor: 8}", "needs a rope_type of linear, llama3, yarn, got None"),
        ("model.rope_scaling={rope_type: yarn, factor: 2}", "needs original_max_position_embeddings"),
        ("model.rope_scaling={rope_type: linear, factor: 2, beta: 1}", "has no beta; known: factor"),
        ("model.rope_scaling={rope_type: linear, factor: big}", "a finite number above 0 as its factor, got 'big'"),
        (
            "model.tie_word_embeddings=true",
            "optimizer.last_layer must be adam for alice with model.tie_word_embeddings",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load([settings])


@pytest.mark.parametrize(
    "settings", [("optimizer.embeddings=method",), ("optimizer=lion",), ("optimizer.last_layer=adam",)]
)
def test_a_tied_embedding_goes_where_embeddings_go(settings):
    assert load([*settings, "model.tie_word_embeddings=true"]).config.model.tie_word_embeddings


def test_lion_with_adams_embeddings_refuses_a_tied_last_layer():
    with pytest.raises(SettingsError, match=r"optimizer\.last_layer must be adam for lion with model\.tie"):
        load(["optimizer=lion", "optimizer.embeddings=adam", "model.tie_word_embeddings=true"])


def test_quantized_weights_are_refused(tmp_path):
    saved("llama_2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ValueError, match=r"^model\.init_from: .* holds quantized weights"):
        build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0)


@pytest.mark.parametrize("change", [{"hidden_size": "x"}, {"rope_parameters": "x"}, {"model_type": None}])
def test_a_config_that_makes_no_sense_is_named(tmp_path, change):
    saved("llama_2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"^model\.init_from: .*config\.json cannot be read: [^\n]+$"):
        build_model(section("llama_2", init_from=str(tmp_path)), dtype=torch.float32, seed=0)
