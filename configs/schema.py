"""Every setting with its default and meaning, and the strict reading of files and overrides into a `Config`.

    python train.py [FILE.yaml ...] [key=value ...] [--plan | --plan=json]

Files merge left to right over the defaults below; no file means configs/quickstart.yaml. In a file and on the command
line, `model`, `data` and `optimizer` may name a file of that group (`optimizer: alice`, or with changes `optimizer:
{base: alice, rank: 64}`): it replaces the whole section. On the command line that happens before dotted overrides
(`optimizer.rank=64`), wherever it stands. A file may build on another one: `base: ../60m.yaml`, relative to itself.
"""

import dataclasses
import inspect
import typing
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import check
from configs.identity import flatten
from configs.sources import GROUPS, SettingsError, Sources, nearest
from optimizers import registry

# Table 8 of arXiv 2502.07752: Adam's learning rate, where it is not 0.001.
ADAM_LR = {"llama_1_3b": 0.0007}


def setting(default: Any, meaning: str, **bounds: float) -> Any:
    """A field with its meaning and, for numbers, bounds: `least` and `most` (inclusive), `above` (exclusive)."""
    return field(default=default, metadata={"meaning": meaning, **bounds})


@dataclass
class Run:
    name: str | None = setting(None, "name of the run; null: <model>_<optimizer>_s<seed>")
    dir: str | None = setting(None, "run folder; null: runs/<name>")
    seed: int = setting(0, "of the initial weights", least=0, most=2**63 - 1)
    reference: str | None = setting(None, "run folder or summary.json that effective throughput is measured against")
    allow_config_change: bool = setting(False, "resume although settings that change the result differ")
    record_basis_cosines: bool = setting(False, "write how far each basis column turns at a refresh (Fig. 6); slow")
    deterministic: bool = setting(False, "deterministic CUDA kernels: exact resume there, slower")


@dataclass
class Model:
    name: str = setting(MISSING, "name of the architecture")
    hidden_size: int = setting(MISSING, "width", least=1)
    intermediate_size: int = setting(MISSING, "width of the MLP", least=1)
    num_hidden_layers: int = setting(MISSING, "layers", least=1)
    num_attention_heads: int = setting(MISSING, "heads; they divide the width into even parts", least=1)
    vocab_size: int = setting(32000, "rows of the embedding and of lm_head", least=2)
    max_position_embeddings: int = setting(2048, "longest sequence", least=1)
    rms_norm_eps: float = setting(1e-6, "epsilon of RMSNorm", above=0)
    rope_theta: float = setting(10000.0, "base of the rotary positions", above=0)
    initializer_range: float = setting(0.02, "standard deviation of the initial weights", above=0)
    init_from: str | None = setting(None, "folder of save_pretrained to start from instead")


@dataclass
class Data:
    source: Literal["c4", "files", "builtin", "prepared"] = setting(MISSING, "where the text comes from")
    path: str | None = setting(None, "training text: file, glob or C4-shaped folder; for c4 null is the hub")
    eval_path: str | None = setting(None, "the same for the evaluation text")
    tokenizer: str | None = setting(
        None, "hub name or folder; null: t5-base for c4, a prepared store's own, else that of builtin"
    )
    packing: bool = setting(MISSING, "true: documents joined and cut; false: one document a row, truncated or padded")
    sequence_length: int = setting(256, "positions a row", least=2)
    streams: int = setting(8, "sub-streams of the source; the number of processes must divide it", least=1)
    seed: int = setting(42, "of the order of the documents", least=0)
    shuffle_buffer: int = setting(1000, "documents a stream shuffles among", least=1)
    eval_tokens: int = setting(MISSING, "targets of one evaluation", least=1)
    repeat: bool = setting(True, "start over when the text ends; false: that is an error")
    prefetch: int = setting(4, "batches read ahead", least=1)


@dataclass
class Optimizer:
    """What every optimizer has; the options of the chosen class are added from its signature."""

    name: str = setting(MISSING, "name in optimizers.registry")
    lr: float = setting(MISSING, "learning rate of the method", above=0)
    adam_lr: float | None = setting(
        None, "learning rate of the parameters stepped by Adam; null: Table 8's for the model's size", above=0
    )
    last_layer: Literal["method", "adam"] | None = setting(None, "who steps lm_head; null: the class's default")
    embeddings: Literal["method", "adam"] | None = setting(None, "who steps embeddings; null: the class's default")


@dataclass
class Schedule:
    warmup_fraction: float = setting(0.1, "share of the steps with rising learning rate", least=0, most=1)
    final_fraction: float = setting(0.1, "where the cosine ends, as a share of the peak", least=0, most=1)
    first_lr_zero: bool = setting(False, "GaLore's habit: the first update has learning rate 0")


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
    threads: int | None = setting(None, "CPU threads of torch; null: torch's choice", least=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "of weights and matrix states")
    stochastic_rounding: bool = setting(False, "bfloat16 weights: round up or down at random, right on average")
    compile: Literal["auto", True, False] = setting("auto", "compile the layers; auto: when the run is long enough")
    parallel: Literal["ddp", "fsdp2"] = setting("ddp", "on each process: ddp, the whole model; fsdp2, its rows of it")
    layerwise: bool = setting(False, "step each matrix and free its gradient during backward: less memory, same result")
    activation_checkpointing: bool = setting(False, "recompute the layers in backward: less memory, a third more work")


