"""Plans against the papers' tables and against what a model really holds."""

import itertools
import json

import pytest
import torch

import optimizers
from configs.schema import load
from models.llama import build_model
from training.optimizer import build_optimizer
from training.plan import forward_bytes, plan_run
from training.plan_table import plan_table

SIZES = ("60m", "130m", "350m", "1_3b")

# Table 3 of arXiv 2502.07752, GiB: Mem. for lm_head by the method, Mem.* for lm_head by Adam.
TABLE_3 = {
    "adam": (0.32, 0.75, 2.05, 7.48),
    "racs": (0.23, 0.43, 0.93, 2.98),
    "alice_0": (0.21, 0.51, 1.2, 4.25),
    "alice_0_last_layer_adam": (0.26, 0.57, 1.29, 4.44),
    "alice": (0.22, 0.53, 1.24, 4.42),
    "alice_last_layer_adam": (0.26, 0.59, 1.33, 4.6),
}


def plan(*argv):
    return plan_run(load(list(argv)).config)


@pytest.mark.parametrize(
    ("model", "millions"),
    [("60m", 58.07), ("130m", 134.11), ("350m", 367.97), ("1_3b", 1339.08), ("7b", 6738.42), ("nano", 1.85)],
)
def test_parameter_counts(model, millions):
    counted = plan(f"model=llama_{model}")
    assert counted["parameters"] == pytest.approx(millions * 1e6, abs=5e3)
    assert counted["matrix_parameters"] + counted["adam_parameters"] == counted["parameters"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llama_2_7b", 6_738_415_616),
        ("llama_3_2_1b", 1_235_814_400),
        ("tinyllama_1_1b", 1_100_048_384),
        ("smollm_135m", 134_515_008),
    ],
)
def test_published_models_have_their_published_sizes(model, parameters):
    assert plan(f"model={model}", "optimizer=racs")["parameters"] == parameters


def test_a_tied_embedding_is_counted_once_and_multiplied_once():
    tied = plan("model.tie_word_embeddings=true", "optimizer=racs")
    untied = plan("optimizer=racs")
    assert untied["parameters"] - tied["parameters"] == 4096 * 128
    assert tied["flops_per_position"] == untied["flops_per_position"]


@pytest.mark.parametrize(("size", "millions"), list(zip(SIZES, (25.30, 84.93, 302.38, 1207.91), strict=True)))
def test_matrices_of_attention_and_mlp(size, millions):
    counted = plan(f"configs/experiment/table2/{size}/racs.yaml")  # lm_head by Adam
    assert counted["matrix_parameters"] == pytest.approx(millions * 1e6, abs=5e3)


@pytest.mark.parametrize("cell", TABLE_3)
def test_table_3_follows(cell):
    for size, gibibytes in zip(SIZES, TABLE_3[cell], strict=True):
        counted = plan(f"configs/experiment/table2/{size}/{cell}.yaml")
        memory = (counted["weight_bytes"] + counted["optimizer_state_bytes"]) / 2**30
        assert abs(memory - gibibytes) < 0.01, (size, memory)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planned_state_is_the_state_held(dtype):
    config = load([f"train.dtype={dtype}"]).config
    counted = plan_run(config)
    model = build_model(config.model, dtype=getattr(torch, dtype), seed=0)
    optimizer = build_optimizer(model, config.optimizer)
    optimizer.allocate_state()
    assert counted["optimizer_state_bytes"] == optimizers.state_bytes(optimizer)
    assert counted["weight_bytes"] == sum(p.numel() * p.element_size() for p in model.parameters())


