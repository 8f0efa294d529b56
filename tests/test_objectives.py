import math

import pytest
import torch
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, relative_weight_variance
from vae.models.vae import linear_vae_model
from vae.noise import generator
from vae.train.objectives import Terms, check_numbers, elbo, free_bits, iwae, minimum_rate, remedied_elbo, terms

K, B, X, Z = 7, 5, 11, 3


@pytest.fixture
def model(normal):
    model = linear_vae_model(X, Z, 0.5, generator(0, "init")).double().requires_grad_(False)
    model.decoder[0].weight.copy_(normal(X, Z))
    model.decoder[0].bias.copy_(normal(X))
    return model


@pytest.fixture
def exact(model):
    return {"W": model.decoder[0].weight, "mu": model.decoder[0].bias, "psi": model.likelihood.log_variance.exp()}


def test_log_weights_are_constant_under_the_exact_posterior(model, exact, normal):
    x = normal(B, X)
    t = terms(model, x, lg.posterior(x=x, **exact), normal(K, B, Z))
    assert_close(t.log_w, lg.log_evidence(x=x, **exact).expand(K, B), rtol=1e-11, atol=1e-11)
    assert_close(iwae(t), lg.log_evidence(x=x, **exact), rtol=1e-11, atol=1e-11)


def test_iwae_of_one_sample_is_the_elbo_with_a_sampled_kl(model, normal):
    x = normal(B, X)
    t = terms(model, x, model.encode(x), normal(1, B, Z))
    assert_close(iwae(t), (t.log_px_z + t.log_pz - t.log_qz)[0])
    assert_close(elbo(t), t.log_px_z[0] - t.kl)


def test_elbo_estimates_the_exact_elbo_without_bias(model, exact, normal):
    x = normal(B, X)
    q = model.encode(x)
    t = terms(model, x, q, normal(50_000, B, Z))
    exact_elbo = lg.expected_log_lik(exact["W"], exact["psi"], x, q, exact["mu"]) - q.kl_to_standard_normal()
    for samples in (t.log_px_z - t.kl, t.log_w):  # analytic and sampled KL
        se = samples.std(0) / math.sqrt(len(samples))
        assert ((samples.mean(0) - exact_elbo).abs() < 5 * se).all()
    assert_close(elbo(t), (t.log_px_z - t.kl).mean(0))


def test_beta_weighs_the_kl_alone(model, normal):
    x = normal(B, X)
    t = terms(model, x, model.encode(x), normal(K, B, Z))
    assert_close(elbo(t, 4.0), elbo(t) - 3 * t.kl)
    assert_close(elbo(t, torch.tensor(0.0)), t.log_px_z.mean(0))


def test_bounds_rise_with_k_towards_log_p(model, exact, normal):
    x = normal(B, X)
    q = lg.posterior(x=x, **exact)
    q = DiagonalGaussian(q.mean + 0.1, q.covariance().diagonal(dim1=-2, dim2=-1).log() + 0.4)
    log_p = lg.log_evidence(x=x, **exact)
    t = terms(model, x, q, normal(64 * 4000, B, Z))
    log_w = t.log_w.view(64, 4000, B)
    previous = None
    for k in (1, 2, 8, 64):
        values = iwae(Terms(log_w[:k], torch.zeros(()), torch.zeros(()), t.kl))  # (4000, B): k samples each
        mean, se = values.mean(0), values.std(0) / math.sqrt(4000)
        assert (mean < log_p + 5 * se).all()
        if previous is not None:
            assert (mean > previous).all()
        previous = mean
    # K (log p - L_K) -> half the relative variance of the weights
    expected = 0.5 * relative_weight_variance(lg.posterior(x=x, **exact), q)
    assert ((64 * (log_p - mean) - expected).abs() < 5 * 64 * se + 0.15 * expected).all()


def test_gradient_of_the_elbo_at_the_exact_posterior_is_that_of_log_p(model, exact, normal):
    """Fisher's identity: with q the posterior, the ELBO's gradient in the decoder is the likelihood's own."""
    x = normal(B, X)
    q = lg.posterior(x=x, **exact)
    W = exact["W"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lg.log_evidence(W, exact["psi"], x, exact["mu"]).sum(), W)
    model.decoder[0].weight.requires_grad_()
    n = 40_000
    eps = normal(n, B, Z)
    eps = torch.cat([eps, -eps])
    (estimate,) = torch.autograd.grad(elbo(terms(model, x, q, eps)).sum(), model.decoder[0].weight)
    assert_close(estimate, gradient, rtol=0.02, atol=0.02 * float(gradient.abs().max()))


