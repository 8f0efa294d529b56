import math

import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from vae.diagnostics.bound import likelihood_bounds
from vae.diagnostics.decoder import residual_threshold
from vae.diagnostics.information import (
    active,
    active_units,
    aggregate_kl,
    information_per_dim,
    mutual_information,
    pointwise_information,
    rate_per_dim,
    variance_in_nats,
)
from vae.exact.linear_gaussian import collapse_threshold
from vae.gaussian import DiagonalGaussian
from vae.models.decoders import SkipDecoder
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.vae import VAE, mlp_vae
from vae.noise import generator

B, Z = 13, 3


def normal_pdf(z, mean, variance):
    return math.exp(-((z - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_aggregate_kl_against_adaptive_quadrature(normal, scale):
    q = DiagonalGaussian(normal(B, Z), 0.5 * normal(B, Z) - 1 + 2 * math.log(scale))
    got = aggregate_kl(q)
    for j in range(Z):
        means, variances = q.mean[:, j].tolist(), q.log_var[:, j].exp().tolist()

        def integrand(z, means=means, variances=variances):
            density = sum(normal_pdf(z, m, v) for m, v in zip(means, variances, strict=True)) / B
            return density * math.log(density / normal_pdf(z, 0, 1)) if density > 0 else 0.0

        expected, _ = integrate.quad(integrand, -12, 12, limit=4000, points=sorted(means), epsabs=1e-11)
        assert float(got[j]) == pytest.approx(expected, abs=1e-8)


def test_aggregate_kl_is_nan_where_its_nodes_are_too_few(normal):
    q = DiagonalGaussian(normal(B, Z), torch.zeros(B, Z, dtype=torch.float64))
    q.log_var[0, 1] = -12.0
    assert aggregate_kl(q).isfinite().tolist() == [True, False, True]
    fine = aggregate_kl(q, n_nodes=20_001)
    assert fine.isfinite().all()
    assert_close(fine[0], aggregate_kl(q)[0], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="n_nodes must be an integer of at least 3, got 2"):
        aggregate_kl(q, n_nodes=2)


def test_members_and_maps_give_the_same_as_one_by_one(normal, monkeypatch):
    q = DiagonalGaussian(normal(2, B, Z), normal(2, B, Z))
    one = [DiagonalGaussian(q.mean[i], q.log_var[i]) for i in (0, 1)]
    for f in (aggregate_kl, information_per_dim, rate_per_dim, active):
        together = f(q)
        assert together.shape == (2, Z)
        for i in (0, 1):
            assert_close(together[i], f(one[i]), rtol=1e-12, atol=1e-12)
        assert_close(torch.vmap(f)(q), together, rtol=1e-12, atol=1e-12)
    together = pointwise_information(q, seed=0)
    assert together.shape == (2, B)
    before = aggregate_kl(q), together
    monkeypatch.setattr(
        "vae.diagnostics.information.ROWS", 5 * B * Z
    )  # pieces that do not divide the data or the nodes
    assert_close((aggregate_kl(q), pointwise_information(q, seed=0)), before, rtol=1e-12, atol=1e-12)
    for i in (0, 1):
        assert_close(together[i], pointwise_information(one[i], seed=0), rtol=1e-12, atol=1e-12)
        estimate = mutual_information(one[i], seed=0)
        assert estimate.value == pytest.approx(float(together[i].mean()), rel=1e-12)
        assert estimate.se == pytest.approx(float(together[i].std()) / math.sqrt(B), rel=1e-12)


def test_pointwise_information_is_its_definition(normal):
    q = DiagonalGaussian(normal(B, Z), normal(Z).expand(B, Z))  # one variance for all data, not copied
    found = mutual_information(q, seed=0)
    draws = []
    for seed in range(400):
        draws.append(float(pointwise_information(q, seed=seed).mean()))
    draws = torch.tensor(draws)
    z = q.rsample(normal(40_000, B, Z))
    log_q = q.log_prob(z)
    log_aggregate = torch.stack([DiagonalGaussian(m, q.log_var[0]).log_prob(z) for m in q.mean]).exp().mean(0).log()
    samples = (log_q - log_aggregate).mean(1)
    expected, se = float(samples.mean()), float(samples.std() / 200)
    assert abs(float(draws.mean()) - expected) < 5 * (float(draws.std()) / 20 + se)
    assert abs(found.value - expected) < 5 * found.se


def test_rate_is_information_plus_aggregate_kl_in_one_dimension(normal):
    q = DiagonalGaussian(2 * normal(1009, 1), torch.full((1009, 1), -2.0, dtype=torch.float64))
    information = mutual_information(q, seed=0)
    rate = float(q.kl_to_standard_normal().mean())
    assert abs(rate - information.value - float(aggregate_kl(q)[0])) < 5 * information.se


def test_rate_of_a_latent_is_its_information_plus_its_aggregate_kl(normal):
    """The identity for each latent alone, its information sampled from that latent's posteriors."""
    q = DiagonalGaussian(normal(B, Z), normal(B, Z) - 1)
    n = 40_000
    z = q.rsample(normal(n, B, Z))
    log_q = -0.5 * ((z - q.mean).square() / q.log_var.exp() + q.log_var)
    others = -0.5 * ((z[:, :, None] - q.mean).square() / q.log_var.exp() + q.log_var)  # (n, B, B, Z)
    per_draw = (log_q - others.exp().mean(2).log()).mean(1)  # (n, Z)
    se = per_draw.std(0) / math.sqrt(n)
    assert ((per_draw.mean(0) - information_per_dim(q)).abs() < 5 * se).all()
    assert_close(information_per_dim(q) + aggregate_kl(q), rate_per_dim(q))
    assert (information_per_dim(q) <= math.log(B)).all()
    assert (rate_per_dim(q) == q.kl_per_dim().mean(0)).all()


def test_a_gaussian_aggregate_has_its_closed_form(normal):
    """Many data whose means are normal quantiles: q(z) is nearly the prior, and I = R = the nats of the variance."""
    n, variance = 4001, 0.7
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    mean = quantiles / quantiles.square().mean().sqrt() * math.sqrt(variance)
    q = DiagonalGaussian(mean[:, None], torch.full((n, 1), math.log(1 - variance), dtype=torch.float64))
    assert float(aggregate_kl(q)[0]) == pytest.approx(0, abs=1e-5)
    assert float(information_per_dim(q)[0]) == pytest.approx(variance_in_nats(variance), abs=1e-5)
    assert float(rate_per_dim(q)[0]) == pytest.approx(variance_in_nats(variance), abs=1e-12)


def test_active_units_in_nats():
    assert variance_in_nats(0.01) == pytest.approx(0.005025, abs=1e-6)
    assert variance_in_nats(0.0) == 0.0
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="variance must lie from 0 to below 1"):
            variance_in_nats(wrong)


def test_activity_is_of_means_with_the_variance_over_n():
    mean = torch.tensor([[0.0, 0.0, 5.0], [0.201, 0.199, 5.0]], dtype=torch.float64)
    q = DiagonalGaussian(mean, torch.zeros_like(mean))
    assert active(q).tolist() == [True, False, False]  # 0.1005^2 and 0.0995^2
    assert active_units(q) == 1
    assert active_units(q, threshold=0.02) == 0


def test_aggregate_kl_is_at_most_the_mean_kl(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    assert (aggregate_kl(q) <= q.kl_per_dim().mean(0) + 1e-12).all()


def test_an_unused_latent_has_neither_information_nor_activity():
    q = DiagonalGaussian(torch.full((B, Z), 0.5, dtype=torch.float64), torch.zeros(B, Z, dtype=torch.float64))
    assert_close(aggregate_kl(q), torch.full((Z,), 0.125, dtype=torch.float64))  # yet its KL is not zero
    assert mutual_information(q, seed=0).value == pytest.approx(0, abs=1e-12)
    assert active_units(q) == 0


def test_mutual_information_reports_its_cap(normal):
    q = DiagonalGaussian(100 * normal(B, Z), torch.full((B, Z), -6.0, dtype=torch.float64))
    estimate = mutual_information(q, seed=0)
    assert estimate.cap == math.log(B)
    assert estimate.value == pytest.approx(math.log(B))  # every datum told apart: it cannot say more


# Decoders that may read x, and ones that ignore z


def test_the_residuals_of_a_decoder_at_the_datas_mean_have_the_datas_threshold(normal):
    x = (normal(500, 3) + normal(500, 1) > 0.4).float().double()
    model = mlp_vae(3, [5], 2, BernoulliLikelihood(), seed=0).double()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(torch.logit(x.mean(0)))
        found = residual_threshold(model, x)
    assert_close(found.item(), collapse_threshold(x, "bernoulli"), rtol=1e-6, atol=0)


def test_the_residuals_of_a_skip_are_what_it_leaves(normal):
    """A decoder that says the first pixel, and of the others their mean, leaves the others' correlations."""
    x = (normal(400, 4) + normal(400, 1) > 0).float().double()
    skip = SkipDecoder(2, 4, [], generator(0, "init")).double()
    model = VAE(mlp_vae(4, [5], 2, BernoulliLikelihood(), seed=0).double().encoder, skip, BernoulliLikelihood())
    with torch.no_grad():
        skip.net[0].weight.zero_()
        skip.net[0].weight[0, 2] = 16.0
        skip.net[0].bias.copy_(torch.cat([torch.tensor([-8.0]), torch.logit(x[:, 1:].mean(0))]))
        found = residual_threshold(model, x)
    assert_close(found.item(), collapse_threshold(x[:, 1:], "bernoulli"), rtol=1e-3, atol=0)


def test_likelihood_bounds_are_a_bound_and_of_a_skip_no_likelihood(normal):
    x, eps = (normal(7, 5) > 0).double(), normal(7, 11, 2)
    model = mlp_vae(5, [3], 2, BernoulliLikelihood(), seed=0).double()
    found = likelihood_bounds(model, x, eps)
    q = model.encode(x)
    for i in range(7):
        z = q.mean[i] + (0.5 * q.log_var[i]).exp() * eps[i]
        log_lik = model.likelihood.log_prob(x[i], model.decoder(z))
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(q.mean[i], (0.5 * q.log_var[i]).exp()), torch.distributions.Normal(0.0, 1.0)
        ).sum()
        assert_close(found["KL"][i], kl)
        assert_close(found["ELBO"][i], log_lik.mean() - kl)
        log_ratio = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_ratio = log_ratio - torch.distributions.Normal(q.mean[i], (0.5 * q.log_var[i]).exp()).log_prob(z).sum(-1)
        assert_close(found["log p(x)"][i], (log_lik + log_ratio).logsumexp(0) - math.log(11))
    skip = VAE(model.encoder, SkipDecoder(2, 5, [3], generator(0, "init")).double(), BernoulliLikelihood())
    assert set(likelihood_bounds(skip, x, eps)) == {"KL", "bound on log p(x|h(x))"}
