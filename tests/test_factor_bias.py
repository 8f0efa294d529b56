"""What a restricted encoder makes of a factor model: the known optima of whole populations, first order, sampling."""

from itertools import product

import numpy as np
import pytest
import torch
from factor_models import bifactor, correlated, crossed, exploratory_truth, matrix, standardised
from scipy import optimize, stats
from torch.testing import assert_close

from vae.exact.factor_analysis import (
    FLOOR,
    Parameters,
    Patterns,
    Posterior,
    confirmatory,
    elbo,
    elbo_of,
    exploratory,
    first_order_bias,
    fit,
    gap,
    information,
    log_likelihood,
    optima,
    posterior,
    precision,
    standard_errors,
)
from vae.exact.factor_analysis.structure import Layout


def close(got, expected, digits):
    """Equal to a number printed with so many digits after the point."""
    assert abs(float(got) - expected) < 0.51 * 10.0**-digits


def confirm(truth, **options):
    return confirmatory(truth.W != 0, **options)


def draws(truth, n, replicates, seed):
    """Covariances (replicates, p, p) of n data each, 1/n, about the fitted mean."""
    law = stats.wishart(n - 1, truth.covariance().numpy())
    return torch.from_numpy(law.rvs(replicates, random_state=np.random.default_rng(seed))) / n


