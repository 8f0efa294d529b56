"""A linear VAE whose decoder has a skip from side information, solved: x ~ N(0, 1), y = x + noise, v = Var(x | y).

Decoder N(a z + b y, sigma^2), prior N(0, 1), encoder N(k x + l y, s^2), where l = 0 for an encoder that sees x only;
T = beta sigma^2. If x has another variance, v and T are shares of it. An encoder that sees y as well collapses iff
T >= v, continuously. One that sees x only has, for v < 1/2, two optima between T1 = v^2 and T2 = v / (4 (1 - v)): one
that ignores z and one that uses it, and the path of the training decides. Source: the book's chapter on remedies for
collapse, "The linear skip, solved", its equations eq-cr-objective, eq-cr-profile and eq-cr-quadratic and its
proposition prop-side-information, at lambda = 1.

v and T are numbers or arrays of any shape, and go together by broadcasting; nats; float64.

>>> import numpy as np
>>> [round(float(end), 4) for end in ends(0.1)]
[0.01, 0.0278]
>>> optimum_kl(0.1, np.array([0.005, 0.02, 0.05])).round(3).tolist()  # from small weights
[2.601, 0.0, 0.0]
>>> optimum_kl(0.1, np.array([0.005, 0.02, 0.05]), warm=True).round(3).tolist()  # led there from a smaller T
[2.601, 1.688, 0.0]
>>> optimum_kl(0.1, np.array([0.005, 0.02, 0.05]), sees_y=True).round(3).tolist()
[1.498, 0.805, 0.347]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from torch import Tensor


class Ends(NamedTuple):
    """The T at which branches end: ignoring z is stable above `ignored`, a state that uses z exists below `used`."""

    ignored: np.ndarray  # T1
    used: np.ndarray  # T2 >= T1; equal where there is one optimum at every T


def ends(variance: ArrayLike, sees_y: ArrayLike = False) -> Ends:
    """Where the branches end for v = `variance`: T1 = v^2 and, for v < 1/2, T2 = v / (4 (1 - v)), else T1 (proposition
    prop-side-information); both v for an encoder that sees y. ValueError: v not between 0 and 1."""
    v, sees = _variance(variance), np.asarray(sees_y, dtype=bool)
    ignored = np.where(sees, v, v**2)
    return Ends(ignored, np.where(~sees & (v < 0.5), v / (4 * (1 - v)), ignored))


def optimum_kl(
    variance: ArrayLike, level: ArrayLike, *, sees_y: ArrayLike = False, warm: ArrayLike = False
) -> np.ndarray:
    """The KL of the optimum that is reached at T = `level`, nats: from small weights or, `warm`, along the state that
    uses z from a smaller T, as a warm-up of beta leads. ValueError: v not between 0 and 1, T not positive."""
    v, t = _variance(variance), _level(level)
    a2 = np.maximum(_using_z(v, t) - t, 0)
    k2 = a2 * v**2 / (a2 * v + t) ** 2
    s2 = t / (a2 + t)
    informed = 0.5 * (k2 + s2 - 1 - np.log(s2))
    last = np.where(warm, ends(v).used, ends(v).ignored)
    return np.where(sees_y, 0.5 * np.log(np.maximum(1, v / t)), np.where(t < last, informed, 0.0))


def tie(variance: float) -> float:
    """The T between T1 and T2 at which the two optima of an encoder that sees x only are equally good; above it, the
    one that uses z is the worse. ValueError: v not between 0 and 1/2, where there are two."""
    v = float(_variance(variance))
    if not v < 0.5:
        raise ValueError(f"variance must be below 0.5, got {v}; from there on there is one optimum, and nothing to tie")

    def gain(t: float) -> float:
        """Of using z, twice the difference of eq-cr-profile at 0 and at the optimum."""
        u = float(_using_z(np.asarray(v), np.asarray(t)))
        return v / t - v / ((u - t) * v + t) - np.log(u / t)

    first, last = (float(end) for end in ends(v))
    return float(brentq(gain, first, last, xtol=1e-15))


def negative_objective(u: Tensor, variance: Tensor, level: Tensor, sees_y: Tensor) -> Tensor:
    """The exact negative objective over beta, up to a constant, nats (E,), differentiable: eq-cr-objective before
    anything is put in at its best.

    u (E, 5): a, b, k, l, ln s^2 of the decoder a z + b y and the encoder N(k x + l y, s^2). variance, level (E,): v
    and T. sees_y (E,): 1 where the encoder has y, 0 where l counts as zero.
    """
    a, b, k, own, log_s2 = u.unbind(1)
    own, noise = own * sees_y, variance / (1 - variance)
    miss = (1 - a * k - a * own - b) ** 2 + noise * (a * own + b) ** 2
    spread = (k + own) ** 2 + noise * own**2
    s2 = log_s2.exp()
    return 0.5 * ((miss + a**2 * s2) / level + spread + s2 - 1 - log_s2)


def kl_and_information(u: Tensor, variance: Tensor, sees_y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean KL to the prior and what z says of what the encoder sees, nats (E,) each; arguments as above."""
    _, _, k, own, log_s2 = u.unbind(1)
    own, noise, s2 = own * sees_y, variance / (1 - variance), log_s2.exp()
    spread = (k + own) ** 2 + noise * own**2
    return 0.5 * (spread + s2 - 1 - log_s2), 0.5 * (spread / s2).log1p()


def _using_z(v: np.ndarray, t: np.ndarray) -> np.ndarray:
    """a^2 + T of the state that uses z, the larger root of eq-cr-quadratic; beyond T2 there is none."""
    rest = 1 - v
    root = np.sqrt(np.maximum(0, v * (v - 4 * rest * t)))
    return (v - 2 * rest * t + root) / (2 * v)


def _variance(variance: ArrayLike) -> np.ndarray:
    return _within("variance", variance, 1.0, "lie between 0 and 1", "it is what y leaves of a variance of 1")


def _level(level: ArrayLike) -> np.ndarray:
    return _within("level", level, np.inf, "be positive and finite", "it is beta times the decoder's variance")


def _within(name: str, values: ArrayLike, below: float, must: str, remedy: str) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must {must}, got {values!r}; {remedy}") from None
    wrong = ~((found > 0) & (found < below))
    if wrong.any():
        raise ValueError(f"{name} must {must}, got {float(found[wrong][0])}; {remedy}")
    return found
