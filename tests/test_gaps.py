import pytest
import torch
from torch.testing import assert_close

from vae.diagnostics.gaps import GAPS, Effort, certificates, decomposed, exactly_decomposed, timed_inference
from vae.exact import linear_gaussian as lg
from vae.inference import log_joint as joint
from vae.inference.quadrature import bernoulli_log_evidence, gaussian_elbo, posterior_windows
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.vae import linear_vae_model, mlp_vae
from vae.noise import generator

N, X, Z = 7, 5, 2
EFFORT = Effort(start_draws=64, fit_draws=(16, 16), fresh_draws=256, weights=200, chains=2, temperatures=5)


@pytest.fixture
def bernoulli(normal):
    model = mlp_vae(X, [11], Z, BernoulliLikelihood(), seed=3).double()
    return model, (normal(N, X) > 0).double()


def test_the_gaps_of_a_linear_model_are_those_of_the_closed_form(normal):
    model, x = linear_vae_model(X, Z, 0.3, generator(0, "init")).double(), normal(N, X)
    layer, q = model.decoder[0], model.encode(x)
    effort = EFFORT._replace(fresh_draws=20_000)
    found = decomposed([model, model], x, effort, chunk=3)  # which has the draws of the whole
    W, psi, mu = layer.weight.detach(), torch.tensor(0.3).double(), layer.bias.detach()
    exact = lg.amortization_gap(W, psi, x, type(q)(*(part.detach() for part in q)), mu)
    assert exact.mean() > 5
    assert (found["amortization gap"] - exact).abs().mean() < 0.5  # which is noise of the untrained encoder's ELBO
    assert_close(found["gap of a full covariance"].mean(), torch.zeros(()).double(), rtol=0, atol=0.05)
    off = (found["log p(x), importance"] - lg.log_evidence(W, psi, x, mu)).abs()
    assert (off < 5 * found["se of importance"]).all()
    levels = found["log p(x), importance"] - found["ELBO, encoder"]
    assert_close(sum(found[gap] for gap in GAPS), levels, rtol=0, atol=1e-12)
    assert_close(found["amortization gap"][0], found["amortization gap"][1], rtol=0, atol=0)
    whole = decomposed([model], x, effort)
    assert_close(whole["approximation gap"][0], found["approximation gap"][0], rtol=0, atol=1e-9)


def test_two_latents_by_quadrature(bernoulli):
    model, x = bernoulli
    log_p = bernoulli_log_evidence(model, x, 201).detach()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * X)
    assert_close(
        bernoulli_log_evidence(model, every, 201).detach().exp().sum(), torch.ones(()).double(), rtol=1e-6, atol=0
    )
    with torch.no_grad():
        log_joint, q = joint.of(model, x), model.encode(x)
        assert (gaussian_elbo(log_joint, q) < log_p).all()
        assert_close(gaussian_elbo(log_joint, q), gaussian_elbo(log_joint, q, 20), rtol=0, atol=1e-6)
        windows = posterior_windows(log_joint, [q, q], side=9)
    assert windows.log_density.shape == (N, 9, 9)
    assert windows.log_density.amax((1, 2)).eq(0).all()
    with pytest.raises(ValueError, match="model must have a BernoulliLikelihood, got GaussianLikelihood"):
        bernoulli_log_evidence(mlp_vae(X, [3], Z, linear_vae_model(X, Z, 1.0, generator(0, "a")).likelihood, 0), x, 9)


def test_what_is_sampled_is_near_what_is_so(bernoulli):
    model, x = bernoulli
    levels, errors, seen = exactly_decomposed(model, x, EFFORT)
    assert (levels["amortization gap"] > 0).all()
    assert all(error.abs().max() < 0.3 for error in errors.values())
    assert {len(value) for value in seen.values()} == {N}
    trust = certificates(decomposed([model], x, EFFORT, annealed=True))
    assert [tuple(one.shape) for one in trust["share"].values()] == [(1, N), (1, N), (1,)]
    assert [len(one) for unit in trust.values() for one in unit.values()] == [1] * 6


def test_a_search_that_goes_on_leaves_less(bernoulli):
    found = timed_inference(*bernoulli, EFFORT, [1, 20])
    assert list(found) == [("encoder", 0), ("prior", 1), ("encoder", 1), ("prior", 20), ("encoder", 20)]
    assert found["prior", 20].short.mean().abs() < 1e-3 < found["prior", 1].short.mean()
    assert found["encoder", 0].seconds.shape == (5,)


def test_bad_input(bernoulli):
    model, x = bernoulli
    with pytest.raises(ValueError, match="models must be one or more, got none"):
        decomposed([], x, EFFORT)
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1"):
        decomposed([model], x, EFFORT, chunk=0)
    with pytest.raises(ValueError, match="x must be finite"):
        decomposed([model], x / 0, EFFORT)
