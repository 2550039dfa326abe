"""Which parameter of which architecture of transformers goes where: a small random model of each."""

import copy
from dataclasses import dataclass

import pytest
import torch
import transformers as t
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import optimizers

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_LIKE = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 1}
ENCODER = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 32}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}


@dataclass
class Case:
    """What a method for matrices has of a model: tensors that are a matrix, and that are all matrices of experts.

    `adam` are the names of all tensors of two and more dimensions that are Adam's; everything of one dimension is.
    """

    model: type
    config: t.PreTrainedConfig
    matrices: int
    adam: set[str]
    tied: str | None = None
    experts: int = 0
    last_layer: str | None = None


def per_layer(*names: str, layers=range(2)) -> set[str]:
    return {name.replace("*", str(layer)) for name in names for layer in layers}


CASES = {
    "opt": Case(
        t.OPTForCausalLM,
        t.OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=32),
        matrices=2 * 6 + 2,  # and the two between embedding and hidden width
        adam={"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"},
        tied="model.decoder.embed_tokens.weight",
    ),
    "gpt2": Case(
        t.GPT2LMHeadModel,
        t.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0),
        matrices=2 * 4,
        adam={"transformer.wte.weight", "transformer.wpe.weight"},
        tied="transformer.wte.weight",
    ),
    "gpt_neox": Case(
        t.GPTNeoXForCausalLM,
        t.GPTNeoXConfig(**SIZES, intermediate_size=24),
        matrices=2 * 4,
        adam={"gpt_neox.embed_in.weight", "lm_head.weight"},
        last_layer="lm_head.weight",
    ),
    "mistral": Case(
        t.MistralForCausalLM,
        t.MistralConfig(**LLAMA_LIKE),
        matrices=2 * 7,
        adam={"model.embed_tokens.weight", "lm_head.weight"},
        last_layer="lm_head.weight",
    ),
    "mixtral": Case(
        t.MixtralForCausalLM,
        t.MixtralConfig(**LLAMA_LIKE, num_local_experts=4),
        matrices=2 * 4,
        experts=2 * 2,
        adam={"model.embed_tokens.weight", "lm_head.weight", *per_layer("model.layers.*.mlp.gate.weight")},
        last_layer="lm_head.weight",
    ),
    "qwen2": Case(
        t.Qwen2ForCausalLM,
        t.Qwen2Config(**LLAMA_LIKE, tie_word_embeddings=True),
        matrices=2 * 7,
        adam={"model.embed_tokens.weight"},
        tied="model.embed_tokens.weight",
    ),
    "qwen2_moe": Case(
        t.Qwen2MoeForCausalLM,
        t.Qwen2MoeConfig(**LLAMA_LIKE, **EXPERTS, num_experts=4, shared_expert_intermediate_size=12),
        matrices=2 * (4 + 3),
        experts=2 * 2,
        adam={
            "model.embed_tokens.weight",
            "lm_head.weight",
            *per_layer("model.layers.*.mlp.gate.weight", "model.layers.*.mlp.shared_expert_gate.weight"),
        },
        last_layer="lm_head.weight",
    ),
    "deepseek_v3": Case(
        t.DeepseekV3ForCausalLM,
        t.DeepseekV3Config(
            **{**LLAMA_LIKE, "num_key_value_heads": 2},
            **EXPERTS,
            **LATENT,
            n_routed_experts=4,
            n_shared_experts=1,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
        ),
        matrices=2 * (5 + 3),  # attention's five, and three of a dense MLP or of the shared expert
        experts=2,
        adam={"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"},
        last_layer="lm_head.weight",
    ),
    "gemma": Case(
        t.GemmaForCausalLM,
        t.GemmaConfig(**LLAMA_LIKE, head_dim=8),
        matrices=2 * 7,
        adam={"model.embed_tokens.weight"},
        tied="model.embed_tokens.weight",
    ),
    "phi": Case(
        t.PhiForCausalLM,
        t.PhiConfig(**SIZES, intermediate_size=24),
        matrices=2 * 6,
        adam={"model.embed_tokens.weight", "lm_head.weight"},
        last_layer="lm_head.weight",
    ),
    "mamba": Case(
        t.MambaForCausalLM,
        t.MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2),
        matrices=2 * 4,
        adam={
            "backbone.embeddings.weight",
            *per_layer("backbone.layers.*.mixer.A_log", "backbone.layers.*.mixer.conv1d.weight"),
        },
        tied="backbone.embeddings.weight",
    ),
    "bert": Case(
        t.BertForMaskedLM,
        t.BertConfig(**ENCODER),
        matrices=2 * 6 + 1,  # and the layer before the last
        adam={f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")},
        tied="bert.embeddings.word_embeddings.weight",
    ),
    "roberta_for_a_task": Case(
        t.RobertaForSequenceClassification,
        t.RobertaConfig(**ENCODER),
        matrices=2 * 6,
        adam={
            *(f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")),
            "classifier.dense.weight",
            "classifier.out_proj.weight",
        },
    ),
    "vit": Case(
        t.ViTForImageClassification,
        t.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
        ),
        matrices=2 * 6,
        adam={
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            "vit.embeddings.patch_embeddings.projection.weight",
            "classifier.weight",
        },
    ),
    "t5": Case(
        t.T5ForConditionalGeneration,
        t.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
        matrices=2 * 6 + 2 * 10,
        adam={
            "shared.weight",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        },
        tied="shared.weight",
    ),
}
every_architecture = pytest.mark.parametrize("name", CASES)


