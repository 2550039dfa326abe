"""Is a folder of `save_pretrained` a model of the architecture that the settings describe?"""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import LlamaConfig

from configs.messages import why_not_opened
from configs.user_paths import is_file
from models.model_settings import rope_fault

# A saved model is read only if its configuration and ours agree in these.
SHAPE_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SETTABLE_KEYS = (*SHAPE_KEYS, "num_key_value_heads", "head_dim", "tie_word_embeddings", "rms_norm_eps")
FIXED_KEYS = ("hidden_act", "attention_bias", "mlp_bias", "attention_dropout")


def check_saved(folder: Path, config: LlamaConfig) -> None:
    """Raise ValueError unless `folder` was written by `save_pretrained` for the architecture of `config`."""
    if not is_file(folder / "config.json"):
        raise ValueError(f"model.init_from: {folder} has no config.json, it is not a folder of save_pretrained")
    try:
        saved = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises at a file that is not one of its own
        raise ValueError(f"model.init_from: {folder}/config.json cannot be read: {why_not_opened(error)}") from error
    if saved.model_type != "llama":
        raise ValueError(f"model.init_from: {folder} holds a {saved.model_type} model, not a llama")
    if getattr(saved, "quantization_config", None) is not None:
        raise ValueError(
            f"model.init_from: {folder} holds quantized weights (quantization_config), only float ones can be trained"
        )
    for key in FIXED_KEYS:
        ours, theirs = getattr(config, key), getattr(saved, key)
        if ours != theirs:
            raise ValueError(f"model.init_from: {folder} has {key} {theirs}, only {ours} can be trained")
    for key in SETTABLE_KEYS:
        ours, theirs = getattr(config, key), getattr(saved, key)
        if ours != theirs:
            shown = str(theirs).lower() if isinstance(theirs, bool) else theirs
            raise ValueError(
                f"model.init_from: {folder} has {key} {theirs}, the settings say {ours}: model.{key}={shown}"
            )
    ours, theirs = config.max_position_embeddings, saved.max_position_embeddings
    if ours < theirs:  # the trained model would be saved for shorter texts than it came with
        raise ValueError(
            f"model.init_from: {folder} is for texts of {theirs} tokens, the settings say {ours}: "
            f"model.max_position_embeddings={theirs}"
        )
    _check_rope(folder, dict(config.rope_parameters or {}), dict(saved.rope_parameters))


def _check_rope(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise ValueError, naming the settings that would do, if the saved rotary positions are others than ours."""
    theirs = {key: value for key, value in theirs.items() if value is not None and key != "type"}  # once rope_type
    if ours == theirs:
        return
    theta = theirs.pop("rope_theta")
    fault = None if theirs["rope_type"] == "default" else rope_fault(theirs)
    if fault is not None:
        raise ValueError(
            f"model.init_from: {folder} has rope parameters that cannot be trained: model.rope_scaling {fault}"
        )
    scaling = "null" if theirs["rope_type"] == "default" else json.dumps(theirs)
    raise ValueError(
        f"model.init_from: {folder} has other rotary positions than the settings: model.rope_theta={theta} "
        f"model.rope_scaling={scaling}"
    )
