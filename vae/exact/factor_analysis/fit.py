"""Maximum likelihood and the exact variational optimum: EM from many starts, then Newton's method to the end.

EM with the posterior of another family in its E-step ascends that family's best ELBO (variational EM); its last digits
are slow to come, so the end is a damped Newton iteration on the closed form. Everything runs over a batch of
problems at once. A uniqueness that wants to be zero (a Heywood case) ends at a floor and is reported.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import Numbers, number, tensor, tensors, whole
from vae.exact.factor_analysis.newton import Derivatives, newton
from vae.exact.factor_analysis.objective import Encoder, Patterns, check_encoder, elbo, log_likelihood, posterior
from vae.exact.factor_analysis.profile import exploratory_fit, first_psi, has_profile
from vae.exact.factor_analysis.structure import Layout, Parameters, Structure, positive_definite
from vae.noise import generator

FLOOR = 1e-6  # of an item's variance; a uniqueness at the floor is a Heywood case
EM_STEPS = 30


class FactorFit(NamedTuple):
    """An optimum, with the leading axes of S: W (p, k), psi (p,), phi (k, k); nats per datum."""

    W: Tensor
    psi: Tensor
    phi: Tensor
    log_likelihood: Tensor
    elbo: Tensor  # the encoder family's best; equal to the log-likelihood for the encoder "full"
    gap: Tensor  # their difference
    iterations: Tensor  # Newton steps
    converged: Tensor
    heywood: Tensor  # (p,) uniquenesses that ended at the floor, FLOOR times the item's variance

    @property
    def parameters(self) -> Parameters:
        """W, psi and phi."""
        return Parameters(self.W, self.psi, self.phi)


class Optimum(NamedTuple):
    """A distinct local optimum and how many of the starts ended there."""

    fit: FactorFit
    starts: int


def em_step(
    parameters: Parameters,
    S: Numbers,
    structure: Structure,
    encoder: Encoder = "full",
    patterns: Patterns | None = None,
) -> Parameters:
    """One step of EM (encoder "full"; Rubin & Thayer 1982), or of variational EM; never lowers the encoder's ELBO.

    Parameters with leading axes (...), S (..., p, p). The families differ in the posterior covariance of the E-step and
    nowhere else. Free factor correlations are found by letting the factors' scale go (parameter expansion, Liu, Rubin &
    Wu 1998) and kept as they were where that would not ascend.
    """
    parameters = tensors("parameters", parameters)
    S = tensor("S", S, like=parameters.W)
    return _em_step(parameters, S, Layout(structure, S.shape[-1]), encoder, _patterns(patterns, S.shape[-1]))


def _em_step(before: Parameters, S: Tensor, layout: Layout, encoder: Encoder, patterns: Patterns) -> Parameters:
    spread = Parameters(before.W.unsqueeze(-3), before.psi.unsqueeze(-2), before.phi.unsqueeze(-3))
    q = posterior(spread, encoder, patterns.seen)
    zz = q.mean_map @ S.unsqueeze(-3) @ q.mean_map.mT + q.covariance  # (..., R, k, k)
    xz = S.unsqueeze(-3) @ q.mean_map.mT  # (..., R, p, k)
    share = patterns.weight[:, None] * patterns.seen  # (R, p)
    share = share / share.sum(0)
    zz_of = torch.einsum("rp,...rkl->...pkl", share, zz)  # of the data in which the item is seen
    xz_of = torch.einsum("rp,...rpk->...pk", share, xz)
    # Weighted least squares for the free loadings; an item's weight counts where a tie joins items.
    weight = (patterns.weight[:, None] * patterns.seen).sum(0) / before.psi
    rows, columns, group = layout.rows, layout.columns, layout.group
    same = (rows[:, None] == rows[None, :]).to(S.dtype)
    normal = zz_of[..., rows[:, None], columns[:, None], columns[None, :]] * same * weight[..., rows, None]
    one_hot = torch.eye(layout.n_loadings, dtype=S.dtype)[group]  # (entries, n)
    left = one_hot.mT @ normal @ one_hot
    right = (xz_of * weight[..., None])[..., rows, columns] @ one_hot
    W = layout.loading_matrix(torch.linalg.solve(left, right))
    psi = before.psi
    if layout.free_psi:
        variance = S.diagonal(dim1=-2, dim2=-1)
        psi = variance - 2 * (W * xz_of).sum(-1) + ((W[..., None, :] @ zz_of).squeeze(-2) * W).sum(-1)
        psi = torch.maximum(psi, FLOOR * variance)
    after = Parameters(W, psi, before.phi)
    if not layout.free_phi:
        return after
    moment = (patterns.weight[:, None, None] * zz).sum(-3)
    scale = moment.diagonal(dim1=-2, dim2=-1).sqrt()
    phi = moment / scale[..., None] / scale[..., None, :]
    moved = Parameters(W * scale[..., None, :] if layout.scalable else W, psi, phi)
    better = elbo(moved, S, encoder, patterns) >= elbo(after, S, encoder, patterns)
    return Parameters(*(torch.where(_like(better, new), new, old) for new, old in zip(moved, after, strict=True)))


def _like(flags: Tensor, value: Tensor) -> Tensor:
    return flags.reshape(*flags.shape, *[1] * (value.ndim - flags.ndim))


def fit(
    S: Numbers,
    structure: Structure,
    encoder: Encoder = "full",
    *,
    starts: int = 8,
    seed: int = 0,
    init: Parameters | None = None,
    patterns: Patterns | None = None,
    tol: float = 1e-7,
    max_iter: int = 200,
) -> FactorFit:
    """The parameters with the largest ELBO of the encoder's family; with "full", maximum likelihood.

    S (..., p, p): one 1/N covariance or many, which are solved as one batch; the result gains its leading axes. The
    best of one planned start (or `init`, whose axes broadcast) and `starts` random ones. `tol`: the largest change in
    the Newton step that ends it, of a parameter and of log psi, or of the root of psi in units of the item's deviation
    where psi is all that is searched. Columns of W are signed to a positive sum, those that a tie or a fixed
    correlation joins together.

    >>> from vae.exact.factor_analysis import exploratory
    >>> fit([[1.0, 0.56, 0.48], [0.56, 1.0, 0.42], [0.48, 0.42, 1.0]], exploratory(1)).W
    tensor([[0.8000],
            [0.7000],
            [0.6000]], dtype=torch.float64)

    ValueError: S is no covariance matrix, does not fit the structure, or does not determine the parameters. A warning
    where an exploratory model has fewer covariances than parameters.
    """
    S, layout, patterns = _checked(S, structure, encoder, starts, tol, patterns)
    init = None if init is None else tensors("init", init)
    found = _solve(S, layout, encoder, starts, seed, init, patterns, tol, max_iter)
    best = found.elbo.argmax(-1)
    return FactorFit(*(_take(part, best) for part in found))


def optima(
    S: Numbers,
    structure: Structure,
    encoder: Encoder = "full",
    *,
    starts: int = 40,
    seed: int = 0,
    patterns: Patterns | None = None,
    tol: float = 1e-7,
    max_iter: int = 200,
) -> list[Optimum]:
    """Every distinct optimum that the starts of `fit` end at, best first. S (p, p); `starts` random starts.

    Two are the same if their ELBO agrees to 1e-7 nats and their covariance to 1e-4 of the largest variance. Raises as
    `fit` does, and if S is a batch.
    """
    S, layout, patterns = _checked(S, structure, encoder, starts, tol, patterns)
    if S.ndim != 2:
        raise ValueError(f"S must be one (p, p) matrix, got shape {tuple(S.shape)}; call it for each")
    found = _solve(S, layout, encoder, starts, seed, None, patterns, tol, max_iter)
    distinct: list[Optimum] = []
    for at in found.elbo.argsort(descending=True).tolist():
        one = FactorFit(*(part[at] for part in found))
        for i, (other, count) in enumerate(distinct):
            apart = (one.parameters.covariance() - other.parameters.covariance()).abs().max()
            if abs(one.elbo - other.elbo) < 1e-7 and apart < 1e-4 * S.diagonal().max():
                distinct[i] = Optimum(other, count + 1)
                break
        else:
            distinct.append(Optimum(one, 1))
    return distinct


def _take(part: Tensor, best: Tensor) -> Tensor:
    """part (..., starts, rest) at the start `best` (...,)."""
    axis = best.ndim
    index = best.reshape(*best.shape, *[1] * (part.ndim - axis)).expand(*best.shape, 1, *part.shape[axis + 1 :])
    return part.gather(axis, index).squeeze(axis)


def _checked(
    S: Numbers, structure: Structure, encoder: str, starts: int, tol: float, patterns: Patterns | None
) -> tuple[Tensor, Layout, Patterns]:
    check_encoder(encoder)
    whole("starts", starts, 0, "8 is a good number")
    number("tol", tol, "lie between 0 and 1", lambda v: 0 < v < 1, "1e-7 is a good number")
    S = positive_definite("S", S)
    p = S.shape[-1]
    layout, patterns = Layout(structure, p), _patterns(patterns, p)
    together = patterns.seen.mT @ patterns.seen > 0  # pairs of items whose covariance the data show
    if structure.mask is None:
        k, given = structure.k, int(together.tril().sum())
        rank = min(k, p)  # of W W'; factors beyond p add nothing
        used = p * rank - rank * (rank - 1) // 2 + layout.n_psi
        if used > given:
            warnings.warn(
                f"exploratory({k}) has {used} free parameters beyond rotation and {p} items have {given} covariances: "
                f"{given - used} degrees of freedom; the covariance is fitted, its parts are not determined",
                stacklevel=3,
            )
        return S, layout, patterns
    # Locally determined: at a generic point, the derivative of the covariance has a rank of all free parameters.
    draw = torch.rand(len(layout), generator=generator(0, "identification"), dtype=torch.float64)
    point = layout.from_u(0.3 + 0.7 * draw)
    slopes = torch.func.jacfwd(lambda theta: layout.from_theta(theta).covariance())(layout.theta(point))
    determined = int(torch.linalg.matrix_rank(slopes[together], rtol=1e-9))
    if determined < len(layout):
        raise ValueError(
            f"structure must be identified, got {len(layout)} free parameters of which the covariance of {p} items "
            f"determines {determined}; fix {len(layout) - determined} more (loadings at zero, phi or psi), "
            "or use exploratory(k)"
        )
    return S, layout, patterns


def _patterns(patterns: Patterns | None, p: int) -> Patterns:
    if patterns is None:
        return Patterns(torch.ones(1, p, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    seen, weight = tensors("patterns", patterns)
    if seen.ndim != 2 or seen.shape[1] != p or weight.shape != seen.shape[:1] or not seen.bool().any(0).all():
        raise ValueError(
            f"patterns must have seen (R, {p}) with every item seen in some pattern and weight (R,), "
            f"got {tuple(seen.shape)} and {tuple(weight.shape)}; drop items never seen"
        )
    if not (weight > 0).all():
        raise ValueError(f"patterns must have positive weights, got {weight.tolist()}; drop the others")
    if not ((seen == 0) | (seen == 1)).all():
        raise ValueError("patterns must be of zeros and ones, got other numbers; 1 where an item is seen")
    weight = weight.to(torch.float64)
    return Patterns(seen.to(torch.float64), weight / weight.sum())


def _solve(
    S: Tensor,
    layout: Layout,
    encoder: Encoder,
    starts: int,
    seed: int,
    init: Parameters | None,
    patterns: Patterns,
    tol: float,
    max_iter: int,
) -> FactorFit:
    """What every start ends at: leading axes (..., 1 + starts)."""
    leading, p = S.shape[:-2], S.shape[-1]
    flat = S.reshape(-1, p, p)
    repeated = flat.repeat_interleave(1 + starts, dim=0)
    begin = _starts(flat, layout, starts, seed, init)
    floor = FLOOR * repeated.diagonal(dim1=-2, dim2=-1)
    if has_profile(layout, encoder, patterns):
        parameters, iterations, converged = exploratory_fit(
            repeated, layout.k, begin.psi, floor if layout.free_psi else None, tol, max_iter
        )
    else:
        for _ in range(EM_STEPS):
            begin = _em_step(begin, repeated, layout, encoder, patterns)
        parameters, iterations, converged = _newton_fit(
            begin, repeated, layout, encoder, patterns, floor, tol, max_iter
        )
    W, psi, phi = _signed(parameters, layout)
    log_lik = log_likelihood(Parameters(W, psi, phi), repeated, patterns)
    bound = log_lik if encoder == "full" else elbo(Parameters(W, psi, phi), repeated, encoder, patterns)
    heywood = (psi <= 1.01 * floor) & layout.free_psi
    found = FactorFit(W, psi, phi, log_lik, bound, log_lik - bound, iterations, converged, heywood)
    return FactorFit(*(part.reshape(*leading, 1 + starts, *part.shape[1:]) for part in found))


def _signed(parameters: Parameters, layout: Layout) -> Parameters:
    total = parameters.W.sum(-2) @ layout.sign_together().to(parameters.W.dtype)
    sign = torch.where(total < 0, -1.0, 1.0).to(parameters.W.dtype)
    W = parameters.W * sign[..., None, :] + 0.0  # no minus zero
    return Parameters(W, parameters.psi, parameters.phi * sign[..., None] * sign[..., None, :])


def _starts(S: Tensor, layout: Layout, starts: int, seed: int, init: Parameters | None) -> Parameters:
    """For each problem (B,) one planned start and the random ones, as (B * (1 + starts), ...)."""
    batch, p = S.shape[:2]
    stream = generator(seed, "factor analysis")
    variance = S.diagonal(dim1=-2, dim2=-1)[:, None]  # (B, 1, p)
    k = layout.k
    drawn = torch.randn(starts, p, k, generator=stream, dtype=S.dtype)
    # The planned one: loadings that explain half of every item, the columns told apart by small known steps.
    steps = 1 + 0.1 * torch.cos(torch.arange(p)[:, None] * (1.0 + torch.arange(k))).to(S.dtype)
    W = torch.cat([steps[None], drawn]) * variance[..., None].sqrt() * (0.5 / k) ** 0.5
    shares = torch.rand(starts, p, generator=stream, dtype=S.dtype) * 0.6 + 0.2
    psi = torch.cat([torch.full((1, p), 0.5, dtype=S.dtype), shares]) * variance
    if layout.structure.mask is None:
        psi[:, 0] = first_psi(S, k)
    eye = torch.eye(k, dtype=S.dtype).expand(batch, 1 + starts, k, k)
    structure = layout.structure
    phi = eye if isinstance(structure.phi, str) else structure.phi.expand_as(eye)
    psi = psi if layout.free_psi else structure.psi.expand_as(psi)  # type: ignore[union-attr]
    loadings = layout.loadings(W)
    made = Parameters(layout.loading_matrix(loadings), psi, phi)
    if init is not None:
        made = Parameters(
            *(
                torch.cat([given.to(S.dtype).expand_as(part[:, 0])[:, None], part[:, 1:]], dim=1)
                for given, part in zip(init, made, strict=True)
            )
        )
    return Parameters(*(part.flatten(0, 1) for part in made))


def _newton_fit(
    begin: Parameters,
    S: Tensor,
    layout: Layout,
    encoder: Encoder,
    patterns: Patterns,
    floor: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Parameters, Tensor, Tensor]:
    def loss(u: Tensor, S: Tensor) -> Tensor:
        return -elbo(layout.from_u(u), S, encoder, patterns)

    def slope(u: Tensor, S: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        slope, value = torch.func.grad_and_value(loss)(u, S)
        return slope, (value, slope)

    def derivatives(u: Tensor, S: Tensor) -> Derivatives:
        curvature, (value, slope_there) = torch.func.jacfwd(slope, has_aux=True)(u, S)
        return value, slope_there, curvature

    evaluate = torch.vmap(derivatives)
    lower = torch.full((len(S), len(layout)), -torch.inf, dtype=S.dtype)
    if layout.free_psi:
        lower[:, layout.n_loadings : layout.n_loadings + layout.n_psi] = floor.log()
    u, iterations, converged = newton(layout.u(begin), lower, lambda u, rows: evaluate(u, S[rows]), tol, max_iter)
    return layout.from_u(u), iterations, converged
