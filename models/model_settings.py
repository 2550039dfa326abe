"""The `model` section of the settings. Reading it imports neither torch nor transformers."""

from dataclasses import dataclass

from omegaconf import MISSING

from configs.setting import setting


@dataclass
class Model:
    name: str = setting(MISSING, "name of the architecture")
    hidden_size: int = setting(MISSING, "width", least=1)
    intermediate_size: int = setting(MISSING, "width of the MLP", least=1)
    num_hidden_layers: int = setting(MISSING, "layers", least=1)
    num_attention_heads: int = setting(MISSING, "heads; each takes an even share of the width", least=1)
    vocab_size: int = setting(32000, "rows of the embedding and of lm_head", least=2)
    max_position_embeddings: int = setting(2048, "longest sequence", least=1)
    rms_norm_eps: float = setting(1e-6, "epsilon of RMSNorm", above=0)
    rope_theta: float = setting(10000.0, "base of the rotary positions", above=0)
    initializer_range: float = setting(0.02, "standard deviation of the initial weights", above=0)
    init_from: str | None = setting(None, "folder of save_pretrained whose weights to start from")
