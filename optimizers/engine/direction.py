"""The direction in which a step moves a stack of matrices, in parts that need not be multiplied out."""

from typing import Any, NamedTuple

from torch import Tensor

from ..kernels import replaceable


class Direction(NamedTuple):
    """D = scale (rows * G * columns + left @ right + dense), which is subtracted lr times; G is the stack's gradient.

    rows [B, m, 1], columns [B, 1, n], left [B, m, k], right [B, k, n], dense [B, m, n]; None = absent. rows or columns
    may be one number for each matrix, [B, 1, 1]. A gradient whose rows and columns are only scaled, and a product of
    two thin matrices, need not be formed. `dense` alone may be held in fewer digits than G.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    dense: Tensor | None = None
    scale: float | Tensor = 1.0  # a tensor [] where the step is one, traced by a compiler

    def of(self, i: int) -> "Direction":
        """The direction of the i-th matrix, a stack of one."""
        rows, columns, left, right, dense = (None if part is None else part[i : i + 1] for part in self[:-1])
        return Direction(rows, columns, left, right, dense, self.scale)

    def formed(self, gradient: Tensor) -> Tensor:
        """D / scale, [B, m, n], in gradient's precision, or in that of `dense` where there is nothing else."""
        return formed(gradient, *self[:-1])


def check_direction(direction: Any, gradient: Tensor, method: str) -> None:
    """Raises ValueError for what the `update` of `method` may not return for gradients [B, m, n]: what is no direction,
    has no part or half of a product, or a part of another shape than `Direction` names, which weights would take by
    broadcasting."""
    if not isinstance(direction, Direction):
        raise ValueError(f"{method}.update must return a Direction, got {type(direction).__name__}")
    if (direction.left is None) != (direction.right is None):
        raise ValueError(f"{method}.update returned a direction with left or right alone, which are one product")
    if all(part is None for part in direction[:-1]):
        raise ValueError(f"{method}.update returned a direction without a part")
    count, m, n = gradient.shape
    k = 0 if direction.left is None else direction.left.shape[-1]
    shapes = (count, m, 1), (count, 1, n), (count, m, k), (count, k, n), (count, m, n)
    for name, part, shape in zip(direction._fields[:-1], direction[:-1], shapes, strict=True):
        allowed = (shape, (count, 1, 1)) if name in ("rows", "columns") else (shape,)
        if part is not None and part.shape not in allowed:
            raise ValueError(
                f"{method}.update returned {name} of shape {tuple(part.shape)}; for gradients of shape "
                f"{tuple(gradient.shape)} it must be {shape}"
            )


@replaceable
def formed(
    gradient: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    left: Tensor | None,
    right: Tensor | None,
    dense: Tensor | None,
) -> Tensor:
    """rows * G * columns + left @ right + dense of the parts that there are: [B, m, n] or, without B, [m, n]."""
    whole = dense
    if rows is not None or columns is not None:
        scaled = gradient if rows is None else gradient * rows
        scaled = scaled if columns is None else scaled * columns
        whole = scaled if whole is None else whole + scaled
    if left is not None and right is not None:
        product = left @ right
        whole = product if whole is None else product.add_(whole)
    assert whole is not None, "a direction without a part"
    return whole