def test_free_bits_are_the_maximum_per_latent_after_the_mean(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    kl = q.kl_per_dim().mean(0)
    allowance = float(kl.sort().values[:2].mean())  # above the least, below the others
    expected = sum(max(allowance, float(value)) for value in kl)
    for given in (allowance, torch.tensor(allowance, dtype=torch.float64)):
        assert_close(free_bits(q, given), torch.full((B,), expected, dtype=torch.float64))
    before_the_mean = q.kl_per_dim().clamp(min=allowance).sum(-1).mean()
    assert expected < float(before_the_mean) - 1e-3
    assert_close(free_bits(q, 0.0), q.kl_to_standard_normal().mean().expand(B))


def test_a_latent_below_its_allowance_costs_a_constant(normal):
    mean, log_var = normal(B, Z).requires_grad_(), normal(B, Z).requires_grad_()
    q = DiagonalGaussian(mean, log_var)
    kl = q.kl_per_dim().mean(0).detach()
    least = int(kl.argmin())
    (slope,) = torch.autograd.grad(free_bits(q, float(kl.sort().values[:2].mean())).mean(), mean)
    expected = mean.detach() / B
    expected[:, least] = 0
    assert_close(slope, expected)


def test_a_minimum_rate_is_of_all_latents_together(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    rate = float(q.kl_to_standard_normal().mean())
    assert_close(minimum_rate(q, rate - 0.1), torch.full((B,), rate, dtype=torch.float64))
    assert_close(minimum_rate(q, rate + 0.1), torch.full((B,), rate + 0.1, dtype=torch.float64))
    assert minimum_rate(lg.posterior(normal(X, Z), 1.0, normal(B, X)), 1e3).shape == (B,)


def test_what_is_free_replaces_the_kl_of_the_terms(model, normal):
    x = normal(B, X)
    q = model.encode(x)
    t = terms(model, x, q, normal(K, B, Z))
    free = elbo(t._replace(kl=free_bits(q, 100.0)), 2.0)
    assert_close(free, t.log_px_z.mean(0) - 2 * 100.0 * Z)
    assert_close(elbo(t._replace(kl=free_bits(q, 0.0))).mean(), elbo(t).mean())


def test_remedies_are_numbers_of_a_member(model, normal):
    x, eps = normal(B, X), normal(K, B, Z)
    q = model.encode(x)
    t = terms(model, x, q, eps)
    plain = {"beta": 1.0, "free_nats": 0.0, "minimum_rate": 0.0, "cycles": 1, "rise": 0.0, "progress": 0.3}
    assert_close(remedied_elbo(model, x, eps, plain).mean(), elbo(t).mean())
    warm = plain | {"beta": 4.0, "cycles": 2, "rise": 0.8}  # 0.6 of the first of two cycles, so 3/4 of the weight
    assert_close(remedied_elbo(model, x, eps, warm).mean(), elbo(t, 3.0).mean())
    for change, kl in (({"free_nats": 2.0}, free_bits(q, 2.0)), ({"minimum_rate": 50.0}, minimum_rate(q, 50.0))):
        assert_close(remedied_elbo(model, x, eps, plain | change), elbo(t._replace(kl=kl)))


def test_divergence_is_not_clamped_away(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    q.mean[0, 0] = math.nan
    assert free_bits(q, 0.5).isnan().all()
    assert minimum_rate(q, 0.5).isnan().all()


def test_impossible_numbers_are_refused_by_name(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    with pytest.raises(ValueError, match="free_nats must be finite and not negative, got -1"):
        free_bits(q, -1)
    with pytest.raises(ValueError, match="minimum_rate must be finite and not negative, got inf"):
        minimum_rate(q, math.inf)
    for name in ("beta", "learning_rate", "free_nats", "minimum_rate", "cycles", "rise", "progress"):
        with pytest.raises(ValueError, match=f"{name} must .* got True"):
            check_numbers({name: True})
    check_numbers({"beta": 0, "cycles": 3, "rise": 1.0, "seed": -1, "name": "anything"})
