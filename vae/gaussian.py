"""Gaussian posteriors with diagonal or full covariance, the divergences between them, and log-mean-exp."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def logmeanexp(x: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(x) along `dim`, summed in float64 where there is one; the number of samples is read from
    the tensor.
    """
    wide = x if x.device.type == "mps" else x.double()
    return (torch.logsumexp(wide, dim) - math.log(x.shape[dim])).to(x.dtype)


class DiagonalGaussian(NamedTuple):
    """q(z) = N(mean, diag(exp(log_var))); `mean` and `log_var` have shape (..., Z) and broadcast."""

    mean: Tensor
    log_var: Tensor

    def rsample(self, eps: Tensor) -> Tensor:
        """Reparameterised draws from standard normal `eps` (K, ..., Z), with its shape (Kingma & Welling 2014,
        sec. 2.4).
        """
        return self.mean + (0.5 * self.log_var).exp() * eps

    def whiten(self, z: Tensor) -> Tensor:
        """The eps (..., Z) that `rsample` takes to z (..., Z)."""
        return (z - self.mean) * (-0.5 * self.log_var).exp()

    def pull_back(self, gradient: Tensor) -> Tensor:
        """From the gradient of a function in z = rsample(eps) to its gradient in eps, both (K, ..., Z)."""
        return (0.5 * self.log_var).exp() * gradient

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats; z (..., Z) -> (...)."""
        squared = (z - self.mean).square() * (-self.log_var).exp()
        return -0.5 * (squared + self.log_var + LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats (...)."""
        return 0.5 * (self.log_var + 1 + LOG_2PI).sum(-1)

    def kl_per_dim(self) -> Tensor:
        """KL(q(z_j) || N(0, 1)) of every dimension, nats (..., Z). expm1 keeps it exact where q is nearly the prior."""
        return 0.5 * (self.mean.square() + torch.expm1(self.log_var) - self.log_var)

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q || N(0, I)), nats (...) (Kingma & Welling 2014, appendix B)."""
        return self.kl_per_dim().sum(-1)

    def covariance(self) -> Tensor:
        """(..., Z, Z)."""
        return torch.diag_embed(self.log_var.exp())

    def _log_det(self) -> Tensor:
        return 0.5 * self.log_var.sum(-1)


class FullGaussian(NamedTuple):
    """q(z) = N(mean, L L'), L = `scale_tril` lower triangular with a positive diagonal; (..., Z) and (..., Z, Z)."""

    mean: Tensor
    scale_tril: Tensor

    def rsample(self, eps: Tensor) -> Tensor:
        """Reparameterised draws mean + L eps from standard normal `eps` (K, ..., Z), with its shape."""
        return self.mean + _along_samples(torch.matmul, self.scale_tril, eps)

    def whiten(self, z: Tensor) -> Tensor:
        """The eps (..., Z) that `rsample` takes to z (..., Z)."""
        return _along_samples(_solve_lower, self.scale_tril, z - self.mean)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """From the gradient of a function in z = rsample(eps) to its gradient in eps, both (K, ..., Z)."""
        return _along_samples(torch.matmul, self.scale_tril.mT, gradient)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats; z (..., Z) -> (...)."""
        return -0.5 * (self.whiten(z).square() + LOG_2PI).sum(-1) - self._log_det()

    def entropy(self) -> Tensor:
        """Differential entropy in nats (...)."""
        return 0.5 * self.mean.shape[-1] * (1 + LOG_2PI) + self._log_det()

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q || N(0, I)), nats (...)."""
        trace = self.scale_tril.square().sum((-1, -2))
        return 0.5 * (trace + self.mean.square().sum(-1) - self.mean.shape[-1]) - self._log_det()

    def covariance(self) -> Tensor:
        """(..., Z, Z)."""
        return self.scale_tril @ self.scale_tril.mT

    def _log_det(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


Gaussian = DiagonalGaussian | FullGaussian


def _solve_lower(lower: Tensor, columns: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(lower.shape[:-2], columns.shape[:-2])
    return torch.linalg.solve_triangular(lower.expand(*batch, *lower.shape[-2:]), columns, upper=False)


def _along_samples(f: Callable[[Tensor, Tensor], Tensor], matrix: Tensor, vectors: Tensor) -> Tensor:
    """f(matrix (..., Z, Z), columns (..., Z, K)) for vectors (K, ..., Z), the samples together: a matrix for each of
    them would be copied.
    """
    if vectors.ndim < matrix.ndim:
        return f(matrix, vectors.unsqueeze(-1)).squeeze(-1)
    return f(matrix, vectors.movedim(0, -1)).movedim(-1, 0)


def _precision(q: Gaussian) -> Tensor:
    if isinstance(q, DiagonalGaussian):
        return torch.diag_embed((-q.log_var).exp())
    return torch.cholesky_inverse(q.scale_tril)


def kl(q: Gaussian, p: FullGaussian) -> Tensor:
    """KL(q || p) between Gaussians over the same space, nats (...); leading axes broadcast."""
    eye = torch.eye(p.mean.shape[-1], dtype=p.mean.dtype, device=p.mean.device)
    whiten = torch.linalg.solve_triangular(p.scale_tril, eye, upper=False)
    if isinstance(q, DiagonalGaussian):  # without a matrix per datum
        trace = (whiten.square() @ q.log_var.exp().unsqueeze(-1)).sum((-1, -2))
    else:
        trace = (whiten @ q.scale_tril).square().sum((-1, -2))
    distance = (whiten @ (q.mean - p.mean).unsqueeze(-1)).square().sum((-1, -2))
    return 0.5 * (trace + distance - q.mean.shape[-1]) - q._log_det() + p._log_det()


def relative_weight_variance(p: Gaussian, q: Gaussian) -> Tensor:
    r"""Var_q[w] / E_q[w]^2 of the importance weights w = p(z)/q(z), also called the chi-squared divergence of p from q.

    Completing the square in p^2/q, with precisions P and Q, A = 2P - Q and d the difference of the means,

        1 + chi2 = |P| |Q|^{-1/2} |A|^{-1/2} exp(d' (2 P A^{-1} P - P) d),

    and the variance is infinite unless A is positive definite: q may be narrower than p by at most a factor two.
    Returns (...), `inf` where the variance is infinite. It sets the speed of the importance-weighted bound:
    K (log p(x) - L_K) tends to half of it (Domke & Sheldon 2018, thm 3; Maddison et al. 2017, prop. 1).
    """
    p_precision, q_precision = _precision(p), _precision(q)
    a = 2 * p_precision - q_precision
    factor, failed = torch.linalg.cholesky_ex(a)
    finite = failed == 0
    # A stand-in where A is indefinite, so that the arithmetic below stays finite; its result is replaced by inf.
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    factor = torch.where(finite[..., None, None], factor, eye)
    delta = (p.mean - q.mean).unsqueeze(-1)
    image = p_precision @ delta
    quadratic = (2 * image * torch.cholesky_solve(image, factor) - delta * image).sum((-1, -2))
    log_a = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_moment = torch.logdet(p_precision) - 0.5 * torch.logdet(q_precision) - 0.5 * log_a + quadratic
    return torch.where(finite, torch.expm1(log_moment), torch.inf)
