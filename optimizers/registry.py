"""Names of the optimizers: a name stands for a class and the options it presets.

An optimizer is one module of this package whose class carries `@register("name")`. Its options are the
keyword parameters of its constructor: their names, types and defaults are read from the signature, so a
configuration is checked against the code itself and nothing has to be listed twice.
"""

import difflib
import inspect
from typing import Any

_METHODS: dict[str, tuple[type, dict[str, Any]]] = {}


def register(name: str, **presets: Any):
    """Class decorator: `name` builds the class, with `presets` in place of the signature's defaults.

    Raises ValueError when the name is taken or a preset is no option of the class.
    """

    def add(cls: type) -> type:
        if name in _METHODS:
            raise ValueError(f"the optimizer name {name!r} is taken by {_METHODS[name][0].__name__}")
        unknown = presets.keys() - inspect.signature(cls).parameters.keys()
        if unknown:
            raise ValueError(f"{cls.__name__} has no option {sorted(unknown)}")
        _METHODS[name] = (cls, presets)
        return cls

    return add


def names() -> list[str]:
    """Every registered name, sorted."""
    return sorted(_METHODS)


def classes() -> list[type]:
    """Every registered class, once, in the order of names()."""
    return list(dict.fromkeys(_METHODS[name][0] for name in names()))


def get(name: str) -> tuple[type, dict[str, Any]]:
    """(class, presets) of a name. Raises ValueError with the nearest name when it is unknown."""
    if name not in _METHODS:
        raise ValueError(f"name {name!r} is not an optimizer{_nearest(name, names())}")
    cls, presets = _METHODS[name]
    return cls, dict(presets)


def options(name: str) -> dict[str, inspect.Parameter]:
    """The keyword options of a name (all but `params` and `lr`), each with its annotation and, after
    presets, its default."""
    cls, presets = get(name)
    parameters = inspect.signature(cls).parameters
    return {
        key: parameter.replace(default=presets.get(key, parameter.default))
        for key, parameter in parameters.items()
        if key not in ("params", "lr")
    }


def check(name: str, **given: Any) -> None:
    """Refuse impossible options before any parameter exists.

    Raises ValueError, its text starting with the option's name: unknown options, values out of range.
    """
    cls, presets = get(name)
    known = options(name)
    for key in given:
        if key not in known:
            raise ValueError(f"{key} is not an option of {name}{_nearest(key, list(known))}")
    defaults = {key: parameter.default for key, parameter in known.items()}
    cls.check_options({**defaults, **presets, **given})


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(choices)}"
