"""What settings must hold together: bounds, settings that exclude each other, batches that can be dealt out."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from configs.sources import SettingsError, Sources
from optimizers import registry


def check(config: Any, options: dict[str, Any], sources: Sources) -> None:
    """Refuse values of a `Config` out of range and settings that exclude each other; `options` are those of the
    optimizer's class. Raises SettingsError."""

    def require(holds: bool, key: str, text: str) -> None:
        if not holds:
            raise SettingsError(f"{sources.where(key)}{key} {text}")

    for section in dataclasses.fields(config):
        for f in dataclasses.fields(getattr(config, section.name)):
            key, value, bounds = f"{section.name}.{f.name}", getattr(getattr(config, section.name), f.name), f.metadata
            if isinstance(value, int | float) and not isinstance(value, bool):
                least, most, above = bounds.get("least", value), bounds.get("most", value), bounds.get("above")
                require(math.isfinite(value), key, f"must be a finite number, got {value}")
                require(value >= least, key, f"must be at least {least}, got {value}")
                require(value <= most, key, f"must be at most {most}, got {value}")
                require(above is None or value > above, key, f"must be greater than {above}, got {value}")
    try:
        registry.check(config.optimizer.name, **options)
    except ValueError as error:
        option = str(error).split(" ")[0].split("=")[0]
        raise SettingsError(f"{sources.where(f'optimizer.{option}')}optimizer.{error}") from error
    refusal = registry.get(config.optimizer.name)[0].traits.last_layer_refusal
    for key in ("last_layer", "embeddings"):
        require(
            refusal is None or getattr(config.optimizer, key) != "method",
            f"optimizer.{key}",
            f"must be adam for {config.optimizer.name}: {refusal}",
        )

    run, model, data = config.run, config.model, config.data
    for key, name in (("run.name", run.name), ("model.name", model.name)):
        plain = name is None or (name == Path(name).name and name not in ("", ".."))
        require(plain, key, f"must be one plain part of a path, got {name!r}")
    require(run.dir is None or run.dir.strip() != "", "run.dir", f"must name a folder, got {run.dir!r}")
    heads, longest = model.num_attention_heads, model.max_position_embeddings
    require(
        model.hidden_size % (2 * heads) == 0,
        "model.hidden_size",
        f"must be divisible by twice model.num_attention_heads {heads}, got {model.hidden_size}",
    )
    require(
        data.sequence_length <= longest,
        "data.sequence_length",
        f"must not exceed model.max_position_embeddings {longest}, got {data.sequence_length}",
    )
    require(
        config.train.dtype == "bfloat16" or not config.train.stochastic_rounding,
        "train.stochastic_rounding",
        f"is for train.dtype=bfloat16, got train.dtype={config.train.dtype}",
    )
    require(
        data.path is not None or data.source not in ("files", "prepared"),
        "data.path",
        f"is required with data.source={data.source}",
    )
    require(
        not run.record_basis_cosines or (config.train.parallel == "ddp" and not config.train.layerwise),
        "run.record_basis_cosines",
        "needs train.parallel=ddp and train.layerwise=false, where the main process sees every basis turn",
    )
    check_layout(config, processes=1)


def check_layout(config: Any, processes: int) -> None:
    """Refuse a batch that cannot be dealt to `processes` processes.

    A process owns whole streams and holds at most `train.micro_batch_size` of its rows at once.

    Raises:
        SettingsError: naming the two settings that do not divide.
    """
    batch, micro, streams = config.train.batch_size, config.train.micro_batch_size, config.data.streams
    if batch % streams:
        raise SettingsError(f"train.batch_size must be divisible by data.streams {streams}, got {batch}")
    if streams % processes:
        raise SettingsError(f"data.streams must be divisible by the number of processes {processes}, got {streams}")
    if micro is not None and batch % micro:
        raise SettingsError(f"train.batch_size must be divisible by train.micro_batch_size {micro}, got {batch}")
    share = batch // processes
    if micro is not None and share > micro and share % micro:
        raise SettingsError(
            f"train.micro_batch_size must divide the {share} rows of each of {processes} processes, got {micro}"
        )
    if config.train.layerwise:
        refuse = "train.layerwise=true steps a matrix as soon as its gradient is there: it cannot"
        if processes > 1:
            raise SettingsError(f"{refuse} wait for the gradients of {processes} processes; start one")
        if micro is not None and micro < batch:
            raise SettingsError(
                f"{refuse} accumulate {batch // micro} micro-batches; set train.micro_batch_size=null "
                f"or train.batch_size={micro}"
            )
        if config.train.clip_grad_norm is not None:
            raise SettingsError(f"{refuse} clip by the norm of all gradients; set train.clip_grad_norm=null")