def parted(optimizer) -> dict[str, set[str]]:
    """Names by destination: "matrices", "experts" or "adam"."""
    found: dict[str, set[str]] = {"matrices": set(), "experts": set(), "adam": set()}
    for group in optimizer.param_groups:
        method = "experts" if group.get("stacked") else "matrices"
        found["adam" if group["algorithm"] == "adam" else method] |= set(group["param_names"])
    return found


@every_architecture
def test_every_parameter_has_its_destination(name):
    case = CASES[name]
    model = case.model(case.config)
    found = parted(optimizers.build(model, "racs", lr=0.01))
    parameters = dict(model.named_parameters())
    assert sorted(name for names in found.values() for name in names) == sorted(parameters)
    assert {name for name in found["adam"] if parameters[name].ndim > 1} == case.adam
    assert (len(found["matrices"]), len(found["experts"])) == (case.matrices, case.experts)
    assert {parameters[name].ndim for name in found["matrices"]} == {2}


@every_architecture
def test_a_step_moves_every_parameter(name):
    case = CASES[name]
    model = case.model(case.config)
    optimizer = optimizers.build(model, "alice", lr=0.01, last_layer="adam", rank=4, leading=2, update_interval=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and (parameter != before[name]).any(), name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.last_layer])
def test_the_last_layer_is_known_by_its_role(name):
    case = CASES[name]
    model = case.model(case.config)
    found = parted(optimizers.build(model, "racs", lr=0.01, last_layer="method"))
    assert case.last_layer in found["matrices"] and len(found["matrices"]) == case.matrices + 1


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tied])
def test_a_tied_last_layer_is_refused_with_the_remedy(name):
    case = CASES[name]
    with pytest.raises(ValueError, match=rf"ties it to the embedding {case.tied}: with last_layer=adam"):
        optimizers.build(case.model(case.config), "alice", lr=0.01)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tied])
def test_a_tied_last_layer_goes_where_embeddings_go(name):
    case = CASES[name]
    for last_layer in ("method", "adam"):
        optimizer = optimizers.build(
            case.model(case.config), "alice", lr=0.01, last_layer=last_layer, embeddings="method"
        )
        assert case.tied in parted(optimizer)["matrices"]
    scale = optimizers.build(case.model(case.config), "scale", lr=0.01)
    assert {case.tied} <= {name for group in scale.param_groups if group.get("role") for name in group["param_names"]}


@every_architecture
@pytest.mark.slow
@pytest.mark.parametrize("method", ["lion", "adafactor", "adam_mini", "scale"])
def test_methods_for_embeddings_and_vectors_step_every_architecture(method, name):
    """Adam has tensors of more than two dimensions, experts apart, routers and heads of tasks."""
    case = CASES[name]
    model = case.model(case.config)
    optimizer = optimizers.build(model, method, lr=0.01)
    found, parameters = parted(optimizer), dict(model.named_parameters())
    assert len(found["experts"]) == case.experts
    embeddings = {name for name in case.adam if "embed" in name and parameters[name].ndim == 2}
    assert embeddings <= found["matrices"]
    if method in ("lion", "adafactor"):
        assert {name for name in parameters if parameters[name].ndim == 1} <= found["matrices"]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.step()
    for name, parameter in parameters.items():
        assert parameter.isfinite().all() and (parameter != before[name]).any(), name


def test_heads_of_a_wrapped_model_are_counted():
    case = CASES["mistral"]
    wrapped = nn.ModuleDict({"module": case.model(case.config)})
    optimizer = optimizers.build(wrapped, "adam_mini", lr=0.01)
    assert {g["role"]: g["heads"] for g in optimizer.param_groups if "heads" in g} == {"query": 2, "key": 1}


