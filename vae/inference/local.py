"""The best Gaussian posterior of every datum, without an encoder, and how far from the best it still is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import floats, number, whole
from vae.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from vae.inference import checks
from vae.inference import log_joint as joint
from vae.inference.lbfgs import two_loops
from vae.inference.log_joint import LogJoint
from vae.noise import generator, moment_matched, normals, per_datum

MEMORY = 10  # pairs of steps and gradients that a direction is made of
SHRINK = 0.99  # of the way to zero, the most that a scale goes in one step
SHORTER = 20  # tries of one step, after which rounding hides any gain
FLAT = 0.1  # the least curvature to go by, where log_joint is convex or nearly flat
PIVOT = 0.01  # of the diagonal, the least conditional curvature that is told from noise
NARROW = 0.1  # sd about a draw from the prior; a search widens it in a step or two where it should


class LocalFit(NamedTuple):
    """What `fit_local` found for B data; nats are judged by draws that the fit has not seen."""

    q: Gaussian  # over (B, Z), of the family of q0
    iterations: Tensor  # (B,) steps taken
    converged: Tensor  # (B,) bool: the next step promises less than `tol`
    elbo: Tensor  # (B,) mean log-weight over fresh draws
    se: Tensor  # (B,) standard error of elbo
    certificate: Tensor  # (B,) nats: ELBO on the fitted draws minus fresh; its mean bounds the mean suboptimality
    decrement: Tensor  # (B,) nats: estimated suboptimality, unbiased but noisy


def fit_local(
    log_joint: LogJoint,
    q0: Gaussian,
    *,
    n_draws: int,
    seed: int,
    max_iter: int = 200,
    n_fresh: int = 512,
    tol: float = 1e-6,
    first: int = 0,
    chunk: int | None = None,
) -> LocalFit:
    """Maximises the ELBO of each datum over q of the family of q0, diagonal or full covariance, from q0 on.

    log_joint: z (S, B, Z) -> nats (S, B), any decoder (see `vae.inference.log_joint`). q0 over (B, Z); its dtype and
    device are those of the computation. The objective is the mean of log_joint over `n_draws` fixed, moment-matched
    draws per datum plus q's exact entropy: free of error where log_joint is quadratic, concave in (mean, scale) where
    log_joint is concave (Challis & Barber 2013). L-BFGS (Nocedal & Wright 2006, alg. 7.4) maximises it with a memory, a
    line search and an end for each datum, so that its answer depends on no other. Its first guess of the curvature is
    that which the draws measure: a quadratic log_joint takes one step. `max_iter` bounds the evaluations of log_joint;
    a datum has converged when its next step promises less than `tol` nats, or less than rounding hides.

    The certificate: the maximum of the fixed-draw ELBO is in expectation at least that of the true one, so fixed minus
    fresh bounds the suboptimality in expectation, once the fit has converged (for moment-matched draws exactly where
    log_joint is quadratic, else to what matching leaves of its error). The decrement is half of g1' F^-1 g2, g1
    and g2 the ELBO's gradients from two independent halves of `n_fresh` draws, F the family's Fisher information.
    Neither knows of a better mode elsewhere: search from several `prior_starts`, and keep `best_of` them.
    The draws of a datum depend on the seed and on its number, `first` for the first one: a caller who goes through the
    data in chunks says where each begins, and gets what the whole would get. `chunk` bounds the samples evaluated at a
    time and changes nothing.

    >>> import vae.inference.log_joint as joint
    >>> from vae.models import linear_vae_model
    >>> model, x = linear_vae_model(4, 2, 0.5, generator(0, "init")).double().requires_grad_(False), torch.ones(3, 4)
    >>> fit = fit_local(joint.of(model, x), model.encode(x.double()), n_draws=16, seed=0)
    >>> fit.converged, fit.q.mean.shape
    (tensor([True, True, True]), torch.Size([3, 2]))

    ValueError: bad q0, n_draws odd or below 2 Z, a log_joint of the wrong shape, without gradient or not finite.
    """
    q = checks.posterior("q0", q0)
    max_iter = whole("max_iter", max_iter, 1, "200 is the default")
    n_fresh = whole("n_fresh", n_fresh, 4, "the certificate needs two halves")
    tol = number("tol", tol, "be positive", lambda v: v > 0, "1e-6 nats is the default")
    chunk = checks.chunk(chunk)
    count, dim = q.mean.shape
    eps = moment_matched(per_datum(seed, "local", first, count), n_draws, dim).to(q.mean)
    fresh = normals(per_datum(seed, "local, fresh", first, count), n_fresh, dim).to(q.mean)
    joint.probe(log_joint, q)
    scale = (0.5 * q.log_var).exp() if isinstance(q, DiagonalGaussian) else q.scale_tril
    point, value, steps, converged = _maximise(_Objective(log_joint, eps, chunk), _flat(q.mean, scale), max_iter, tol)
    best = _gaussian(point, dim, isinstance(q, FullGaussian))
    z = best.rsample(fresh)
    log_joint_z, gradient = joint.value_and_gradient(log_joint, z, chunk)
    checks.refuse_nan(log_joint_z)
    log_w = (log_joint_z - best.log_prob(z)).double()
    elbo, se = log_w.mean(0), log_w.std(0) / math.sqrt(n_fresh)
    # The gradient through z alone: no noise where q is the posterior (Roeder et al. 2017).
    decrement = _decrement(best, best.pull_back(gradient) + fresh, fresh)
    to = q.mean.dtype
    return LocalFit(best, steps, converged, elbo.to(to), se.to(to), (value.double() - elbo).to(to), decrement)


def prior_starts(
    log_joint: LogJoint, like: Tensor, *, seed: int, n_draws: int = 4096, chunk: int | None = None
) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    """Where `fit_local` can start without an encoder: at the prior N(0, I), and at a narrow Gaussian about the best of
    `n_draws` draws from the prior, the best for each datum.

    like: (B, Z), whose shape, dtype and device the starts get; its values are not looked at. The two fail
    differently. A search from the prior sees log_joint averaged over all of it, and where posteriors are much narrower
    it can end beside them; one from the best draw finds the highest mode, which need not be the heaviest. Data share
    the draws, and `chunk` bounds the samples evaluated at a time; neither makes a datum's start depend on another.

    ValueError: n_draws below 1, a log_joint of the wrong shape or NaN.
    """
    n_draws = whole("n_draws", n_draws, 1, "4096 is the default")
    chunk, like = checks.chunk(chunk), floats("like", like)
    prior = DiagonalGaussian(torch.zeros_like(like), torch.zeros_like(like))
    checks.posterior("like", prior)
    z = torch.randn(n_draws, 1, like.shape[1], generator=generator(seed, "starts"), dtype=torch.float64).to(like)
    value = joint.values(log_joint, z.expand(-1, len(like), -1), chunk)
    return prior, DiagonalGaussian(z[value.argmax(0), 0], torch.full_like(like, 2 * math.log(NARROW)))


def best_of(fits: Sequence[LocalFit]) -> LocalFit:
    """Of several fits to the same data, the one with the highest ELBO, datum by datum.

    Fits with the same seed have the same fresh draws, so that of equal optima none is favoured. Of different ones the
    highest is picked by those draws: report its ELBO on others.

    ValueError: no fits, or fits of different families.
    """
    if len({type(fit.q) for fit in fits}) != 1:
        families = [type(fit.q).__name__ for fit in fits]
        raise ValueError(f"fits must be one or more, of one family of posteriors, got {families}; pass such a list")
    chosen = torch.stack([fit.elbo for fit in fits]).argmax(0)
    each = torch.arange(len(chosen), device=chosen.device)

    def pick(*values: Tensor) -> Tensor:
        return torch.stack(values)[chosen, each]

    q = type(fits[0].q)(*map(pick, *(fit.q for fit in fits)))
    return LocalFit(q, *map(pick, *(fit[1:] for fit in fits)))


def _flat(mean: Tensor, scale: Tensor) -> Tensor:
    return torch.cat([mean, scale.flatten(1)], dim=1)


def _gaussian(point: Tensor, dim: int, full: bool) -> Gaussian:
    mean, scale = point[:, :dim], point[:, dim:]
    if full:
        return FullGaussian(mean, scale.unflatten(1, (dim, dim)))
    return DiagonalGaussian(mean, 2 * scale.log())


class _State(NamedTuple):
    """The loss at a point, per datum: minus the ELBO."""

    loss: Tensor  # (B,) float64
    slope: Tensor  # (B, D) in (mean, scale)
    precision: Tensor  # (B, Z, Z) of log_joint in q's own coordinates, averaged over q: near 1 where q fits


class _Objective(NamedTuple):
    """Minus the ELBO on fixed draws eps (S, B, Z), at points (B, D): a mean (Z,) and a scale, (Z,) or lower (Z, Z)."""

    log_joint: LogJoint
    eps: Tensor
    chunk: int | None

    def __call__(self, point: Tensor) -> _State:
        n_draws, _, dim = self.eps.shape
        mean, scale = point[:, :dim], point[:, dim:]
        full = scale.shape[1] > dim
        if full:
            q = FullGaussian(mean, scale.unflatten(1, (dim, dim)))
            z, diagonal = q.rsample(self.eps), q.scale_tril.diagonal(dim1=1, dim2=2)
        else:
            z, diagonal = mean + scale * self.eps, scale
        value, gradient = joint.value_and_gradient(self.log_joint, z, self.chunk)
        # The entropy of N(0, I) is added where the ELBO is reported; here only what moves.
        loss = -(value.double().mean(0) + diagonal.double().log().sum(1))
        # Gradients times draws average to the Hessian times the scale (Bonnet and Price; exact for a parabola).
        moment = -torch.einsum("sbi,sbj->bij", gradient, self.eps) / n_draws
        if full:
            precision, by_scale = q.scale_tril.mT @ moment, moment.tril() - torch.diag_embed(1 / diagonal)
        else:
            precision, by_scale = scale[:, :, None] * moment, moment.diagonal(dim1=1, dim2=2) - 1 / diagonal
        return _State(loss, _flat(-gradient.mean(0), by_scale), 0.5 * (precision + precision.mT))

    def precondition(self, point: Tensor, precision: Tensor, vector: Tensor) -> Tensor:
        """vector (B, D) times an approximate inverse Hessian; the step it makes of the slope ends at the optimum where
        log_joint is quadratic.

        In q's own coordinates P is the precision, U U' with U upper triangular. A mean has the curvature P. A lower
        triangular scale R has the loss |U'R|^2 / 2 - log det R, which separates in T = U'R: from T = U' to the optimum
        T = I the secant's curvature is 1, on the diagonal 1 + 1/u. A diagonal scale has p + p^1/2, p the diagonal of P.
        """
        dim = self.eps.shape[2]
        scale, by_mean, by_scale = point[:, dim:], vector[:, :dim], vector[:, dim:]
        upper = _upper_factor(precision)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        if scale.shape[1] == dim:
            half = torch.linalg.solve_triangular(upper, (scale * by_mean)[..., None], upper=True)
            shift = scale * torch.linalg.solve_triangular(upper.mT, half, upper=False)[..., 0]
            p = precision.diagonal(dim1=1, dim2=2).clamp(min=FLAT)
            return torch.cat([shift, scale.square() * by_scale / (p + p.sqrt())], dim=1)
        lower = scale.unflatten(1, (dim, dim))
        inner = (lower.mT @ by_scale.unflatten(1, (dim, dim))).tril()
        half = torch.linalg.solve_triangular(upper, torch.cat([inner, lower.mT @ by_mean[..., None]], 2), upper=True)
        apart = half[..., :dim].tril() / (1 + torch.diag_embed(1 / diagonal))
        found = torch.linalg.solve_triangular(upper.mT, torch.cat([apart, half[..., dim:]], 2), upper=False)
        moved = lower @ found
        return _flat(moved[..., dim], moved[..., :dim].tril())


def _upper_factor(precision: Tensor) -> Tensor:
    """U (B, Z, Z), upper triangular with U U' = P; of P's diagonal alone where P is not safely positive definite."""
    diagonal = precision.diagonal(dim1=1, dim2=2).clamp(min=FLAT)
    factor, failed = torch.linalg.cholesky_ex(precision.flip(-1, -2))  # lower, of the axes in reverse order
    upper = factor.flip(-1, -2)
    safe = (failed == 0) & (upper.diagonal(dim1=1, dim2=2).square() > PIVOT * diagonal).all(1)
    return torch.where(safe[:, None, None], upper, torch.diag_embed(diagonal.sqrt()))


def _maximise(objective: _Objective, point: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points (B, D), their ELBO on the fixed draws (B,), steps taken (B,), converged (B,)."""
    count, dim = objective.eps.shape[1:]
    diagonal = slice(dim, None, 1 if point.shape[1] == 2 * dim else dim + 1)
    rounding = torch.finfo(point.dtype).eps
    state = objective(point)
    bad = ~(state.loss.isfinite() & state.slope.isfinite().all(1))
    if bad.any():
        raise ValueError(
            "log_joint must be finite with a finite gradient at the draws of q0, got on average "
            f"{state.loss[bad][:3].neg().tolist()} for {checks.named(bad)}; narrow q0, or check the decoder"
        )
    steps = torch.zeros(count, dtype=torch.int64, device=point.device)
    tries, done, converged = steps.clone(), steps > 0, steps > 0
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    direction, promise, length = _next(objective, point, state, memory, diagonal)
    for _ in range(max_iter):
        enough = promise.abs() < torch.clamp(rounding * state.loss.abs(), min=tol)
        converged, done = converged | (enough & ~done), done | enough | (tries > SHORTER)
        if done.all():
            break
        trial = point + length[:, None] * direction
        new = objective(trial)
        slack = 4 * rounding * state.loss.abs()
        falls = new.loss <= state.loss - 2e-4 * length * promise + slack  # 2 promise is the slope along the direction
        taken = falls & new.slope.isfinite().all(1) & ~done  # a loss that is NaN does not fall
        row = taken[:, None]
        move = torch.where(row, trial - point, 0)
        bend = torch.where(row, new.slope - state.slope, 0)
        curvature = (move * bend).sum(1)
        useful = curvature > 1e-8 * move.norm(dim=1) * bend.norm(dim=1)
        memory = [*memory, (move, bend, torch.where(useful, 1 / curvature, 0))][-MEMORY:]
        # The parabola through loss, slope and the new loss; a loss that is not finite says nothing but "too far".
        drop = length * 2 * promise
        ratio = 0.5 * drop / (new.loss - state.loss + drop)
        shrunk = length * ratio.nan_to_num(0.1).clamp(0.1, 0.5)
        point = torch.where(row, trial, point)
        state = _State(
            *(torch.where(taken.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(state, new, strict=True))
        )
        steps, tries = steps + taken, torch.where(taken, 0, tries + 1)
        onward, gain, full = _next(objective, point, state, memory, diagonal)
        direction = torch.where(row, onward, direction)
        promise, length = torch.where(taken, gain, promise), torch.where(taken, full, shrunk).to(point.dtype)
    entropy = 0.5 * dim * (1 + math.log(2 * math.pi))
    return point, entropy - state.loss, steps, converged


def _next(
    objective: _Objective, point: Tensor, state: _State, memory: list[tuple[Tensor, Tensor, Tensor]], diagonal: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """The direction (B, D) of L-BFGS, what it promises in nats (B,), and the step to try (B,), which leaves scales
    positive.
    """
    vector = two_loops(state.slope, memory, lambda v: objective.precondition(point, state.precision, v))
    promise = 0.5 * (vector * state.slope).sum(1).double()
    shrinking = (vector[:, diagonal] / point[:, diagonal]).amax(1).clamp(min=SHRINK)
    return -vector, promise, SHRINK / shrinking


def _decrement(q: Gaussian, slopes: Tensor, eps: Tensor) -> Tensor:
    """Half of g1' F^-1 g2, nats (B,), from gradients (S, B, Z) of log-weights in eps (S, B, Z), their first half and
    their second. In q's own coordinates (mean shifted by L u, scale L (I + A)) F is 1, but 2 on the diagonal of A.
    """
    first, second = [
        (w.mean(0), torch.einsum("sbi,sbj->bij", w, e) / len(w))
        for w, e in zip(slopes.tensor_split(2), eps.tensor_split(2), strict=True)
    ]
    by_mean = (first[0] * second[0]).sum(-1)
    products = first[1] * second[1]
    by_scale = 0.5 * products.diagonal(dim1=1, dim2=2).sum(-1)
    if isinstance(q, FullGaussian):
        by_scale = by_scale + products.tril(-1).sum((1, 2))
    return 0.5 * (by_mean + by_scale)
