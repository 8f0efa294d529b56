"""Rate-distortion theory: what no encoder and decoder can beat, and where a set of measured points lies.

Nats; squared error summed over dimensions, as everywhere in this package; float64. A point of R(D) is known by
the slope s = -dR/dD at which it minimises F = R + s D; a beta-VAE with decoder variance sigma^2 has s = 1/(2 beta
sigma^2).
Background: Cover & Thomas, chapter 10; Berger 1971.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.check import Numbers, finite, tensor, whole
from vae.exact.linear_gaussian import spectrum_of

_LOG_FLOOR = -700.0  # a reproduction point keeps e^-700 of mass, so that it can return and no division is by zero


class RatePoint(NamedTuple):
    """Points (rate, distortion) on or above R(D); each field but `p_y` has the shape of the argument that asked.

    R(distortion) lies between `lower` and `rate`, and the least R + slope D between rate + slope distortion - gap and
    rate + slope distortion. Closed forms have gap 0, iterations 0 and no p_y.
    """

    rate: Tensor  # nats, achieved
    distortion: Tensor  # achieved
    slope: Tensor  # -dR/dD, nats per unit of distortion
    gap: Tensor  # certified: upper minus lower value, nats
    converged: Tensor  # bool: the gap is within the tolerance
    iterations: Tensor
    p_y: Tensor | None = None  # (..., n_y), the reproduction's distribution

    @property
    def lower(self) -> Tensor:
        """The certified lower bound on R at `distortion`, nats."""
        return self.rate - self.gap

    @property
    def lagrangian(self) -> Tensor:
        """R + slope D, nats: what is least at this slope."""
        return self.rate + self.slope * self.distortion


def _numbers(name: str, values: Numbers, zero: bool = False) -> Tensor:
    """Numbers as float64 on the CPU; positive (or zero, if that is legal) and finite."""
    numbers = tensor(name, values, torch.float64).detach().cpu()
    wrong = ~(numbers.isfinite() & ((numbers >= 0) if zero else (numbers > 0)))
    if wrong.any() or numbers.numel() == 0:
        got = f"{float(numbers[wrong][0])}" if wrong.any() else "nothing"
        least = "a finite number of at least zero" if zero else "positive and finite"
        raise ValueError(f"{name} must be {least}, got {got}; pass {'zero or more' if zero else 'a number above zero'}")
    return numbers


def gaussian_rate_distortion(
    eigenvalues: Numbers,
    *,
    theta: Numbers | None = None,
    distortion: Numbers | None = None,
    rate: Numbers | None = None,
) -> RatePoint:
    """R(D) of a Gaussian source by reverse water-filling, from exactly one of water level, distortion, rate.

    `eigenvalues` (X,) of the covariance, in any order; the asking argument is a number, a tensor or an array of any
    shape, which the results share. At water level theta each eigenvalue above it costs log(lambda / theta) / 2 nats
    and leaves theta of distortion, the others keep all of theirs, and the slope is 1/(2 theta) (Cover & Thomas, theorem
    10.3.3). Between two eigenvalues the distortion is linear in theta and the rate in log theta: the level is found
    without a search.

    >>> point = gaussian_rate_distortion([4.0, 1.0], distortion=1.0)
    >>> round(float(point.rate), 4), float(point.slope)  # log 4 nats, at water level 1/2
    (1.3863, 1.0)

    Where nothing is encoded the slope is not unique: a level above the largest eigenvalue returns its own 1/(2 theta),
    rate 0 the largest, 1/(2 lambda_max). A distortion above the total variance returns rate 0 and slope 0.

    Raises ValueError unless exactly one of the three is given, theta and distortion are positive, rate is non-negative,
    some eigenvalue is positive, and the water level is a normal float64 number.
    """
    given = {"theta": theta, "distortion": distortion, "rate": rate}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"give exactly one of theta, distortion and rate, got {', '.join(given) or 'none'}; each of them "
            "determines the other two"
        )
    ((name, value),) = given.items()
    asked = _numbers(name, value, zero=name == "rate")  # type: ignore[arg-type]  # none of `given` is None
    spectrum = spectrum_of(eigenvalues)
    spectrum = spectrum[spectrum > 0]  # a zero costs nothing and leaves nothing
    if not spectrum.numel():
        raise ValueError("eigenvalues must have at least one above zero, got zeros; data that do not vary need no rate")
    logs, count = spectrum.log(), torch.arange(1, spectrum.numel() + 1, dtype=torch.float64)
    if name == "theta":
        level = asked
    elif name == "distortion":
        # What lies after each eigenvalue, summed from the smallest: no difference of large numbers.
        tail = torch.cat([spectrum.flip(0).cumsum(0).flip(0)[1:], spectrum.new_zeros(1)])
        knots = count * spectrum + tail  # the distortion at level lambda_k, falling in k
        active = (knots > asked[..., None]).sum(-1).clamp(min=1)
        level = (asked - tail[active - 1]) / active
        rounding = spectrum.numel() * torch.finfo(torch.float64).eps  # a caller sums the eigenvalues in his own order
        level = torch.where(asked > knots[0] * (1 + rounding), math.inf, level)
    else:
        knots = 0.5 * (logs.cumsum(0) - count * logs)  # the rate at level lambda_k, rising in k
        active = (knots < asked[..., None]).sum(-1).clamp(min=1)
        level = ((logs.cumsum(0)[active - 1] - 2 * asked) / active).exp()
    if (level < torch.finfo(torch.float64).tiny).any():
        raise ValueError(
            f"{name} must leave a water level that float64 can hold, got {float(asked[level == level.min()][0]):g}; "
            f"{'lower' if name == 'rate' else 'raise'} it"
        )
    left = torch.minimum(spectrum, level[..., None]).sum(-1)
    spent = 0.5 * (logs - level.log()[..., None]).clamp(min=0).sum(-1)
    return RatePoint(
        rate=asked.clone() if name == "rate" else spent,
        distortion=asked.clone() if name == "distortion" else left,
        slope=0.5 / level,
        gap=torch.zeros_like(asked),
        converged=torch.ones_like(asked, dtype=torch.bool),
        iterations=torch.zeros_like(asked, dtype=torch.int64),
    )


def bottleneck(eigenvalues: Numbers, theta: Numbers, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Rate, nats, and distortion of the best linear code with `latent_dim` latents for a Gaussian source, at the water
    levels theta (S,): Shannon's for the largest eigenvalues, while the others keep all of theirs. (S,) each."""
    latent_dim, level = whole("latent_dim", latent_dim), _numbers("theta", theta)
    spectrum, shannon = spectrum_of(eigenvalues), gaussian_rate_distortion(eigenvalues, theta=level)
    left_out = (spectrum[latent_dim:] - level[:, None]).clamp(min=0).sum(1)
    return 0.5 * (spectrum[:latent_dim] / level[:, None]).clamp(min=1).log().sum(1), shannon.distortion + left_out


