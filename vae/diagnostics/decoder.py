"""What a trained decoder does: the variance that is best for it, the directions in which it generates, what one that
ignores z leaves for z to say."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vae.diagnostics.bound import noise_for
from vae.models.ensemble import Ensemble
from vae.models.vae import VAE

VARIANCE = "likelihood.log_variance"


def _squares(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    return {"squares": (x - model.decoder(model.encode(x).rsample(eps.movedim(1, 0)))).square().mean(0)}


def with_best_variance(ensemble: Ensemble, x: Tensor, *, n_draws: int, purpose: str) -> Ensemble:
    """The same networks with the learned variance of their Gaussian decoders where it is best for data x (N, X): at the
    mean squared error over `n_draws` of z for each datum (by `noise_for`), of all dimensions or of each where each has
    a variance of its own (Rybkin et al. 2021, arXiv:2006.13202). While the error still falls, training lags behind it.

    ValueError: the variance is no parameter.
    """
    if VARIANCE not in ensemble.params:
        raise ValueError(f"ensemble must have a learned variance, got {sorted(ensemble.params)}; learn it first")
    error = ensemble.map_rows(_squares, x, noise_for(ensemble, x, n_draws, purpose))["squares"].mean(1)  # (E, X)
    trained = ensemble.params[VARIANCE]
    best = error.log() if trained.ndim == 2 else error.mean(1).log()
    return replace(ensemble, params=ensemble.params | {VARIANCE: best.to(trained)})


def decoded_variance(ensemble: Ensemble, z: Tensor, x: Tensor) -> Tensor:
    """How far what each member decodes from z (N, Z) lies from the mean of data x (n, X), squared, as a share of the
    data's variance, (E, N)."""
    mean, variance = x.mean(0).to(ensemble.device), float(x.var(0, correction=0).sum())

    def share(model: VAE, z: Tensor) -> dict[str, Tensor]:
        return {"share": (model.likelihood.mean(model.decoder(z)) - mean).square().sum(-1) / variance}

    return ensemble.map_rows(share, z)["share"]


def direction_lengths(ensemble: Ensemble, z: Tensor) -> Tensor:
    """How far a unit step of z moves each member's decoded mean, along the directions in which it moves it most, second
    most, ...: the singular values of the Jacobian at z (N, Z), descending, (E, N, min(X, Z)), units of x."""

    def jacobian(model: VAE, z: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.jacfwd(model.decoder))(z)

    with torch.no_grad():
        return torch.linalg.svdvals(ensemble.map(jacobian, z.to(ensemble.device, ensemble.dtype)))


def residual_threshold(model: VAE, x: Tensor) -> Tensor:
    """For `Ensemble.map`: the critical beta of a Bernoulli decoder that ignores z, whatever it reads of data x (N, X)
    itself, a scalar: above it ignoring z is stable, below it a z that moves the output the same way whatever the
    decoder reads would pay.

    It is the largest eigenvalue of the second moments of the residuals x - mean, in units of the decoder's own standard
    deviations, whose squares mean (1 - mean) are averaged over data. Source: the book's chapter on remedies for
    collapse, eq-cr-conditional. Where the decoder's means are those of the data it is
    `vae.exact.linear_gaussian.collapse_threshold`.
    """
    mean = model.output(x, x.new_zeros(len(x), model.encode(x).mean.shape[-1])).sigmoid()
    scale = (mean * (1 - mean)).mean(0).rsqrt()
    residual = (x - mean) * scale
    return torch.linalg.eigvalsh(residual.mT @ residual / len(x))[-1]