def test_an_encoder_without_a_last_layer_needs_no_option():
    case = CASES["roberta_for_a_task"]
    assert len(parted(optimizers.build(case.model(case.config), "alice", lr=0.01))["matrices"]) == case.matrices


def test_a_wrapped_model_is_parted_as_the_model_is():
    case = CASES["gpt_neox"]
    wrapped = nn.ModuleDict({"module": case.model(case.config)})
    found = parted(optimizers.build(wrapped, "racs", lr=0.01, last_layer="method"))
    assert "module.lm_head.weight" in found["matrices"] and len(found["matrices"]) == case.matrices + 1


class Trained(nn.Module):
    """A layer with a copy that is trained in its place, as peft's `modules_to_save` holds them."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.original_module = layer.requires_grad_(False)
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(layer).requires_grad_(True)})

    @property
    def weight(self) -> torch.Tensor:
        return self.modules_to_save["default"].weight


@pytest.mark.parametrize("wrapper", [torch.compile, checkpoint_wrapper, Trained])
def test_a_wrapped_last_layer_is_the_last_layer(wrapper):
    case = CASES["mistral"]
    model = case.model(case.config)
    model.lm_head = wrapper(model.lm_head)
    by_adam = parted(optimizers.build(model, "racs", lr=0.01, last_layer="adam"))
    by_method = parted(optimizers.build(model, "racs", lr=0.01, last_layer="method"))
    (moved,) = by_method["matrices"] - by_adam["matrices"]
    assert moved.startswith("lm_head.") and len(by_adam["matrices"]) == case.matrices


# ---- models of other packages, and of one's own


class Block(nn.Module):
    """Layers of torch and of a user's own, beside tensors that no layer holds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 16)
        self.attention = nn.MultiheadAttention(16, 2)
        self.recurrent = nn.LSTM(16, 8)
        self.convolution = nn.Conv1d(16, 16, 3)
        self.surprise = nn.Parameter(torch.ones(3, 3))


def test_layers_of_torch():
    found = parted(optimizers.build(Block(), "racs", lr=0.01, rules=[("surprise", "adam")]))
    assert found["matrices"] == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
    }
    assert {"embedding.weight", "convolution.weight"} < found["adam"]


def test_what_nothing_tells_is_refused_with_the_remedy():
    message = r'surprise of shape \(3, 3\); say it with rules=\[\("surprise", "adam"\)\]'
    with pytest.raises(ValueError, match=message):
        optimizers.build(Block(), "racs", lr=0.01)


@pytest.mark.parametrize("name", ["adam", "adam_8bit", "lars", "lamb"])
def test_methods_for_any_shape_take_anything(name):
    model = Block()
    optimizer = optimizers.build(model, name, lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert (model.surprise != 1).all()


def test_the_first_rule_that_matches_decides():
    rules = [(r"surprise", "method"), (r"recurrent\.weight_ih", "adam"), (r"embedding|recurrent", "method")]
    model = Block()
    model.recurrent.requires_grad_(False)
    model.recurrent.weight_ih_l0.requires_grad_(True)
    model.recurrent.weight_hh_l0.requires_grad_(True)
    found = parted(optimizers.build(model, "racs", lr=0.01, rules=rules))
    assert {"surprise", "embedding.weight", "recurrent.weight_hh_l0"} < found["matrices"]
    assert "recurrent.weight_ih_l0" in found["adam"]


def test_a_rule_makes_a_stack_of_experts_of_three_dimensions():
    model = nn.ModuleDict({"linear": nn.Linear(8, 8)})
    model.mixture = nn.Parameter(torch.ones(4, 6, 8))
    assert parted(optimizers.build(model, "racs", lr=0.01, rules=[("mixture", "method")]))["experts"] == {"mixture"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("surprise", "nobody")], "destination of 'surprise' must be method or adam, got 'nobody'"),
        ([("(", "adam")], r"'\(' is no regular expression"),
        ({"surprise": "adam"}, 'rules must be pairs of a regular expression and "method" or "adam", got \'surprise\''),
        ([("surprise",)], r"rules must be pairs .* got \('surprise',\)"),
        ([("surprise", None)], r"rules must be pairs .* got \('surprise', None\)"),
        ([("suprise", "adam")], "'suprise' matches no parameter of the model, whose first is surprise"),
        ([("bias", "method"), ("surprise", "adam")], r"steps matrices; a parameter of shape \(48,\)"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        optimizers.build(Block(), "racs", lr=0.01, rules=rules)
