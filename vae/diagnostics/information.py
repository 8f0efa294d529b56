"""What a trained model does, in numbers: rates, information, aggregated posteriors, active units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.check import Numbers, floats, number, rows, tensors, whole
from vae.gaussian import LOG_2PI, DiagonalGaussian, logmeanexp
from vae.models.ensemble import Ensemble
from vae.models.networks import check_diagonal
from vae.models.vae import VAE
from vae.noise import draw, generator

ROWS = 2**18  # numbers per member in one piece of a double sum over data


class Estimate(NamedTuple):
    """A Monte Carlo estimate with its standard error over data and, where the estimator has one, the cap it
    cannot exceed.
    """

    value: float
    se: float
    cap: float = math.inf


def rate_and_distortion(model: VAE, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """For `Ensemble.map_rows`: of data x (n, X) the rate KL(q || p), nats, and the distortion, the squared error summed
    over X and averaged over the draws that noise eps (n, K, Z) makes of z, each (n,)."""
    q = model.encode(x)
    means = model.decoder(q.rsample(eps.movedim(1, 0)))
    return {"rate": q.kl_to_standard_normal(), "distortion": (x - means).square().sum(-1).mean(0)}


def lagrangian(
    ensemble: Ensemble,
    x: Numbers,
    noise_variance: float,
    *,
    n_draws: int,
    purpose: str,
    f: Callable[..., dict[str, Tensor]] = rate_and_distortion,
) -> dict[str, Tensor]:
    """Rate, distortion and F = R + sD of data x (N, X), each member's at its own slope s = 1 / (2 beta noise_variance),
    what a beta-VAE with a Gaussian decoder minimises; (E, N) each, float64. `n_draws` of z for each datum, the same for
    all members, from the stream of seed 0 for `purpose`; f: as `rate_and_distortion`, for another kind of model.
    """
    x = rows("x", x)
    found = ensemble.map_rows(f, x, draw(0, purpose, len(x), n_draws, ensemble.latent_dim(x)))
    beta = ensemble.column("beta", torch.float64).cpu()[:, None]
    return found | {"F": found["rate"] + found["distortion"] / (2 * beta * noise_variance)}


def posteriors(ensemble: Ensemble, x: Tensor) -> DiagonalGaussian:
    """q(z|x) of every member for data x (N, X): mean and log_var (E, N, Z), on the CPU in float64. ValueError: they are
    not diagonal."""
    return DiagonalGaussian(**ensemble.map_rows(lambda model, x: check_diagonal(model.encode(x))._asdict(), x))


def rate_per_dim(q: DiagonalGaussian) -> Tensor:
    """R_j = mean_B KL(q(z_j|x) || N(0, 1)), nats: q over (..., B, Z) -> (..., Z)."""
    return tensors("q", q).kl_per_dim().mean(-2)


def aggregate_kl(q: DiagonalGaussian, n_nodes: int = 2049) -> Tensor:
    """KL(q(z_j) || N(0, 1)) per latent, nats, where q(z_j) is the mixture of the B posteriors q(z_j|x): q over
    (..., B, Z) -> (..., Z).

    By the trapezium rule on `n_nodes` between the mixture's ends, 9 standard deviations off the outermost components:
    exact to rounding, for an integrand so smooth, while nodes are closer than a standard deviation. NaN where they are
    not: raise `n_nodes`. At most `rate_per_dim`, from which it differs by the mutual information I(X; Z_j) (Hoffman &
    Johnson 2016): near zero does not mean that the latent is unused.
    """
    n_nodes = whole("n_nodes", n_nodes, 3, "2049 is the default")
    q = tensors("q", q)
    mean, log_var = (t.double().mT for t in torch.broadcast_tensors(*q))  # (..., Z, B)
    sd = (0.5 * log_var).exp()
    low, high = (mean - 9 * sd).amin(-1), (mean + 9 * sd).amax(-1)
    width = (high - low) / (n_nodes - 1)
    total = torch.zeros_like(low)
    steps = torch.arange(n_nodes, dtype=low.dtype, device=low.device)
    for part in steps.split(max(1, ROWS // mean.shape[-2:].numel())):
        z = low[..., None] + width[..., None] * part  # (..., Z, nodes)
        squared = ((z[..., None] - mean[..., None, :]) / sd[..., None, :]).square()
        log_q = logmeanexp(-0.5 * (squared + log_var[..., None, :] + LOG_2PI), dim=-1)
        total = total + (log_q.exp() * (log_q + 0.5 * (z.square() + LOG_2PI))).sum(-1)
    return torch.where(width <= sd.amin(-1), total * width, math.nan).to(q.mean.dtype)


def information_per_dim(q: DiagonalGaussian, n_nodes: int = 2049) -> Tensor:
    """I(X; Z_j) of every latent by itself when x is one of the B data, nats: q over (..., B, Z) -> (..., Z); without
    sampling, as `rate_per_dim` minus `aggregate_kl`, and with the cap log B of `mutual_information`.
    """
    return rate_per_dim(q) - aggregate_kl(q, n_nodes)


def latents_of(q: DiagonalGaussian) -> dict[str, Tensor]:
    """What each latent carries, nats: its "rate" and the two parts of it, "information" and "aggregated KL": q over
    (..., B, Z) -> (..., Z) each."""
    rate, aggregate = rate_per_dim(q), aggregate_kl(q)
    return {"rate": rate, "aggregated KL": aggregate, "information": rate - aggregate}


def pointwise_information(q: DiagonalGaussian, *, seed: int) -> Tensor:
    """log q(z|x) - log q(z) at one draw of z for each datum, nats: q over (..., B, Z) -> (..., B), with the same noise
    for all that lead. Its mean over data is
    `mutual_information`.
    """
    mean, log_var = torch.broadcast_tensors(*tensors("q", q))
    n, dim = mean.shape[-2:]
    eps = torch.randn(n, dim, generator=generator(seed, "mutual information"), dtype=mean.dtype)
    z = mean + (0.5 * log_var).exp() * eps.to(mean.device)
    among = DiagonalGaussian(mean.unsqueeze(-3), log_var.unsqueeze(-3))
    # (..., chunk, B, Z) at a time, never (..., B, B, Z)
    chunks = z.unsqueeze(-2).split(max(1, ROWS // (n * dim)), dim=-3)
    log_aggregate = torch.cat([logmeanexp(among.log_prob(chunk), dim=-1) for chunk in chunks], dim=-1)
    return DiagonalGaussian(mean, log_var).log_prob(z) - log_aggregate


def mutual_information(q: DiagonalGaussian, *, seed: int) -> Estimate:
    """I(X; Z) in nats when x is one of the B data, each equally likely: E[log q(z|x) - log q(z)], one draw of z per
    datum; q over (B, Z).

    It cannot exceed log B however informative the encoder is; the estimate reports that cap. Compare models at equal B.

    >>> far_apart = DiagonalGaussian(100.0 * torch.arange(8.0)[:, None], torch.zeros(8, 1))
    >>> found = mutual_information(far_apart, seed=0)
    >>> round(found.value, 4), round(found.cap, 4)  # which of the 8 data it was, and nothing else
    (2.0794, 2.0794)
    """
    per_datum = pointwise_information(q, seed=seed)
    n = len(per_datum)
    return Estimate(float(per_datum.mean()), float(per_datum.std() / math.sqrt(n)), math.log(n))


def decoded_draws(ensemble: Ensemble, x: Numbers, count: int, purpose: str) -> dict[str, np.ndarray]:
    """What each member does with images x (N, X), to be looked at: "kl" (E, Z), each latent's mean KL in nats; "active"
    (E,), how many are active units; "decoded" (E, count, X), one draw of z for each of the first images, decoded, as
    bytes; "images", these themselves. The draws are those of seed 0 for `purpose`, the same for all members.
    """
    x, found = rows("x", x).to(ensemble.device), dict[str, list[Tensor]](kl=[], active=[], decoded=[])
    eps = None
    for i in range(len(ensemble)):
        model = ensemble.member(i).requires_grad_(False)
        q = model.encode(x)
        eps = draw(0, purpose, 1, count, q.mean.shape[-1]).to(x) if eps is None else eps
        found["kl"].append(q.kl_per_dim().mean(0).cpu())
        found["active"].append(torch.tensor(active_units(q)))
        found["decoded"].append(_bytes(model.decoder(type(q)(*(part[:count] for part in q)).rsample(eps))[0]))
    arrays = {name: torch.stack(values).numpy() for name, values in found.items()}
    return arrays | {"images": _bytes(x[:count]).numpy()}


def _bytes(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def information_of(ensemble: Ensemble, x: Tensor) -> list[dict[str, Estimate]]:
    """For each member, among data x (N, X), each equally likely, nats: "I(X;Z)", "its cap, ln N", the "rate", and the
    "prior gap" KL(q(z) || p(z)), by which the rate exceeds the information."""
    found = []
    for i in range(len(ensemble)):
        q = ensemble.member(i).requires_grad_(False).encode(x.to(ensemble.device))
        known, rate = mutual_information(q, seed=0), float(q.kl_to_standard_normal().double().mean())
        exact = {"its cap, ln N": Estimate(known.cap, 0.0), "rate": Estimate(rate, 0.0)}
        found.append({"I(X;Z)": known} | exact | {"prior gap": Estimate(rate - known.value, known.se)})
    return found


def active(q: DiagonalGaussian, threshold: float = 0.01) -> Tensor:
    """Which latents' posterior means vary over data by more than `threshold` (Burda et al. 2016, sec. 4.2), the
    variance being 1/N: q over (..., B, Z) -> boolean (..., Z). See `variance_in_nats` for what that is as a rate.
    """
    return floats("q.mean", q.mean).var(-2, correction=0) > threshold


def active_units(q: DiagonalGaussian, threshold: float = 0.01) -> int:
    """How many latents are `active`; q over (B, Z)."""
    return int(active(q, threshold).sum())


def variance_in_nats(variance: float) -> float:
    """The rate -log(1 - variance) / 2, in nats, of a latent whose posterior means vary by `variance` and whose
    aggregated posterior is the prior, with one posterior variance for all x: the usual threshold 0.01 of active units
    is about 0.005 nats.
    """
    number("variance", variance, "lie from 0 to below 1", lambda v: 0 <= v < 1, "the prior's own is 1")
    return -0.5 * math.log1p(-variance)
