"""A linear VAE beside its exact solution, and a decoder of two latents beside quadrature."""

import math

import pytest
import torch
from torch.testing import assert_close

from vae.diagnostics.linear import decoder_of, exact_bounds, exact_terms, importance_climb
from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian
from vae.inference.quadrature import gaussian_rate_and_distortion, quadrature_curve
from vae.models import linear_vae_model, stack
from vae.noise import generator

E, N, X, Z, PSI = 2, 11, 7, 3, 0.4


@pytest.fixture
def ensemble():
    return stack(
        lambda member: linear_vae_model(X, Z, PSI, generator(member["seed"], "init")),
        [{"seed": seed} for seed in range(E)],
        dtype=torch.float64,
    )


def test_what_the_elbo_lacks_is_the_divergence_computed_without_it(ensemble, normal):
    x = normal(N, X)
    found = ensemble.map_rows(exact_bounds, x, normal(N, Z))
    assert_close(found["log p(x)"] - found["ELBO"], found["KL to posterior"], rtol=0, atol=1e-10)
    assert_close(found["KL of a latent"].sum(-1), found["KL to prior"], rtol=0, atol=1e-12)
    assert (found["KL to posterior"] > 0).all()


def test_sampled_terms_are_the_exact_ones_on_average(ensemble, normal):
    count = 20011
    x = normal(1, X).expand(count, -1)
    found = ensemble.map_rows(exact_bounds, x, normal(count, Z))
    for sampled, exact in {"sampled ELBO": "ELBO", "sampled KL": "KL to prior"}.items():
        error = found[sampled] - found[exact]
        assert (error.mean(1).abs() < 5 * error.std(1) / math.sqrt(count)).all()


def test_the_reconstruction_is_the_squared_error_in_nats(ensemble, normal):
    found = ensemble.map_rows(exact_terms, normal(N, X))
    constant = -0.5 * X * math.log(2 * math.pi * PSI)
    assert_close(found["sigma^2"], torch.full((E, N), PSI, dtype=torch.float64), rtol=1e-7, atol=0)
    assert_close(found["reconstruction"], constant - 0.5 * found["squared error"] / PSI, rtol=1e-6, atol=0)


def test_one_weight_is_the_elbo_and_theory_is_half_the_variance_over_k(ensemble, normal):
    x, draws, again = normal(N, X), 64 * 64, 512
    climb = importance_climb(ensemble, x, draws)
    assert list(climb.gaps) == [1, 4, 16, 64]
    found = ensemble.map_rows(exact_bounds, x.repeat_interleave(again, 0), normal(N * again, Z))
    exact, sampled = (found[name].unflatten(1, (N, again)) for name in ("KL to posterior", "sampled gap"))
    control = torch.where(climb.variance.isfinite().all(1, keepdim=True), climb.variance, 0.0)
    se = (sampled.std(-1) + control.sqrt()) / math.sqrt(draws)
    assert ((climb.gaps[1]["log p(x) - L_K"] - exact[..., 0]).abs() < 5 * se).all()
    for k, gaps in climb.gaps.items():
        theory = climb.variance / (2 * k)
        assert_close(gaps["log p(x) - L_K"] - gaps["log p(x) - L_K, less theory"], theory, rtol=1e-9, atol=1e-12)
    alone = importance_climb(ensemble.take([1]), x, draws)
    assert_close(alone.gaps[16]["log p(x) - L_K"][0], climb.gaps[16]["log p(x) - L_K"][1], rtol=0, atol=1e-10)


def plane(normal):
    """A linear decoder of two latents, data, and slopes."""
    W, b = 0.7 * normal(X, 2), normal(X)
    return W, b, normal(N, X), [0.3, 2.0]


def test_quadrature_has_a_linear_decoders_closed_form(normal):
    W, b, x, slopes = plane(normal)
    found = quadrature_curve(lambda z: z @ W.mT + b, x, slopes, 301)
    for i, slope in enumerate(slopes):
        psi = 1 / (2 * slope)
        least = -lg.log_evidence(W, psi, x, b) - 0.5 * X * math.log(2 * math.pi * psi)
        best = lg.posterior(W, psi, x, b)
        left = (x - b - best.mean @ W.mT).square().sum(1) + (W.mT @ W * best.covariance()).sum((-1, -2))
        assert_close(found.rate[i] + slope * found.distortion[i], least, rtol=0, atol=1e-6)
        assert_close(found.distortion[i], left, rtol=0, atol=1e-6)
    assert found.change.abs().max() < 1e-6
    assert found.edge.max() < 1e-6


def test_a_gaussian_code_has_its_closed_form(normal):
    W, b, x, slopes = plane(normal)
    q = DiagonalGaussian(normal(len(slopes), N, 2), normal(len(slopes), N, 2))
    rate, distortion = gaussian_rate_and_distortion(lambda z: z @ W.mT + b, x, q)
    bias = (x - b - q.mean @ W.mT).square().sum(-1)
    assert_close(distortion, bias + (q.log_var.exp() @ W.square().mT).sum(-1), rtol=1e-10, atol=0)
    assert_close(rate, q.kl_to_standard_normal())


def test_quadrature_refuses_an_even_grid(normal):
    with pytest.raises(ValueError, match="n_nodes must be odd, got 50"):
        quadrature_curve(lambda z: z, normal(N, 2), [1.0], 50)


def test_the_decoder_is_what_the_exact_functions_take(ensemble, normal):
    model = ensemble.member(0)
    z = normal(1, N, Z)
    exact = decoder_of(model)
    assert_close(model.decoder(z), z @ exact["W"].mT + exact["mu"])
