"""Names of the optimizers: a name selects a class and the options it presets."""

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from . import options as _options
from .base import BaseOptimizer
from .matrix import MatrixOptimizer
from .options import Declared
from .refusals import GROUP_KEYS

# Of settings that every optimizer has, arguments of `build` and of `reference_update`, and keys of groups.
RESERVED = {
    *("name", "file", "base", "adam_lr", "last_layer", "embeddings", "rules"),
    *("G", "state", "t", "shape", "weight", "clock", "source"),
    *GROUP_KEYS,
}

_Class = TypeVar("_Class", bound=type[BaseOptimizer])

_METHODS: dict[str, tuple[type[BaseOptimizer], dict[str, Any]]] = {}


def register(name: str, **presets: Any) -> Callable[[_Class], _Class]:
    """Class decorator: `name` builds the class, with `presets` in place of the signature's defaults.

    The class's docstring gets the meaning, bounds and default of every option. Raises ValueError when the name is
    taken or cannot be one of a setting and a file, a default or a preset is refused, an option has a name that means
    something else in settings or groups, steps that are not counted should renew bases, or the class is no optimizer of
    this engine.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name, re.ASCII):
        raise ValueError(f"an optimizer's name is made of letters, digits and underscores, got {name!r}")

    def add(cls: _Class) -> _Class:
        if not issubclass(cls, BaseOptimizer):
            raise ValueError(f"{cls.__name__} is no MatrixOptimizer or BaseOptimizer, which give it groups and state")
        declared = _options.declared(cls)
        if taken := RESERVED & declared.keys():
            raise ValueError(f"{cls.__name__}: the option {min(taken)} needs another name, this one is taken")
        if "lr" not in declared:
            raise ValueError(f"{cls.__name__} must have the option lr: settings name it")
        refreshes = issubclass(cls, MatrixOptimizer) and cls.refresh_due is not MatrixOptimizer.refresh_due
        if refreshes and not cls.traits.counts_steps:
            raise ValueError(
                f"{cls.__name__}.refresh_due needs Traits(counts_steps=True): without, every step is the first"
            )
        if name in _METHODS:
            raise ValueError(f"the optimizer name {name!r} is taken by {_METHODS[name][0].__name__}")
        unknown = presets.keys() - declared.keys()
        if unknown:
            raise ValueError(f"{cls.__name__} has no option {sorted(unknown)}")
        defaults = {key: presets.get(key, option.default) for key, option in declared.items()}
        given = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
        try:
            for key, value in given.items():
                declared[key].check(value)
            if given.keys() == defaults.keys():
                cls.check_options(given)
        except ValueError as error:
            raise ValueError(f"{cls.__name__}, a default: {error}") from error
        if all(cls is not known for known, _ in _METHODS.values()):
            cls.__doc__ = f"{cls.__doc__ or cls.__name__}\n\n{_options.describe(cls)}\n"
            setattr(cls, "__signature__", _options.plain_signature(cls))  # noqa: B010
        _METHODS[name] = (cls, presets)
        return cls

    return add


def names() -> list[str]:
    """Every registered name, sorted."""
    return sorted(_METHODS)


def get(name: str) -> tuple[type[BaseOptimizer], dict[str, Any]]:
    """(class, presets) of a name. Raises ValueError with the nearest name when it is unknown, or no name."""
    if not isinstance(name, str):
        raise ValueError(f"name must be the name of an optimizer, as 'alice', got {name!r}")
    if name not in _METHODS:
        raise ValueError(f"name {name!r} is not an optimizer{_nearest(name, names())}")
    cls, presets = _METHODS[name]
    return cls, dict(presets)


def options(name: str) -> dict[str, Declared]:
    """The options of a name but for `lr`, each with its plain type (`annotation`), its default after presets, and its
    meaning and bounds (`option`)."""
    cls, presets = get(name)
    return {
        key: replace(each, default=presets.get(key, each.default))
        for key, each in _options.declared(cls).items()
        if key != "lr"
    }


def check(name: str, **given: Any) -> None:
    """Refuse impossible options before any parameter exists.

    Raises ValueError, its text starting with the option's name: unknown options, values out of bounds, and options
    that do not go together.
    """
    known = options(name)
    for key in given:
        if key not in known and key != "lr":
            raise ValueError(f"{key} is not an option of {name}{_nearest(key, list(known))}")
    get(name)[0].check({key: each.default for key, each in known.items()} | given)


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(choices)}"