def saved_for_backward(config):
    """Bytes of the floating-point tensors, other than parameters, that a forward pass keeps."""
    dtype, checkpointing = getattr(torch, config.train.dtype), config.train.activation_checkpointing
    model = build_model(config.model, dtype=dtype, seed=0, activation_checkpointing=checkpointing)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # by storage, held so that no address is used twice

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(config.train.batch_size, config.data.sequence_length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("heads", [[], ["model.num_key_value_heads=2", "model.head_dim=16"]], ids=["even", "shared"])
def test_activations_are_those_that_autograd_saves(dtype, checkpointing, heads):
    sizes = ["model.vocab_size=128", "model.hidden_size=32", "model.intermediate_size=40", "data.sequence_length=16"]
    settings = [*sizes, *heads, f"train.dtype={dtype}", f"train.activation_checkpointing={str(checkpointing).lower()}"]
    configs = [load([*settings, f"model.num_hidden_layers={layers}"]).config for layers in (2, 3)]
    held = [saved_for_backward(config) for config in configs]
    key = "checkpointed_activation_bytes" if checkpointing else "activation_bytes"
    counted = [plan_run(config)[key] for config in configs]
    assert held[1] - held[0] == counted[1] - counted[0]  # a layer
    if not checkpointing:  # the recomputed layer does not exist yet; the rest is small tables
        assert held[0] == pytest.approx(counted[0], rel=0.1)


def test_peak_memory_is_the_parts():
    """All allocations of forward and backward, kernels' buffers among them, against the plan's parts."""
    sizes = ["model=llama_nano", "optimizer=adam", "train.batch_size=8", "data.sequence_length=64"]
    # Of a recomputed layer and the logits only one is there at a time, so their sum is never reached.
    for checkpointing, least, most in (("false", 1.0, 1.05), ("true", 0.6, 1.0)):
        config = load([*sizes, f"train.activation_checkpointing={checkpointing}"]).config
        counted = plan_run(config)
        model = build_model(
            config.model, dtype=torch.float32, seed=0, activation_checkpointing=config.train.activation_checkpointing
        )
        ids = torch.zeros(8, 64, dtype=torch.int64)
        with torch.profiler.profile(profile_memory=True) as profile:
            model(ids, ids).loss_sum.backward()
        changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        kept = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters())
        assert kept == counted["gradient_bytes"] == pytest.approx(sum(changes), rel=1e-3)
        activations = counted["checkpointed_activation_bytes" if checkpointing == "true" else "activation_bytes"]
        parts = activations + counted["logits_bytes"]
        assert least * parts < max(itertools.accumulate(changes)) < most * parts


@pytest.mark.parametrize("name", ["alice", "adam"])
def test_layerwise_gradients_are_those_held(name):
    config = load(["model=llama_nano", f"optimizer={name}"]).config
    model = build_model(config.model, dtype=torch.float32, seed=0)
    optimizer = build_optimizer(model, config.optimizer)
    held = []

    def step(parameter):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        held.append(sum(gradient.numel() * gradient.element_size() for gradient in gradients))
        optimizer.step_parameter(parameter)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    ids = torch.zeros(2, 16, dtype=torch.int64)
    model(ids, ids).loss_sum.backward()
    assert plan_run(config)["layerwise_gradient_bytes"] == max(held)
    assert all(p.grad is None for p in model.parameters())


def test_forward_bytes_are_those_of_a_micro_batch():
    config = load(["model=llama_7b", "optimizer=racs", "train.dtype=bfloat16", "train.micro_batch_size=1"]).config
    counted = plan_run(config)
    expected = forward_bytes(config.model, config.data.sequence_length, 2, device="cpu")
    assert {key: counted[key] for key in expected} == expected
    assert forward_bytes(config.model, 128, 2, device="cpu")["activation_bytes"] < expected["activation_bytes"]


def test_work_and_calendar():
    counted = plan("train.steps=300", "train.eval_every=120", "train.checkpoint_every=150", "train.micro_batch_size=4")
    assert counted["positions"] == 300 * 8 * 256
    assert counted["evaluation_steps"] == [120, 240, 300] and counted["checkpoint_steps"] == [150, 300]
    assert plan("train.eval_every=0")["evaluation_steps"] == [300]
    matrices = counted["parameters"] - 4096 * 128 - 9 * 128
    assert counted["flops_per_position"] == 6 * matrices + 4 * 6 * 128 * 256
    assert counted["flops"] == counted["flops_per_position"] * counted["positions"]
    assert counted["activation_bytes"] == plan()["activation_bytes"] / 2


def test_a_plan_is_json_and_a_table():
    config = load(["configs/experiment/table2/1_3b/alice.yaml"]).config
    text = plan_table(json.loads(json.dumps(plan_run(config))))
    for words in (
        "llama_1_3b with alice: 1,339,082,752 parameters",
        "lm_head.weight",
        "states of alice",
        "layer-wise",
        "4.422 GiB each",
    ):
        assert words in text


def test_a_cluster_is_shown_only_where_it_is_asked_for():
    counted = plan("configs/experiment/table2/1_3b/alice.yaml")
    plain, bounded = plan_table(counted), plan_table(counted, bounded=True)
    assert bounded.startswith(plain + "\n") and "H100" not in plain
    for words in ("not measurements", "A100-40", "on GPUs, one process", "most at once", "data=prepared"):
        assert words in bounded
    assert "communication" not in bounded


def test_what_the_run_would_refuse_of_its_optimizer_is_refused():
    with pytest.raises(ValueError, match="record_basis_cosines: this optimizer keeps no basis"):
        plan("model=llama_nano", "optimizer=racs", "data=builtin", "train.steps=10", "run.record_basis_cosines=true")