TRUTHS = {
    "C2w": (crossed(0.8, 0.6), {}),
    "C2s": (crossed(0.7, 0.6), {}),
    "correlated": (correlated(0.7, 0.7), {"phi": "free"}),
    "correlation known": (correlated(0.5, 0.7), {"phi": correlated(0.5, 0.7).phi}),
    "bifactor": (bifactor(0.7, 0.3), {}),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_the_full_encoder_recovers_the_truth(name):
    truth, options = TRUTHS[name]
    found = fit(truth.covariance(), confirm(truth, **options))
    for part, expected in zip(found.parameters, truth, strict=True):
        assert_close(part, expected, rtol=0, atol=1e-6)
    assert_close(found.log_likelihood, log_likelihood(truth, truth.covariance()), rtol=0, atol=1e-12)
    assert found.gap == 0


# Populations: the printed digits are those of an independent computation


def test_exploratory_analysis_is_not_biased():
    truth = exploratory_truth()
    S = truth.covariance()
    assert gap(truth) > 0.4
    for structure in (exploratory(2), exploratory(2, truth.psi)):
        found = fit(S, structure, "diagonal")
        close(found.elbo, -7.6503540, 7)
        assert_close(found.parameters.covariance(), S, rtol=0, atol=1e-6)
        assert found.gap.abs() < 1e-12
    (only,) = optima(S, exploratory(2), "diagonal", starts=20)
    assert only.starts == 21
    with pytest.warns(UserWarning, match=r"exploratory\(8\) .* degrees of freedom"):
        close(fit(S, exploratory(8), "diagonal").elbo, -7.6503540, 7)


def test_exploratory_analysis_with_wrong_uniquenesses_has_no_gap_either():
    truth = exploratory_truth()
    wrong = exploratory(2, truth.psi * matrix([0.7, 1.2, 0.9, 1.1, 0.8, 1.3]))
    exact, bound = (fit(truth.covariance(), wrong, encoder) for encoder in ("full", "diagonal"))
    assert exact.log_likelihood < -7.651
    assert_close(bound.elbo, exact.log_likelihood, rtol=0, atol=1e-12)


def test_cross_loadings_are_biased_weakly():
    truth = crossed(0.8, 0.6)
    (only,) = optima(truth.covariance(), confirm(truth), "diagonal", starts=40)
    assert only.starts == 41
    found = only.fit
    close(found.W[0, 0], 0.814348, 6)
    close(found.W[4, 1], 0.561640, 6)
    close(found.psi[0], 0.336837, 6)
    close(found.psi[4], 0.326150, 6)
    close(found.elbo, -7.144362, 6)
    close(gap(truth), 0.06973, 5)
    M = precision(truth)
    close(M[0, 1] / (M[0, 0] * M[1, 1]).sqrt(), 0.3608, 4)


def test_cross_loadings_are_biased_strongly():
    truth = crossed(0.7, 0.6)
    S = truth.covariance()
    found = fit(S, confirm(truth), "diagonal", starts=20)
    close(found.W[0, 0], 0.727452, 6)
    close(found.W[4, 1], 0.535919, 6)
    close(found.psi[0], 0.470814, 6)
    close(found.psi[4], 0.356781, 6)
    close(found.elbo, -7.557032, 6)
    close(found.log_likelihood, -7.498857, 6)
    close(gap(truth), 0.12368, 5)
    exact = log_likelihood(truth, S)
    close(exact - found.log_likelihood, 0.025089, 6)
    known = fit(S, confirm(truth, psi=truth.psi), "diagonal")
    close(100 * (known.W[0, 0] / 0.7 - 1), 2.60, 2)
    close(100 * (known.W[4, 1] / 0.6 - 1), -9.90, 2)


def test_factor_correlations_are_biased():
    for load, phi_found in ((0.7, 0.58486), (0.5, 0.33852)):
        truth = correlated(load, 0.7)
        found = fit(truth.covariance(), confirm(truth, phi="free"), "diagonal")
        close(found.phi[0, 1], phi_found, 5)
    truth = correlated(0.7, 0.7)
    close(fit(truth.covariance(), confirm(truth, phi="free"), "diagonal").W[0, 0], 0.70997, 5)
    close(fit(truth.covariance(), confirm(truth, phi=truth.phi), "diagonal").W[0, 0], 0.74021, 5)


def test_a_known_correlation_and_weak_loadings_end_in_a_heywood_case():
    """The symmetric optimum is not the best: the best makes one item noiseless."""
    truth = correlated(0.5, 0.7)
    found = optima(truth.covariance(), confirm(truth, phi=truth.phi), "diagonal", starts=20)
    close(found[0].fit.elbo, -8.37096, 5)
    assert found[0].fit.heywood.sum() == 1
    symmetric = next(one.fit for one in found if not one.fit.heywood.any())
    close(symmetric.W[0, 0], 0.59848, 5)
    close(symmetric.elbo, -8.37884, 5)


def test_the_bias_depends_on_the_encoders_coordinates():
    truth = correlated(0.7, 0.7)
    found = fit(truth.covariance(), confirm(truth, phi="free"), "whitened")
    close(found.W[0, 0], 0.71661, 5)
    close(found.W[5, 1], 0.61376, 5)
    close(found.phi[0, 1], 0.59602, 5)


def test_group_factors_collapse():
    truth = bifactor(0.7, 0.3)
    (only,) = optima(truth.covariance(), confirm(truth), "diagonal", starts=8)
    close(only.fit.W[0, 0], 0.715891, 6)
    assert only.fit.W[:, 1:].abs().max() < 1e-6
    close(only.fit.psi[0], 0.4875, 4)


def test_a_symmetric_saddle_is_left():
    """Bifactor .7/.5: the symmetric stationary point (group loadings -26.8%) is a saddle; the optimum is Heywood."""
    truth = bifactor(0.7, 0.5)
    S, mask = truth.covariance(), (truth.W != 0).double()

    def symmetric(v):
        general, group, log_psi = v
        return Parameters(mask * torch.stack([general, *[group] * 3]), log_psi.exp().expand(9), truth.phi)

    def slope(v):
        gradient, loss = torch.func.grad_and_value(lambda t: -elbo(symmetric(t), S))(torch.from_numpy(v))
        return float(loss), gradient.numpy()

    start = [0.69, 0.37, -1.2]
    stationary = optimize.minimize(slope, start, jac=True, method="BFGS", options={"gtol": 1e-11})
    point = symmetric(torch.from_numpy(stationary.x))
    close(100 * (point.W[0, 1] / 0.5 - 1), -26.8, 1)
    layout = Layout(confirm(truth), 9)
    hessian = torch.func.hessian(lambda u: -elbo(layout.from_u(u), S))(layout.u(point))
    close(torch.linalg.eigvalsh(hessian)[0], -0.40, 2)
    found = fit(S, confirm(truth), "diagonal", starts=0, init=point)
    assert found.elbo > elbo(point, S) + 0.1
    assert found.heywood.any()


def test_tied_loadings_are_biased_and_free_ones_are_not():
    """x = a (1, 1) z + eps of 7 items with psi = 1: u = 7 a^2 falls from 7/4 to 1."""
    truth = Parameters(torch.full((7, 2), 0.5).double(), torch.ones(7).double(), torch.eye(2).double())
    S, ones = truth.covariance(), torch.ones(7, 2)
    tied = confirmatory(ones, psi=torch.ones(7), tied=ones.long())
    assert_close(fit(S, tied).W, truth.W, rtol=0, atol=1e-6)
    found = fit(S, tied, "diagonal").W
    assert_close(7 * found[0, 0].square(), torch.tensor(1.0).double(), rtol=0, atol=1e-6)
    close(100 * (found[0, 0] / 0.5 - 1), -24.4, 1)
    free = fit(S, exploratory(2, torch.ones(7)), "diagonal")
    assert_close(free.parameters.covariance(), S, rtol=0, atol=1e-6)


def test_an_isotropic_encoder_biases_even_exploratory_analysis(normal):
    """Probabilistic PCA on eigenvalues l = (16, 4, 1, 1, 1): sqrt(l_j) times the mean of sqrt(l) = 12, 6."""
    turn = torch.linalg.qr(normal(5, 5)).Q
    S = turn @ torch.diag(matrix([16, 4, 1, 1, 1])) @ turn.mT
    found = fit(S, exploratory(2, torch.ones(5)), "isotropic")
    assert_close(torch.linalg.eigvalsh(found.parameters.covariance()), matrix([1, 1, 1, 6, 12]), rtol=0, atol=1e-6)
    exact = fit(S, exploratory(2, torch.ones(5)), "diagonal")
    assert_close(exact.parameters.covariance(), S, rtol=0, atol=1e-6)


def test_data_missing_at_random_bias_exploratory_analysis():
    """30 % of all entries: the patterns' posteriors are not diagonal together. Maximum likelihood stays exact."""
    truth = exploratory_truth()
    S = truth.covariance()
    seen = matrix([row for row in product([0, 1], repeat=6) if any(row)])
    patterns = Patterns(seen, 0.7 ** seen.sum(1) * 0.3 ** (6 - seen.sum(1)))
    exact = fit(S, exploratory(2), patterns=patterns, starts=1)
    assert_close(exact.parameters.covariance(), S, rtol=0, atol=1e-6)
    biased = fit(S, exploratory(2), "diagonal", patterns=patterns, starts=2)
    assert biased.gap > 1e-2
    close(100 * (biased.psi / truth.psi - 1).max(), 20, 0)


# The first order


def test_the_first_order_predicts_weak_cross_loadings():
    for cross, percent in ((0.3, -1.33), (0.6, -9.10)):
        truth = crossed(0.8, cross)
        close(100 * first_order_bias(truth, confirm(truth)).W[4, 0] / cross, percent, 2)


def test_the_bias_tends_to_its_first_order():
    errors, last = [], 0.0
    for cross in (0.4, 0.2, 0.1, 0.05):
        truth = crossed(0.8, cross)
        found = fit(truth.covariance(), confirm(truth), "diagonal", starts=0, init=truth, tol=1e-10)
        actual, predicted = found.W[4, 0] - cross, first_order_bias(truth, confirm(truth)).W[4, 0]
        errors.append(abs(float(actual / predicted) - 1))
        last = abs(float(actual)) / cross
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-2 < errors[0]
    assert 0 < last < 1e-3


def test_the_first_order_is_the_derivative_by_the_gaps_weight():
    """Of the maximum of log-likelihood - t g, at t = 0, found by a library's optimiser."""
    truth = correlated(0.7, 0.4)
    structure = confirm(truth, phi="free")
    layout, S = Layout(structure, 6), truth.covariance()

    def best(t):
        def loss(v):
            def value(theta):
                parameters = layout.from_theta(theta)
                return t * gap(parameters) - log_likelihood(parameters, S)

            slope, loss = torch.func.grad_and_value(value)(torch.from_numpy(v))
            return float(loss), slope.numpy()

        options = {"gtol": 1e-12}
        found = optimize.minimize(loss, layout.theta(truth).numpy(), jac=True, method="BFGS", options=options)
        return torch.from_numpy(found.x)

    slope = (best(1e-3) - best(-1e-3)) / 2e-3
    predicted = layout.theta(first_order_bias(truth, structure))
    assert_close(slope, predicted, rtol=1e-3, atol=1e-6)
    assert predicted[-1] < -1e-2


# Samples


def test_standard_errors_are_those_of_replicates():
    truth, n, replicates = correlated(0.7, 0.4), 2003, 401
    structure = confirm(truth, phi="free")
    found = fit(draws(truth, n, replicates, 1), structure, starts=0)
    assert found.converged.all()
    layout = Layout(structure, 6)
    estimates, predicted = layout.theta(found.parameters), layout.theta(standard_errors(truth, structure, n))
    spread = estimates.std(0) / predicted
    assert (predicted > 0).all()
    assert ((spread - 1).abs() < 5 / (2 * replicates) ** 0.5).all()
    assert torch.equal(standard_errors(truth, structure, n).W != 0, truth.W != 0)


def test_the_population_optimum_is_the_mean_of_large_samples():
    truth = crossed(0.7, 0.6)
    optimum = fit(truth.covariance(), confirm(truth), "diagonal")
    found = fit(draws(truth, 1_000_000, 17, 2), confirm(truth), "diagonal", starts=0)
    for part, expected in ((found.W[:, 4, 0], optimum.W[4, 0]), (found.W[:, 0, 0], optimum.W[0, 0])):
        assert abs(part.mean() - expected) < 5 * part.std() / len(part) ** 0.5
    assert abs(found.W[:, 4, 0].mean() - 0.6) > 20 * found.W[:, 4, 0].std()


def test_small_samples_end_in_heywood_cases_that_are_reported():
    truth = crossed(0.7, 0.6)
    S = draws(truth, 100, 53, 3)
    found = fit(S, confirm(truth), "diagonal", starts=2)
    assert found.converged.all()
    assert found.heywood.any(-1).double().mean() > 0.3
    assert not found.heywood.any(-1).all()
    assert torch.equal(found.heywood, found.psi <= 1.01 * FLOOR * S.diagonal(dim1=-2, dim2=-1))
    assert (found.gap > -1e-9).all()
    interior = fit(S, confirm(truth), starts=0)
    assert interior.heywood.any(-1).double().mean() < 0.1


def test_an_encoder_that_sees_half_of_the_items_has_an_inference_gap():
    """k = 1, p = 4, loading .7, the mean a function of items 1 and 2 alone: no approximation gap, and yet biased."""
    truth = standardised(torch.full((4, 1), 0.7, dtype=torch.float64))
    S, seen = truth.covariance(), matrix([1, 1, 0, 0])
    layout = Layout(exploratory(1), 4)

    def value(v):
        parameters = layout.from_u(v[:-2])
        mean_map = v[-2:].repeat_interleave(2)[None] * seen
        return -elbo_of(parameters, S, Posterior(mean_map, posterior(parameters).covariance))

    def both(v):
        slope, loss = torch.func.grad_and_value(value)(torch.from_numpy(v))
        return float(loss), slope.numpy()

    start = torch.cat([layout.u(truth), matrix([0.3, 0])]).numpy()
    found = layout.from_u(torch.from_numpy(optimize.minimize(both, start, jac=True, options={"gtol": 1e-10}).x)[:-2])
    close(found.W[0, 0], 0.75757, 5)
    close(found.W[3, 0], 0.49826, 5)


@pytest.mark.parametrize("name", TRUTHS)
def test_observed_and_expected_information_agree_where_the_model_fits(name, normal):
    truth, options = TRUTHS[name]
    structure, S = confirm(truth, **options), truth.covariance()
    assert_close(information(truth, structure, S), information(truth, structure), rtol=1e-9, atol=1e-9)
    other = S + 0.1 * torch.diag(normal(len(S)).square())
    assert not torch.allclose(information(truth, structure, other), information(truth, structure), rtol=1e-3)
