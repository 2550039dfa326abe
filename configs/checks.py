"""Rules for the values of a `Config`: bounds, settings that exclude each other, batches that divide evenly."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from configs.reading import Settings, SettingsError
from configs.sections import Config, Optimizer, optimizer_options
from configs.user_paths import expanded
from data.data_settings import Data
from models.model_settings import rope_fault
from optimizers import registry
from optimizers.engine import refusals

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


LARGEST = 2**63 - 1  # of a whole number in torch


def check(config: Config, settings: Settings) -> None:
    """Refuse values out of range and settings that exclude each other; `settings` knows where each was written.

    Raises:
        SettingsError: names the place, the key and the mistake in its value.
    """
    check_bounds(config, settings)
    check_options(config.optimizer, settings)
    _check_last_layer(config, settings)
    _check_paths(config, settings)
    _check_relations(config, settings)
    check_layout(config, processes=1)


def check_bounds(sections: "DataclassInstance", settings: Settings) -> None:
    """Refuse numbers out of the bounds that their sections declare, and empty texts where null means no value.

    Raises SettingsError.
    """
    for section in dataclasses.fields(sections):
        values = getattr(sections, section.name)
        for f in dataclasses.fields(values):
            key, value, bounds = f"{section.name}.{f.name}", getattr(values, f.name), f.metadata
            if f.default is None and isinstance(value, str | list):
                texts = value if isinstance(value, list) else [value]
                filled = bool(texts) and all(text.strip() for text in texts if isinstance(text, str))
                settings.require(filled, key, f"must not be empty or blank, got {value!r}; null means no value")
            if isinstance(value, int | float) and not isinstance(value, bool):
                most = bounds.get("most", LARGEST if isinstance(value, int) else value)
                least, above, below = bounds.get("least", value), bounds.get("above"), bounds.get("below")
                finite = isinstance(value, int) or math.isfinite(value)
                settings.require(finite, key, f"must be a finite number, got {value}")
                settings.require(value >= least, key, f"must be at least {least}, got {value}")
                settings.require(value <= most, key, f"must be at most {most}, got {value}")
                settings.require(above is None or value > above, key, f"must be greater than {above}, got {value}")
                settings.require(below is None or value < below, key, f"must be less than {below}, got {value}")


def check_options(optimizer: Optimizer, settings: Settings) -> None:
    """Refuse options that the optimizer refuses. Raises SettingsError."""
    name = optimizer.name
    try:
        registry.check(name, **optimizer_options(optimizer))
    except ValueError as error:
        option = str(error).split(" ")[0].split("=")[0]
        raise SettingsError(f"{settings.where(f'optimizer.{option}')}optimizer.{error}") from error
    traits = registry.get(name)[0].traits
    for key in ("last_layer", "embeddings"):
        settings.require(
            traits.last_layer_refusal is None or getattr(optimizer, key) != "method",
            f"optimizer.{key}",
            f"must be adam for {name}: {traits.last_layer_refusal}",
        )


def _check_last_layer(config: Config, settings: Settings) -> None:
    name = config.optimizer.name
    traits = registry.get(name)[0].traits
    last_layer = config.optimizer.last_layer or traits.last_layer
    embeddings = config.optimizer.embeddings or traits.embeddings
    settings.require(
        not config.model.tie_word_embeddings or last_layer != "method" or embeddings == "method",
        "optimizer.last_layer",
        f"must be adam for {name} with model.tie_word_embeddings=true and embeddings that are Adam's: both are one",
    )


def _check_paths(config: Config, settings: Settings) -> None:
    run = config.run
    for key, path in (("run.dir", run.dir), ("run.name", run.name)):
        encodable = path is None or path.encode(errors="replace").decode() == path
        settings.require(encodable, key, f"must be UTF-8, got {path!r}")
    for key, name in (("run.name", run.name), ("model.name", config.model.name)):
        plain = name is None or (name == Path(name).name and name not in ("", ".."))
        settings.require(plain, key, f"must be one plain part of a path, got {name!r}")
    known = run.dir is None or not str(expanded(run.dir)).startswith("~")
    settings.require(known, "run.dir", f"begins with the home of a user who is not known here, got {run.dir}")
    _check_text(config.data, settings)


def _check_text(data: Data, settings: Settings) -> None:
    """Which text is trained and evaluated on."""
    source = f"data.source={data.source}"
    settings.require(
        data.path is not None or data.source not in ("files", "prepared", "hub"),
        "data.path",
        f"is required with {source}",
    )
    settings.require(
        data.path is None or data.source != "builtin",
        "data.path",
        f"has no meaning with {source}; data=files trains on files",
    )
    settings.require(
        data.eval_path is None or data.source != "prepared",
        "data.eval_path",
        f"has no meaning with {source}: a store holds its own evaluation text",
    )
    settings.require(
        not isinstance(data.path, list) or data.source in ("files", "c4"),
        "data.path",
        f"must be one text with {source}, got {data.path}",
    )
    for key in ("config", "split", "eval_split"):
        settings.require(
            getattr(data, key) is None or data.source == "hub", f"data.{key}", f"has no meaning with {source}"
        )
    for key, default in (("held_out", None), ("text_field", "text")):
        settings.require(
            getattr(data, key) == default or data.source not in ("builtin", "prepared"),
            f"data.{key}",
            f"has no meaning with {source}, whose text is split already",
        )
    for key in ("eval_path", "eval_split"):
        settings.require(
            data.held_out is None or getattr(data, key) is None,
            "data.held_out",
            f"and data.{key} name two texts to evaluate on; leave one out",
        )


def _check_relations(config: Config, settings: Settings) -> None:
    run, data, train, longest = config.run, config.data, config.train, config.model.max_position_embeddings
    _check_heads(config, settings)
    settings.require(
        data.sequence_length <= longest,
        "data.sequence_length",
        f"must not exceed model.max_position_embeddings {longest}, got {data.sequence_length}",
    )
    settings.require(
        train.dtype == "bfloat16" or not train.stochastic_rounding,
        "train.stochastic_rounding",
        f"needs train.dtype=bfloat16, got train.dtype={train.dtype}",
    )
    method = registry.get(config.optimizer.name)[0]
    settings.require(
        not train.stochastic_rounding or refusals.can_round(method),
        "train.stochastic_rounding",
        f"is not possible with {method.__name__}",
    )
    settings.require(
        not run.record_basis_cosines or (train.parallel == "ddp" and not train.layerwise),
        "run.record_basis_cosines",
        "needs train.parallel=ddp and train.layerwise=false: otherwise the main process does not see every refresh",
    )


def _check_heads(config: Config, settings: Settings) -> None:
    model, heads = config.model, config.model.num_attention_heads
    settings.require(
        model.head_dim is not None or model.hidden_size % (2 * heads) == 0,
        "model.hidden_size",
        f"must be divisible by twice model.num_attention_heads {heads}, got {model.hidden_size}",
    )
    settings.require(
        model.head_dim is None or model.hidden_size % heads == 0,
        "model.hidden_size",
        f"must be divisible by model.num_attention_heads {heads}, got {model.hidden_size}",
    )
    settings.require(
        model.head_dim is None or model.head_dim % 2 == 0,
        "model.head_dim",
        f"must be even, because rotary positions turn pairs, got {model.head_dim}",
    )
    shared = model.num_key_value_heads
    settings.require(
        shared is None or heads % shared == 0,
        "model.num_key_value_heads",
        f"must divide model.num_attention_heads {heads}, got {shared}",
    )
    fault = None if model.rope_scaling is None else rope_fault(model.rope_scaling)
    settings.require(fault is None, "model.rope_scaling", str(fault))


def check_layout(config: Config, processes: int) -> None:
    """Refuse a batch that does not divide evenly among `processes` processes.

    A process owns whole streams and holds at most `train.micro_batch_size` of its rows at once.

    Raises:
        SettingsError: names the two settings that do not divide.
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
        _check_layerwise(config, processes)


def _check_layerwise(config: Config, processes: int) -> None:
    batch, micro = config.train.batch_size, config.train.micro_batch_size
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
