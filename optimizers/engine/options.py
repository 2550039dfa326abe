"""Options of optimizers, each declared once: in the signature of a constructor, by a type that carries its meaning and
bounds.

    def __init__(self, params: Params, lr: LearningRate = 0.01, *, rank: Rank = 128): ...

Constructors, settings, `help()`, README's table and docs/options.md all follow from these signatures. An option that
several methods have is declared here, so that it means the same everywhere.
"""

import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from .base import BaseOptimizer

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Option:
    """The meaning of an option, and the bounds of a number, or of each number of a tuple: `least`, `most` (inclusive),
    `above`, `below` (exclusive)."""

    meaning: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bounds. Infinity and NaN never are."""
        return (
            (isinstance(value, int) or math.isfinite(value))  # a seed may be larger than any float
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def bounds(self) -> str:
        """The bounds in words: 'at least 0 and below 1', '' without any."""
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)


@dataclass(frozen=True)
class Declared:
    """An option of one class: `annotation` is its plain type, `default` that of the signature or of a preset."""

    name: str
    annotation: Any
    default: Any
    option: Option

    def check(self, value: Any) -> None:
        """Raises ValueError, its text starting with the option's name, for a value of another type or out of bounds."""
        name, bounds = self.name, self.option.bounds()
        kinds = _alternatives(self.annotation)
        if value is None and type(None) in kinds:
            return
        kind = kinds[0]
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            if not isinstance(value, str | numbers.Number) or value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        elif typing.get_origin(kind) is tuple:
            count = len(typing.get_args(kind))
            numbers_of = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
            if len(numbers_of) != count:
                raise ValueError(f"{name} must be {count} numbers, got {value!r}")
            if not all(map(_is_number, numbers_of)) or not all(map(self.option.holds, numbers_of)):
                raise ValueError(f"{name} must be {count} numbers{f' {bounds}' if bounds else ''}, got {value!r}")
        elif kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        elif kind is int:
            if not is_whole(value) or not self.option.holds(value):
                raise ValueError(f"{name} must be a whole number{f' {bounds}' if bounds else ''}, got {value!r}")
        elif not _is_number(value) or not self.option.holds(value):
            raise ValueError(f"{name} must be a finite number{f' {bounds}' if bounds else ''}, got {value!r}")


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):  # torch takes a learning rate as a tensor
        return value.ndim == 0 and not value.is_complex()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is larger than any float
        return False


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether `value` is a whole number, Python's or numpy's."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None last, or the one type."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(sorted(typing.get_args(annotation), key=lambda kind: kind is type(None)))
    return (annotation,)


def declare(name: str, annotated: Any, default: Any) -> Declared:
    """The declaration in an Annotated type. Raises TypeError where it has no Option, or no value can be checked."""
    option = next((part for part in getattr(annotated, "__metadata__", ()) if isinstance(part, Option)), None)
    if option is None:
        raise TypeError(f"the option {name} must be Annotated[type, Option(meaning, ...)], got {annotated}")
    annotation = typing.get_args(annotated)[0]
    kind = _alternatives(annotation)[0]
    parts = typing.get_args(kind) if typing.get_origin(kind) is tuple else (kind,)
    if typing.get_origin(kind) is not Literal and not set(parts) <= {float, int, bool}:
        raise TypeError(
            f"the option {name} must be a float, an int, a bool, a Literal, or a tuple of as many floats as are named, "
            f"not {kind}"
        )
    return Declared(name, annotation, default, option)


def declared(cls: "type[BaseOptimizer]") -> dict[str, Declared]:
    """The options of `cls`: those of its constructor, `lr` among them, in the order of its signature, and those that
    every method has. Raises TypeError for one that is not declared."""
    kinds = typing.get_type_hints(cls.__init__, include_extras=True)
    parameters = _constructor(cls).parameters.items()
    for name, each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise TypeError(f"{cls.__name__} must name its options in its constructor, where {name} takes any")
        if name in SHARED:
            raise TypeError(f"{cls.__name__}: {name} is an option of every method, leave it out of the constructor")
    own = {name: declare(name, kinds.get(name), each.default) for name, each in parameters if name != "params"}
    return own | {name: declare(name, kind, getattr(cls.traits, name)) for name, kind in SHARED.items()}


