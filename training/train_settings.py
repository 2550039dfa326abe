"""The sections `run`, `schedule`, `train` and `wandb` of the settings. This file imports nothing else of training."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from configs.setting import setting


@dataclass
class Run:
    name: str | None = setting(None, "name of the run; null: <model>_<optimizer>_s<seed>")
    dir: str | None = setting(None, "run folder; null: runs/<name>")
    seed: int = setting(0, "seed of the initial weights", least=0, most=2**63 - 1)
    reference: str | None = setting(None, "run folder or summary.json that effective throughput is measured against")
    allow_config_change: bool = setting(False, "resume although settings that change the result differ")
    record_basis_cosines: bool = setting(False, "write how far each basis column turns at a refresh (Fig. 6); slow")
    deterministic: bool = setting(False, "deterministic CUDA kernels: slower, but resuming is exact on CUDA too")


@dataclass
class Schedule:
    warmup_fraction: float = setting(0.1, "share of the steps with rising learning rate", least=0, most=1)
    final_fraction: float = setting(0.1, "learning rate at the end of the cosine, over its peak", least=0, most=1)
    first_lr_zero: bool = setting(False, "the warm-up begins at 0, at its first update, as in GaLore's code")


@dataclass
class Train:
    steps: int = setting(MISSING, "optimizer updates", least=1)
    batch_size: int = setting(MISSING, "rows a step, all processes together", least=1)
    micro_batch_size: int | None = setting(None, "most rows a process holds at once; null: its whole share", least=1)
    eval_every: int = setting(0, "steps between evaluations; 0: only at the end", least=0)
    checkpoint_every: int = setting(0, "steps between checkpoints; 0: only at the end", least=0)
    log_every: int = setting(1, "steps between rows of metrics.jsonl", least=1)
    galore_batch_size: int = setting(256, "rows of a batch in galore_perplexity", least=1)
    clip_grad_norm: float | None = setting(None, "largest global gradient norm; null: no clipping", above=0)
    threads: int | None = setting(None, "CPU threads of torch; null: torch's choice", least=1, most=4096)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "dtype of weights and matrix states")
    tf32: bool = setting(False, "a float32 model's products in TF32 on CUDA: faster, 11 bits; not the optimizer's")
    stochastic_rounding: bool = setting(False, "round bfloat16 weights and slow moments at random, without bias")
    compile: Literal["auto", True, False] = setting("auto", "compile the layers, and steps on CUDA; auto: long runs")
    parallel: Literal["ddp", "fsdp2"] = setting("ddp", "ddp: every process holds the whole model; fsdp2: its rows")
    deal_steps: bool = setting(
        True,
        "ddp: each process steps a share of the matrices and sends their weights to the others; false: every process "
        "steps all, as with run.record_basis_cosines",
    )
    layerwise: bool = setting(False, "step each matrix and free its gradient during backward: less memory, same result")
    activation_checkpointing: bool = setting(False, "recompute the layers in backward: less memory, a third more work")


@dataclass
class Wandb:
    mode: Literal["disabled", "offline", "online"] = setting("disabled", "Weights & Biases")
    project: str = setting("llama-optimizers", "project")
    entity: str | None = setting(None, "user or team")
    group: str | None = setting(None, "group of runs")
    tags: list[str] = field(default_factory=list, metadata={"meaning": "tags of the run"})


def deals_steps(run: Run, train: Train) -> bool:
    """Whether the replicas of a run share the steps; the cosines of a basis are recorded where all bases are."""
    return train.deal_steps and not run.record_basis_cosines
