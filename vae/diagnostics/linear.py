"""A trained linear VAE beside all that is exactly known of it. Best in float64.

`exact_terms` and `exact_bounds` are for `Ensemble.map_rows`: data x (n, X), noise eps (n, Z), a result for each datum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae.exact import linear_gaussian as lg
from vae.gaussian import kl, logmeanexp, relative_weight_variance
from vae.models.ensemble import Ensemble
from vae.models.networks import check_diagonal
from vae.models.vae import VAE
from vae.noise import draw
from vae.train.objectives import terms


def decoder_of(model: Any) -> dict[str, Tensor]:
    """The decoder of `vae.models.linear_vae_model` as `vae.exact.linear_gaussian` takes it: W (X, Z), mu (X,), psi."""
    return {"W": model.decoder[0].weight, "mu": model.decoder[0].bias, "psi": model.likelihood.log_variance.exp()}


def exact_terms(model: VAE, x: Tensor) -> dict[str, Tensor]:
    """The two terms of the ELBO without sampling noise, nats, and E_q |x - f(z)|^2 with the decoder's variance, in the
    data's units squared; (n,) each."""
    exact, q = decoder_of(model), check_diagonal(model.encode(x))
    bias = (x - exact["mu"] - q.mean @ exact["W"].mT).square().sum(-1)
    return {
        "reconstruction": lg.expected_log_lik(x=x, q=q, **exact),
        "KL to prior": q.kl_to_standard_normal(),
        "squared error": bias + (q.log_var.exp() @ exact["W"].square().mT).sum(-1),
        "sigma^2": exact["psi"].expand(len(x)),
    }


def scalar_channel_of(model: Any) -> dict[str, Tensor]:
    """What a linear VAE with one latent, decoder N(a z, .) and encoder N(k x, s2), does to scalar data of mean 0 and
    variance 1, for `Ensemble.map`: I(x;z) and rate, nats, the squared error, and a^2."""
    a, k, s2 = model.decoder[0].weight[0, 0], model.encoder.mean.weight[0, 0], model.encoder.log_var[0].exp()
    return {
        "I(x;z)": 0.5 * torch.log1p(k**2 / s2),
        "rate": 0.5 * (k**2 + s2 - 1 - s2.log()),
        "squared error": (1 - a * k) ** 2 + a**2 * s2,
        "a^2": a**2,
    }


def exact_bounds(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """log p(x), the ELBO and its terms, KL(q || p(z|x)) computed without it, and what one draw of z for each datum, by
    noise eps (n, Z), makes of the ELBO and of the KL; nats, (n,) each. "KL of a latent" is (n, Z)."""
    exact, q = decoder_of(model), check_diagonal(model.encode(x))
    sampled, parts = terms(model, x, q, eps[None]), exact_terms(model, x)
    log_evidence, divergence = lg.log_evidence(x=x, **exact), kl(q, lg.posterior(x=x, **exact))
    gap = log_evidence - sampled.log_w[0]
    return {
        "log p(x)": log_evidence,
        "reconstruction": parts["reconstruction"],
        "KL to prior": parts["KL to prior"],
        "ELBO": parts["reconstruction"] - parts["KL to prior"],
        "KL to posterior": divergence,
        "sampled ELBO": sampled.log_w[0],
        "sampled KL": (sampled.log_qz - sampled.log_pz)[0],
        "sampled gap": gap,
        "sampled gap minus KL": gap - divergence,
        "KL of a latent": q.kl_per_dim(),
    }


class Climb(NamedTuple):
    """How the importance-weighted bound L_K of E models climbs to the likelihood of N data."""

    variance: Tensor  # (E, N) exact relative variance of the weights, infinite where q is too narrow
    gaps: dict[int, dict[str, Tensor]]  # by K: "log p(x) - L_K", and that "less theory", variance / 2K; nats (E, N)


def importance_climb(ensemble: Ensemble, x: Tensor, n_draws: int) -> Climb:
    """log p(x) - L_K for K = 1, 4, 16, ... up to a 64th of `n_draws`, the mean over all groups of K among that many
    importance weights of each datum (the stream "weights" of seed 0). Once K is large, theory has half the weights'
    relative variance over K (Domke & Sheldon 2018, thm 3).

    Where a model's variance is finite for all data, mean(w) / p(x) - 1, whose expectation is exactly zero, is taken
    from the logarithm: it carries nearly all of the noise and none of the value (a control variate).
    """
    eps = draw(0, "weights", len(x), n_draws, decoder_of(ensemble.member(0))["W"].shape[1], dtype=torch.float64)
    weights, gaps, k = ensemble.map_rows(_weights, x, eps, chunk=4), dict[int, dict[str, Tensor]](), 1
    variance, finite = weights["variance"], weights["variance"].isfinite().all(1)[:, None, None]
    while k <= n_draws // 64:
        groups = weights["log ratio"][..., : n_draws // k * k].unflatten(-1, (-1, k))
        control = torch.where(finite, groups.exp().mean(-1) - 1, 0.0)
        gap = (control - logmeanexp(groups, dim=-1)).mean(-1)
        gaps[k] = {"log p(x) - L_K": gap, "log p(x) - L_K, less theory": gap - variance / (2 * k)}
        k *= 4
    return Climb(variance, gaps)


def _weights(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """log w / p(x), (n, K), for noise eps (n, K, Z), and the exact variance of w / p(x), (n,)."""
    exact, q = decoder_of(model), check_diagonal(model.encode(x))
    log_w = terms(model, x, q, eps.movedim(1, 0)).log_w
    variance = relative_weight_variance(lg.posterior(x=x, **exact), q)
    return {"log ratio": (log_w - lg.log_evidence(x=x, **exact)).mT, "variance": variance}
