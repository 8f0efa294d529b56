"""Which loadings, uniquenesses and factor correlations a model may choose, and the free numbers that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vae.check import Numbers, tensor, whole


class Parameters(NamedTuple):
    """x = W z + mu + eps, z ~ N(0, phi), eps ~ N(0, diag psi): W (..., p, k), psi (..., p), phi (..., k, k)."""

    W: Tensor
    psi: Tensor
    phi: Tensor

    def covariance(self) -> Tensor:
        """The items' covariance W phi W' + diag psi, (..., p, p)."""
        return self.W @ self.phi @ self.W.mT + torch.diag_embed(self.psi)


@dataclass(frozen=True, eq=False)
class Structure:
    """A model's free and fixed parts; made by `exploratory` or `confirmatory`.

    mask (p, k): which loadings may differ from zero, None for all; phi: "identity", "free" (a correlation matrix) or
    the matrix; psi: "free" or the vector; tied (p, k): loadings with equal positive labels are equal, 0 ties none.
    """

    k: int
    mask: Tensor | None
    phi: Literal["identity", "free"] | Tensor
    psi: Literal["free"] | Tensor
    tied: Tensor | None


def exploratory(k: int, psi: Literal["free"] | Numbers = "free") -> Structure:
    """k uncorrelated factors, every loading free; psi free, or fixed (p,). ValueError: k is no number of factors."""
    return Structure(whole("k", k, 1, "use one factor or more"), None, "identity", _psi(psi), None)


def confirmatory(
    mask: Numbers,
    phi: Literal["identity", "free"] | Numbers = "identity",
    psi: Literal["free"] | Numbers = "free",
    tied: Numbers | None = None,
) -> Structure:
    """Loadings only where `mask` (p, k) is true; the others are zero.

    phi: "identity", "free" (factors of variance 1 and free correlations) or a fixed (k, k) covariance; psi: "free" or
    fixed (p,); tied: integers (p, k) whose equal positive labels mark equal loadings. ValueError names what does not
    fit together. Whether a covariance determines the parameters is checked by `fit`, which knows it.
    """
    mask = tensor("mask", mask)
    if mask.ndim != 2 or mask.numel() == 0:
        raise ValueError(f"mask must be a (p, k) matrix, got shape {tuple(mask.shape)}; one row per item")
    mask = mask.bool()
    p, k = mask.shape
    if not mask.any(0).all():
        empty = (~mask.any(0)).nonzero()[:, 0].tolist()
        raise ValueError(f"mask must give every factor a loading, got none in columns {empty}; drop them")
    correlations: Any = phi
    if isinstance(phi, str):
        if phi not in ("identity", "free"):
            raise ValueError(f"phi must be 'identity', 'free' or a ({k}, {k}) matrix, got {phi!r}; pass one of them")
    else:
        correlations = positive_definite("phi", phi, k)
        if correlations.ndim != 2:
            raise ValueError(f"phi must be one ({k}, {k}) matrix, got shape {tuple(correlations.shape)}; pass one")
    uniqueness = _psi(psi)
    if isinstance(uniqueness, Tensor) and len(uniqueness) != p:
        raise ValueError(f"psi must have shape ({p},), got {tuple(uniqueness.shape)}; one number per item")
    if tied is not None:
        tied = tensor("tied", tied)
        if tied.shape != mask.shape or tied.is_floating_point() or (tied < 0).any() or (tied[~mask] != 0).any():
            raise ValueError(
                f"tied must hold integers of at least 0 in shape {tuple(mask.shape)}, 0 where mask is false, got "
                f"{tied.tolist()}; give equal loadings equal numbers"
            )
    return Structure(k, mask, correlations, uniqueness, tied)


def positive_definite(name: str, values: Numbers, size: int | None = None) -> Tensor:
    """Matrices (..., size, size) in float64. ValueError: not square, finite, symmetric or positive definite."""
    matrix = tensor(name, values, torch.float64).detach().cpu()
    shape = tuple(matrix.shape)
    if matrix.ndim < 2 or shape[-1] != shape[-2] or size not in (None, shape[-1]) or matrix.numel() == 0:
        wanted = "square" if size is None else f"{size} x {size}"
        raise ValueError(f"{name} must be {wanted}, got shape {shape}; pass a covariance matrix")
    finite = matrix.isfinite().all(-1).all(-1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got NaN or infinity{_where(~finite)}; remove what is missing first")
    asymmetry, scale = (matrix - matrix.mT).abs().amax((-1, -2)), matrix.abs().amax((-1, -2))
    symmetric = asymmetry <= 1e-10 * scale
    if not symmetric.all():
        raise ValueError(
            f"{name} must be symmetric, got entries {float(asymmetry.max()):.3g} off their mirror image"
            f"{_where(~symmetric)}; pass a covariance matrix"
        )
    least = torch.eye(shape[-1], dtype=matrix.dtype) * (1e-12 * scale)[..., None, None]
    positive = torch.linalg.cholesky_ex(matrix - least)[1] == 0
    if not positive.all():
        smallest = torch.linalg.eigvalsh(matrix[~positive]).min()
        raise ValueError(
            f"{name} must be positive definite, got the eigenvalue {float(smallest):.3g}"
            f"{_where(~positive)}; drop redundant items, or use more data than items"
        )
    return matrix


def _where(bad: Tensor) -> str:
    return "" if bad.ndim == 0 else f" in matrix {tuple(bad.nonzero()[0].tolist())}"


def _psi(psi: Literal["free"] | Numbers) -> Literal["free"] | Tensor:
    if isinstance(psi, str):
        if psi != "free":
            raise ValueError(f"psi must be 'free' or a vector, got {psi!r}; pass one of the two")
        return "free"
    values = tensor("psi", psi, torch.float64).detach().cpu()
    if values.ndim != 1 or not values.isfinite().all() or not (values > 0).all():
        raise ValueError(f"psi must be a vector of positive numbers, got {values.tolist()}; one per item")
    return values


class Layout:
    """The free numbers of a structure on p items, in two coordinates.

    `theta` (..., P): free loadings, uniquenesses, factor correlations (below the diagonal, row by row), as they are
    reported. `u` (..., P): the same without bounds, as they are optimised: psi by its logarithm, phi by the entries
    below the diagonal of a factor whose rows are then scaled to length one.
    """

    def __init__(self, structure: Structure, p: int) -> None:
        k = structure.k
        mask = torch.ones(p, k, dtype=torch.bool) if structure.mask is None else structure.mask
        if len(mask) != p:
            raise ValueError(
                f"mask must have one row for each of the {p} items of S, got {len(mask)}; add the missing or drop items"
            )
        if isinstance(structure.psi, Tensor) and len(structure.psi) != p:
            raise ValueError(f"psi must have shape ({p},), got {tuple(structure.psi.shape)}; one number per item")
        self.structure, self.p, self.k = structure, p, k
        self.rows, self.columns = mask.nonzero().unbind(1)  # of the loadings that are not fixed at zero
        labels = torch.zeros(p, k, dtype=torch.int64) if structure.tied is None else structure.tied.long()
        labels = labels[mask]
        alone = torch.arange(1, len(labels) + 1) + labels.max()
        self.group = torch.unique(torch.where(labels > 0, labels, alone), return_inverse=True)[1]
        self.n_loadings = int(self.group.max()) + 1
        self.free_psi = isinstance(structure.psi, str)
        self.free_phi = isinstance(structure.phi, str) and structure.phi == "free"
        self.below = torch.tril_indices(k, k, offset=-1)
        self.n_psi, self.n_phi = p * self.free_psi, k * (k - 1) // 2 * self.free_phi
        # Placing numbers by constant one-hot maps is what torch.vmap takes, unlike indexed assignment.
        eye = torch.eye
        if structure.mask is not None:
            entries = eye(p)[self.rows][:, :, None] * eye(k)[self.columns][:, None, :]
            self._loadings = torch.zeros(self.n_loadings, p, k).index_add(0, self.group, entries).double()
        self._below = (eye(k)[self.below[0]][:, :, None] * eye(k)[self.below[1]][:, None, :]).double()
        self._eye = torch.eye(k, dtype=torch.float64)

    def __len__(self) -> int:
        return self.n_loadings + self.n_psi + self.n_phi

    def _shared(self) -> Tensor:
        """Which two columns of W a tie joins, (k, k); every column is joined to itself."""
        owners = torch.zeros(self.n_loadings, self.k).index_put((self.group, self.columns), torch.ones(len(self.group)))
        return owners.mT @ owners > 0

    @property
    def scalable(self) -> bool:
        """Whether the columns of W may be scaled one by one: no tie joins two of them."""
        return int(self._shared().sum()) == self.k

    def sign_together(self) -> Tensor:
        """Which columns of W change their sign only together, (k, k): those that ties or fixed correlations join."""
        joined = self._shared()
        if isinstance(self.structure.phi, Tensor):
            joined = joined | (self.structure.phi != 0)
        return torch.linalg.matrix_power(joined.double(), self.k) > 0  # by way of others too

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loadings, psi, phi = numbers.tensor_split([self.n_loadings, self.n_loadings + self.n_psi], dim=-1)
        return loadings, psi, phi

    def loading_matrix(self, loadings: Tensor) -> Tensor:
        """The free loadings (..., n) -> W (..., p, k)."""
        if self.structure.mask is None:
            return loadings.unflatten(-1, (self.p, self.k))
        return torch.einsum("...n,npk->...pk", loadings, self._loadings)

    def _fixed(self, part: str | Tensor, leading: torch.Size) -> Tensor:
        value = self._eye if isinstance(part, str) else part
        return value.expand(*leading, *value.shape)

    def from_u(self, u: Tensor) -> Parameters:
        """(..., P) -> parameters."""
        loadings, log_psi, below = self._split(u)
        psi = log_psi.exp() if self.free_psi else self._fixed(self.structure.psi, u.shape[:-1])
        if self.free_phi:
            factor = torch.einsum("...n,nrc->...rc", below, self._below) + self._eye
            factor = factor / factor.norm(dim=-1, keepdim=True)
            phi = factor @ factor.mT
        else:
            phi = self._fixed(self.structure.phi, u.shape[:-1])
        return Parameters(self.loading_matrix(loadings), psi, phi)

    def from_theta(self, theta: Tensor) -> Parameters:
        """(..., P) -> parameters."""
        loadings, free_psi, below = self._split(theta)
        psi = free_psi if self.free_psi else self._fixed(self.structure.psi, theta.shape[:-1])
        if self.free_phi:
            lower = torch.einsum("...n,nrc->...rc", below, self._below)
            phi = lower + lower.mT + self._eye
        else:
            phi = self._fixed(self.structure.phi, theta.shape[:-1])
        return Parameters(self.loading_matrix(loadings), psi, phi)

    def theta(self, parameters: Parameters) -> Tensor:
        """Parameters -> (..., P); of tied loadings the mean."""
        parts = [self.loadings(parameters.W)]
        if self.free_psi:
            parts.append(parameters.psi)
        if self.free_phi:
            parts.append(parameters.phi[..., self.below[0], self.below[1]])
        return torch.cat(parts, dim=-1)

    def u(self, parameters: Parameters) -> Tensor:
        """Parameters -> (..., P)."""
        parts = [self.loadings(parameters.W)]
        if self.free_psi:
            parts.append(parameters.psi.log())
        if self.free_phi:
            factor = torch.linalg.cholesky(parameters.phi)
            factor = factor / factor.diagonal(dim1=-2, dim2=-1)[..., None]
            parts.append(factor[..., self.below[0], self.below[1]])
        return torch.cat(parts, dim=-1)

    def placed(self, theta: Tensor) -> Parameters:
        """Numbers about the free parameters (..., P) where the parameters stand, zero elsewhere."""
        loadings, psi, below = self._split(theta)
        leading, k = theta.shape[:-1], self.k
        lower = torch.einsum("...n,nrc->...rc", below, self._below) if self.free_phi else theta.new_zeros(k, k)
        return Parameters(
            self.loading_matrix(loadings),
            psi if self.free_psi else theta.new_zeros(*leading, self.p),
            (lower + lower.mT).expand(*leading, k, k),
        )

    def loadings(self, W: Tensor) -> Tensor:
        """(..., p, k) -> the free loadings (..., n)."""
        if self.structure.mask is None:
            return W.flatten(-2)
        total = torch.einsum("...pk,npk->...n", W, self._loadings)
        return total / self._loadings.sum((-1, -2))
