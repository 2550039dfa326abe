"""What is refused: groups that say what no method understands; parameters, gradients and state that none can step."""

import contextlib
import difflib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..functional.numerics import working_dtype
from ..parallel import shards, state_dicts
from . import adamw
from .eight_bit import SIGNED, is_narrow, library, maxima_of
from .moment_draws import Draws
from .options import is_whole
from .traits import Traits
from .wide_moments import seen_wide

if TYPE_CHECKING:
    from .base import BaseOptimizer

# What a group says beside options.
GROUP_KEYS = {"params", "param_names", "algorithm", "label", "role", "heads", "stacked"}
# Options that groups have elsewhere (Adam, torch, the GaLore package), and what is called otherwise here.
ELSEWHERE = {
    "betas": "",
    "eps": "",
    "momentum": "",
    "maximize": "",
    "amsgrad": "",
    "update_proj_gap": "update_interval",
    "proj_type": "",
}
# State that the engine itself puts beside a method's.
ENGINES_STATE = {"step", "writes", "roundings", "weight_norm", *map(maxima_of, SIGNED)}


class Form(NamedTuple):
    """What of a parameter its state was made for."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, parameter: Tensor) -> "Form":
        return cls(parameter.shape, parameter.dtype, parameter.device)


def check_group(group: dict[str, Any], traits: Traits, optimizer: str, options: Collection[str]) -> None:
    """Raises ValueError for a group of parameters that says what no method, or not this one, understands, and TypeError
    for what is no group.

    `options`: those of the method. Keys that resemble none pass, as in torch: they are the caller's own tags.
    """
    if not isinstance(group, dict):
        raise TypeError(f"a group of parameters must be a dict, got {type(group).__name__}")
    if (algorithm := group.get("algorithm", "method")) not in ("method", "adam"):
        raise ValueError(f"algorithm must be one of method, adam, got {algorithm!r}")
    roles = ("matrix", *traits.roles)
    if (role := group.get("role", "matrix")) not in roles:
        raise ValueError(f"role must be one of {', '.join(roles)}, got {role!r}")
    known = sorted(adamw.DEFAULTS if algorithm == "adam" else options)
    for key in sorted(group.keys() - GROUP_KEYS - {*known}):  # left alone, it would be taken for obeyed
        if key in options:
            raise ValueError(f"{key} is no option of a group that Adam steps (algorithm='adam')")
        if key in ELSEWHERE and group[key]:
            here = f"; it is {ELSEWHERE[key]} here" if ELSEWHERE[key] in known else ""
            raise ValueError(f"{key} is no option of {optimizer}{here}")
        if close := difflib.get_close_matches(key, known, n=1, cutoff=0.85):
            raise ValueError(f"{key} is no option of {optimizer}; did you mean {close[0]!r}?")


def check_added(optimizer: "BaseOptimizer", group: dict[str, Any], rounding_seed: int | None) -> None:
    """Raises ValueError for parameters or options of a new group that are refused."""
    for parameter in group["params"]:
        check_tensor(parameter, type(optimizer).__name__)
        shards.check(parameter)
    if rounding_seed is not None:
        check_rounding(group["params"], rounding_seed)
    _check_options(optimizer, group)


def _check_options(optimizer: "BaseOptimizer", group: dict[str, Any]) -> None:
    """Raises ValueError for options of a group that are refused, by themselves or for its parameters."""
    if group["algorithm"] == "adam":
        adamw.check(group)
        return
    optimizer.check(group)
    if is_narrow(group):
        library()  # a missing package is noticed here, not in a step
    for parameter in group["params"]:
        optimizer.check_parameter(parameter, group)


def check_step(optimizer: "BaseOptimizer", parameter: Tensor, forms: dict[Tensor, Form]) -> None:
    """Raises ValueError for a parameter that cannot be stepped: as `check_gradient`, `check_form`, `check_writes`."""
    name, state = type(optimizer).__name__, optimizer.state.get(parameter, {})
    check_gradient(parameter, name)
    check_form(parameter, state, forms, name)
    check_writes(state, rounds=optimizer.rounds)


def check_form(parameter: Tensor, state: dict[str, Any], forms: dict[Tensor, Form], optimizer: str) -> None:
    """Raises ValueError for a parameter that is of another form than its `state` was made for, which `forms` has, or,
    without state, of a kind that no method here steps."""
    now = Form.of(parameter)
    if not state:
        check_tensor(parameter, optimizer)
    elif forms.setdefault(parameter, now) != now:
        raise ValueError(
            f"a parameter is {tuple(now.shape)}, {now.dtype}, on {now.device}, and its state was made for "
            f"{tuple(forms[parameter].shape)}, {forms[parameter].dtype}, on {forms[parameter].device}: change a model "
            "before its optimizer's first step, or make a new optimizer"
        )


def said(optimizer: "BaseOptimizer", group: dict[str, Any]) -> dict[str, Any]:
    """What a group says that was checked and that the state of its parameters may depend on: options but the learning
    rate, which a schedule changes at every step, and keys."""
    adam = group["algorithm"] == "adam"
    names = adamw.DEFAULTS.keys() | {"algorithm"} if adam else optimizer.defaults.keys() | state_dicts.SHAPING_KEYS
    return {name: group.get(name) for name in names if name != "lr"}


def said_of_all(optimizer: "BaseOptimizer") -> dict[Tensor, dict[str, Any]]:
    """What the group of each parameter says."""
    found = [(group, said(optimizer, group)) for group in optimizer.param_groups]
    return {p: now for group, now in found for p in group["params"]}


def check_unchanged(
    optimizer: "BaseOptimizer", group: dict[str, Any], parameters: list[Tensor], before: dict[Tensor, dict[str, Any]]
) -> None:
    """Raises ValueError where an option has changed since `before` and is refused now, or the state of `parameters` was
    made by it."""
    now, asked = said(optimizer, group), set[tuple[Form, int]]()
    changed = [parameter for parameter in parameters if before.setdefault(parameter, now) != now]
    if changed:
        _check_options(optimizer, group)
    for parameter in changed:
        made = before[parameter]
        if optimizer.state.get(parameter) and (question := (Form.of(parameter), id(made))) not in asked:
            asked.add(question)
            if names := state_dicts.reshaping(optimizer, parameter, {**group, **made}, now):
                raise ValueError(
                    f"{names[0]} cannot change once there is state that was made by it; make a new optimizer"
                )
        if made.get("state_bits") != now.get("state_bits") and shards.processes(parameter) > 1:
            raise ValueError("state_bits of a group with sharded parameters cannot change; make a new optimizer")
        before[parameter] = now  # a change that does no harm is not asked about at every step


def can_round(method: type["BaseOptimizer"]) -> bool:
    """Whether weights that `method` steps can be rounded stochastically."""
    said = method.traits.rounds_stochastically
    return method.by_matrix if said is None else said


def check_rounding(parameters: list[Tensor], seed: int) -> None:
    """Raises ValueError for parameters that cannot be rounded stochastically, and for a seed that is none."""
    if not is_whole(seed):
        raise ValueError(f"the seed of stochastic rounding must be a whole number, got {seed!r}")
    if any(p.dtype != torch.bfloat16 for p in parameters):
        raise ValueError("stochastic_rounding is for bfloat16 parameters, all of them")
    if any(shards.processes(p) > 1 for p in parameters):
        raise ValueError("stochastic_rounding is not possible with sharded parameters")


def check_writes(state: dict[str, Any], *, rounds: bool) -> None:
    """Raises ValueError for the state of a weight that was rounded stochastically so far and no longer would be."""
    if "writes" in state and not rounds:
        raise ValueError(
            "these weights were rounded stochastically before they were saved: call round_stochastically(seed) with "
            "the same seed before the next step"
        )


def check_gradient(parameter: Tensor, optimizer: str) -> None:
    """Raises ValueError for a gradient of a kind that no method here reads."""
    if parameter.grad is not None and parameter.grad.layout != torch.strided:
        raise ValueError(
            f"{optimizer} reads dense gradients; a parameter of shape {tuple(parameter.shape)} has one of layout "
            f"{parameter.grad.layout} (an embedding with sparse=True makes such)"
        )
    if parameter.grad is not None and working_dtype(parameter.grad.dtype) != working_dtype(parameter.dtype):
        raise ValueError(
            f"{optimizer} computes in the precision of {parameter.dtype} parameters; one of shape "
            f"{tuple(parameter.shape)} has a gradient of {parameter.grad.dtype}"
        )


def check_tensor(parameter: Tensor, optimizer: str) -> None:
    """Raises ValueError for a parameter of a kind that no method here steps."""
    if not parameter.is_floating_point():
        raise ValueError(f"{optimizer} steps real floating-point parameters, got one of dtype {parameter.dtype}")
    if parameter.dtype == torch.float16:
        raise ValueError(
            f"{optimizer} does not step float16 parameters: squares of small gradients would be 0. Keep weights in "
            "float32 and use autocast, or take bfloat16"
        )
    if parameter.layout != torch.strided:
        raise ValueError(f"{optimizer} steps dense parameters, got one of layout {parameter.layout}")


def check_device_types(on: Any) -> None:
    """Raises ValueError for anything but a collection of types of devices."""
    named = isinstance(on, Collection) and not isinstance(on, str)
    for kind in on if named else [on]:
        try:
            known = named and isinstance(kind, str) and torch.device(kind).index is None
        except RuntimeError:  # torch's word for a type that it does not know
            known = False
        if not known:
            raise ValueError(f'on must be types of devices, as ("cuda",), got {on!r}')


def check_passed(method: str, options: Collection[str]) -> None:
    """Raises ValueError where a method's constructor does not pass on what the engine applies."""
    if missing := {"lr", "weight_decay"} - set(options):
        raise ValueError(f"{method} must pass {min(missing)} to super().__init__: the engine applies it")


