"""Linear VAEs fitted without noise, against the closed forms that they must reach."""

import math

import numpy as np
import pytest
import torch

from vae.exact import linear_gaussian as lg
from vae.exact.shannon import bottleneck, gaussian_rate_distortion
from vae.exact.water import linear_decoded, rising_water
from vae.inference.linear_fit import fit, optima_on_source
from vae.models import linear_vae_model, stack
from vae.noise import generator
from vae.train import beta_elbo, exact_beta_elbo, losses_in_code, weights_of

SPECTRUM = [3.0, 1.0, 0.5, 0.25, 0.1]


def source(normal):
    return lg.principal_axes(normal(60, len(SPECTRUM)).double() * torch.tensor(SPECTRUM).sqrt())


def test_sigma_points_have_the_mean_and_the_covariance(normal):
    axes = source(normal)
    again = lg.principal_axes(lg.sigma_points(axes))
    torch.testing.assert_close(again.eigenvalues, axes.eigenvalues)
    torch.testing.assert_close(again.mean, axes.mean)
    spread = axes.axes.mT @ again.axes
    torch.testing.assert_close(spread.abs(), torch.eye(len(SPECTRUM), dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("latents", [2, 5])
def test_a_sweep_with_fixed_variance_ends_at_the_closed_form(latents):
    betas = [2.0, 7.0, 50.0]
    ends = optima_on_source(SPECTRUM, betas, latents, 0.1, 400)
    level = torch.tensor(betas, dtype=torch.float64) * ends["noise variance"]
    rate, distortion = bottleneck(SPECTRUM, level, latents)
    torch.testing.assert_close(ends["rate"], rate, atol=1e-4, rtol=0)
    torch.testing.assert_close(ends["distortion"], distortion, atol=1e-4, rtol=0)
    assert (ends["gained by the second half"] >= 0).all()
    for beta, r, d in zip(betas, rate, distortion, strict=True):
        best = lg.linear_vae(SPECTRUM, beta, 0.1, latents)
        assert (float(r), float(d)) == pytest.approx((best.rate, best.distortion), rel=1e-6)


def test_a_learned_variance_has_an_optimum_or_none():
    best = lg.learned_linear_vae(SPECTRUM, 2.0, 2)
    ends = optima_on_source(SPECTRUM, [2.0], 2, 0.5, 400, learned=True)
    assert float(ends["noise variance"]) == pytest.approx(best.noise_variance, rel=1e-4)
    assert lg.learned_linear_vae(SPECTRUM, 0.5, len(SPECTRUM)) is None


def test_one_model_is_fitted_to_the_spectrum(normal):
    axes, member = source(normal), {"beta": 2.0, "noise_variance": 0.1}
    rows = lg.sigma_points(axes)
    model = linear_vae_model(len(SPECTRUM), 3, 0.1, generator(0, "init")).double()
    fit(model, rows, member, 500)
    kl = model.encode(rows).kl_per_dim().mean(0).detach().sort(descending=True).values
    torch.testing.assert_close(kl, lg.linear_vae(axes.eigenvalues, 2.0, 0.1, 3).kl, atol=1e-5, rtol=0)


def test_the_exact_objective_is_what_the_sampled_one_estimates(normal):
    model = stack(lambda m: linear_vae_model(5, 2, 0.3, generator(0, "init")), [{}], dtype=torch.float64).member(0)
    x, eps = normal(7, 5).double(), normal(20_000, 7, 2).double()
    exact = exact_beta_elbo(model, x, None, {"beta": 1.5})
    sampled = torch.stack([beta_elbo(model, x, one, {"beta": 1.5}) for one in eps.split(100)])
    error = sampled.std(0) / math.sqrt(len(sampled))
    assert ((sampled.mean(0) - exact).abs() < 5 * error).all()
    declared = exact_beta_elbo(model, x, None, {"beta": 1.5, "noise_variance": 0.6})
    assert not torch.allclose(declared, exact)


@pytest.mark.parametrize(
    ("likelihood", "name", "reduction"),
    [
        ("gaussian", "SSE + KL", lambda log_lik, kl: (2 * log_lik.sum() - kl.sum()) / 11),
        ("gaussian", "MSE + KL", lambda log_lik, kl: 2 * log_lik.mean() - kl.sum() / 11),
        ("gaussian", "MSE + KL mean", lambda log_lik, kl: 2 * log_lik.mean() - kl.mean()),
        ("bernoulli", "BCE mean over pixels + KL", lambda log_lik, kl: log_lik.mean() - kl.sum() / 11),
        ("bernoulli", "BCE mean + KL mean", lambda log_lik, kl: log_lik.mean() - kl.mean()),
    ],
)
def test_losses_as_found_have_the_weights_of_their_reductions(likelihood, name, reduction):
    assert losses_in_code(likelihood, 13, 3)[name] == pytest.approx(weights_of(reduction, 11, 13, 3), rel=1e-6)


def test_a_linear_vae_decodes_the_mean_beyond_collapse_and_all_before(normal):
    axes = source(normal)
    x, top = normal(4, len(SPECTRUM)).double(), float(axes.eigenvalues[0])
    dry, drowned = linear_decoded(axes, x, [1e-12, 1.01 * top])
    torch.testing.assert_close(dry, x)
    torch.testing.assert_close(drowned, axes.mean.expand_as(x))


def test_rising_water_starts_below_the_spectrum_and_ends_beyond_it(normal):
    axes = source(normal)
    stops = rising_water(axes, torch.zeros(2, len(SPECTRUM)), 6)
    assert stops["active"][0] == len(SPECTRUM)
    assert stops["active"][-1] == 0
    assert (np.diff(stops["distortion"]) >= 0).all()
    assert stops["decoded"].dtype == np.uint8
    shannon = gaussian_rate_distortion(axes.eigenvalues, distortion=stops["curve"][:, 0])
    torch.testing.assert_close(shannon.rate, torch.tensor(stops["curve"][:, 1]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optima_on_source(SPECTRUM, [1.0], 2, 0.1, 1), "max_iter must be an integer of at least 2, got 1"),
        (lambda: losses_in_code("poisson", 5, 2), "likelihood must be 'gaussian' or 'bernoulli', got 'poisson'"),
        (lambda: bottleneck(SPECTRUM, [1.0], 0), "latent_dim must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
