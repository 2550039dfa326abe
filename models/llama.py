"""LLaMA for pretraining: transformers' model, the next-token loss inside its forward.

The architecture is Table 10 of arXiv 2502.07752 (GaLore's LLaMA family): RMSNorm, rotary positions, SwiGLU, untied
embeddings, no bias, every matrix and embedding drawn from N(0, 0.02).
"""

import contextlib
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from configs.messages import first_line, one_line
from configs.user_paths import expanded, is_file
from models.kernels.aligned_mlp import AlignedMLP
from models.kernels.attention import ATTENTION, row_arguments
from models.kernels.cross_entropy import CompiledChunk, Gradients, chunk_gradients, summed_cross_entropy
from models.model_settings import Model
from models.saved import SHAPE_KEYS, check_saved

log = logging.getLogger(__name__)


class Loss(NamedTuple):
    """`loss_sum`: float32 scalar, the sum of the cross entropies (nats) of all targets of the micro-batch."""

    loss_sum: Tensor


# The class keeps transformers' name: `save_pretrained` writes it into config.json as the architecture.
class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """A causal LM whose forward returns the summed loss and never holds all logits."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = AlignedMLP(config)

    _compiled = False
    _loss_chunk: Gradients = staticmethod(chunk_gradients)

    def hidden_states(self, input_ids: Tensor, indices: Tensor | None = None) -> Tensor:
        """Hidden states after the last norm.

        It calls the layers itself. `LlamaModel.forward` would synchronise with the device at every call, to look for
        packed sequences, and build a causal mask [rows, 1, length, length] when compiled.

        Args:
            input_ids: int64 [rows, length].
            indices: int64 [N], from `unpadding.unpadded_indices`, or None for all positions.

        Returns:
            [rows, length, hidden], or [1, N, hidden] of the positions `indices`.
        """
        decoder, (rows, length) = self.model, input_ids.shape
        if indices is None:
            positions = torch.arange(length, device=input_ids.device).unsqueeze(0)
        else:
            positions = (indices % length).unsqueeze(0)
            input_ids = input_ids.flatten()[indices].unsqueeze(0)
        hidden = decoder.embed_tokens(input_ids)
        rotary = decoder.rotary_emb(hidden, position_ids=positions)
        heads, width = self.config.num_attention_heads, decoder.layers[0].self_attn.head_dim
        arguments = row_arguments(indices, (rows, length), heads, width, hidden.dtype)
        if indices is not None and self._compiled:
            arguments["most"] = rows * length
        for layer in decoder.layers:
            hidden = layer(hidden, position_embeddings=rotary, **arguments)
        normed: Tensor = decoder.norm(hidden)
        return normed

    def forward(self, input_ids: Tensor, labels: Tensor, indices: Tensor | None = None) -> Loss:
        """Sum of the next-token losses of one micro-batch.

        Args:
            input_ids: int64 [rows, length].
            labels: int64 [rows, length], not shifted: position i is predicted from positions before i. -100 is no
                target. The number of targets is `(labels[:, 1:] != -100).sum()`.
            indices: `unpadding.unpadded_indices(labels)`, which saves the work on padding. The caller makes it on the
                CPU: made here, its size would have to be read back from the device.
        """
        # Evaluations have other shapes than training steps, and compiling for them takes longer than they do.
        eager = self._compiled and not torch.is_grad_enabled()
        with torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext():
            hidden = self.hidden_states(input_ids, indices)
        # Shifting the labels instead of the hidden states keeps the large tensor a view.
        targets = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
        if indices is not None:
            targets = targets[indices]
        flat = hidden.flatten(0, 1)
        return Loss(summed_cross_entropy(flat, self.lm_head.weight, targets, self._loss_chunk).float())

    def compile(self, **options: Any) -> None:
        """Compile each decoder layer, and the loss of a chunk of positions. One graph serves all layers."""
        self._compiled = True
        self._loss_chunk = CompiledChunk(**options)
        for layer in self.model.layers:
            layer.forward = CompiledForward(layer, options)


class CompiledForward:
    """The compiled forward of a decoder layer. It is called inside the layer's hooks, where FSDP2 gathers the weights
    and replaces the layer's input.
    """

    def __init__(self, layer: nn.Module, options: dict[str, Any]):
        self._layer, self._compiled = layer, torch.compile(_layer_forward, **options)

    def __call__(self, hidden: Tensor, *, most: int | None = None, **arguments: Any) -> Tensor:
        """The layer's output. `most`: of a list of positions, the most that it can have in this run."""
        if most is not None:
            # One graph for every N, with kernels chosen for the largest N. Chosen for the first N, they would differ
            # after a resume.
            marked = [(hidden, 1), *((part, 1) for part in arguments["position_embeddings"])]
            if "indices" in arguments:
                marked.append((arguments["indices"], 0))
            for tensor, dimension in marked:
                torch._dynamo.mark_dynamic(tensor, dimension, hint_override=most)
        output: Tensor = self._compiled(self._layer, hidden, **arguments)
        return output


