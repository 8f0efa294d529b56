"""Factor analysis: EM, the solvers against each other and against a library, invariances, what is reported."""

import pytest
import torch
from factor_models import ENCODERS, KINDS, MASK, PHI, TIES, K, P, covariance, crossed, exploratory_truth, matrix, sample
from sklearn.datasets import load_wine
from sklearn.decomposition import FactorAnalysis
from torch.testing import assert_close

from vae.exact.factor_analysis import (
    FLOOR,
    Parameters,
    Patterns,
    confirmatory,
    elbo,
    em_step,
    exploratory,
    fit,
    gap,
    log_likelihood,
    optima,
)
from vae.exact.factor_analysis.newton import newton
from vae.exact.factor_analysis.structure import Layout

MODELS = pytest.mark.parametrize("kind", KINDS)
FAMILIES = pytest.mark.parametrize("encoder", ENCODERS)


@pytest.fixture
def data(normal):
    return sample(normal)


def start(structure, normal):
    """Parameters that obey the structure."""
    layout = Layout(structure, P)
    return layout.from_u(0.5 * normal(len(layout)))


# EM


@MODELS
@FAMILIES
def test_em_never_lowers_its_bound(kind, encoder, data, normal):
    structure, patterns = KINDS[kind]
    S, now = covariance(data), start(structure, normal)
    bounds = [elbo(now, S, encoder, patterns)]
    for _ in range(50):
        now = em_step(now, S, structure, encoder, patterns)
        bounds.append(elbo(now, S, encoder, patterns))
    bounds = torch.stack(bounds)
    assert (bounds.diff() > -1e-12).all()
    assert bounds[-1] - bounds[0] > 0.1
    layout = Layout(structure, P)
    for part, obeyed in zip(now, layout.from_theta(layout.theta(now)), strict=True):
        assert_close(part, obeyed, rtol=0, atol=1e-12)


