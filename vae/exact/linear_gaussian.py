"""The exactly solvable model: x = W z + mu + eps, z ~ N(0, phi), eps ~ N(0, diag(psi)).

Shapes throughout: W (X, Z); psi a number or (X,); mu (X,) or None for zero; phi (Z, Z) or None for the identity; x
(N, X). Tensors or arrays, taken in W's dtype; results are tensors. Nats. Every function is differentiable and can be
mapped over models with `torch.vmap`. Background: Tipping & Bishop 1999; Lucas et al. 2019 ("Don't blame the ELBO!").
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.check import Numbers, finite, finite_rows, floats, one_of, positive, rows, tensor, tensors, whole
from vae.gaussian import LOG_2PI, DiagonalGaussian, FullGaussian


def _psi(psi: Numbers, W: Tensor) -> Tensor:
    return tensor("psi", psi, like=W).expand(W.shape[0])


def _centred(x: Numbers, mu: Numbers | None, W: Tensor) -> Tensor:
    x = rows("x", x, W.shape[0], like=W)
    return x if mu is None else x - tensor("mu", mu, like=W)


def _weights(W: Numbers) -> Tensor:
    W = floats("W", W)
    if W.ndim != 2:
        raise ValueError(f"W must be of shape (X, Z), got {tuple(W.shape)}; a row for each dimension of x")
    return W


def posterior_precision(W: Numbers, psi: Numbers, phi: Numbers | None = None) -> Tensor:
    """M = phi^-1 + W' Psi^-1 W, the posterior's precision, the same for every x: (Z, Z)."""
    W = _weights(W)
    eye = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
    prior = eye if phi is None else torch.linalg.inv(tensor("phi", phi, like=W))
    return prior + W.mT @ (W / _psi(psi, W)[:, None])


def posterior(
    W: Numbers, psi: Numbers, x: Numbers, mu: Numbers | None = None, phi: Numbers | None = None
) -> FullGaussian:
    """p(z|x) = N(M^-1 W' Psi^-1 (x - mu), M^-1): mean (N, Z), scale_tril (1, Z, Z), as every x has the same.

    >>> q = posterior(torch.ones(2, 1), psi=0.5, x=[[1.0, 2.0]])  # z seen twice, with noise
    >>> q.mean, q.covariance()
    (tensor([[1.2000]]), tensor([[[0.2000]]]))
    """
    W = _weights(W)
    factor = torch.linalg.cholesky(posterior_precision(W, psi, phi))
    mean = torch.cholesky_solve((_centred(x, mu, W) / _psi(psi, W) @ W).mT, factor).mT
    scale = torch.linalg.cholesky(torch.cholesky_inverse(factor))
    return FullGaussian(mean, scale[None])


def log_evidence(W: Numbers, psi: Numbers, x: Numbers, mu: Numbers | None = None, phi: Numbers | None = None) -> Tensor:
    """log p(x), nats (N,), at the cost of a Z x Z factorisation (matrix determinant lemma).

    The quadratic form is the minimum over z of the joint's: a sum of squares, free of the cancellation in Woodbury's.

    >>> log_evidence(torch.ones(2, 1), psi=0.5, x=[[1.0, 2.0], [0.0, 0.0]])
    tensor([-3.3494, -1.9494])
    """
    W = _weights(W)
    noise, residual = _psi(psi, W), _centred(x, mu, W)
    phi = None if phi is None else tensor("phi", phi, like=W)
    m = posterior(W, psi, x, mu, phi).mean
    prior_precision = None if phi is None else torch.linalg.inv(phi)
    penalty = m.square().sum(-1) if prior_precision is None else ((m @ prior_precision) * m).sum(-1)
    quadratic = ((residual - m @ W.mT).square() / noise).sum(-1) + penalty
    log_det = torch.logdet(posterior_precision(W, psi, phi)) + noise.log().sum()
    if phi is not None:
        log_det = log_det + torch.logdet(phi)
    return -0.5 * (W.shape[0] * LOG_2PI + log_det + quadratic)


def expected_log_lik(W: Numbers, psi: Numbers, x: Numbers, q: DiagonalGaussian, mu: Numbers | None = None) -> Tensor:
    """E_q[log p(x|z)] without sampling, nats (N,): the ELBO's reconstruction term, noise of the estimator removed."""
    W, q = _weights(W), tensors("q", q)
    noise = _psi(psi, W)
    bias = (_centred(x, mu, W) - q.mean @ W.mT).square()
    spread = q.log_var.exp() @ W.square().mT
    return -0.5 * ((bias + spread) / noise + noise.log() + LOG_2PI).sum(-1)


def approximation_gap(W: Numbers, psi: Numbers, phi: Numbers | None = None) -> float:
    """log p(x) minus the best ELBO of any diagonal-covariance q: half of (sum_j log M_jj - log det M), nats, any x.

    The best q has the posterior's mean and variances 1/M_jj. For two latents the gap is their mutual information given
    x; for more it is near the posterior's total correlation, which has variances where this has precisions.
    """
    precision = posterior_precision(W, psi, phi)
    return float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))


