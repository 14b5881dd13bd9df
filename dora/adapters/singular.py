"""The first singular components of matrices, in float64 and with their signs fixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Below this share of the largest singular value, a value's square is lost in the squares' rounding.
_LOST = 1e-6


def first_components(M: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (U, σ, Vᵀ), (m, r), (r,), (r, n), of the largest singular values of M: (m, n).

    On the CPU and in float64, whose last bits, which depend on the processor, a float32 mostly
    rounds away. A decomposition leaves each component's sign open: here the largest entry of a row
    of Vᵀ is positive. Components of equal singular values stay arbitrary.
    """
    M = M.detach().cpu().double()
    wide = M.shape[0] <= M.shape[1]
    # By the eigenvectors of the smaller Gram matrix: on one thread they take 0.6 of the time of the
    # whole decomposition for a 768 x 768 weight, and 0.4 for 3072 x 768.
    values, vectors = torch.linalg.eigh(M @ M.t() if wide else M.t() @ M)
    sigma = values.flip(0)[:rank].clamp_min(0).sqrt()
    if rank and sigma[-1] <= _LOST * sigma[0]:
        U, sigma, Vt = torch.linalg.svd(M, full_matrices=False)
        U, sigma, Vt = U[:, :rank], sigma[:rank], Vt[:rank]
    elif wide:
        U = vectors.flip(1)[:, :rank]
        Vt = (U.t() @ M) / sigma.unsqueeze(1)
    else:
        Vt = vectors.flip(1)[:, :rank].t()
        U = (M @ Vt.t()) / sigma
    sign = Vt.gather(1, Vt.abs().argmax(1, keepdim=True)).sign()
    return U * sign.t(), sigma, Vt * sign


def common_basis(updates: Sequence[tuple[Tensor, Tensor]], rank: int) -> Tensor:
    """Returns the first left singular vectors of updates side by side, (m, r), orthonormal.

    An update is (A, B), (k, n) and (m, k), for B A; each counts as if its Frobenius norm were 1.
    The largest entry of a vector is positive. Raises ValueError where the updates span fewer than
    `rank` directions: the others would come from rounding.
    """
    # With Q R = [B_1 … B_n], the squares of [B_1 A_1 … B_n A_n] are those of R blockdiag(A_i).
    pairs = [_normed(A.cpu().double(), B.cpu().double()) for A, B in updates]
    Q, R = torch.linalg.qr(torch.cat([B for _, B in pairs], dim=1))
    squares = torch.block_diag(*(A @ A.t() for A, _ in pairs))
    values, vectors = torch.linalg.eigh(R @ squares @ R.t())
    # Squares of singular values; factors in 32 bits are known to 1e-7 of the largest one.
    if (spanned := int((values > 1e-13 * values.max()).sum())) < rank:
        raise ValueError(f"span {spanned} directions, {rank} are needed")
    return _positive(Q @ vectors.flip(1)[:, :rank])


def common_basis_of_weights(weights: Sequence[Tensor], rank: int) -> Tensor:
    """Returns the first left singular vectors of whole matrices side by side, (m, r).

    weights: (m, n) each; each counts as if its Frobenius norm were 1, and one of zeros not at all.
    """
    in_float64 = [W.detach().cpu().double() for W in weights]
    scaled = [W / (torch.linalg.matrix_norm(W) or 1.0) for W in in_float64]
    total = torch.stack([W @ W.t() for W in scaled]).sum(0)
    return _positive(torch.linalg.eigh(total)[1].flip(1)[:, :rank])


def _normed(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an update's factors, B divided by the update's Frobenius norm."""
    return A, B / ((A @ A.t()) * (B.t() @ B)).sum().clamp_min(0).sqrt()


def _positive(vectors: Tensor) -> Tensor:
    """Returns columns with the sign at which their largest entry is positive."""
    return vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
