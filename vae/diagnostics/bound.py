"""The bound of a trained ensemble and its terms, datum by datum."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.models.ensemble import Ensemble
from vae.models.networks import check_diagonal
from vae.models.vae import VAE
from vae.noise import draw
from vae.train.objectives import elbo, iwae, terms

IN_USE = 0.1  # nats of its mean KL, above which a latent is counted


def noise_for(ensemble: Ensemble, x: Tensor, n_draws: int, purpose: str) -> Tensor:
    """Standard normal noise (N, n_draws, Z) for data x (N, X), in the parameters' dtype, the same for all members: the
    first of the stream of seed 0 for `purpose`."""
    return draw(0, purpose, len(x), n_draws, ensemble.latent_dim(x), dtype=ensemble.dtype)


def _terms(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    q = check_diagonal(model.encode(x))
    out = model.decoder(q.rsample(eps.movedim(1, 0)))
    return {
        "log p(x|z)": model.likelihood.log_prob(x, out).mean(0),
        "KL to prior": q.kl_to_standard_normal(),
        "KL of a latent": q.kl_per_dim(),
        "squared error per dimension": (x - model.likelihood.mean(out)).square().mean((0, 2)),
    }


def bound_of(ensemble: Ensemble, x: Tensor, *, n_draws: int, purpose: str) -> dict[str, Tensor]:
    """For data x (N, X), float64, (E, N) each and in nats: the "ELBO", the "beta-ELBO" with each member's "beta", their
    terms "log p(x|z)", its mean over `n_draws` of z, and "KL to prior"; the "squared error per dimension" of the
    decoded means, in units of x squared; and, (E,), the "latents in use", whose mean KL is above 0.1 nats.

    The noise is that of `noise_for`. Needs a decoder that reads z alone.
    """
    found = ensemble.map_rows(_terms, x, noise_for(ensemble, x, n_draws, purpose))
    beta = torch.tensor([member.get("beta", 1.0) for member in ensemble.members], dtype=torch.float64)[:, None]
    in_use = (found.pop("KL of a latent").mean(1) > IN_USE).sum(1)
    log_lik, kl = found["log p(x|z)"], found["KL to prior"]
    return found | {"ELBO": log_lik - kl, "beta-ELBO": log_lik - beta * kl, "latents in use": in_use}


def likelihood_bounds(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """For `Ensemble.map_rows`: of data x (n, X) the "KL", the "ELBO" and by importance weighting "log p(x)", which is a
    lower bound in expectation, from noise eps (n, K, Z), nats (n,) each. Of a model without a p(x) the last two are
    replaced by what its ELBO bounds, the "bound on log p(x|h(x))", h(x) being what its decoder reads of x.
    """
    t = terms(model, x, model.encode(x), eps.movedim(0, 1))
    if not model.is_generative:
        return {"KL": t.kl, "bound on log p(x|h(x))": elbo(t)}
    return {"KL": t.kl, "ELBO": elbo(t), "log p(x)": iwae(t)}
