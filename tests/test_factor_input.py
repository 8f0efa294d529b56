"""Factor analysis refuses what it cannot answer, and says what to do."""

import math

import pytest
import torch
from factor_models import MASK, TIES, K, P, arbitrary, correlated, covariance, exploratory_truth, matrix, sample
from torch.testing import assert_close

from vae.exact.factor_analysis import (
    Patterns,
    confirmatory,
    elbo,
    em_step,
    exploratory,
    fit,
    gap,
    information,
    optima,
    posterior,
    standard_errors,
)


@pytest.fixture
def data(normal):
    return sample(normal)


@pytest.fixture
def model(normal):
    return arbitrary(normal)


def test_bad_covariances_are_refused(data):
    S, structure = covariance(data), exploratory(K)
    batch = torch.stack([S] * 3)
    for bad, message in (
        (torch.ones(P, P - 1), r"S must be square, got shape \(7, 6\)"),
        (torch.ones(P), r"S must be square, got shape \(7,\)"),
        (torch.ones(0, 0), "S must be square"),
        (S.clone().fill_(math.nan), "S must be finite, got NaN or infinity; remove"),
        (S + torch.ones(P, P).tril(-1), "S must be symmetric, got entries 1 off"),
        (torch.ones(P, P), "S must be positive definite, got the eigenvalue"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(bad, structure)
    for at, spoil, message in (
        (1, lambda m: m.index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan).double()), "finite"),
        (2, lambda m: m[0, 1].add_(1), "symmetric"),
        (0, lambda m: m.copy_(torch.ones(P, P)), "positive definite"),
    ):
        spoiled = batch.clone()
        spoil(spoiled[at])
        with pytest.raises(ValueError, match=rf"{message}.* in matrix \({at},\)"):
            fit(spoiled, structure)
    with pytest.raises(ValueError, match=r"S must be one \(p, p\) matrix, got shape \(3, 7, 7\)"):
        optima(batch, structure)


def test_bad_structures_are_refused(data):
    S, psi = covariance(data), torch.ones(P)
    for make, message in (
        (lambda: exploratory(0), "k must be an integer of at least 1, got 0"),
        (lambda: exploratory(True), "k must be an integer of at least 1, got True"),
        (lambda: exploratory(1.5), "k must be an integer"),
        (lambda: exploratory(K, -psi), "psi must be a vector of positive numbers"),
        (lambda: exploratory(K, psi[None]), "psi must be a vector of positive numbers"),
        (lambda: exploratory(K, "fixed"), "psi must be 'free' or a vector, got 'fixed'"),
        (lambda: fit(S, exploratory(K, psi[1:])), r"psi must have shape \(7,\), got \(6,\)"),
        (lambda: confirmatory(MASK[0]), r"mask must be a \(p, k\) matrix, got shape \(2,\)"),
        (lambda: confirmatory(MASK & torch.tensor([True, False])), r"mask must give every factor .* columns \[1\]"),
        (lambda: fit(S, confirmatory(MASK[:-1])), "mask must have one row for each of the 7 items of S, got 6"),
        (lambda: confirmatory(MASK, "correlated"), "phi must be 'identity', 'free' or a"),
        (lambda: confirmatory(MASK, torch.ones(2, 2)), "phi must be positive definite"),
        (lambda: confirmatory(MASK, torch.eye(3)), r"phi must be 2 x 2, got shape \(3, 3\)"),
        (lambda: confirmatory(MASK, torch.eye(2).expand(3, 2, 2)), r"phi must be one \(2, 2\) matrix"),
        (lambda: confirmatory(MASK, psi=psi[1:]), r"psi must have shape \(7,\), got \(6,\)"),
        (lambda: confirmatory(MASK, tied=TIES[1:]), r"tied must hold integers .* in shape \(7, 2\)"),
        (lambda: confirmatory(MASK, tied=TIES.double()), "tied must hold integers"),
        (lambda: confirmatory(MASK, tied=TIES - 1), "tied must hold integers of at least 0"),
        (lambda: confirmatory(MASK, tied=torch.ones(P, K).long()), "0 where mask is false"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_what_the_covariance_does_not_determine_is_refused(data):
    S = covariance(data)
    with pytest.raises(ValueError, match="got 21 free parameters of which the covariance of 7 items determines 20"):
        fit(S, confirmatory(torch.ones(P, K)))  # may be rotated
    pair = torch.tensor([[1, 0]] * 5 + [[0, 1]] * 2)
    with pytest.raises(ValueError, match="got 14 free parameters .* determines 13; fix 1 more"):
        fit(S, confirmatory(pair))  # two items alone do not determine two loadings
    assert fit(S, confirmatory(pair, "free"), starts=0).converged  # which a second factor does
    apart = Patterns(matrix([[1] * 5 + [0] * 2, [0] * 5 + [1] * 2]), matrix([0.5, 0.5]))
    with pytest.raises(ValueError, match="must be identified, got 15 free parameters .* determines 13"):
        fit(S, confirmatory(pair, "free"), patterns=apart)  # unless they are never seen together


@pytest.mark.parametrize(("k", "used", "freedom"), [(3, 25, 3), (4, 29, -1), (5, 32, -4), (11, 35, -7)])
def test_too_many_factors_warn_by_exact_count(k, used, freedom, data, recwarn):
    S = covariance(data)
    found = fit(S, exploratory(k), starts=0)
    given = [str(one.message) for one in recwarn]
    if freedom >= 0:
        assert not given
    else:
        assert given == [
            f"exploratory({k}) has {used} free parameters beyond rotation and {P} items have 28 covariances: "
            f"{freedom} degrees of freedom; the covariance is fitted, its parts are not determined"
        ]
        assert_close(found.parameters.covariance(), S, rtol=0, atol=1e-6)
    recwarn.clear()


def test_bad_options_are_refused(data, model):
    S, structure = covariance(data), exploratory(K)
    for options, message in (
        ({"encoder": "diag"}, "encoder must be 'full', 'diagonal', 'isotropic' or 'whitened', got 'diag'"),
        ({"starts": -1}, "starts must be an integer of at least 0, got -1"),
        ({"starts": 1.0}, "starts must be an integer"),
        ({"tol": 0.0}, "tol must lie between 0 and 1, got 0.0"),
        ({"tol": math.nan}, "tol must lie between 0 and 1, got nan"),
        ({"patterns": Patterns(torch.ones(2, P - 1), torch.ones(2))}, r"patterns must have seen \(R, 7\)"),
        ({"patterns": Patterns(torch.ones(2, P), torch.ones(3))}, r"weight \(R,\), got \(2, 7\) and \(3,\)"),
        ({"patterns": Patterns(torch.eye(2, P), torch.ones(2))}, "every item seen in some pattern"),
        ({"patterns": Patterns(torch.ones(2, P), matrix([1, 0]))}, "patterns must have positive weights"),
        ({"patterns": Patterns(torch.full((2, P), 0.5), torch.ones(2))}, "patterns must be of zeros and ones"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(S, structure, **options)
    for use in (
        elbo,
        lambda m, S, e: gap(m, e),
        lambda m, S, e: posterior(m, e),
        lambda m, S, e: em_step(m, S, structure, e),
    ):
        with pytest.raises(ValueError, match="got 'diag'"):
            use(model, S, "diag")
    turned = exploratory_truth()
    with pytest.raises(ValueError, match="identified at these parameters"):
        standard_errors(turned, exploratory(2), 100)
    assert information(turned, exploratory(2)).shape == (18, 18)
    simple = correlated(0.7, 0.3)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        standard_errors(simple, confirmatory(simple.W != 0, "free"), 0)