@MODELS
@FAMILIES
def test_an_optimum_stays_where_it_is(kind, encoder, data):
    """Newton's answer is a fixed point of EM, its slope is zero, and it bounds the likelihood from below."""
    structure, patterns = KINDS[kind]
    S, layout = covariance(data), Layout(structure, P)
    found = fit(S, structure, encoder, patterns=patterns, starts=2)
    assert found.converged
    assert_close(found.elbo, elbo(found.parameters, S, encoder, patterns), rtol=0, atol=1e-12)
    assert_close(found.log_likelihood, log_likelihood(found.parameters, S, patterns), rtol=0, atol=1e-12)
    assert_close(found.log_likelihood - found.elbo, found.gap, rtol=0, atol=1e-12)
    assert found.gap > -1e-12
    slope = torch.func.grad(lambda u: elbo(layout.from_u(u), S, encoder, patterns))(layout.u(found.parameters))
    pressed = torch.zeros(len(layout)).bool()
    if layout.free_psi:
        pressed[layout.n_loadings : layout.n_loadings + P] = found.heywood
    assert slope[~pressed].abs().max() < 1e-7
    assert (slope[pressed] < 0).all()
    after = em_step(found.parameters, S, structure, encoder, patterns)
    for part, stayed in zip(found.parameters, after, strict=True):
        assert_close(stayed, part, rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", ["full", "diagonal"])
@pytest.mark.parametrize("kind", ["confirmatory", "phi free", "phi free, patterns", "tied, patterns"])
def test_em_arrives_where_newton_does(kind, encoder, data, normal):
    structure, patterns = KINDS[kind]
    S = covariance(data)
    best = fit(S, structure, encoder, patterns=patterns)
    # Some way off the optimum, the correlation 0 if it is free.
    now = best.parameters._replace(W=0.8 * best.W, psi=1.3 * best.psi, phi=torch.eye(K).double())
    for _ in range(300):
        now = em_step(now, S, structure, encoder, patterns)
    assert_close(elbo(now, S, encoder, patterns), best.elbo, rtol=0, atol=1e-8)
    assert_close(now.covariance(), best.parameters.covariance(), rtol=0, atol=1e-4)


# Solvers against others and each other


def test_wine_agrees_with_scikit_learn():
    x = torch.from_numpy(load_wine().data)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    S = covariance(x)
    peer = FactorAnalysis(3, svd_method="lapack", tol=1e-12, max_iter=20_000).fit(x.numpy())
    theirs = Parameters(
        torch.from_numpy(peer.components_.T), torch.from_numpy(peer.noise_variance_), torch.eye(3).double()
    )
    ours, bound = (fit(S, exploratory(3), encoder, starts=2) for encoder in ("full", "diagonal"))
    assert_close(ours.log_likelihood, torch.tensor(peer.score(x.numpy())).double(), rtol=0, atol=1e-8)
    assert_close(float(ours.log_likelihood), -15.08024976, rtol=0, atol=5e-9)
    assert_close(bound.elbo, ours.log_likelihood, rtol=0, atol=1e-12)
    assert_close(ours.parameters.covariance(), theirs.covariance(), rtol=0, atol=1e-4)
    assert gap(theirs) < 1e-12


def test_patterns_with_everything_seen_are_none(data):
    """Exploratory models take the profile without them and Newton on all parameters with them."""
    S, whole = covariance(data), Patterns(torch.ones(3, P), matrix([0.2, 0.3, 0.5]))
    for structure in (exploratory(K), confirmatory(MASK, "free")):
        for encoder in ("full", "diagonal"):
            without, given = (fit(S, structure, encoder, patterns=p, starts=3) for p in (None, whole))
            assert_close(given.elbo, without.elbo, rtol=0, atol=1e-10)
            assert_close(given.parameters.covariance(), without.parameters.covariance(), rtol=0, atol=1e-5)


def test_fixed_uniquenesses_are_kept_by_every_solver(data):
    """The best loadings for given uniquenesses in closed form, and by Newton on the loadings."""
    S, psi = covariance(data), torch.linspace(0.3, 0.7, P).double()
    closed = fit(S, exploratory(K, psi))
    assert torch.equal(closed.psi, psi)
    assert not closed.heywood.any()
    whole = Patterns(torch.ones(2, P), torch.ones(2))
    assert_close(fit(S, exploratory(K, psi), patterns=whole).elbo, closed.elbo, rtol=0, atol=1e-11)
    assert closed.elbo < fit(S, exploratory(K)).elbo - 1e-3


def test_newton_finds_minima_and_leaves_saddles():
    """x^4/4 - a x^2/2 + y^2: a saddle at 0, minima at +-sqrt a; a bound holds where the slope presses."""
    a = matrix([4.0, 1.0, 9.0])

    def evaluate(u, rows):
        loss = u[:, 0] ** 4 / 4 - a[rows] * u[:, 0] ** 2 / 2 + u[:, 1] ** 2
        slope = torch.stack([u[:, 0] ** 3 - a[rows] * u[:, 0], 2 * u[:, 1]], -1)
        bend = torch.stack([3 * u[:, 0] ** 2 - a[rows], torch.full((len(u),), 2.0)], -1)
        return loss, slope, torch.diag_embed(bend)

    begin = torch.zeros(3, 2).double()
    begin[1] = matrix([0.3, 5.0])
    lower = torch.full((3, 2), -torch.inf).double()
    lower[1, 1] = 0.5
    u, steps, converged = newton(begin, lower, evaluate, 1e-9, 60)
    assert converged.all()
    assert_close(u.abs(), torch.stack([a.sqrt(), matrix([0, 0.5, 0])], -1), rtol=0, atol=1e-9)
    assert (steps > 1).all()
    assert not newton(begin, lower, evaluate, 1e-9, 1)[2].any()


# Invariances


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", ["exploratory", "phi free", "tied", "phi fixed"])
def test_a_batch_is_its_members_one_by_one(kind, encoder, normal):
    structure = KINDS[kind][0]
    members = torch.stack([covariance(normal(23, P)) + model_covariance() for _ in range(3 * 5)]).reshape(3, 5, P, P)
    together = fit(members, structure, encoder, starts=1)
    assert together.W.shape == (3, 5, P, K)
    assert together.heywood.shape == (3, 5, P)
    for i, j in ((0, 4), (2, 1)):
        alone = fit(members[i, j], structure, encoder, starts=1)
        assert_close(together.elbo[i, j], alone.elbo, rtol=1e-10, atol=1e-10)
        assert_close(together.parameters.covariance()[i, j], alone.parameters.covariance(), rtol=1e-6, atol=1e-6)


def model_covariance():
    return Parameters(0.9 * MASK.double(), torch.ones(P).double(), PHI).covariance()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_scale_of_the_items_and_the_order_of_the_factors_do_not_matter(data, encoder):
    S, scale = covariance(data), torch.linspace(0.1, 30, P).double()
    one = fit(S, confirmatory(MASK, "free"), encoder)
    other = fit(S * scale[:, None] * scale, confirmatory(MASK.flip(1), "free"), encoder)
    if encoder != "whitened":  # whose Cholesky factor knows the order of the factors
        assert_close(other.elbo + scale.log().sum(), one.elbo, rtol=0, atol=1e-9)
        assert_close(other.W.flip(1) / scale[:, None], one.W, rtol=0, atol=1e-6)
        assert_close(other.psi / scale.square(), one.psi, rtol=0, atol=1e-6)
        assert_close(other.phi, one.phi, rtol=0, atol=1e-6)
    plain = fit(S * scale[:, None] * scale, confirmatory(MASK, "free"), encoder)
    assert_close(plain.W / scale[:, None], one.W, rtol=0, atol=1e-6)


def test_columns_change_sign_only_where_the_structure_allows_it():
    psi = torch.full((P,), 0.5).double()
    W = matrix([[0.7, 0]] * 3 + [[0.1, -0.6]] + [[0, -0.7]] * 3)
    truth = Parameters(W, psi, PHI)
    free, fixed = fit(truth.covariance(), confirmatory(MASK, "free")), fit(truth.covariance(), confirmatory(MASK, PHI))
    assert_close(free.W, W * matrix([1, -1]))
    assert_close(float(free.phi[0, 1]), -0.4)
    assert torch.equal(fixed.phi, PHI)
    assert_close(fixed.W, -W)  # the sum of all is negative, and both columns turn together
    tied = TIES * (TIES == 1) + 3 * torch.tensor([[0, 0]] * 2 + [[1, 0]] + [[0, 0]] + [[0, 1]] + [[0, 0]] * 2)
    W = matrix([[0.2, 0]] * 2 + [[0.3, 0]] + [[0.5, 0.4]] + [[0, 0.3]] + [[0, -0.9]] * 2)
    found = fit(Parameters(W, psi, torch.eye(K).double()).covariance(), confirmatory(MASK, tied=tied))
    assert_close(found.W, W)
    assert found.W[2, 0] == found.W[4, 1]


def test_distinct_optima_are_all_reported_best_first(data):
    S = crossed(0.7, 0.65).covariance()
    mask = crossed(0.7, 0.65).W != 0
    found = optima(S, confirmatory(mask), "diagonal", starts=20)
    assert len(found) > 1
    assert sum(one.starts for one in found) == 21
    assert [float(one.fit.elbo) for one in found] == sorted((float(one.fit.elbo) for one in found), reverse=True)
    assert found[0].fit.heywood.any()
    best = fit(S, confirmatory(mask), "diagonal", starts=20)
    assert_close(best.elbo, found[0].fit.elbo, rtol=0, atol=1e-10)


def test_a_heywood_case_is_reported():
    """An item whose uniqueness wants to be negative ends at the floor, and the answer says so."""
    truth = exploratory_truth()._replace(psi=matrix([0.4, 0.5, 0.6, 0.5, 0.4, -0.05]))
    found = fit(truth.covariance(), exploratory(2))
    assert found.converged
    assert found.heywood.tolist() == [False] * 5 + [True]
    assert_close(found.psi[5], FLOOR * truth.covariance()[5, 5])
    assert not fit(exploratory_truth().covariance(), exploratory(2)).heywood.any()


def test_missing_data_leave_maximum_likelihood_exact():
    truth = crossed(0.8, 0.6)
    patterns = Patterns(matrix([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]]), matrix([0.5, 0.3, 0.2]))
    exact = fit(truth.covariance(), confirmatory(truth.W != 0), patterns=patterns)
    assert_close(exact.W, truth.W, rtol=0, atol=1e-6)
    assert_close(exact.psi, truth.psi, rtol=0, atol=1e-6)
    rotated = fit(truth.covariance(), exploratory(2), patterns=patterns)
    assert_close(rotated.parameters.covariance(), truth.covariance(), rtol=0, atol=1e-6)
    # No rotation makes every pattern's posterior diagonal, so that the exploratory VAE is biased as well.
    biased = fit(truth.covariance(), exploratory(2), "diagonal", patterns=patterns)
    assert (biased.parameters.covariance() - truth.covariance()).abs().max() > 1e-2
    assert biased.gap > 1e-3


def test_a_start_of_ones_own_is_used_and_counted(data):
    S, structure = covariance(data), confirmatory(MASK, "free")
    best = fit(S, structure)
    again = fit(S, structure, starts=0, init=best.parameters)
    assert again.iterations <= 2
    assert_close(again.elbo, best.elbo, rtol=0, atol=1e-12)


def test_results_do_not_depend_on_dtype_and_are_the_same_again(data):
    S = covariance(data)
    one, two = (fit(S, exploratory(K), seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert fit(S.float(), exploratory(K)).W.dtype == torch.float64
