"""The `model` section of the settings. Reading it imports neither torch nor transformers."""

import sys
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from configs.setting import setting

# rope_type -> the numbers that it needs, and those that it may have. Types that are left out depend on the length of
# the row.
ROPE_SCALINGS: dict[str, tuple[set[str], set[str]]] = {
    "linear": ({"factor"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"},
    ),
}

LARGEST = 2**24  # of a matrix's rows: a plan can still count the elements


@dataclass
class Model:
    name: str = setting(MISSING, "name of the architecture")
    hidden_size: int = setting(MISSING, "width", least=1, most=LARGEST)
    intermediate_size: int = setting(MISSING, "width of the MLP", least=1, most=LARGEST)
    num_hidden_layers: int = setting(MISSING, "layers", least=1, most=10_000)
    num_attention_heads: int = setting(MISSING, "heads; each takes an even share of the width", least=1)
    num_key_value_heads: int | None = setting(
        None, "heads of keys and values, each shared by as many heads; null: num_attention_heads", least=1
    )
    head_dim: int | None = setting(None, "width of a head; null: hidden_size / num_attention_heads", least=2)
    vocab_size: int = setting(32000, "rows of the embedding and of lm_head", least=2, most=LARGEST)
    max_position_embeddings: int = setting(2048, "longest sequence", least=1)
    rms_norm_eps: float = setting(1e-6, "epsilon of RMSNorm", above=0)
    rope_theta: float = setting(10000.0, "base of the rotary positions", above=0)
    rope_scaling: dict[str, Any] | None = setting(  # noqa: RUF009
        None, "rope_type (linear, llama3, yarn) and its numbers, as in a model's config.json; null: none"
    )
    tie_word_embeddings: bool = setting(False, "whether the embedding is lm_head too")
    initializer_range: float = setting(0.02, "standard deviation of the initial weights", above=0, most=1)
    init_from: str | None = setting(None, "folder of save_pretrained whose weights to start from")

    def heads(self) -> tuple[int, int, int]:
        """The number of heads, of heads of keys and values, and the width of each."""
        heads = self.num_attention_heads
        return heads, self.num_key_value_heads or heads, self.head_dim or self.hidden_size // heads


def rope_fault(scaling: dict[str, Any]) -> str | None:
    """What is wrong with a `rope_scaling`, to be said after its name; None: nothing."""
    kind, given = scaling.get("rope_type"), scaling.keys() - {"rope_type"}
    if kind not in ROPE_SCALINGS:
        return f"needs a rope_type of {', '.join(ROPE_SCALINGS)}, got {kind!r}"
    needed, possible = ROPE_SCALINGS[kind]
    if missing := needed - given:
        return f"of rope_type {kind} needs {', '.join(sorted(missing))}"
    if unknown := given - needed - possible:
        return (
            f"of rope_type {kind} has no {sorted(map(str, unknown))[0]}; known: {', '.join(sorted(needed | possible))}"
        )
    for key in sorted(given):
        number = isinstance(scaling[key], int | float) and not isinstance(scaling[key], bool)
        if not number or not 0 < scaling[key] <= sys.float_info.max:
            return f"must have a finite number above 0 as its {key}, got {scaling[key]!r}"
    return None