def amortization_gap(
    W: Numbers,
    psi: Numbers,
    x: Numbers,
    q: DiagonalGaussian,
    mu: Numbers | None = None,
    phi: Numbers | None = None,
) -> Tensor:
    """The best diagonal-covariance ELBO minus q's, nats (N,), >= 0; q.mean (N, Z), q.log_var (N, Z) or (Z,)."""
    q = tensors("q", q)
    precision = posterior_precision(W, psi, phi)
    delta = q.mean - posterior(W, psi, x, mu, phi).mean
    log_ratio = q.log_var + precision.diagonal().log()
    variances = (torch.expm1(log_ratio) - log_ratio).sum(-1)
    return 0.5 * (variances + ((delta @ precision) * delta).sum(-1))


class LinearVAE(NamedTuple):
    """The optimum of a linear beta-VAE; see `linear_vae`."""

    kl: Tensor  # (Z,) KL of each latent dimension, nats, largest first
    rate: float  # their sum
    distortion: float  # E|x - f(z)|^2, summed over X
    objective: float  # the maximised beta-ELBO, nats per datum
    active: int  # latents with positive KL
    noise_variance: float


def spectrum_of(eigenvalues: Numbers) -> Tensor:
    """Eigenvalues (X,) sorted downwards in float64, zero where they are zero to rounding: what an eigensolver returns
    for an exact zero has either sign.

    ValueError: not (X,), not finite, or negative beyond rounding.
    """
    values = tensor("eigenvalues", eigenvalues, torch.float64).detach().cpu()
    if values.ndim != 1 or values.numel() == 0 or not values.isfinite().all():
        raise ValueError(
            f"eigenvalues must be a finite, non-empty (X,) tensor, got shape {tuple(values.shape)}; "
            "pass torch.linalg.eigvalsh of the 1/N covariance"
        )
    values = values.sort(descending=True).values
    rounding = values.numel() * torch.finfo(values.dtype).eps * float(values.abs().max())
    if float(values[-1]) < -rounding:
        raise ValueError(f"eigenvalues must be non-negative, got {float(values[-1]):.3g}; pass a covariance's")
    return values.where(values > rounding, torch.zeros_like(values))


def linear_vae(eigenvalues: Numbers, beta: float, noise_variance: float, latent_dim: int) -> LinearVAE:
    """The global optimum of a linear beta-VAE with decoder variance `noise_variance`, in closed form.

    `eigenvalues` (X,) of the data's 1/N covariance, in any order. With T = beta * noise_variance, the `latent_dim`
    largest that exceed T are encoded, each at KL = log(lambda / T) / 2, leaving T of distortion; the others keep all
    of theirs (Lucas et al. 2019; the same as reverse water-filling at level T). Latents beyond X add KL 0.

    >>> best = linear_vae([4.0, 2.0, 0.5], beta=1.0, noise_variance=1.0, latent_dim=2)
    >>> best.active, best.kl, best.distortion
    (2, tensor([0.6931, 0.3466], dtype=torch.float64), 2.5)
    """
    beta, noise_variance = positive("beta", beta), positive("noise_variance", noise_variance)
    latent_dim = whole("latent_dim", latent_dim, 1, "use one latent or more")
    spectrum = spectrum_of(eigenvalues)
    level = beta * noise_variance
    offered = torch.zeros(latent_dim, dtype=spectrum.dtype)
    usable = min(latent_dim, spectrum.numel())
    offered[:usable] = spectrum[:usable]
    kl = 0.5 * (offered / level).clamp(min=1).log()
    active = int((offered > level).sum())
    rate, left = float(kl.sum()), float(spectrum[active:].sum())
    distortion = active * level + left
    constant = -0.5 * spectrum.numel() * (LOG_2PI + math.log(noise_variance))
    objective = constant - 0.5 * distortion / noise_variance - beta * rate
    return LinearVAE(kl, rate, distortion, objective, active, noise_variance)


