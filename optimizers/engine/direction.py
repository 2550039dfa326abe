"""The direction in which a step moves a stack of matrices, in parts that need not be multiplied out."""

from typing import NamedTuple

from torch import Tensor


class Direction(NamedTuple):
    """D = scale (rows * G * columns + left @ right + dense), which is subtracted lr times; G is the stack's gradient.

    rows [B, m, 1], columns [B, 1, n], left [B, m, k], right [B, k, n], dense [B, m, n]; None = absent. A gradient whose
    rows and columns are only scaled, and a product of two thin matrices, need not be formed.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    dense: Tensor | None = None
    scale: float = 1.0

    def of(self, i: int) -> "Direction":
        """The direction of the i-th matrix, without the stack's dimension."""
        rows, columns, left, right, dense = (None if part is None else part[i] for part in self[:-1])
        return Direction(rows, columns, left, right, dense, self.scale)

    def formed(self, gradient: Tensor) -> Tensor:
        """D / scale, [B, m, n], in gradient's precision."""
        whole = self.dense
        if self.rows is not None or self.columns is not None:
            scaled = gradient if self.rows is None else gradient * self.rows
            scaled = scaled if self.columns is None else scaled * self.columns
            whole = scaled if whole is None else whole + scaled
        if self.left is not None and self.right is not None:
            product = self.left @ self.right
            whole = product if whole is None else product.add_(whole)
        assert whole is not None, "a direction without a part"
        return whole
