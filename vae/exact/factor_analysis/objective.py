r"""The likelihood and the best ELBO of a linear-Gaussian model, from the items' covariance alone.

With M = phi^-1 + W' psi^-1 W the posterior's precision and S the data's 1/N covariance (the mean is fitted exactly),

    -2 ELBO* = p log 2 pi + log|psi| + log|phi| + vol(M) + tr(S Sigma^-1)                nats per datum,

where vol(M) is what the encoder family can do: log|M| for a full covariance, which makes it the log-likelihood;
sum_j log M_jj for a diagonal one; k log(tr M / k) for a multiple of the identity. The best mean is the posterior's in
every family. The difference, half of vol(M) - log|M|, is the approximation gap; S does not enter it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vae.check import Numbers, one_of, tensor, tensors
from vae.exact.factor_analysis.structure import Parameters
from vae.gaussian import LOG_2PI

# "whitened": diagonal in the coordinates u of z = L u, L the Cholesky factor of phi, where the prior is N(0, I)
Encoder = Literal["full", "diagonal", "isotropic", "whitened"]


class Patterns(NamedTuple):
    """Which items are seen together: `seen` (R, p), and the share `weight` (R,) of the data with each pattern."""

    seen: Tensor
    weight: Tensor


class Posterior(NamedTuple):
    """q(z|x) = N(mean_map (x - mu), covariance): (..., k, p) and (..., k, k), the same covariance for every x."""

    mean_map: Tensor
    covariance: Tensor


def check_encoder(encoder: str) -> None:
    """ValueError: there is no such family."""
    one_of("encoder", encoder, get_args(Encoder))


def inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse (..., k, k) and log-determinant (...,); NaN where it is not positive definite."""
    factor = torch.linalg.cholesky_ex(matrix)[0]
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # Not torch.cholesky_inverse, whose second derivatives are wrong in forward over reverse mode (PyTorch 2.13).
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand_as(matrix)
    return torch.cholesky_solve(eye, factor), log_det


def precision(parameters: Parameters, seen: Tensor | None = None) -> Tensor:
    """M, the posterior's precision (..., k, k); `seen` (..., p) leaves the other items out."""
    W, psi, phi = tensors("parameters", parameters)
    weight = 1 / psi if seen is None else seen / psi
    return inverse(phi)[0] + W.mT @ (W * weight[..., None])


def volume(M: Tensor, phi: Tensor, encoder: Encoder) -> Tensor:
    """vol(M), which stands where the exact posterior has log|M|; (...,)."""
    check_encoder(encoder)
    if encoder == "full":
        return inverse(M)[1]
    if encoder == "isotropic":
        k = M.shape[-1]
        return k * (M.diagonal(dim1=-2, dim2=-1).sum(-1) / k).log()
    if encoder == "diagonal":
        return M.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    L = torch.linalg.cholesky_ex(phi)[0]
    white = ((L.mT @ M) * L.mT).sum(-1)  # the diagonal of L' M L
    return white.log().sum(-1) - 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def posterior(parameters: Parameters, encoder: Encoder = "full", seen: Tensor | None = None) -> Posterior:
    """The best q of the family."""
    check_encoder(encoder)
    parameters = tensors("parameters", parameters)
    W, psi, phi = parameters
    M = precision(parameters, seen)
    exact = inverse(M)[0]
    weight = 1 / psi if seen is None else seen / psi
    mean_map = exact @ (W * weight[..., None]).mT
    if encoder == "full":
        return Posterior(mean_map, exact)
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    if encoder == "isotropic":
        diagonal = diagonal.mean(-1, keepdim=True).expand_as(diagonal)
    if encoder != "whitened":
        return Posterior(mean_map, torch.diag_embed(1 / diagonal))
    L = torch.linalg.cholesky_ex(phi)[0]
    white = ((L.mT @ M) * L.mT).sum(-1)
    return Posterior(mean_map, (L / white[..., None, :]) @ L.mT)


def elbo(parameters: Parameters, S: Numbers, encoder: Encoder = "diagonal", patterns: Patterns | None = None) -> Tensor:
    """The best ELBO of the family, nats per datum (...,); with the encoder "full" the log-likelihood.

    S (..., p, p) is the 1/N covariance. With `patterns`, unseen items are missing at random.
    """
    parameters = tensors("parameters", parameters)
    S = tensor("S", S, like=parameters.W)
    if patterns is not None:
        patterns = tensors("patterns", patterns)
        spread = Parameters(*(part.unsqueeze(-3 if part is not parameters.psi else -2) for part in parameters))
        each = _elbo(spread, S.unsqueeze(-3), encoder, patterns.seen.to(S.dtype))
        return (each * patterns.weight).sum(-1)
    return _elbo(parameters, S, encoder, None)


def _elbo(parameters: Parameters, S: Tensor, encoder: Encoder, seen: Tensor | None) -> Tensor:
    W, psi, phi = parameters
    prior, log_phi = inverse(phi)
    M = precision(parameters, seen)
    V = posterior(parameters, "full", seen).mean_map
    # tr(S Sigma^-1) as the minimum over z of a sum of squares, which does not cancel where psi is tiny.
    eye = torch.eye(W.shape[-2], dtype=W.dtype)
    residual = eye - W @ V
    spread = ((residual @ S) * residual).sum(-1)
    weight = torch.ones_like(psi) if seen is None else seen
    noise = (weight * (spread / psi + psi.log() + LOG_2PI)).sum(-1)
    shrinkage = ((V @ S @ V.mT) * prior).sum((-1, -2))
    return -0.5 * (noise + shrinkage + log_phi + volume(M, phi, encoder))


def log_likelihood(parameters: Parameters, S: Numbers, patterns: Patterns | None = None) -> Tensor:
    """E log p(x) over data with covariance S and the fitted mean, nats per datum (...,)."""
    return elbo(parameters, S, "full", patterns)


def gap(parameters: Parameters, encoder: Encoder = "diagonal") -> Tensor:
    """log p(x) minus the family's best ELBO, nats (...,); for a diagonal q half of sum log M_jj - log det M."""
    parameters = tensors("parameters", parameters)
    M = precision(parameters)
    return 0.5 * (volume(M, parameters.phi, encoder) - inverse(M)[1])


def elbo_of(parameters: Parameters, S: Numbers, q: Posterior) -> Tensor:
    """The ELBO of any q of that form as the definition has it, E_q[log p(x|z) + log p(z)] + entropy, nats (...,)."""
    W, psi, phi = tensors("parameters", parameters)
    (V, D), S = tensors("q", q), tensor("S", S, like=W)
    eye = torch.eye(W.shape[-2], dtype=W.dtype)
    residual = eye - W @ V
    error = (residual @ S @ residual.mT + W @ D @ W.mT).diagonal(dim1=-2, dim2=-1)
    log_lik = -0.5 * (error / psi + psi.log() + LOG_2PI).sum(-1)
    second_moment = V @ S @ V.mT + D
    k = W.shape[-1]
    log_prior = -0.5 * (k * LOG_2PI + torch.logdet(phi) + (torch.linalg.inv(phi) * second_moment).sum((-1, -2)))
    entropy = 0.5 * (k * (1 + LOG_2PI) + torch.logdet(D))
    return log_lik + log_prior + entropy