def learned_noise_variance(eigenvalues: Numbers, beta: float, latent_dim: int) -> float:
    """The decoder variance that maximises `linear_vae(...).objective`, when it is learned along with the weights.

    The objective's slope in s = noise_variance is -h(s)/(2 s^2), h(s) = s (X - beta k(s)) - sum of the eigenvalues
    left out, with k(s) the number of active latents. h is convex and piecewise linear, so its zero is found exactly:
    s = sum_{i>k} lambda_i / (X - beta k); at beta = 1 this is probabilistic PCA's (Tipping & Bishop 1999, eq. 8).
    Where the maximum is a plateau (beta = 1 and latent_dim = X, say) the largest of its values is returned.

    Raises ValueError if the objective is unbounded: the latents reproduce the data exactly (nothing is left out) and
    their price beta k is below X, so that shrinking s to 0 gains without limit.
    """
    beta, latent_dim = positive("beta", beta), whole("latent_dim", latent_dim, 1, "use one latent or more")
    spectrum = spectrum_of(eigenvalues)
    dim = spectrum.numel()
    usable = min(latent_dim, int((spectrum > 0).sum()))
    left = [float(spectrum[k:].sum()) for k in range(usable + 1)]
    if left[usable] == 0 and dim > beta * usable:
        raise ValueError(
            f"the objective is unbounded: {usable} latents reproduce data of rank {usable} in {dim} dimensions exactly "
            f"and cost beta * {usable} = {beta * usable:g} < {dim} nats per unit of -log sigma; fix noise_variance, "
            "use fewer latents, raise beta, or add noise to the data"
        )
    # From the noisiest end: the piece with k active latents covers lambda_{k+1} / beta <= s < lambda_k / beta.
    for k in range(usable + 1):
        slope = dim - beta * k
        lower = float(spectrum[k]) / beta if k < usable else 0.0
        if lower * slope - left[k] <= 0:  # h is negative at the piece's lower end: its zero is in here
            return left[k] / slope if left[k] > 0 else float(spectrum[k - 1]) / beta
    raise AssertionError("h has a zero unless the objective is unbounded")


def learned_linear_vae(eigenvalues: Numbers, beta: float, latent_dim: int) -> LinearVAE | None:
    """`linear_vae` with the decoder variance that is best along with the weights (`learned_noise_variance`); None where
    the objective is unbounded, so that there is no optimum."""
    try:
        noise_variance = learned_noise_variance(eigenvalues, beta, latent_dim)
    except ValueError:
        return None
    return linear_vae(eigenvalues, beta, noise_variance, latent_dim)


class ScalarChannel(NamedTuple):
    """The best q = N(k x, s2) for a fixed scalar decoder; see `scalar_channel`."""

    k: float
    s2: float
    mutual_information: float
    rate: float
    distortion: float


def scalar_channel(a: float, data_variance: float, beta: float, noise_variance: float) -> ScalarChannel:
    """x|z ~ N(a z, noise_variance) with a fixed, x ~ N(0, data_variance): the encoder q(z|x) = N(k x, s2) that is best.

    With T = beta * noise_variance: k = a / (a^2 + T), s2 = T / (a^2 + T), and I(X;Z) = log(1 + k^2 data_variance /
    s2) / 2. The rate E KL(q || N(0, 1)) exceeds I by the aggregated posterior's KL. Distortion is E(x - a z)^2. Nats.
    """
    a, data_variance = finite("a", a, "pass the decoder's weight"), positive("data_variance", data_variance)
    beta, noise_variance = positive("beta", beta), positive("noise_variance", noise_variance)
    level = beta * noise_variance
    k, s2 = a / (a * a + level), level / (a * a + level)
    information = 0.5 * math.log1p(k * k * data_variance / s2)
    rate = 0.5 * (k * k * data_variance + s2 - 1 - math.log(s2))
    distortion = (1 - a * k) ** 2 * data_variance + a * a * s2
    return ScalarChannel(k, s2, information, rate, distortion)


class PrincipalAxes(NamedTuple):
    """Of data (N, X), float64: `eigenvalues` (X,) of the 1/N covariance, descending; `axes` (X, X), one in each column;
    `mean` (X,).
    """

    eigenvalues: Tensor
    axes: Tensor
    mean: Tensor


def principal_axes(x: Numbers) -> PrincipalAxes:
    """What a linear model sees of data x (N, X): mean and spectrum. Eigenvalues below zero by rounding are zero.

    ValueError: x is not a finite (N, X).
    """
    mean, covariance = _moments(finite_rows("x", x))
    values, axes = torch.linalg.eigh(covariance)
    return PrincipalAxes(values.flip(0).clamp(min=0), axes.flip(1), mean)


