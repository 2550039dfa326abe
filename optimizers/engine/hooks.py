"""torch's hooks on state_dict and load_state_dict, called before and after all that these do here.

torch calls them around its own part alone, where state is not yet, or no longer, in the form that users see.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch

BEFORE_LOADING = "_optimizer_load_state_dict_pre_hooks"
AFTER_LOADING = "_optimizer_load_state_dict_post_hooks"
AFTER_SAVING = "_optimizer_state_dict_post_hooks"


@contextlib.contextmanager
def set_aside(optimizer: torch.optim.Optimizer, *kinds: str) -> Iterator[list[dict[int, Callable]]]:
    """The hooks of these kinds, which torch does not find inside."""
    hooks = [getattr(optimizer, kind) for kind in kinds]
    for kind in kinds:
        setattr(optimizer, kind, OrderedDict())
    try:
        yield hooks
    finally:
        for kind, found in zip(kinds, hooks, strict=True):
            setattr(optimizer, kind, found)


def changed(state_dict: dict[str, Any], hooks: dict[int, Callable], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the hooks, one after the other, make of `state_dict`; one that returns None leaves it."""
    for hook in hooks.values():
        new = hook(optimizer, state_dict)
        state_dict = state_dict if new is None else new
    return state_dict
