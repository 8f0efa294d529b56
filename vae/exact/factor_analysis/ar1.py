r"""A time series with noise, judged by a posterior that is independent over time: the limit of long series.

z_t = lam z_t-1 + N(0, q) stationary, x_t = z_t + N(0, r); q(z) = prod_t N(m_t, v_t) with any means and variances
("mean field"; Turner & Sahani 2011). Everything is a rate, nats per step. With f the spectrum of the model and s that
of the truth, whose means over all frequencies are the variances,

    log-likelihood = -1/2 [log 2 pi + mean(log f) + mean(s / f)]                                    (Whittle 1953)

and the posterior's precision is tridiagonal, with M_tt = (1 + lam^2) / q + 1 / r and -lam / q beside it, so that the
gap is 1/2 [log M_tt - mean(log(M_tt - 2 lam / q cos w))]. Means of the logarithms have closed forms; that of s / f is a
sum over equally spaced frequencies, whose error falls exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import optimize

from vae.check import number, one_of, positive
from vae.gaussian import LOG_2PI

LONGEST = 0.9999  # |lam|; nearer to 1 the sum over frequencies grows too long
Encoder = Literal["full", "diagonal"]


class AR1(NamedTuple):
    """z_t = lam z_t-1 + N(0, q), x_t = z_t + N(0, r): lam between -.9999 and .9999, variances q, r > 0."""

    lam: float
    q: float
    r: float


class AR1Fit(NamedTuple):
    """An optimum and its rates, nats per step."""

    model: AR1
    log_likelihood_rate: float
    elbo_rate: float  # equal to the log-likelihood's for the encoder "full"
    gap_rate: float  # their difference


def log_likelihood_rate(model: AR1, truth: AR1) -> float:
    """E log p(x) per step of a long series from `truth` under `model`. ValueError: a number is out of its range."""
    _check("model", model)
    _check("truth", truth)
    return _log_likelihood_rate(model, truth)


def gap_rate(model: AR1) -> float:
    """log p(x) minus the ELBO of the best posterior independent over time, per step, >= 0. Raises as above."""
    _check("model", model)
    return _gap_rate(model)


def elbo_rate(model: AR1, truth: AR1) -> float:
    """The ELBO per step of the best posterior independent over time. Raises as above."""
    return log_likelihood_rate(model, truth) - gap_rate(model)


def fit(truth: AR1, free: Sequence[str] = ("lam",), encoder: Encoder = "diagonal") -> AR1Fit:
    """The model whose rate is largest on endless data from `truth`; parameters not in `free` are the truth's.

    encoder: "diagonal" maximises the ELBO of posteriors independent over time, "full" the likelihood. The best that
    Nelder and Mead's method finds from the truth and from a shorter memory; parameters to about 1e-7 where the data
    determine them (with lam = 0, q and r are one number). ValueError: an unknown name, or a number out of its range.
    """
    _check("truth", truth)
    if isinstance(free, str) or not free or len(set(free)) < len(free) or not set(free) <= set(AR1._fields):
        raise ValueError(f"free must name some of lam, q, r, each once, got {free!r}; ('lam',) is one choice")
    one_of("encoder", encoder, get_args(Encoder))

    def gap(model: AR1) -> float:
        return _gap_rate(model) if encoder == "diagonal" else 0.0

    def model(u: np.ndarray) -> AR1:
        values = {name: math.tanh(v) if name == "lam" else math.exp(v) for name, v in zip(free, u, strict=True)}
        return truth._replace(**values)

    def loss(u: np.ndarray) -> float:
        return gap(model(u)) - _log_likelihood_rate(model(u), truth)

    def descend(u: Sequence[float] | np.ndarray) -> optimize.OptimizeResult:
        options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 5000}
        return optimize.minimize(loss, u, method="Nelder-Mead", bounds=bounds, options=options)

    longest = math.atanh(LONGEST)
    bounds = [(-longest, longest) if name == "lam" else (None, None) for name in free]
    starts = [truth, truth._replace(lam=truth.lam / 3, q=truth.q / (1 - truth.lam**2))]
    coordinates = [
        [math.atanh(at.lam) if name == "lam" else math.log(getattr(at, name)) for name in free] for at in starts
    ]
    found = descend(min(map(descend, coordinates), key=lambda end: end.fun).x)  # again: a simplex may end too early
    if not found.success:
        raise RuntimeError(f"no optimum within 5000 steps of {truth}: {found.message}")
    best = model(found.x)
    rate = _log_likelihood_rate(best, truth)
    return AR1Fit(best, rate, rate - gap(best), gap(best))


def _check(name: str, model: AR1) -> None:
    must = f"lie between -{LONGEST} and {LONGEST}"
    number(f"{name}.lam", model.lam, must, lambda v: abs(v) <= LONGEST, "shorten the memory")
    positive(f"{name}.q", model.q, "pass a variance")
    positive(f"{name}.r", model.r, "pass a variance")


def _mean_log(a: float, b: float) -> float:
    """The mean of log(a - b cos w) over all frequencies w."""
    return math.log((a + math.sqrt((a - b) * (a + b))) / 2)


def _gap_rate(model: AR1) -> float:
    lam, q, r = model
    diagonal = (1 + lam * lam) / q + 1 / r
    return 0.5 * (math.log(diagonal) - _mean_log(diagonal, 2 * lam / q))


def _log_likelihood_rate(model: AR1, truth: AR1) -> float:
    lam, q, r = model
    # The model's spectrum is (a - b cos w) over one whose logarithm has the mean zero.
    a, b = q + r * (1 + lam * lam), 2 * r * lam
    # The sum's error falls with the poles' moduli to the power of its length: the truth's, and that of 1 / (a - b cos).
    pole = max(abs(truth.lam), abs(b) / (a + math.sqrt((a - b) * (a + b))))
    n = 16 if pole < 0.1 else math.ceil(40 / -math.log(pole))
    cosine = np.cos(2 * np.pi / n * np.arange(n))
    spectrum = truth.q / (1 + truth.lam**2 - 2 * truth.lam * cosine) + truth.r
    ratio = spectrum * (1 + lam * lam - 2 * lam * cosine) / (a - b * cosine)
    return -0.5 * (LOG_2PI + _mean_log(a, b) + float(ratio.mean()))
