from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from vae.data.surfaces import flat_entropy, surfaces
from vae.diagnostics.bound import bound_of, noise_for
from vae.diagnostics.decoder import direction_lengths, with_best_variance
from vae.diagnostics.information import aggregate_kl, latents_of, posteriors, rate_per_dim
from vae.exact.linear_gaussian import linear_vae
from vae.models.ensemble import stack
from vae.models.likelihoods import DiagonalGaussianLikelihood, GaussianLikelihood
from vae.models.pruning import linear_cost
from vae.models.vae import linear_vae_model, mlp_vae
from vae.noise import draw, generator
from vae.train.objectives import elbo, terms

X, Z, N, DRAWS = 5, 3, 23, 7


@pytest.fixture(params=["one variance", "one for each dimension"])
def ensemble(request):
    def build(member):
        shared = request.param == "one variance"
        likelihood = GaussianLikelihood(0.7, learned=True) if shared else DiagonalGaussianLikelihood(X)
        return mlp_vae(X, [11], Z, likelihood, member["seed"])

    return stack(build, [{"seed": 0, "beta": 0.5}, {"seed": 1, "beta": 3.0}], dtype=torch.float64)


@pytest.fixture
def x():
    return draw(0, "data", N, X, dtype=torch.float64)


def test_the_bound_of_an_ensemble_is_that_of_its_members(ensemble, x):
    found = bound_of(ensemble, x, n_draws=DRAWS, purpose="test")
    eps = noise_for(ensemble, x, DRAWS, "test")
    assert eps.shape == (N, DRAWS, Z)
    assert eps.dtype == torch.float64
    for i, member in enumerate(ensemble.members):
        model = ensemble.member(i)
        t = terms(model, x, model.encode(x), eps.movedim(1, 0))
        assert_close(found["ELBO"][i], elbo(t))
        assert_close(found["beta-ELBO"][i], elbo(t, member["beta"]))
        assert_close(found["log p(x|z)"][i] - found["KL to prior"][i], found["ELBO"][i])
        error = (x - model.decoder(model.encode(x).rsample(eps.movedim(1, 0)))).square().mean((0, 2))
        assert_close(found["squared error per dimension"][i], error)
        used = (rate_per_dim(model.encode(x)) > 0.1).sum()
        assert found["latents in use"][i] == used


def test_no_variance_is_better_than_the_best(ensemble, x):
    def bound(one):
        return bound_of(one, x, n_draws=DRAWS, purpose="train")["ELBO"].mean(1)

    name = "likelihood.log_variance"
    best = with_best_variance(ensemble, x, n_draws=DRAWS, purpose="train")
    assert (bound(best) >= bound(ensemble)).all()
    for shift in (-1e-3, 1e-3):
        moved = replace(best, params=best.params | {name: best.params[name] + shift})
        lost = torch.full((2,), X * shift**2 / 4, dtype=torch.float64)  # the second derivative in ln sigma^2 is -X / 2
        assert_close(bound(best) - bound(moved), lost, rtol=1e-2, atol=0)
    assert all(ensemble.params[k] is best.params[k] for k in ensemble.params if k != name)


def test_a_fixed_variance_has_no_best(x):
    fixed = stack(lambda member: mlp_vae(X, [11], Z, GaussianLikelihood(1.0), member["seed"]), [{"seed": 0}])
    with pytest.raises(ValueError, match="must have a learned variance"):
        with_best_variance(fixed, x, n_draws=DRAWS, purpose="train")


def test_the_directions_of_a_linear_decoder_are_those_of_its_weight():
    def build(member):
        return linear_vae_model(X, Z, 1.0, generator(member["seed"], "init"))

    ensemble = stack(build, [{"seed": 0}, {"seed": 1}], dtype=torch.float64)
    lengths = direction_lengths(ensemble, draw(0, "prior", N, Z))
    weights = ensemble.params["decoder.0.weight"]
    assert_close(lengths, torch.linalg.svdvals(weights)[:, None].expand(2, N, Z))


def test_surfaces_have_their_dimension_and_their_noise():
    rank, dim, noise = 2, 7, {"curved": 0.1, "flat": 0.3}
    found = surfaces(4001, rank, dim, noise["curved"], noise["flat"])
    assert torch.linalg.matrix_rank(found["flat"], rtol=1e-5) == rank
    assert torch.linalg.matrix_rank(found["curved"], rtol=1e-5) == dim
    for name, sd in noise.items():
        off = found[f"{name}, noisy"] - found[name]
        assert abs(float(off.square().mean()) / sd**2 - 1) < 5 * (2 / off.numel()) ** 0.5
    loadings = draw(0, "loadings", rank, dim).double()
    known = MultivariateNormal(torch.zeros(dim).double(), loadings.mT @ loadings + 0.09 * torch.eye(dim).double())
    assert flat_entropy(rank, dim, 0.3) == pytest.approx(float(known.entropy()))


def test_what_a_latent_carries_has_two_parts(ensemble, x):
    q = posteriors(ensemble, x)
    assert q.mean.shape == (2, N, Z)
    found = latents_of(q)
    assert_close(found["rate"], rate_per_dim(q))
    assert_close(found["aggregated KL"], aggregate_kl(q))
    assert_close(found["information"] + found["aggregated KL"], found["rate"])


@pytest.mark.parametrize("size", [2, 3])
def test_the_cost_of_pruning_a_linear_latent(size):
    spectrum = torch.tensor([9.0, 4.0, 1.7, 0.2], dtype=torch.float64)
    with_it, without = (linear_vae(spectrum, 1.0, 0.8, n) for n in (size, size - 1))
    assert linear_cost(with_it.kl[-1].numpy()) == pytest.approx(with_it.objective - without.objective)
