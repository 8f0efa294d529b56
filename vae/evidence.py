"""log p(x) of any decoder: importance sampling, annealed importance sampling, and bounds from both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vae import log_joint as joint
from vae.gaussian import LOG_2PI, Gaussian, logmeanexp
from vae.log_joint import LogJoint
from vae.noise import normals, per_datum

BLOCK = 128  # samples that a stream draws at a time, whatever the number evaluated at a time
PILOT_CHAINS, PILOT_TEMPERATURES, PILOT_RATE = 8, 21, 1.5
ACCEPT = 0.8  # what the pilot aims at, where the longest step accepts less


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

    ValueError: bad q, n_samples or df below 1, a log_joint of the wrong shape or not finite.
    """
    q = joint.checked("q", q)
    joint.whole("n_samples", n_samples, 1, "1000 or more give a useful standard error")
    joint.whole("df", df, 1, "5 is the default")
    joint.chunked(chunk)
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

    ValueError: bad q, fewer than one chain or leapfrog step or than two temperatures, a log_joint of the wrong shape,
    without gradient or not finite.
    """
    q = _annealed(log_joint, q, n_chains, n_temperatures, n_leapfrog, chunk)
    path = _Path(log_joint, q, n_leapfrog, chunk)
    step = _pilot(path, n_temperatures, seed, first)
    log_w, acceptance = _forward(path, step, n_chains, _schedule(n_temperatures), seed, first)
    return _evidence(log_w, acceptance, q.mean)


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
    q = _annealed(log_joint, q, n_chains, n_temperatures, n_leapfrog, chunk)
    if tuple(z_true.shape) != tuple(q.mean.shape) or not z_true.isfinite().all():
        raise ValueError(
            f"z_true must be finite of shape {tuple(q.mean.shape)}, got {tuple(z_true.shape)}; "
            "pass the z from which each x was simulated"
        )
    path = _Path(log_joint, q, n_leapfrog, chunk)
    step = _pilot(path, n_temperatures, seed, first)
    schedule = _schedule(n_temperatures)
    log_w, up = _forward(path, step, n_chains, schedule, seed, first)
    streams = per_datum(seed, "backward", first, len(q.mean))
    start = q.whiten(z_true.detach().to(q.mean)).expand(n_chains, -1, -1)
    back, down = _anneal(path, step, start, schedule[::-1], streams)
    to = q.mean.dtype
    return Sandwich(logmeanexp(log_w).to(to), -logmeanexp(back).to(to), (0.5 * (up + down)).to(to))


class _Path(NamedTuple):
    """The distributions between q and the joint, over u: z = q.rsample(u), in which q is standard normal."""

    log_joint: LogJoint
    q: Gaussian
    n_leapfrog: int
    chunk: int | None

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) - log q(z), nats (C, B), and its gradient in u (C, B, Z)."""
        z = self.q.rsample(u)
        value, gradient = joint.value_and_gradient(self.log_joint, z, self.chunk)
        log_q = -0.5 * (u.square() - 1).sum(-1) - self.q.entropy()
        return value - log_q, self.q.pull_back(gradient) + u


class _State(NamedTuple):
    """Where the chains are, with what `_Path` says there."""

    u: Tensor  # (C, B, Z)
    ratio: Tensor  # (C, B)
    slope: Tensor  # (C, B, Z)


def _annealed(
    log_joint: LogJoint, q: Gaussian, n_chains: int, n_temperatures: int, n_leapfrog: int, chunk: int | None
) -> Gaussian:
    q = joint.checked("q", q)
    joint.whole("n_chains", n_chains, 1, "16 are usual")
    joint.whole("n_temperatures", n_temperatures, 2, "the schedule needs both its ends, q and the joint")
    joint.whole("n_leapfrog", n_leapfrog, 1, "5 are usual")
    joint.chunked(chunk)
    joint.probe(log_joint, q)
    return q


def _schedule(n_temperatures: int) -> list[float]:
    return torch.linspace(0, 1, n_temperatures, dtype=torch.float64).tolist()


def _forward(
    path: _Path, steps: Tensor, n_chains: int, schedule: Sequence[float], seed: int, first: int
) -> tuple[Tensor, Tensor]:
    """Log-weights (C, B) and acceptance (B,) of chains that start in q."""
    count, dim = path.q.mean.shape
    streams = per_datum(seed, "annealing", first, count)
    start = normals(streams, n_chains, dim).to(path.q.mean)
    return _anneal(path, steps, start, schedule, streams)


