"""Which settings make two runs the same run."""

import dataclasses
import hashlib
import json
from typing import Any

from configs.sections import Config
from optimizers import registry

# Settings that two starts of one run may differ in: its folder, when it logs and saves, how its work is divided.
FREE_ON_RESUME = (
    "run.",
    "wandb.",
    "train.threads",
    "train.compile",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.micro_batch_size",
    "train.parallel",
    "train.deal_steps",
)

# As free, but part of the hash of every run that was recorded.
FREE_BUT_HASHED = ("data.prefetch", "train.layerwise", "train.activation_checkpointing")

# Settings that came after runs were recorded. At these defaults they are left out, so that runs keep their identity;
# of `optimizer.state_bits` the default is the method's.
LATER: dict[str, Any] = {
    "model.num_key_value_heads": None,
    "model.head_dim": None,
    "model.rope_scaling": None,
    "model.tie_word_embeddings": False,
    "data.config": None,
    "data.split": None,
    "data.eval_split": None,
    "data.held_out": None,
    "data.text_field": "text",
    "data.special_tokens_in_text": "token",
    "train.tf32": False,
    "optimizer.embeddings": None,
    "optimizer.file": None,
}

# Options that a method, and those that inherit from it, got after runs were recorded, and what it did before.
LATER_OPTIONS: dict[str, dict[str, Any]] = {"alice_soap": {"optimizer.basis_dtype": "parameter"}}


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain nested dicts, lists, numbers and texts, fit for YAML and JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_hash(config: Config) -> str:
    """12 hexadecimal digits of the settings that, with the seed, determine the result of a run."""
    binding = json.dumps(_binding(to_dict(config)), sort_keys=True)
    return hashlib.sha256(binding.encode()).hexdigest()[:12]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Sorted dotted keys in which two results of `to_dict` differ although a resume needs them equal."""
    old, new = _binding(old), _binding(new)
    keys = (old.keys() | new.keys()) - {*FREE_BUT_HASHED}
    return sorted(key for key in keys if key not in old or key not in new or old[key] != new[key])


def _binding(settings: dict[str, Any]) -> dict[str, Any]:
    flat = flatten(settings)
    later = dict(LATER)
    if (name := flat.get("optimizer.name")) in registry.names():
        for method, options in LATER_OPTIONS.items():
            later |= options if issubclass(registry.get(name)[0], registry.get(method)[0]) else {}
        later["optimizer.state_bits"] = registry.options(name)["state_bits"].default
    return {
        key: value
        for key, value in flat.items()
        if not key.startswith(FREE_ON_RESUME) and not (key in later and value == later[key])
    }


def flatten(settings: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