@dataclass
class Wandb:
    mode: Literal["disabled", "offline", "online"] = setting("disabled", "Weights & Biases")
    project: str = setting("llama-optimizers", "project")
    entity: str | None = setting(None, "user or team")
    group: str | None = setting(None, "group of runs")
    tags: list[str] = field(default_factory=list, metadata={"meaning": "tags of the run"})


@dataclass
class Config:
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    wandb: Wandb = field(default_factory=Wandb)


@dataclass
class Invocation:
    """What the command line asks for; `plan` is how to print a plan instead of training."""

    config: Config
    plan: Literal["text", "json"] | None


def load(argv: list[str]) -> Invocation:
    """Read the arguments of train.py. Raises SettingsError, its text one sentence."""
    plan: Literal["text", "json"] | None = None
    files, overrides = [], []
    for argument in argv:
        if argument in ("--plan", "--plan=json"):
            plan = "json" if argument.endswith("json") else "text"
        elif argument.startswith("-"):
            raise SettingsError(
                f"unknown flag {argument}; usage: train.py [FILE.yaml ...] [key=value ...] [--plan | --plan=json]"
            )
        else:
            is_override = "=" in argument and not Path(argument).is_file()  # a folder may be named after a setting
            (overrides if is_override else files).append(argument)
    sources = Sources()
    for file in files or ["configs/quickstart.yaml"]:
        sources.add_file(file)
    sources.add_overrides(overrides)
    return Invocation(build(sources), plan)


def build(sources: Sources) -> Config:
    """The checked `Config` of the merged settings. Raises SettingsError."""
    schema = OmegaConf.structured(Config)
    schema.optimizer = OmegaConf.structured(_optimizer_section(sources))
    known = list(flatten(OmegaConf.to_container(schema)))
    _fill(schema, sources.settings, "", sources, known)
    try:
        missing = sorted(OmegaConf.missing_keys(schema))
        config = None if missing else OmegaConf.to_object(schema)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise SettingsError(f"{sources.where(error.full_key)}{error.full_key}: {str(error).splitlines()[0]}") from error
    if missing:
        section = missing[0].partition(".")[0]
        unset = section in GROUPS and section not in sources.settings
        pick = f"; pick {section}={'|'.join(sources.choices(section))}" if unset else ""
        raise SettingsError(f"{missing[0]} is required and not set{pick}")
    check(config, optimizer_options(config.optimizer), sources)
    if config.optimizer.adam_lr is None:
        config.optimizer.adam_lr = ADAM_LR.get(config.model.name, 0.001)
    config.run.name = config.run.name or f"{config.model.name}_{config.optimizer.name}_s{config.run.seed}"
    config.run.dir = str(Path(config.run.dir or f"runs/{config.run.name}").expanduser())
    return config


def optimizer_options(section: Optimizer) -> dict[str, Any]:
    """The options of the optimizer's class among its section, for `optimizers.build`."""
    common = {f.name for f in dataclasses.fields(Optimizer)}
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in common}


def _optimizer_section(sources: Sources) -> type[Optimizer]:
    """The class of the optimizer's section, by the name in the settings."""
    section = sources.settings.get("optimizer")
    name = section.get("name", MISSING) if isinstance(section, dict) else MISSING
    if name == MISSING:
        return Optimizer
    if name not in registry.names():
        raise SettingsError(
            f"{sources.where('optimizer.name')}optimizer.name must be one of {', '.join(registry.names())}, "
            f"got {name!r}{nearest(str(name), registry.names())}"
        )
    return _with_options(name)


@cache
def _with_options(name: str) -> type[Optimizer]:
    """`Optimizer` with the options of the optimizer `name`, typed and defaulted by its class's signature."""
    fields = []
    for option, parameter in registry.options(name).items():
        default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
        fields.append((option, parameter.annotation, field(default=default)))
    return make_dataclass(f"Optimizer_{name}", fields, bases=(Optimizer,))


def _fill(node: Any, values: dict, prefix: str, sources: Sources, known: list[str]) -> None:
    """Write the plain `values` into the structured `node`, refusing unknown keys and wrong types."""
    sections = {f.name for f in dataclasses.fields(Config)}
    for name, value in values.items():
        key = f"{prefix}{name}"
        where = sources.where(key)
        if not prefix and name in sections:
            if not isinstance(value, dict):
                raise SettingsError(f"{where}{key} is a section of settings, set {key}.<key> instead of {value!r}")
            _fill(node[name], value, f"{key}.", sources, known)
            continue
        if "." in str(name):
            raise SettingsError(f"{where}{name} must be written as nested keys in a file")
        if key not in known:
            raise SettingsError(f"{where}unknown key {key}{_nearest_key(key, known)}")
        try:
            OmegaConf.update(node, name, value, merge=False)
        except OmegaConfBaseException as error:
            expected = _expected(typing.get_type_hints(OmegaConf.get_type(node))[name])
            raise SettingsError(f"{where}{key} must be {expected}, got {value!r}") from error


def _nearest_key(key: str, known: list[str]) -> str:
    """A hint at the valid key with the same last part, or spelled most like it in the section, or at them all."""
    section, _, last = key.rpartition(".")
    namesakes = [k for k in known if k.rpartition(".")[2] == last]
    if namesakes and not section:
        return f"; did you mean {namesakes[0]}?"
    prefix = f"{section}." if section else ""
    neighbours = sorted({k.removeprefix(prefix).partition(".")[0] for k in known if k.startswith(prefix)})
    return nearest(last, neighbours, prefix) or f"; known: {', '.join(neighbours)}"


def _expected(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)}"
    if origin is list:
        return "a list"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    return " or ".join(map(_expected, arguments))
