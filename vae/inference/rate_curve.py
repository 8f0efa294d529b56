"""The rate-distortion curve of one fixed decoder and prior, over all encoders: by annealing, without an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import whole
from vae.gaussian import Gaussian, logmeanexp
from vae.inference import annealing, checks
from vae.inference import log_joint as joint
from vae.inference.annealing import Path
from vae.noise import normals, per_datum

Distortion = Callable[[Tensor], Tensor]  # z (S, B, Z) -> d(x, f(z)) (S, B): sample s of datum b, x inside


class RateCurve(NamedTuple):
    """Estimates for B data at S slopes, each (S, B), with standard errors from the spread of a datum's chains.

    One run passes all slopes: errors at neighbouring slopes are alike, those of different data independent.
    """

    objective: Tensor  # F = min over q of KL(q || prior) + s E_q[d], nats; on average too high, by some se^2 / 2
    objective_se: Tensor
    rate: Tensor  # KL(q* || prior) = F - s D, nats; no bound
    rate_se: Tensor
    distortion: Tensor  # D = E_q*[d]; no bound
    distortion_se: Tensor
    ess: Tensor  # effective number of the chains (Kong 1992); near 1, neither estimates nor errors are to be trusted
    acceptance: Tensor  # (B,) of HMC proposals


def ais_rate_distortion(
    distortion: Distortion,
    prior: Gaussian,
    slopes: Sequence[float],
    *,
    n_chains: int,
    n_steps: int,
    n_leapfrog: int,
    seed: int,
    first: int = 0,
    chunk: int | None = None,
) -> RateCurve:
    """Rate and distortion of the best q(z|x) there is at each slope s, for a decoder that stays as it is.

    The best q* is proportional to prior(z) exp(-s d(x, f(z))), and F(s) = -log E_prior[exp(-s d)] (Huang et al. 2020,
    arXiv:2008.06653). Annealing from the prior (s = 0) passes every q*, so one run gives the curve: between two slopes,
    and from 0 to the first, it goes in `n_steps` equal steps of s, with one HMC proposal of `n_leapfrog` steps at each.
    Slopes in a geometric sequence share the work evenly, since d varies by about 1/s under q*. Step sizes are a
    pilot's, as for `vae.inference.evidence.ais_log_evidence`.

    distortion: z (S, B, Z) -> (S, B), not negative, differentiable, in any unit; s has nats per that unit. prior over
    (B, Z), a row for each datum. exp(-objective) is unbiased for exp(-F), hence the objective an upper bound on F in
    expectation; of rate and distortion neither is bounded. The F of a fixed decoder is in its turn an upper bound on
    the least F of its architecture, at each slope.

    `first` as in `vae.inference.local.fit_local`; `chunk` bounds the chains evaluated at a time and changes nothing.
    ValueError: bad prior, slopes not positive or not rising, a count below 1, a distortion of the wrong shape, without
    gradient, negative or not finite.
    """
    prior = checks.posterior("prior", prior)
    slopes = _rising(slopes)
    n_steps = whole("n_steps", n_steps, 1, "60 are usual")
    n_chains, n_leapfrog, chunk = annealing.checked_counts(n_chains, n_leapfrog, chunk)
    count, dim = prior.mean.shape
    largest = slopes[-1]

    def log_joint(z: Tensor) -> Tensor:
        return prior.log_prob(z) - largest * checks.returned("distortion", distortion(z), z)

    _probe(distortion, prior.rsample(normals(per_datum(seed, "annealing", first, count), n_chains, dim).to(prior.mean)))
    joint.probe(log_joint, prior)
    knots = torch.tensor([0.0, *slopes], dtype=torch.float64) / largest

    def temper(t: float) -> float:
        place = t * len(slopes)
        low = min(int(place), len(slopes) - 1)
        return float(torch.lerp(knots[low], knots[low + 1], place - low))

    path = Path(log_joint, prior, n_leapfrog, chunk, temper)
    schedule = annealing.even(len(slopes) * n_steps + 1)
    steps = annealing.pilot(path, len(schedule), seed, first)
    points, accepted = [], []
    for passed, stage in enumerate(annealing.forward(path, steps, n_chains, schedule, seed, first), 1):
        if stage.acceptance is not None:
            accepted.append(stage.acceptance)
        if passed % n_steps == 0:
            d = stage.state.ratio.double() / -largest
            points.append(at_slope(stage.log_w, d, slopes[passed // n_steps - 1]))
    acceptance = torch.stack(accepted).mean(0) if accepted else torch.ones(count)
    fields = [*(torch.stack(field) for field in zip(*points, strict=True)), acceptance]
    return RateCurve(*(field.to(prior.mean) for field in fields))


def at_slope(log_w: Tensor, d: Tensor, slope: float) -> tuple[Tensor, ...]:
    """The fields of `RateCurve` at one slope, (B,) each, from log-weights and distortions (C, B). Errors by the delta
    method: what each chain moves the estimate by.
    """
    n = len(log_w)
    share = torch.softmax(log_w, dim=0)
    objective, distortion = -logmeanexp(log_w), (share * d).sum(0)
    by_objective, by_distortion = 1 / n - share, share * (d - distortion)

    def error(moved: Tensor) -> Tensor:
        spread = moved.square().sum(0)
        return (n / (n - 1) * spread).sqrt() if n > 1 else torch.full_like(spread, math.inf)

    rate_error = error(by_objective - slope * by_distortion)
    return (
        objective, error(by_objective), objective - slope * distortion, rate_error, distortion, error(by_distortion),
        1 / share.square().sum(0),
    )  # fmt: skip


def _rising(slopes: Sequence[float]) -> list[float]:
    numbers = [float(s) for s in slopes]
    positive = all(math.isfinite(s) and s > 0 for s in numbers)
    if not numbers or not positive or any(b <= a for a, b in zip(numbers, numbers[1:], strict=False)):
        raise ValueError(f"slopes must be positive, finite and rising, got {numbers}; sort them, and leave out 0")
    return numbers


def _probe(distortion: Distortion, z: Tensor) -> None:
    """ValueError unless the distortion is finite and not negative at draws z (S, B, Z) from the prior."""
    with torch.no_grad():
        parts = z.split(max(1, joint.rows(z.device) // z.shape[1]))
        d = torch.cat([checks.returned("distortion", distortion(part), part) for part in parts])
    bad = ~(d.isfinite() & (d >= 0))
    if bad.any():
        raise ValueError(
            f"distortion must be finite and not negative, got {float(d[bad][0]):g} for {checks.named(bad.any(0))}; "
            "check x and the decoder, and pass a distance, not a log-likelihood"
        )
