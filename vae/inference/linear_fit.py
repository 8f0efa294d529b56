"""Linear VAEs at the optimum of the exact objective, by L-BFGS over all data: no sample, no minibatch, no noise.

What is left of a difference to `vae.exact.linear_gaussian` is the optimisation's. Models are `linear_vae_model` in
float64, and know nothing of eigenvalues. The data may be `linear_gaussian.sigma_points`, which are as good as any
that have their mean and covariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vae.check import Numbers, rows, whole
from vae.exact.linear_gaussian import PrincipalAxes, expected_log_lik, sigma_points, spectrum_of
from vae.inference.lbfgs import minimise
from vae.models.ensemble import Ensemble, stack
from vae.models.vae import VAE, linear_vae_model
from vae.noise import draw, generator
from vae.train.objectives import exact_beta_elbo


def descended(ensemble: Ensemble, x: Tensor, max_iter: int) -> dict[str, Tensor]:
    """What linear VAEs do to data x (N, X) after `max_iter` evaluations of their exact beta-ELBO, each at its member's
    "beta", with a memory and a step length of its own: "rate", nats, "distortion", the squared error summed over X,
    the decoder's "noise variance", and what the second half of the evaluations still "gained by the second half", nats
    of the objective, which tells an optimum from one that rises for ever; (E,) each.

    For an even scale, what is minimised is minus the objective over beta. ValueError: fewer than two evaluations.
    """
    x, max_iter = rows("x", x), whole("max_iter", max_iter, 2, "each half takes one or more")
    beta, shapes = ensemble.column("beta"), {name: p.shape for name, p in ensemble.params.items()}

    def at(u: Tensor) -> Ensemble:
        parts = u.split([shape[1:].numel() for shape in shapes.values()], dim=1)
        return replace(ensemble, params={k: v.reshape(shapes[k]) for k, v in zip(shapes, parts, strict=True)})

    def ends(model: Any, x: Tensor) -> dict[str, Tensor]:
        q, layer, noise = model.encode(x), model.decoder[0], model.likelihood.log_variance.exp()
        log_lik = expected_log_lik(layer.weight, noise, x, q, layer.bias)
        return {"rate": q.kl_to_standard_normal().mean(), "log_lik": log_lik.mean(), "noise variance": noise}

    def loss(u: Tensor) -> Tensor:
        terms = at(u).map(ends, x)
        return terms["rate"] - terms["log_lik"] / beta

    start = torch.cat([p.reshape(len(ensemble), -1) for p in ensemble.params.values()], dim=1)
    half = minimise(loss, start, max_iter=max_iter // 2)
    whole_way = minimise(loss, half.u, max_iter=max_iter - max_iter // 2)
    result = at(whole_way.u).map(ends, x)
    noise, log_lik = result["noise variance"], result.pop("log_lik")
    result["distortion"] = -noise * (2 * log_lik + x.shape[1] * (2 * math.pi * noise).log())
    return result | {"gained by the second half": beta * (half.loss - whole_way.loss)}


def optima_on_source(
    eigenvalues: Numbers,
    betas: Sequence[float],
    z_dim: int,
    noise_variance: float,
    max_iter: int,
    *,
    learned: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Where `descended` takes linear VAEs on a Gaussian source with these eigenvalues (X,) of its covariance, one for
    each beta, (E,) each. The source's axes are rotated at random, and the usual initial weights are those of `seed`.
    learned: whether the decoder's variance is a parameter, which starts at `noise_variance`.
    """
    values = spectrum_of(eigenvalues)
    n = len(values)
    rotation = torch.linalg.qr(draw(0, "rotation", n, n, dtype=torch.float64)).Q

    def build(member: Mapping[str, Any]) -> VAE:
        return linear_vae_model(n, z_dim, noise_variance, generator(seed, "init"), learned=learned)

    ensemble = stack(build, [{"beta": beta} for beta in betas], dtype=torch.float64)
    return descended(ensemble, sigma_points(PrincipalAxes(values, rotation, torch.zeros_like(values))), max_iter)


def fit(model: VAE, x: Tensor, member: Mapping[str, Any], max_iter: int) -> None:
    """Maximises the mean over data x (N, X) of `exact_beta_elbo` of one linear VAE, in place: PyTorch's L-BFGS with a
    line search by the strong Wolfe conditions, at most `max_iter` iterations."""
    search = torch.optim.LBFGS(
        model.parameters(),
        max_iter=max_iter,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = -exact_beta_elbo(model, x, None, member).mean()
        value.backward()
        return value

    search.step(loss)