def _layer_forward(layer: nn.Module, hidden: Tensor, **arguments: Any) -> Tensor:
    # FSDP2 gives the layer a class of its own after this was compiled, and only the last class recomputes activations.
    output: Tensor = type(layer).forward(layer, hidden, **arguments)
    return output


def llama_config(section: Model) -> LlamaConfig:
    """transformers' configuration for the `model` section of the settings."""
    return LlamaConfig(
        **{key: getattr(section, key) for key in (*SHAPE_KEYS, "num_key_value_heads", "head_dim")},
        max_position_embeddings=section.max_position_embeddings,
        rms_norm_eps=section.rms_norm_eps,
        rope_parameters={"rope_type": "default", **(section.rope_scaling or {}), "rope_theta": section.rope_theta},
        initializer_range=section.initializer_range,
        # A padding id would freeze one row of the embedding at zero.
        pad_token_id=None,
        # They are the tokenizer's, which names them when the model is exported.
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=section.tie_word_embeddings,
        attn_implementation=ATTENTION,  # type: ignore[call-arg]
    )


def build_model(
    section: Model,
    *,
    dtype: torch.dtype,
    seed: int,
    activation_checkpointing: bool = False,
    device: torch.device | str = "cpu",
    resumed: bool = False,
) -> LlamaForCausalLM:
    """A model ready to train, freshly initialised or read from `section.init_from`.

    The initial weights are a function of the seed and the sizes alone: they are drawn in float32 on the CPU from their
    own generator and cast, so every dtype, device and process starts from the same numbers. On the meta device nothing
    is allocated or drawn. `resumed`: its weights come from a checkpoint; the folder `section.init_from` may be gone.

    Raises:
        ValueError: `section.init_from` is not a saved model of these sizes.
    """
    config = llama_config(section)
    saved = None if section.init_from is None else expanded(section.init_from)
    if saved is not None and not resumed:
        check_saved(saved, config)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)  # type: ignore[arg-type]
    if torch.device(device).type != "meta":
        if saved is None:
            allocate(model, device)
            initialize(model, seed)
        else:
            model = load_saved(saved, config, dtype).to(device)  # type: ignore[arg-type]
    if saved is not None and is_file(saved / "generation_config.json"):
        model.generation_config = _generation_config(saved) or model.generation_config
    if activation_checkpointing:
        # Without dropout, recomputation needs no saved random state.
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return model.train()


def _generation_config(folder: Path) -> transformers.GenerationConfig | None:
    """That of a saved model. None, after a warning, for one that transformers cannot read or would not save again:
    training does not depend on it, and its end must not."""
    try:
        found = transformers.GenerationConfig.from_pretrained(folder)
        found.validate(strict=True)
    except Exception as error:  # whatever transformers raises
        log.warning("%s is left out: %s", folder / "generation_config.json", one_line(error))
        return None
    return found


def allocate(model: LlamaForCausalLM, device: torch.device | str) -> None:
    """Give `model`, if it is on the meta device, memory on `device`. The weights have no values yet."""
    if not next(model.parameters()).is_meta:
        return
    model.to_empty(device=device)
    model.tie_weights()  # to_empty made two of a matrix that is shared
    # Its frequencies are not saved, and stay in float32 at every dtype: rounded, they are another RoPE.
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(device)


@torch.no_grad()
def initialize(model: LlamaForCausalLM, seed: int) -> None:
    """Give `model` its `drawn_weights`."""
    for parameter, weight in zip(model.parameters(), drawn_weights(model, seed), strict=True):
        parameter.copy_(weight)


def drawn_weights(model: LlamaForCausalLM, seed: int) -> Iterator[Tensor]:
    """The initial weight of each parameter, in order, float32 on the CPU: matrices and embeddings from
    N(0, initializer_range), norms one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        weight = torch.ones(parameter.shape, dtype=torch.float32)
        if parameter.ndim > 1:
            weight.normal_(std=model.config.initializer_range, generator=generator)
        yield weight


def saved_weights(section: Model, dtype: torch.dtype) -> list[Tensor]:
    """The weight of each parameter, in order, as saved in `section.init_from`. Raises ValueError as `load_saved`."""
    assert section.init_from is not None
    model = load_saved(expanded(section.init_from), llama_config(section), dtype)
    return [parameter.detach() for parameter in model.parameters()]


def load_saved(folder: Path, config: LlamaConfig, dtype: torch.dtype) -> LlamaForCausalLM:
    """The model of `folder` in `dtype`, but for how it generates. Raises ValueError if its weights cannot be read or
    are incomplete."""
    plain = transformers.GenerationConfig()
    try:
        loaded: Any = LlamaForCausalLM.from_pretrained(
            folder, config=config, generation_config=plain, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (pickle.UnpicklingError, EOFError) as error:  # torch's words advise to trust the file
        raise ValueError(
            f"model.init_from: the weights in {folder} cannot be read: pytorch_model.bin holds no tensors, as the "
            "pointer that Git leaves without LFS"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model.init_from: the weights in {folder} cannot be read: {first_line(error)}") from error
    model: LlamaForCausalLM
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise ValueError(f"model.init_from: {folder} has {kind.replace('_', ' ')}: {sorted(report[kind])[0]}")
    return model
