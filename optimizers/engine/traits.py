"""The properties of a method, apart from its mathematics, that the engine and `optimizers.build` need."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Traits:
    """The defaults are those of a method for matrices. Raises ValueError for a value that no trait has."""

    # Who steps lm_head and embeddings when nobody says, and why the method cannot (None: it can).
    last_layer: Literal["method", "adam"] = "adam"
    embeddings: Literal["method", "adam"] = "adam"
    last_layer_refusal: str | None = None
    # Kinds of vectors ("norm", "bias") that the method steps too; it gets each as a matrix of one row.
    also_steps: tuple[str, ...] = ()
    # Roles of matrices that the method tells apart, each a group of its own with this "role" (partition.py).
    roles: tuple[str, ...] = ()
    # Whether embeddings and norms are the method's too.
    steps_everything: bool = False
    # How a parameter whose rows are sharded over processes is stepped: its "owner" steps it as a whole, or each process
    # steps its own "rows".
    sharding: Literal["owner", "rows"] = "owner"
    # Roles whose matrices have an owner although others are stepped by rows.
    whole_roles: tuple[str, ...] = ()
    # Whether the method can round its weights stochastically. None: a method for matrices can, as the engine writes
    # them; one for any shape cannot, unless it says so.
    rounds_stochastically: bool | None = None
    # Whether the method gets a tall matrix as its transpose, so that m <= n; without, m is out and n is in.
    oriented: bool = True
    # Whether a square matrix is transposed too: GaLore's packages put its basis on the right.
    transposes_squares: bool = False
    # Whether the update or the refresh depends on the step t.
    counts_steps: bool = True
    # Whether `update` is the same operations at every step: t, and the learning rate, may then be tensors.
    same_every_step: bool = True
    # Whether a matrix's first step waits for a gradient that is not all zero, and nothing happens before.
    awaits_gradient: bool = False
    # Whether `update` accepts bfloat16 gradients; states and scales are float32 all the same.
    takes_narrow: bool = False
    # Whether `update` finds the Frobenius norms [B] of the weights, float64, in state["weight_norm"].
    reads_norms: bool = False
    # Whether weights decay before the update instead of after it.
    decays_first: bool = False
    # The default of the option state_bits, and the moments that stay wide whatever it is, because rounding would lose
    # what they carry from step to step.
    state_bits: Literal[32, 8] = 32
    exact: tuple[str, ...] = ()
    # The place in the option betas of the decay of exp_avg; that of exp_avg_sq is at 1.
    first_decay: int = 0
    # The state that `refresh` writes.
    refreshed: tuple[str, ...] = ("basis",)
    # The distance from the plain form in float64 that tests allow: rounding, and more where state is quantised.
    reference_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"Traits: {name} must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
            if get_origin(kind) is tuple and not isinstance(value, tuple):
                raise ValueError(f"Traits: {name} must be a tuple of names, as ('basis',), got {value!r}")

    def transposes(self, rows: int, columns: int) -> bool:
        """Whether the method gets a rows x columns parameter as its transpose."""
        return self.oriented and (rows > columns or (self.transposes_squares and rows == columns))