def blahut_arimoto(
    p_x: Numbers,
    distortion_matrix: Numbers,
    slope: Numbers,
    *,
    tolerance: float = 1e-5,
    max_iter: int = 20_000,
) -> RatePoint:
    """The point of a discrete source's R(D) at each slope, with a certificate.

    p_x (n_x,); distortion_matrix (n_x, n_y), d(x, y) >= 0; slope >= 0, nats per unit of distortion, a number or (S,).
    The results have the slope's shape, p_y (n_y,) or (S, n_y), on the distortion matrix's device. At slope 0, where
    every distortion of rate 0 ties, the smallest of them is returned.

    >>> flips = 1 - torch.eye(2)  # a fair coin, told with errors
    >>> point = blahut_arimoto([0.5, 0.5], flips, slope=math.log(9))
    >>> round(float(point.rate), 4), round(float(point.distortion), 4)  # log 2 less the entropy of 0.1
    (0.3681, 0.1)

    Blahut 1972 iterates q <- q c with c(y) = sum_x p(x) A(x, y) / sum_y' q(y') A(x, y'), A = exp(-s d). Any q certifies

        F(q) - log max_y c(y)  <=  min over all channels of R + s D  <=  F(q) - sum_y q c log c,

    F(q) = -sum_x p(x) log sum_y q(y) A(x, y): below by Csiszar's dual, above by the channel q(y) A(x, y) / normaliser,
    whose rate and distortion are returned. The step is accelerated by Nesterov's momentum on log q, dropped whenever F
    rises (O'Donoghue & Candes 2015); that changes how fast the gap closes, not what it certifies (to rounding). The
    iteration stops at a gap of `tolerance` nats; where `max_iter` comes first, the smallest gap met is returned and
    `converged` is False.

    The certificate is for the alphabets given. Cutting a continuous reproduction alphabet to a grid raises the curve (a
    coarse or truncated one by much) and nothing here sees it: widen and refine the grid until the rate stays.

    Slopes are computed one after another, each from the uniform q: batched products were slower on a CPU, a start from
    the neighbouring slope saved hardly any iterations, and one (n_x, n_y) kernel is in memory at a time.
    """
    d = tensor("distortion_matrix", distortion_matrix, torch.float64).detach()
    if d.ndim != 2 or 0 in d.shape:
        raise ValueError(
            f"distortion_matrix must be a non-empty (n_x, n_y), got shape {tuple(d.shape)}; give each source symbol a "
            "row"
        )
    if not d.isfinite().all() or d.min() < 0:
        raise ValueError(
            f"distortion_matrix must be finite and non-negative, got values in [{float(d.min()):g}, "
            f"{float(d.max()):g}]; forbid a reproduction by a large distortion"
        )
    p = tensor("p_x", p_x, like=d).detach()
    if p.shape != d.shape[:1]:
        raise ValueError(
            f"p_x must have one probability per row of distortion_matrix, ({d.shape[0]},), got shape {tuple(p.shape)}; "
            "source symbols are the rows"
        )
    if not p.isfinite().all() or p.min() < 0 or abs(float(p.sum()) - 1) > 1e-9:
        raise ValueError(
            f"p_x must be non-negative and sum to one, got a least of {float(p.min()):g} and a sum of "
            f"{float(p.sum()):.12g}; divide float64 weights by their sum"
        )
    slopes = _numbers("slope", slope, zero=True)
    if slopes.ndim > 1:
        raise ValueError(f"slope must be a number or (S,), got shape {tuple(slopes.shape)}; flatten it")
    limit = float(_numbers("tolerance", tolerance))
    max_iter = whole("max_iter", max_iter, 1, "allow one iteration or more")
    kept = p > 0  # symbols that never occur ask for nothing
    points = [_one_slope(p[kept], d[kept], float(s), limit, max_iter) for s in slopes.reshape(-1)]
    fields = [torch.stack(column) for column in zip(*points, strict=True)]
    rate, distortion, gap, iterations = (field.reshape(slopes.shape) for field in fields[:-1])
    return RatePoint(
        rate, distortion, slopes.to(d.device), gap, gap <= limit, iterations, fields[-1].reshape(*slopes.shape, -1)
    )


