"""The best ELBO of a linear-Gaussian model: closed form, definition, gap, and the derivatives of it in use."""

import math

import pytest
import torch
from factor_models import ENCODERS, MASK, SEEN, K, P, arbitrary, covariance, exploratory_truth, sample
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.exact.factor_analysis import Parameters, confirmatory, elbo, elbo_of, gap, log_likelihood, posterior, precision
from vae.exact.factor_analysis.profile import derivatives
from vae.exact.factor_analysis.structure import Layout

FAMILIES = pytest.mark.parametrize("encoder", ENCODERS)


@pytest.fixture
def data(normal):
    return sample(normal)


@pytest.fixture
def model(normal):
    return arbitrary(normal)


@FAMILIES
def test_the_closed_form_is_the_elbo_of_the_best_posterior(model, data, encoder):
    S = covariance(data)
    assert_close(elbo(model, S, encoder), elbo_of(model, S, posterior(model, encoder)), rtol=1e-12, atol=1e-12)


@FAMILIES
def test_no_other_posterior_of_the_family_has_a_larger_elbo(model, data, encoder, normal):
    S, q = covariance(data), posterior(model, encoder)
    best = elbo_of(model, S, q)
    L = torch.linalg.cholesky(model.phi)
    for _ in range(20):
        step = 0.05 * normal(K)
        if encoder == "full":
            A = torch.eye(K).double() + 0.05 * normal(K, K)
            covariance_now = A @ q.covariance @ A.mT
        elif encoder == "isotropic":
            covariance_now = q.covariance * step[0].exp()
        elif encoder == "diagonal":
            covariance_now = q.covariance * torch.diag(step.exp())
        else:
            white = torch.linalg.inv(L) @ q.covariance @ torch.linalg.inv(L).mT
            assert_close(white, torch.diag(white.diagonal()), rtol=0, atol=1e-12)
            covariance_now = L @ (white * torch.diag(step.exp())) @ L.mT
        moved = q._replace(mean_map=q.mean_map + 0.02 * normal(K, P), covariance=covariance_now)
        assert elbo_of(model, S, moved) < best - 1e-9


def test_log_likelihood_is_the_mean_log_evidence_of_the_data(model, data):
    W, psi, phi = model
    expected = lg.log_evidence(W, psi, data, data.mean(0), phi).mean()
    assert_close(log_likelihood(model, covariance(data)), expected, rtol=1e-12, atol=1e-12)


def test_log_likelihood_with_patterns_is_that_of_the_items_seen(model, data):
    S = covariance(data)
    expected = torch.zeros(()).double()
    for seen, weight in zip(SEEN.seen.bool(), SEEN.weight, strict=True):
        sigma, part = model.covariance()[seen][:, seen], S[seen][:, seen]
        constant = torch.logdet(2 * math.pi * sigma)
        expected -= 0.5 * weight * (constant + torch.trace(torch.linalg.solve(sigma, part)))
    assert_close(log_likelihood(model, S, SEEN), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_the_gap_is_positive_and_knows_nothing_of_the_data(model, data, normal, encoder):
    g = gap(model, encoder)
    assert g > 1e-3
    for S in (covariance(data), covariance(normal(11, P)), model.covariance()):
        assert_close(log_likelihood(model, S) - elbo(model, S, encoder), g, rtol=1e-10, atol=1e-12)
    assert gap(model, "full").abs() < 1e-14


def test_the_diagonal_gap_is_the_approximation_gap_and_vanishes_only_where_M_is_diagonal(model):
    assert_close(float(gap(model)), lg.approximation_gap(*model), rtol=1e-10, atol=1e-12)
    # Factors turned into the eigenvectors of M: the same covariance of the items, no gap.
    W, psi, phi = model
    L = torch.linalg.cholesky(phi)
    white = Parameters(W @ L, psi, torch.eye(K).double())
    turn = torch.linalg.eigh(precision(white))[1]
    turned = white._replace(W=white.W @ turn)
    assert_close(turned.covariance(), model.covariance())
    assert gap(white) > 1e-3
    assert gap(turned).abs() < 1e-14


def test_a_posterior_of_two_factors_has_the_gap_of_its_correlation():
    M = precision(exploratory_truth())
    r = -M[0, 1] / (M[0, 0] * M[1, 1]).sqrt()
    assert_close(float(r), -0.759, rtol=0, atol=5e-4)
    assert_close(float(gap(exploratory_truth())), 0.4283, rtol=0, atol=5e-5)
    assert_close(gap(exploratory_truth()), -0.5 * torch.log1p(-r.square()))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_profile_has_exact_derivatives(k, data, normal):
    S = covariance(data)
    log_psi = 0.5 * normal(P) - 1

    def profile(log_psi):
        """By the eigenvalues that are not above 1 or not among the k largest."""
        values = torch.linalg.eigvalsh(S * torch.exp(-0.5 * (log_psi[:, None] + log_psi[None, :])))
        left = torch.cat([values[:-k], values[-k:].clamp(max=1)])
        return 0.5 * (left - left.log() - 1).sum()

    loss, slope, curvature = (part[0] for part in derivatives(log_psi[None], S[None], torch.linalg.inv(S)[None], k))
    assert_close(loss, profile(log_psi), rtol=1e-12, atol=1e-12)
    assert_close(slope, torch.func.grad(profile)(log_psi), rtol=1e-9, atol=1e-10)
    assert_close(curvature, torch.func.hessian(profile)(log_psi), rtol=1e-8, atol=1e-9)


def test_the_profile_keeps_its_digits_where_a_uniqueness_vanishes(data):
    """What remains as psi_1 -> 0 falls in proportion to it, for k = 1, and must be seen to."""
    S = covariance(data)[None]
    inverted = torch.linalg.inv(S)
    losses = [
        derivatives(torch.tensor([[depth] + [-1.0] * (P - 1)]).double(), S, inverted, 1)[0].item()
        for depth in (-26.0, -27.0, -28.0)
    ]
    assert (losses[0] - losses[1]) / (losses[1] - losses[2]) == pytest.approx(torch.e, rel=1e-2)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_hessian_that_newton_uses_is_right_for_free_correlations(data, encoder, normal):
    """Forward over reverse, whose rule for torch.cholesky_inverse is wrong in PyTorch 2.13."""
    S, layout = covariance(data), Layout(confirmatory(MASK, "free"), P)
    u = 0.5 * normal(len(layout))
    slope = torch.func.grad(lambda u: elbo(layout.from_u(u), S, encoder))
    got, step = torch.func.jacfwd(slope)(u), 1e-5
    steps = step * torch.eye(len(u)).double()
    expected = torch.stack([(slope(u + e) - slope(u - e)) / (2 * step) for e in steps])
    assert_close(got, expected, rtol=1e-6, atol=1e-7)
    assert got[-1, -1].abs() > 1e-3