def _anneal(
    path: _Path, steps: Tensor, u: Tensor, schedule: Sequence[float], streams: Sequence[Generator]
) -> tuple[Tensor, Tensor]:
    """Chains from u (C, B, Z) through the temperatures: log-weights, float64 (C, B), and mean acceptance (B,)."""
    state = _start(path, u)
    log_w = torch.zeros_like(state.ratio, dtype=torch.float64)
    accepted = []
    for b, onward in pairwise(schedule):
        log_w += (onward - b) * state.ratio.double()
        if onward != schedule[-1]:
            state, acceptance = _hmc(path, state, onward, _at(steps, onward), streams)
            accepted.append(acceptance)
    return log_w, torch.stack(accepted).mean(0) if accepted else torch.ones_like(u[0, :, 0])


def _start(path: _Path, u: Tensor) -> _State:
    state = _State(u, *path(u))
    joint.refuse_nan(state.ratio)
    return state


def _hmc(path: _Path, state: _State, b: float, step: Tensor, streams: Sequence[Generator]) -> tuple[_State, Tensor]:
    """One Hamiltonian proposal at temperature b (Neal 2011, sec. 2): the new state, and the mean acceptance (B,)."""
    dim = state.u.shape[-1]
    draws = normals(streams, len(state.u), dim + 2).to(state.u)
    velocity, (log_uniform, jitter) = draws[..., :dim], torch.special.log_ndtr(draws[..., dim:]).unbind(-1)
    # Steps between 0.8 and 1.2 of the datum's: no length of a trajectory is a period of the target by accident.
    h = (step * (0.8 + 0.4 * jitter.exp()))[..., None]

    def energy(at: _State, v: Tensor) -> Tensor:
        return 0.5 * (at.u.square().sum(-1) + v.square().sum(-1)) - b * at.ratio

    new, v = state, velocity
    for _ in range(path.n_leapfrog):
        v = v + 0.5 * h * (b * new.slope - new.u)
        u = new.u + h * v
        new = _State(u, *path(u))
        v = v + 0.5 * h * (b * new.slope - new.u)
    # A trajectory that ran to where nothing is finite is refused, as one into zero density is.
    gain = (energy(state, velocity) - energy(new, v)).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    taken = log_uniform < gain
    chosen = (torch.where(taken.view(*taken.shape, *[1] * (a.ndim - 2)), y, a) for a, y in zip(state, new, strict=True))
    return _State(*chosen), gain.clamp(max=0).exp().mean(0)


def _pilot(path: _Path, n_temperatures: int, seed: int, first: int) -> Tensor:
    """Step sizes at PILOT_TEMPERATURES equal temperatures (P, B), from chains whose draws the run does not see.

    In a standard normal a quarter of a turn forgets the start: no step is longer than gives that, and where q is the
    posterior none needs to be shorter.
    """
    count, dim = path.q.mean.shape
    longest = 0.5 * math.pi / path.n_leapfrog
    log_step = torch.full((count,), math.log(longest), dtype=path.q.mean.dtype, device=path.q.mean.device)
    found = [log_step]
    if n_temperatures > 2:  # else there is nothing to step for
        streams = per_datum(seed, "pilot", first, count)
        state = _start(path, normals(streams, PILOT_CHAINS, dim).to(path.q.mean))
        for b in torch.linspace(0, 1, PILOT_TEMPERATURES)[1:].tolist():
            state, acceptance = _hmc(path, state, b, log_step.exp(), streams)
            log_step = (log_step + PILOT_RATE * (acceptance - ACCEPT)).clamp(max=math.log(longest))
            found.append(log_step)
    return torch.stack(found).exp()


def _at(steps: Tensor, b: float) -> Tensor:
    """The step sizes (B,) at temperature b, between those of the pilot."""
    place = b * (len(steps) - 1)
    low = min(int(place), len(steps) - 2)
    return torch.lerp(steps[low], steps[low + 1], place - low)


def _evidence(log_w: Tensor, acceptance: Tensor, like: Tensor) -> Evidence:
    """Reduces log-weights, float64 (n, B), to the dtype of `like`."""
    n = len(log_w)
    joint.refuse_empty(log_w)
    weights = torch.softmax(log_w, dim=0)
    spread = (weights - 1 / n).square().sum(0)
    se = (n / (n - 1) * spread).sqrt() if n > 1 else torch.full_like(spread, math.inf)
    found = (logmeanexp(log_w), se, 1 / weights.square().sum(0), acceptance)
    return Evidence(*(value.to(like) for value in found))