class _Iterate(NamedTuple):
    log_q: Tensor  # (n_y,)
    evidence: Tensor  # (n_x,) sum_y q A
    c: Tensor  # (n_y,)
    next: Tensor  # (n_y,) log of Blahut's next q
    value: float  # F, up to a constant of the source
    gap: float


def _evaluate(log_q: Tensor, p: Tensor, kernel: Tensor) -> _Iterate:
    q = log_q.exp()
    evidence = kernel @ q
    c = (p / evidence) @ kernel
    log_c = c.log().clamp(min=_LOG_FLOOR)
    gap = float(c.max().log() - q @ (c * log_c))
    value = -float(p @ evidence.log())
    return _Iterate(log_q, evidence, c, (log_q + log_c).clamp(min=_LOG_FLOOR), value, max(gap, 0.0))


def _one_slope(p: Tensor, d: Tensor, slope: float, tolerance: float, max_iter: int) -> tuple[Tensor, ...]:
    nearest = d.min(1).values
    kernel = (-slope * (d - nearest[:, None])).exp()  # the largest of each row is 1: no row underflows
    n_y = d.shape[1]
    if slope == 0:
        start = torch.full_like(d[0], _LOG_FLOOR)
        start[(p @ d).argmin()] = 0.0
    else:
        start = torch.full_like(d[0], -math.log(n_y))
    current, previous, age, least = start, start, 1.0, math.inf  # previous and current: Blahut's last two outputs
    best = now = _evaluate(start, p, kernel)
    used = 1
    while best.gap > tolerance and used < max_iter:
        if now.value <= least + 4e-16 * max(1.0, abs(now.value)):
            older, age = age, (1 + math.sqrt(1 + 4 * age * age)) / 2
            previous, current, least = current, now.next, now.value
            ahead = current + (older - 1) / age * (current - previous)
            step = (ahead - ahead.logsumexp(0)).clamp(min=_LOG_FLOOR)
        else:
            step, previous, age, least = current, current, 1.0, math.inf
        now = _evaluate(step, p, kernel)
        used += 1
        best = now if now.gap < best.gap else best
    joint = kernel * best.log_q.exp() * (p / best.evidence)[:, None]  # p(x) W(y|x)
    p_y = joint.sum(0)
    distortion = (joint * d).sum()
    # The mutual information, as W(y|x) / p_y(y) = A(x, y) / (evidence(x) c(y)); rounding must not make it negative.
    value = best.value - p_y @ best.c.log().clamp(min=_LOG_FLOOR)
    rate = (value - slope * (distortion - p @ nearest)).clamp(min=0)
    return rate, distortion, rate.new_tensor(best.gap), torch.tensor(used, device=rate.device), p_y