def sigma_points(axes: PrincipalAxes) -> Tensor:
    """Data (2X, X) that have exactly this mean and 1/N covariance, which is all that a linear model sees of any data:
    mean +- sqrt(X lambda_i) along each axis (Julier & Uhlmann 1997)."""
    values, vectors, mean = tensors("axes", axes)
    offsets = (len(values) * values).sqrt()[:, None] * vectors.mT
    return torch.cat([mean + offsets, mean - offsets])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().to(torch.float64)
    mean = x.mean(0)
    return mean, (x - mean).mT @ (x - mean) / x.shape[0]


def linear_code(axes: PrincipalAxes, x: Numbers, levels: Sequence[float]) -> dict[str, Tensor]:
    """Rate (nats), distortion (squared error) and F = R + D / (2 level) on data x (N, X) of the best linear VAEs of the
    data whose principal axes these are, one for each level beta sigma^2: (levels, N) each, float64. Of all latents: a
    code with fewer of them spends no rate on the axes of the least eigenvalues. Tipping & Bishop 1999; Lucas et al.
    2019, sec. 4.
    """
    values, vectors, mean = tensors("axes", axes)
    projected, curves = ((rows("x", x, len(mean)).double() - mean) @ vectors).square(), []
    for level in levels:
        kept = values > level
        share = torch.where(kept, level / values, 1.0)  # the posterior's variance, and 1 - w k
        rate = 0.5 * ((1 - share) * (projected / values.clamp(min=level) - 1) - share.log())
        distortion = share.square() * projected + torch.where(kept, (1 - share) * level, 0.0)
        curves.append((rate.sum(1), distortion.sum(1), (rate + distortion / (2 * level)).sum(1)))
    names = ("rate", "distortion", "F")
    return {name: torch.stack(values) for name, values in zip(names, zip(*curves, strict=True), strict=True)}


def levels_over_spectrum(eigenvalues: Numbers, latent_dim: int, count: int) -> list[float]:
    """`count` levels beta sigma^2, ascending and evenly spaced in their logarithm, over all that a sweep of models with
    `latent_dim` latents can show: from a tenth of the eigenvalue of the last latent to 1.2 times the first, where a
    linear model has collapsed. eigenvalues: descending."""
    values = tensor("eigenvalues", eigenvalues)
    low, high = float(values[latent_dim - 1]) / 10, 1.2 * float(values[0])
    return np.geomspace(low, high, count).tolist()


def collapse_threshold(x: Numbers, likelihood: str) -> float:
    """Where ignoring z becomes a stable optimum of any VAE with a smooth decoder and a free output bias.

    "gaussian": the critical beta * noise_variance, the largest eigenvalue of the 1/N covariance of x (N, X).
    "bernoulli": the critical beta, the largest eigenvalue of V^-1/2 Cov V^-1/2 with V = mean (1 - mean) (for binary
    data the correlation matrix); pixels that are 0 everywhere or 1 everywhere carry nothing and are dropped.

    >>> collapse_threshold([[-3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], "gaussian")
    4.5

    ValueError: x is not a finite (N, X), has values that the likelihood is not for, or does not vary.
    """
    one_of("likelihood", likelihood, ("gaussian", "bernoulli"))
    x = finite_rows("x", x)
    mean, covariance = _moments(x)
    if likelihood == "gaussian":
        return float(torch.linalg.eigvalsh(covariance)[-1])
    if x.min() < 0 or x.max() > 1:
        raise ValueError(
            f"x must lie in [0, 1] for a Bernoulli decoder, got [{x.min():g}, {x.max():g}]; rescale or binarize it"
        )
    scale = (mean * (1 - mean)).sqrt()
    kept = scale > 0
    if not kept.any():
        raise ValueError("x must vary: every pixel is 0 everywhere or 1 everywhere; check the data")
    scaled = covariance[kept][:, kept] / scale[kept] / scale[kept][:, None]
    return float(torch.linalg.eigvalsh(scaled)[-1])


def warn_unless_straddled(name: str, grid: Sequence[float], threshold: float) -> None:
    """Warns (UserWarning), with the threshold's value, if no two of `grid`'s values lie on its two sides: a sweep over
    them shows no transition. For beta, or for beta * noise_variance, as `collapse_threshold` has it.

    ValueError: an empty grid, or one with values that are not finite.
    """
    values = [float(value) for value in grid]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} must hold finite numbers, got {values}; list at least one below and one above")
    low, high = min(values), max(values)
    if not low < threshold < high:
        side = "below" if high <= threshold else "above"
        warnings.warn(
            f"{name} straddles no threshold: collapse sets in at {threshold:.4g}, and its values, from {low:.4g} to "
            f"{high:.4g}, are all {side}; add one on the other side",
            stacklevel=2,
        )
