"""log p(x) of any decoder: importance sampling, annealed importance sampling, and bounds from both sides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import floats, whole
from vae.gaussian import LOG_2PI, Gaussian, logmeanexp
from vae.inference import annealing, checks
from vae.inference import log_joint as joint
from vae.inference.annealing import Path
from vae.inference.log_joint import LogJoint
from vae.noise import normals, per_datum

BLOCK = 128  # samples that a stream draws at a time, whatever the number evaluated at a time


class Evidence(NamedTuple):
    """An estimate of log p(x) for B data from n weights each."""

    value: Tensor  # (B,) nats; exp(value) is unbiased for p(x), so value is below log p(x) on average, by some se^2 / 2
    se: Tensor  # (B,) of value, from the spread of the weights; infinite for n = 1
    ess: Tensor  # (B,) effective number of the n weights (Kong 1992); near 1, neither value nor se is to be trusted
    acceptance: Tensor  # (B,) of HMC proposals; 1 where there were none


class Sandwich(NamedTuple):
    """Bounds that hold in expectation: E[lower] <= log p(x) <= E[upper], each (B,) nats."""

    lower: Tensor
    upper: Tensor
    acceptance: Tensor  # (B,) of HMC proposals


def importance_log_evidence(
    log_joint: LogJoint,
    q: Gaussian,
    *,
    n_samples: int,
    seed: int,
    df: int = 5,
    first: int = 0,
    chunk: int | None = None,
) -> Evidence:
    """log p(x) by importance sampling from a Student-t with q's location and scale, `df` degrees of freedom.

    log_joint: z (S, B, Z) -> nats (S, B). q over (B, Z), best a full-covariance fit: the t's heavy tails bound the
    weights where q is too narrow. The optimal *diagonal* Gaussian itself as a proposal has infinite weight variance as
    soon as 2 P - diag(P) is not positive definite, P the posterior's precision (see `relative_weight_variance`).
    Exactly `n_samples` per datum, `chunk` evaluated at a time; `first` as in `fit_local`.

    >>> from vae.gaussian import DiagonalGaussian
    >>> log_joint = lambda z: -z.square().sum(-1)  # exp of it integrates to pi over two dimensions
    >>> q = DiagonalGaussian(torch.zeros(1, 2).double(), torch.zeros(1, 2).double())
    >>> found = importance_log_evidence(log_joint, q, n_samples=4000, seed=0)
    >>> bool((found.value - math.log(math.pi)).abs() < 4 * found.se), bool(found.se < 0.02)
    (True, True)

    ValueError: bad q, n_samples or df below 1, a log_joint of the wrong shape or not finite.
    """
    q = checks.posterior("q", q)
    n_samples = whole("n_samples", n_samples, 1, "1000 or more give a useful standard error")
    df = whole("df", df, 1, "5 is the default")
    chunk = checks.chunk(chunk)
    count, dim = q.mean.shape
    streams = per_datum(seed, "importance sampling", first, count)
    joint.probe(log_joint, q, differentiable=False)
    log_det = q.entropy() - 0.5 * dim * (1 + LOG_2PI)
    constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(df * math.pi)
    rows = []
    blocks = min(max(1, joint.rows(q.mean.device) // (BLOCK * count)), math.ceil(n_samples / BLOCK))
    for start in range(0, n_samples, blocks * BLOCK):
        draws = torch.cat([normals(streams, BLOCK, dim + df) for _ in range(blocks)])[: n_samples - start].to(q.mean)
        chi2 = draws[..., dim:].square().sum(-1)
        eps = draws[..., :dim] * (df / chi2).sqrt()[..., None]
        log_t = constant - 0.5 * (df + dim) * torch.log1p(eps.square().sum(-1) / df) - log_det
        rows.append(joint.values(log_joint, q.rsample(eps), chunk).double() - log_t.double())
    return _evidence(torch.cat(rows), torch.ones(count), q.mean)


def ais_log_evidence(
    log_joint: LogJoint,
    q: Gaussian,
    *,
    n_chains: int,
    n_temperatures: int,
    n_leapfrog: int,
    seed: int,
    first: int = 0,
    chunk: int | None = None,
) -> Evidence:
    """log p(x) by annealed importance sampling from q to the joint along q^(1-b) p^b (Neal 2001), b from 0 to 1 in
    `n_temperatures` equal steps, ends included: 2 are importance sampling from q.

    log_joint: z (S, B, Z) -> nats (S, B). From the best q (`fit_local`) the way is short; from the prior it is the
    usual AIS. At each inner b one HMC proposal of `n_leapfrog` steps in q's own coordinates, where the posterior is
    nearly standard normal. Each datum's step size is at most a quarter of a turn, less if a pilot run of its own
    draws finds that too long, and frozen before the run: adapting in the run would bias it. `.ess` counts chains.
    `first` as in `fit_local`; `chunk` bounds the chains evaluated at a time and changes nothing.

    >>> from vae.gaussian import DiagonalGaussian
    >>> log_joint = lambda z: -z.square().sum(-1)
    >>> q = DiagonalGaussian(torch.zeros(1, 2).double(), torch.zeros(1, 2).double())
    >>> found = ais_log_evidence(log_joint, q, n_chains=64, n_temperatures=20, n_leapfrog=5, seed=0)
    >>> bool((found.value - math.log(math.pi)).abs() < 4 * found.se), bool(found.se < 0.02)
    (True, True)

    ValueError: bad q, fewer than one chain or leapfrog step or than two temperatures, a log_joint of the wrong shape,
    without gradient or not finite.
    """
    path = _annealed(log_joint, q, n_chains, n_temperatures, n_leapfrog, chunk)
    steps = annealing.pilot(path, n_temperatures, seed, first)
    run = annealing.forward(path, steps, n_chains, annealing.even(n_temperatures), seed, first)
    return _evidence(*annealing.finished(run), path.q.mean)


def bdmc(
    log_joint: LogJoint,
    q: Gaussian,
    z_true: Tensor,
    *,
    n_chains: int,
    n_temperatures: int,
    n_leapfrog: int,
    seed: int,
    first: int = 0,
    chunk: int | None = None,
) -> Sandwich:
    """Bidirectional Monte Carlo (Grosse et al. 2015, arXiv:1511.02543): log p(x) between AIS and AIS run backwards.

    z_true (B, Z) must be exact posterior samples: draw z from the prior and x from p(x|z), then judge log p at these x.
    All chains of a datum start backwards at its z_true, which keeps the bound. Other arguments and
    errors as for `ais_log_evidence`. One datum's bounds hold in expectation only: average over data.
    """
    path = _annealed(log_joint, q, n_chains, n_temperatures, n_leapfrog, chunk)
    q, z_true = path.q, floats("z_true", z_true)
    if tuple(z_true.shape) != tuple(q.mean.shape) or not z_true.isfinite().all():
        raise ValueError(
            f"z_true must be finite of shape {tuple(q.mean.shape)}, got {tuple(z_true.shape)}; "
            "pass the z from which each x was simulated"
        )
    steps = annealing.pilot(path, n_temperatures, seed, first)
    schedule = annealing.even(n_temperatures)
    log_w, up = annealing.finished(annealing.forward(path, steps, n_chains, schedule, seed, first))
    streams = per_datum(seed, "backward", first, len(q.mean))
    start = q.whiten(z_true.detach().to(q.mean)).expand(n_chains, -1, -1)
    back, down = annealing.finished(annealing.anneal(path, steps, start, schedule[::-1], streams))
    to = q.mean.dtype
    return Sandwich(logmeanexp(log_w).to(to), -logmeanexp(back).to(to), (0.5 * (up + down)).to(to))


def _annealed(
    log_joint: LogJoint, q: Gaussian, n_chains: int, n_temperatures: int, n_leapfrog: int, chunk: int | None
) -> Path:
    q = checks.posterior("q", q)
    _, n_leapfrog, chunk = annealing.checked_counts(n_chains, n_leapfrog, chunk)
    whole("n_temperatures", n_temperatures, 2, "the schedule needs both its ends, q and the joint")
    joint.probe(log_joint, q)
    return Path(log_joint, q, n_leapfrog, chunk)


def _evidence(log_w: Tensor, acceptance: Tensor, like: Tensor) -> Evidence:
    """Reduces log-weights, float64 (n, B), to the dtype of `like`."""
    n = len(log_w)
    checks.refuse_empty(log_w)
    weights = torch.softmax(log_w, dim=0)
    spread = (weights - 1 / n).square().sum(0)
    se = (n / (n - 1) * spread).sqrt() if n > 1 else torch.full_like(spread, math.inf)
    found = (logmeanexp(log_w), se, 1 / weights.square().sum(0), acceptance)
    return Evidence(*(value.to(like) for value in found))