def check_state(method: str, key: str, form: Any) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and dtype of a tensor of a method's state. Raises ValueError for a name that is taken, for what is no
    such form, and for a dtype that cannot hold what it is for."""
    match form:
        case ([*sizes], torch.dtype() as dtype) if all(map(is_whole, sizes)):
            shape = tuple(map(int, sizes))
        case _:
            raise ValueError(f"{method}.state_shapes: {key} must be ((sizes), dtype), got {form!r}")
    if key in ENGINES_STATE:
        raise ValueError(f"{method}.state_shapes: the state {key} needs another name, the engine has one of this name")
    if key.startswith("exp_avg") and not dtype.is_floating_point:
        raise ValueError(f"{method}.state_shapes: {key} is an average, {dtype} cannot hold it")
    return shape, dtype


def check_numbers(method: str, state: dict[str, Any]) -> None:
    """Raises ValueError for numbers beside tensors in new state, but for "step": other processes, which do not have the
    state of a parameter, could not follow them."""
    if others := {key for key, value in state.items() if not isinstance(value, Tensor)} - {"step"}:
        raise ValueError(f"{method}.allocate: {min(others)} must be held in a tensor; the one number is step")


def accumulating(
    optimizer: "BaseOptimizer", state: dict[str, Tensor], gradient: Tensor, draws: Draws
) -> contextlib.AbstractContextManager[None]:
    """`in_place` around `accumulate` of a method, which gets narrow moments as they are."""
    others = state.keys() - seen_wide(state, draws)
    remedy = "advance it in update, which gets it wide"
    return in_place(f"{type(optimizer).__name__}.accumulate", state, gradient, others, remedy)


def refreshing(
    optimizer: "BaseOptimizer", state: dict[str, Tensor], gradient: Tensor
) -> contextlib.AbstractContextManager[None]:
    """`in_place` around `refresh` of a method, which writes what its traits name."""
    remedy = "name it in Traits(refreshed=...)"
    return in_place(f"{type(optimizer).__name__}.refresh", state, gradient, optimizer.traits.refreshed, remedy)


@contextlib.contextmanager
def in_place(
    method: str,
    state: dict[str, Tensor],
    gradient: Tensor,
    may_write: Collection[str] | None = None,
    remedy: str = "",
) -> Iterator[None]:
    """Around a call of a method's function, named `method`, that advances `state` by `gradient`.

    Raises ValueError where it has put other tensors there, which nobody keeps; where it has changed a tensor that is
    not in `may_write` (None: it may change all), and says the `remedy`; and where it has changed the gradient, which is
    read after it.
    """
    before, given = {key: value for key, value in state.items() if isinstance(value, Tensor)}, gradient._version
    versions = {} if may_write is None else {k: before[k]._version for k in before.keys() - set(may_write)}
    yield
    if gradient._version != given:
        raise ValueError(f"{method} changes the gradient, which is read after it: change a copy")
    if added := {key for key, value in state.items() if isinstance(value, Tensor)} - before.keys():
        raise ValueError(f"{method} added state[{min(added)!r}]: name it in state_shapes, and change it in place")
    for key, tensor in before.items():
        if state.get(key) is not tensor:
            raise ValueError(
                f"{method} put another tensor in the place of state[{key!r}]: change it with copy_ or lerp_"
            )
        if tensor._version != versions.get(key, tensor._version):
            raise ValueError(f"{method} changes state[{key!r}]: {remedy}")
