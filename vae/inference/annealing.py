"""Annealed importance sampling between a Gaussian and a log-joint: Hamiltonian steps, their sizes frozen beforehand.

`vae.inference.evidence` judges log p(x) by it, `vae.inference.rate_curve` a decoder's rate-distortion curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vae.check import whole
from vae.gaussian import Gaussian
from vae.inference import checks
from vae.inference import log_joint as joint
from vae.inference.log_joint import LogJoint
from vae.noise import normals, per_datum

PILOT_CHAINS, PILOT_TEMPERATURES, PILOT_RATE = 8, 21, 1.5
ACCEPT = 0.8  # what the pilot aims at, where the longest step accepts less


class Path(NamedTuple):
    """The distributions q^(1-b) p^b between q and the joint, over u: z = q.rsample(u), in which q is standard normal.

    Progress runs from 0 to 1; `temper` says which b it has reached, and by itself progress is b.
    """

    log_joint: LogJoint
    q: Gaussian
    n_leapfrog: int
    chunk: int | None
    temper: Callable[[float], float] = float

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) - log q(z), nats (C, B), and its gradient in u (C, B, Z)."""
        z = self.q.rsample(u)
        value, gradient = joint.value_and_gradient(self.log_joint, z, self.chunk)
        log_q = -0.5 * (u.square() - 1).sum(-1) - self.q.entropy()
        return value - log_q, self.q.pull_back(gradient) + u


class State(NamedTuple):
    """Where the chains are, with what `Path` says there."""

    u: Tensor  # (C, B, Z)
    ratio: Tensor  # (C, B)
    slope: Tensor  # (C, B, Z)


class Stage(NamedTuple):
    """What a run has reached at one temperature: under the weights, `state` is a sample of its distribution."""

    log_w: Tensor  # float64 (C, B)
    state: State
    acceptance: Tensor | None  # (B,) of the proposals there; the last temperature has none


def checked_counts(n_chains: int, n_leapfrog: int, chunk: int | None) -> tuple[int, int, int | None]:
    """The three as they are. ValueError unless these are numbers to anneal with."""
    return (
        whole("n_chains", n_chains, 1, "16 are usual"),
        whole("n_leapfrog", n_leapfrog, 1, "5 are usual"),
        checks.chunk(chunk),
    )


def even(n_temperatures: int) -> list[float]:
    """Progress from 0 to 1 in equal steps, ends included."""
    return torch.linspace(0, 1, n_temperatures, dtype=torch.float64).tolist()


def forward(
    path: Path, steps: Tensor, n_chains: int, schedule: Sequence[float], seed: int, first: int
) -> Iterator[Stage]:
    """The stages of chains that start in q."""
    count, dim = path.q.mean.shape
    streams = per_datum(seed, "annealing", first, count)
    start = normals(streams, n_chains, dim).to(path.q.mean)
    return anneal(path, steps, start, schedule, streams)


def anneal(
    path: Path, steps: Tensor, u: Tensor, schedule: Sequence[float], streams: Sequence[Generator]
) -> Iterator[Stage]:
    """Chains from u (C, B, Z) through the progress in `schedule`: a stage for each of it but the first."""
    state = _start(path, u)
    log_w = torch.zeros_like(state.ratio, dtype=torch.float64)
    for t, onward in pairwise(schedule):
        b = path.temper(onward)
        log_w = log_w + (b - path.temper(t)) * state.ratio.double()
        acceptance = None
        if onward != schedule[-1]:
            state, acceptance = _hmc(path, state, b, _at(steps, onward), streams)
        yield Stage(log_w, state, acceptance)


def finished(stages: Iterable[Stage]) -> tuple[Tensor, Tensor]:
    """Log-weights at the end, float64 (C, B), and mean acceptance (B,), which is 1 where nothing was proposed."""
    accepted = []
    for stage in stages:
        if stage.acceptance is not None:
            accepted.append(stage.acceptance)
    return stage.log_w, torch.stack(accepted).mean(0) if accepted else torch.ones_like(stage.state.ratio[0])


def _start(path: Path, u: Tensor) -> State:
    state = State(u, *path(u))
    checks.refuse_nan(state.ratio)
    return state


def _hmc(path: Path, state: State, b: float, step: Tensor, streams: Sequence[Generator]) -> tuple[State, Tensor]:
    """One Hamiltonian proposal at temperature b (Neal 2011, sec. 2): the new state, and the mean acceptance (B,)."""
    dim = state.u.shape[-1]
    draws = normals(streams, len(state.u), dim + 2).to(state.u)
    velocity, (log_uniform, jitter) = draws[..., :dim], torch.special.log_ndtr(draws[..., dim:]).unbind(-1)
    # Steps between 0.8 and 1.2 of the datum's: no length of a trajectory is a period of the target by accident.
    h = (step * (0.8 + 0.4 * jitter.exp()))[..., None]

    def energy(at: State, v: Tensor) -> Tensor:
        return 0.5 * (at.u.square().sum(-1) + v.square().sum(-1)) - b * at.ratio

    new, v = state, velocity
    for _ in range(path.n_leapfrog):
        v = v + 0.5 * h * (b * new.slope - new.u)
        u = new.u + h * v
        new = State(u, *path(u))
        v = v + 0.5 * h * (b * new.slope - new.u)
    # A trajectory that ran to where nothing is finite is refused, as one into zero density is.
    gain = (energy(state, velocity) - energy(new, v)).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    taken = log_uniform < gain
    chosen = (torch.where(taken.view(*taken.shape, *[1] * (a.ndim - 2)), y, a) for a, y in zip(state, new, strict=True))
    return State(*chosen), gain.clamp(max=0).exp().mean(0)


def pilot(path: Path, n_temperatures: int, seed: int, first: int) -> Tensor:
    """Step sizes at PILOT_TEMPERATURES equal degrees of progress (P, B), from chains whose draws the run does not see.

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
        for t in torch.linspace(0, 1, PILOT_TEMPERATURES)[1:].tolist():
            state, acceptance = _hmc(path, state, path.temper(t), log_step.exp(), streams)
            log_step = (log_step + PILOT_RATE * (acceptance - ACCEPT)).clamp(max=math.log(longest))
            found.append(log_step)
    return torch.stack(found).exp()


def _at(steps: Tensor, t: float) -> Tensor:
    """The step sizes (B,) at progress t, between those of the pilot."""
    place = t * (len(steps) - 1)
    low = min(int(place), len(steps) - 2)
    return torch.lerp(steps[low], steps[low + 1], place - low)
