"""A series with noise under a posterior independent over time: rates against explicit Gaussians, known optima."""

import math

import pytest
import torch
from torch.testing import assert_close

from vae.exact.factor_analysis import Parameters, elbo_of, log_likelihood, posterior
from vae.exact.factor_analysis.ar1 import AR1, elbo_rate, fit, gap_rate, log_likelihood_rate

TRUTH = AR1(0.9, 0.19, 1.0)


def series(model, steps):
    """The model as factor analysis: every step of z is a factor of one item."""
    lags = torch.arange(steps).double()
    phi = model.q / (1 - model.lam**2) * model.lam ** (lags[:, None] - lags).abs()
    eye = torch.eye(steps).double()
    return Parameters(eye, torch.full((steps,), model.r, dtype=torch.float64), phi)


@pytest.mark.parametrize(
    ("model", "truth"),
    [
        (TRUTH, TRUTH),
        (AR1(-0.6, 0.5, 0.3), TRUTH),
        (AR1(0.0, 0.5, 0.3), AR1(-0.8, 2.0, 0.1)),
        (AR1(0.95, 0.1, 2.0), AR1(0.0, 1.0, 1.0)),
    ],
)
def test_rates_are_what_a_step_adds_to_an_explicit_gaussian(model, truth):
    """The difference of two lengths has no ends, which is why it agrees far better than 1 over the length."""
    lengths, likelihoods, bounds = (401, 809), [], []
    for steps in lengths:
        p, S = series(model, steps), series(truth, steps).covariance()
        likelihoods.append(float(log_likelihood(p, S)))
        bounds.append(float(elbo_of(p, S, posterior(p, "diagonal"))))
    steps = lengths[1] - lengths[0]
    assert_close((likelihoods[1] - likelihoods[0]) / steps, log_likelihood_rate(model, truth), rtol=0, atol=1e-9)
    assert_close((bounds[1] - bounds[0]) / steps, elbo_rate(model, truth), rtol=0, atol=1e-9)


def test_a_series_of_2000_steps_has_nearly_these_rates():
    """Gap and likelihood of the whole series, whose two ends count once in 2000 steps."""
    steps = 2000
    p = series(TRUTH, steps)
    lam, q, r = TRUTH
    M = torch.diag(torch.full((steps,), (1 + lam * lam) / q + 1 / r).double())
    M[0, 0] = M[-1, -1] = 1 / q + 1 / r
    M += torch.diag(torch.full((steps - 1,), -lam / q).double(), 1) + torch.diag(
        torch.full((steps - 1,), -lam / q).double(), -1
    )
    gap = 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    assert_close(float(gap) / steps, gap_rate(TRUTH), rtol=0, atol=1 / steps)
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * p.covariance())
    assert_close(-float(entropy) / steps, log_likelihood_rate(TRUTH, TRUTH), rtol=0, atol=1 / steps)


def test_known_optima():
    assert abs(gap_rate(TRUTH) - 0.165681) < 1e-6
    known = fit(TRUTH)
    assert abs(known.model.lam - 0.855886) < 1e-6
    assert known.model[1:] == TRUTH[1:]
    both = fit(TRUTH, ("lam", "q"))
    assert abs(both.model.lam - 0.5938) < 5.1e-5
    assert abs(both.model.q - 0.7873) < 5.1e-5
    assert both.elbo_rate > known.elbo_rate > elbo_rate(TRUTH, TRUTH)
    for found in (known, both):
        assert_close(found.elbo_rate, elbo_rate(found.model, TRUTH), rtol=0, atol=1e-14)
        assert_close(found.log_likelihood_rate - found.gap_rate, found.elbo_rate, rtol=0, atol=1e-14)
        assert found.log_likelihood_rate < log_likelihood_rate(TRUTH, TRUTH) - 1e-4


@pytest.mark.parametrize("free", [("lam",), ("lam", "q"), ("r", "q"), ("lam", "q", "r")])
@pytest.mark.parametrize("truth", [TRUTH, AR1(-0.5, 1.0, 0.4)])
def test_the_likelihood_recovers_the_truth_and_the_optimum_is_stationary(free, truth):
    exact = fit(truth, free, "full")
    assert_close(torch.tensor(exact.model), torch.tensor(truth), rtol=0, atol=1e-6)
    assert exact.gap_rate == 0
    found = fit(truth, free)
    for name in free:
        value = getattr(found.model, name)
        for step in (-1e-4, 1e-4):
            assert elbo_rate(found.model._replace(**{name: value + step}), truth) < found.elbo_rate - 1e-12


def test_the_gap_of_independent_steps_is_zero_and_a_sign_does_not_matter():
    assert gap_rate(AR1(0.0, 0.7, 0.2)) == 0
    assert gap_rate(AR1(0.6, 0.7, 0.2)) == gap_rate(AR1(-0.6, 0.7, 0.2)) > 1e-3
    assert_close(fit(AR1(-0.9, 0.19, 1.0)).model.lam, -fit(TRUTH).model.lam, rtol=0, atol=1e-7)


def test_a_long_memory_is_summed_as_exactly():
    """The likelihood of the truth is minus the entropy rate, which has a closed form."""
    for lam in (0.999, 0.9999, 0.05):
        truth = AR1(lam, 0.01, 0.3)
        a, b = truth.q + truth.r * (1 + lam * lam), 2 * truth.r * lam
        innovation = (a + math.sqrt(a * a - b * b)) / 2
        expected = -0.5 * math.log(2 * math.pi * math.e * innovation)
        assert_close(log_likelihood_rate(truth, truth), expected, rtol=0, atol=1e-10)


def test_the_better_of_two_optima_is_found():
    """A very long memory has an optimum beside the truth, and a better one that forgets it."""
    truth = AR1(0.99, 0.01, 1.0)
    found = fit(truth)
    assert found.model.lam < 0.01
    assert found.elbo_rate > elbo_rate(truth._replace(lam=0.98843), truth) + 0.09


def test_a_memory_of_weak_signals_is_forgotten():
    """Where little is known of z, the ELBO gives up lam = .9 for almost 0: collapse by the approximation gap alone."""
    found = fit(AR1(0.9, 0.001, 1.0), ("lam", "q"))
    assert abs(found.model.lam) < 1e-3
    assert found.gap_rate < 1e-8
    assert_close(fit(AR1(0.9, 0.001, 1.0), ("lam", "q"), "full").model.lam, 0.9, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gap_rate(AR1(1.0, 1, 1)), "model.lam must lie between -0.9999 and 0.9999, got 1.0"),
        (lambda: gap_rate(AR1(math.nan, 1, 1)), "model.lam must lie between"),
        (lambda: elbo_rate(TRUTH, AR1(0.5, 0.0, 1)), "truth.q must be positive and finite, got 0.0"),
        (lambda: log_likelihood_rate(AR1(0.5, 1, math.inf), TRUTH), "model.r must be positive and finite, got inf"),
        (lambda: fit(AR1(0.5, -1, 1)), "truth.q must be positive"),
        (lambda: fit(TRUTH, ()), "free must name some of lam, q, r"),
        (lambda: fit(TRUTH, "q"), "free must name some of lam, q, r"),
        (lambda: fit(TRUTH, ("lam", "lam")), "each once"),
        (lambda: fit(TRUTH, ("sigma",)), "free must name"),
        (lambda: fit(TRUTH, encoder="isotropic"), "encoder must be 'full' or 'diagonal', got 'isotropic'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
