"""Factor models whose posterior is correlated, and data that have exactly a model's covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae.exact.factor_analysis.fit import FactorFit
from vae.exact.factor_analysis.objective import Patterns
from vae.exact.factor_analysis.structure import Parameters, Structure, confirmatory, exploratory
from vae.noise import draw


def two_factors(pure: float, cross: float, n: int = 2) -> Parameters:
    """n pure items for each of two uncorrelated factors and n that load on both, all of variance 1: (3 n, 2)."""
    W = torch.tensor([[pure, 0]] * n + [[0, pure]] * n + [[cross, cross]] * n, dtype=torch.float64)
    return Parameters(W, 1 - W.square().sum(1), torch.eye(2, dtype=torch.float64))


def simple(loading: float, correlation: float) -> Parameters:
    """Two correlated factors with three items each, all of variance 1: (6, 2)."""
    W = torch.zeros(6, 2, dtype=torch.float64)
    W[:3, 0] = W[3:, 1] = loading
    phi = torch.tensor([[1, correlation], [correlation, 1]], dtype=torch.float64)
    return Parameters(W, 1 - (W @ phi * W).sum(1), phi)


def bifactor(general: float, group: float) -> Parameters:
    """One factor of all nine items and one for each three of them, all of variance 1: (9, 4)."""
    W = torch.cat([torch.full((9, 1), general), group * torch.eye(3).repeat_interleave(3, 0)], 1).double()
    return Parameters(W, 1 - W.square().sum(1), torch.eye(4, dtype=torch.float64))


def dense() -> Parameters:
    """Two uncorrelated factors of which each of six items has a share, (6, 2)."""
    W = torch.tensor([[0.9, 0.5], [0.8, 0.6], [0.7, 0.7], [0.6, 0.8], [0.5, 0.9], [0.8, 0.3]], dtype=torch.float64)
    return Parameters(W, torch.tensor([0.4, 0.5, 0.6, 0.5, 0.4, 0.3]).double(), torch.eye(2).double())


def exact_sample(covariance: Tensor, n: int, seed: int) -> Tensor:
    """n normal data (n, p), float64, adjusted so that their mean is zero and their 1/n covariance the given one (p, p),
    both exactly: what is fitted to them is what infinite data would give."""
    x = draw(seed, "data", n, len(covariance), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.mT @ x / n), x.mT, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).mT


class Example(NamedTuple):
    """A true model, the structure that is fitted to it, and what is read off a fit, by name."""

    truth: Parameters
    structure: Structure
    readings: dict[str, Callable[[FactorFit], Tensor]]


def examples(pure: float, cross: float) -> dict[str, Example]:
    """Ten structures that people fit, by name: exploratory, with cross loadings (`pure` and `cross` in the first of
    them), with known uniquenesses, correlated factors, bifactor, tied loadings."""
    weak, strong, three_each = two_factors(0.8, 0.6), two_factors(pure, cross), simple(0.7, 0.7)
    few, many, mask = bifactor(0.7, 0.3), bifactor(0.6, 0.5), three_each.W != 0
    tied, one = torch.full((4, 2), 0.4375**0.5).double(), torch.ones(4, 2, dtype=torch.int64)
    equal = Parameters(tied, torch.ones(4).double(), torch.eye(2).double())
    loads: dict[str, Callable[[FactorFit], Tensor]] = {
        "pure loading": lambda f: f.W[0, 0],
        "cross loading": lambda f: f.W[4, 0],
    }
    oblique: dict[str, Callable[[FactorFit], Tensor]] = {
        "loading": lambda f: f.W[0, 0],
        "factor correlation": lambda f: f.phi[0, 1],
    }
    smallest: dict[str, Callable[[FactorFit], Tensor]] = {
        "smallest general loading": lambda f: f.W[:, 0].min(),
        "smallest group loading": lambda f: f.W[:, 1:].amax(0).min(),
    }
    common = {"covariance of items 1 and 5": lambda f: f.parameters.covariance()[0, 4]}
    general = {"general loading": lambda f: f.W[0, 0], "group loading": lambda f: f.W[0, 1]}
    first = {"loading": lambda f: f.W[0, 0]}
    return {
        "exploratory": Example(dense(), exploratory(2), common),
        "cross loadings": Example(strong, confirmatory(strong.W != 0), loads),
        "cross loadings, pure 0.8": Example(weak, confirmatory(weak.W != 0), loads),
        "uniquenesses known": Example(strong, confirmatory(strong.W != 0, psi=strong.psi), loads),
        "correlated factors": Example(three_each, confirmatory(mask, "free"), oblique),
        "weaker items": Example(simple(0.5, 0.7), confirmatory(mask, "free"), oblique),
        "correlation known": Example(three_each, confirmatory(mask, three_each.phi), first),
        "bifactor": Example(few, confirmatory(few.W != 0), general),
        "bifactor, strong groups": Example(many, confirmatory(many.W != 0), smallest),
        "equal loadings": Example(equal, confirmatory(one, psi=equal.psi, tied=one), first),
    }


def two_forms() -> tuple[Parameters, Patterns]:
    """Two factors and six items, (6, 2), and two test forms that share the middle two items, each taken by half."""
    W = torch.tensor([[0.8, 0.1], [0.7, 0.2], [0.6, 0.4], [0.4, 0.6], [0.2, 0.7], [0.1, 0.8]]).double()
    forms = Patterns(torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]), torch.tensor([0.5, 0.5]))
    return Parameters(W, 1 - W.square().sum(1), torch.eye(2).double()), forms
