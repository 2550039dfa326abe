"""The renewal of a basis in Alice (Alg. 2 and 3 of arXiv 2502.07752): one step of subspace iteration, then the switch,
which replaces the last leading vectors by drawn columns."""

import torch
from torch import Tensor

from .subspace import Reflectors, keep_signs, leading_eigenvectors, unit_gaussian_columns


def subspace_iteration(
    gradient: Tensor, old: Tensor, tracked: Tensor | None, decay: float, *, orthonormal: bool
) -> tuple[Tensor, Reflectors]:
    """Z eigenvectors(Z^T A Z) for Z = qr(A U), and that QR; A = b3 U Qt U^T + (1 - b3) G G^T (m x m) is not formed.

    gradient G [B, m, n], old U [B, m, r], tracked Qt [B, r, r] (None: A = G G^T), decay b3. orthonormal: whether U^T U
    is the identity to the precision of the gradient.
    """
    moved = gradient @ (old.mT @ gradient).mT
    if tracked is not None:
        turned = tracked if orthonormal else tracked @ (old.mT @ old)
        moved = torch.lerp(old @ turned, moved, 1 - decay)
    frame = Reflectors.of(moved)
    span = frame.basis()
    sigma = span.mT @ gradient
    inner = sigma @ sigma.mT
    if tracked is not None:
        shift = span.mT @ old
        inner = torch.lerp(shift @ tracked @ shift.mT, inner, 1 - decay)
    return span @ leading_eigenvectors(inner, inner.shape[-1]), frame


def remembers(tracking: bool, decay: float) -> bool:
    """Whether earlier gradients make a new basis too, by tracking with this decay, and not the current one alone."""
    return tracking and decay > 0


def switch(
    leading: Tensor,
    frame: Reflectors,
    old: Tensor,
    basis: Tensor,
    kept: int,
    switching: str,
    sources: list,
    *,
    stays: Tensor | None = None,
) -> None:
    """Write into `basis` [B, m, r] the first columns of `leading` [B, m, r], with the signs of `old`, and drawn columns
    after them.

    `frame` is a QR of any columns with the span of `leading`; `sources` are the matrices' own generators. stays
    [B, 1, 1]: the matrices that keep `old` instead.
    """
    leading = keep_signs(leading, old)
    drawn = _drawn_columns(leading, frame, min(kept, leading.shape[-1]), switching, sources)
    columns = [leading[..., : leading.shape[-1] - drawn.shape[-1]], drawn]
    if stays is None:
        torch.cat(columns, -1, out=basis)
    else:
        basis.copy_(torch.where(stays, old, torch.cat(columns, -1)))


def _drawn_columns(
    leading: Tensor, frame: Reflectors, kept: int, switching: str, sources: list[torch.Generator]
) -> Tensor:
    """[B, m, up to r - kept]: the columns that replace the last ones of `leading` [B, m, r].

    They are drawn from each matrix's own source. Where the complement has fewer columns than that, the next leading
    columns stay.
    """
    m, r = leading.shape[-2:]
    if switching == "gaussian_mix":
        return torch.stack([unit_gaussian_columns(m, r - kept, source) for source in sources]).to(leading)
    if switching == "full_basis":
        rest = torch.arange(m - r, device=sources[0].device).expand(len(sources), -1)
        candidates = torch.cat([leading[..., kept:], frame.complement(rest)], -1)
        chosen = _draw(m - kept, r - kept, sources).unsqueeze(-2).expand(-1, m, -1)
        return candidates.gather(-1, chosen.to(leading.device))
    count = min(r - kept, m - r) if switching == "complement" else 0
    return frame.complement(_draw(m - r, count, sources)) if count else leading[..., r:]


def _draw(available: int, count: int, sources: list[torch.Generator]) -> Tensor:
    """[B, count]: for each matrix, `count` of range(available) without replacement."""
    return torch.stack(
        [torch.randperm(available, generator=source, device=source.device)[:count] for source in sources]
    )


def reference_basis(
    G: Tensor, U: Tensor, Qt: Tensor, b3: float, kept: int, switching: str, source: torch.Generator, *, first: bool
) -> Tensor:
    """The basis that follows U [m, r] (zero: none yet) and Qt [r, r], for one matrix G [m, n], in plain float64."""
    r = U.shape[1]
    if first:
        new = torch.linalg.eigh(G @ G.T).eigenvectors.flip(1)[:, :r]
        frame = torch.linalg.qr(new, mode="complete").Q
    else:
        A = b3 * U @ Qt @ U.T + (1 - b3) * G @ G.T
        if not A.any() and switching != "gaussian":
            return U
        frame = torch.linalg.qr(A @ U, mode="complete").Q
        Z = frame[:, :r]
        new = Z @ torch.linalg.eigh(Z.T @ A @ Z).eigenvectors.flip(1)
    new = torch.where((new * U).sum(0) < 0, -new, new)
    return _reference_switch(new, frame[:, r:], min(kept, r), switching, source)


def _reference_switch(
    leading: Tensor, complement: Tensor, kept: int, switching: str, source: torch.Generator
) -> Tensor:
    """The new basis of one matrix from `leading` [m, r] and a whole basis of its complement [m, m - r]."""
    m, r = leading.shape
    if switching == "gaussian":
        return unit_gaussian_columns(m, r, source)
    if switching == "gaussian_mix":
        return torch.cat([leading[:, :kept], unit_gaussian_columns(m, r - kept, source)], 1)
    if switching == "none":
        return leading
    if switching == "full_basis":
        others = torch.cat([leading[:, kept:], complement], 1)
        return torch.cat([leading[:, :kept], others[:, torch.randperm(m - kept, generator=source)[: r - kept]]], 1)
    kept = max(kept, r - (m - r))
    return torch.cat([leading[:, :kept], complement[:, torch.randperm(m - r, generator=source)[: r - kept]]], 1)