def _constructor(cls: "type[BaseOptimizer]") -> inspect.Signature:
    """The constructor's signature without self. Of a subclass `inspect.signature(cls)` is the plain one of its base."""
    signature = inspect.signature(cls.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def plain_signature(cls: "type[BaseOptimizer]") -> inspect.Signature:
    """The constructor's signature with plain types, for `help()`."""
    signature, kinds = _constructor(cls), declared(cls)
    plain = [
        each.replace(annotation=kinds[name].annotation if name in kinds else inspect.Parameter.empty)
        for name, each in signature.parameters.items()
        if name not in SHARED
    ]
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=kinds[name].default, annotation=kinds[name].annotation
        )
        for name in SHARED
    ]
    return signature.replace(parameters=[*plain, *shared])


def taking_shared(constructor: Callable[..., None]) -> Callable[..., None]:
    """The `constructor` of a method, which also takes the options that every method has; it does not see them.

    They wait in `_shared` of the optimizer for the constructor of the base.
    """

    @functools.wraps(constructor)
    def construct(self: "BaseOptimizer", *arguments: Any, **options: Any) -> None:
        self._shared = {**self._shared, **{name: options.pop(name) for name in SHARED if name in options}}
        constructor(self, *arguments, **options)

    return construct


def check_all(cls: "type[BaseOptimizer]", values: dict[str, Any]) -> None:
    """Raises ValueError, its text starting with the option's name, for the first option in `values` that is refused."""
    for name, option in declared(cls).items():
        if name in values:
            option.check(values[name])


def describe(cls: "type[BaseOptimizer]") -> str:
    """The options of `cls` as the Args section of a docstring."""
    lines = ["    Args:", '        params: parameters, or groups; a group with algorithm="adam" is stepped by Adam.']
    for name, each in declared(cls).items():
        bounds = f"{each.option.bounds()}; " if each.option.bounds() else ""
        lines.append(f"        {name}: {each.option.meaning} ({bounds}default {each.default!r}).")
    return "\n".join(lines)


# ---- options that several methods share

LearningRate = Annotated[float, Option("learning rate", least=0)]
Betas = Annotated[tuple[float, float], Option("decay of the first and of the second moment", least=0, below=1)]
Momentum = Annotated[float, Option("decay of the average of gradients", least=0, below=1)]
Eps = Annotated[float, Option("added to the root of the second moment", least=0)]
EpsAboveZero = Annotated[float, Option("added to the root of the second moment", above=0)]
WeightDecay = Annotated[float, Option("decoupled weight decay: W <- W - lr weight_decay W", least=0)]
Alpha = Annotated[float, Option("scale of the update", least=0)]
AlphaC = Annotated[float, Option("scale of the compensation within the update", least=0)]
ThreeBetas = Annotated[
    tuple[float, float, float],
    Option(
        "decay of the first moment and the compensation's average, the second moment, and tracking", least=0, below=1
    ),
]
Leading = Annotated[
    int, Option("eigenvectors kept at a switch; the other rank - leading columns are drawn anew", least=0)
]
Tracking = Annotated[
    bool, Option("average U^T G G^T U over time (Alice); without, the current gradient alone (Alice-0)")
]
BasisDtype = Annotated[
    Literal["parameter", "float32"],
    Option("hold the basis, or both bases, in the parameter's dtype, or in float32 at least"),
]
Rank = Annotated[int, Option("columns of the basis, at most as many as the shorter side of a matrix has", least=1)]
ScaleDecay = Annotated[float, Option("decay of the averages of both scales", least=0, below=1)]
UpdateInterval = Annotated[int, Option("steps between two refreshes (K)", least=1)]
Stagger = Annotated[
    bool, Option("after the first, refresh each matrix at steps of its own, so that no step refreshes them all")
]
Scale = Annotated[float, Option("scale of the update within the subspace", above=0)]
Gamma = Annotated[float, Option("largest growth of the limited norm from one step to the next", least=1)]
Nesterov = Annotated[bool, Option("look one step ahead: average the gradient in once more")]
NewtonSchulzDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Option("precision of the iteration; auto: float16 on CUDA, float32 elsewhere; float64 parameters keep float64"),
]
NewtonSchulzSteps = Annotated[int, Option("steps of the Newton-Schulz iteration", least=1)]
Seed = Annotated[int, Option("seed of the draws, together with the step and the parameter's position")]
StateBits = Annotated[
    Literal[32, 8],
    Option("8: moments of 4096 elements and more as bytes, by bitsandbytes' maps; 32: all as the method holds them"),
]

# The options of every method, which its constructor need not name; their defaults are in its traits.
SHARED: dict[str, Any] = {"state_bits": StateBits}