def shannon_lower_bound(entropy: float, dim: int, distortion: float) -> float:
    """h(X) - (dim/2) log(2 pi e distortion / dim), nats: below R(D) for squared error summed over dim.

    `entropy` is the differential entropy of X, nats. Equal to R(D) for a Gaussian at water levels below its smallest
    eigenvalue, and asymptotically for any source at small distortion (Shannon 1959; Linkov 1965). Negative, and so no
    bound at all, where the distortion is large.
    """
    entropy = finite("entropy", entropy, "pass the source's differential entropy in nats")
    dim = whole("dim", dim, 1, "pass the number of dimensions of x")
    level = float(_numbers("distortion", distortion)) / dim
    return entropy - 0.5 * dim * (math.log(2 * math.pi * math.e) + math.log(level))


class Hull(NamedTuple):
    """The lower convex envelope of points in the rate-distortion plane; see `convex_hull`."""

    vertex: Tensor  # (n,) bool: the point alone minimises R + s D over some interval of slopes s >= 0
    excess: Tensor  # (n,) nats, >= 0


def convex_hull(rate: Numbers, distortion: Numbers) -> Hull:
    """Which points (rate, distortion), each (n,), n >= 3, span their lower convex envelope; how far above it each is.

    The envelope is that of everything at least as large in both: convex, non-increasing, constant beyond the point of
    least rate. A point's excess is vertical, R minus the envelope at its D. By duality this is also its least
    Lagrangian excess, min over s >= 0 of (R + s D) - min_j (R_j + s D_j): a point of positive excess is beaten at every
    slope, by that much at least. Points of excess 0 that are no vertices lie within a straight stretch or the constant
    one. Equal points share one answer.
    """
    points = {}
    for name, values in {"rate": rate, "distortion": distortion}.items():
        numbers = tensor(name, values, torch.float64).detach().cpu()
        if numbers.ndim != 1 or not numbers.isfinite().all():
            raise ValueError(
                f"{name} must be a finite (n,) tensor, got shape {tuple(numbers.shape)}; leave out runs that diverged"
            )
        points[name] = numbers
    r, d = points["rate"], points["distortion"]
    if len(r) != len(d):
        raise ValueError(
            f"rate and distortion must be of one length, got {len(r)} and {len(d)}; pass one pair per point"
        )
    if len(r) < 3:
        raise ValueError(f"rate must have at least three points for a hull, got {len(r)}; sweep more betas")
    pairs = list(zip(d.tolist(), r.tolist(), strict=True))
    corners: list[tuple[float, float]] = []  # (distortion, rate), rightwards and strictly downwards
    for right in sorted(pairs):
        if corners and right[1] >= corners[-1][1]:
            continue  # something at most as distorted has at most its rate
        while len(corners) >= 2:
            left, middle = corners[-2:]
            if (middle[1] - left[1]) * (right[0] - left[0]) < (right[1] - left[1]) * (middle[0] - left[0]):
                break  # strictly below the chord
            corners.pop()
        corners.append(right)
    vertex = torch.tensor([pair in corners for pair in pairs])
    knots = np.array(corners)
    envelope = torch.from_numpy(np.interp(d.numpy(), knots[:, 0], knots[:, 1]))  # constant beyond the last
    return Hull(vertex, (r - envelope).clamp(min=0))
