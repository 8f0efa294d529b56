import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from vae.gaussian import DiagonalGaussian, FullGaussian, kl, logmeanexp, relative_weight_variance

K, B, Z = 7, 5, 3


@pytest.fixture
def diagonal(normal):
    return DiagonalGaussian(normal(B, Z), 0.3 * normal(B, Z))


@pytest.fixture
def full(normal):
    scale = torch.tril(0.4 * normal(B, Z, Z), -1) + torch.diag_embed((0.2 * normal(B, Z)).exp())
    return FullGaussian(normal(B, Z), scale)


def test_log_prob_is_scipys(diagonal, full, normal):
    z = normal(K, B, Z)
    for q in (diagonal, full):
        got = q.log_prob(z)
        for b in range(B):
            law = stats.multivariate_normal(q.mean[b].numpy(), q.covariance()[b].numpy())
            assert_close(got[:, b], torch.from_numpy(law.logpdf(z[:, b].numpy())), rtol=1e-12, atol=1e-12)
            assert_close(float(q.entropy()[b]), law.entropy(), rtol=1e-12, atol=1e-12)


def test_samples_have_the_declared_moments(full, normal):
    n = 200_000
    z = full.rsample(normal(n, B, Z))
    covariance = full.covariance()
    se_mean = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / math.sqrt(n)
    assert ((z.mean(0) - full.mean).abs() < 5 * se_mean).all()
    centred = z - full.mean
    products = centred[..., :, None] * centred[..., None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_whitening_undoes_sampling_and_gradients_are_pulled_back(diagonal, full, normal):
    eps = normal(K, B, Z).requires_grad_()
    for q in (diagonal, full):
        z = q.rsample(eps)
        assert_close(q.whiten(z), eps)
        assert_close(q.whiten(z[0]), eps[0])
        (expected,) = torch.autograd.grad(z.sin().sum(), eps)
        assert_close(q.pull_back(z.cos()), expected)


def test_one_covariance_may_serve_all_data(full, normal):
    eps, scale = normal(K, B, Z), full.scale_tril[:1]
    shared, each = FullGaussian(full.mean, scale), FullGaussian(full.mean, scale.expand(B, Z, Z))
    assert_close(shared.rsample(eps), each.rsample(eps))
    assert_close(shared.log_prob(eps), each.log_prob(eps))
    assert_close(shared.rsample(eps[0]), each.rsample(eps[0]))


def test_kl_to_the_prior_is_the_general_kl(diagonal, full):
    prior = FullGaussian(torch.zeros(Z).double(), torch.eye(Z).double())
    for q in (diagonal, full):
        assert_close(q.kl_to_standard_normal(), kl(q, prior), rtol=1e-12, atol=1e-12)
    assert_close(diagonal.kl_per_dim().sum(-1), diagonal.kl_to_standard_normal())


def test_kl_is_the_mean_log_ratio(diagonal, full, normal):
    z = diagonal.rsample(normal(100_000, B, Z))
    ratio = diagonal.log_prob(z) - full.log_prob(z)
    se = ratio.std(0) / math.sqrt(len(ratio))
    assert ((ratio.mean(0) - kl(diagonal, full)).abs() < 5 * se).all()


def test_kl_near_the_prior_keeps_its_digits():
    q = DiagonalGaussian(torch.zeros(1).double(), torch.tensor([1e-9], dtype=torch.float64))
    assert_close(float(q.kl_to_standard_normal()), 0.25e-18, rtol=1e-6, atol=0.0)


def test_families_agree_where_they_meet(diagonal, normal):
    same = FullGaussian(diagonal.mean, torch.diag_embed((0.5 * diagonal.log_var).exp()))
    eps = normal(K, B, Z)
    assert_close(diagonal.rsample(eps), same.rsample(eps))
    assert_close(diagonal.log_prob(eps), same.log_prob(eps))
    assert_close(diagonal.entropy(), same.entropy())


def test_logmeanexp_reads_the_number_of_samples_and_does_not_overflow(normal):
    x = normal(K, B)
    assert_close(logmeanexp(x), x.exp().mean(0).log())
    assert_close(logmeanexp(x + 5000), logmeanexp(x) + 5000)


def test_logmeanexp_of_single_precision_loses_nothing_to_the_sum(normal):
    x = normal(20_011).float()
    assert logmeanexp(x).dtype == torch.float32
    assert logmeanexp(x) == logmeanexp(x.double()).float()


def test_relative_weight_variance_against_sampling(normal):
    p = FullGaussian(normal(B, Z) * 0.2, torch.linalg.cholesky(torch.eye(Z).double() * 0.7 + 0.1).expand(B, Z, Z))
    q = DiagonalGaussian(torch.zeros(B, Z).double(), torch.zeros(B, Z).double())
    z = q.rsample(normal(400_000, B, Z))
    excess = (p.log_prob(z) - q.log_prob(z)).exp().sub(1).square()
    se = excess.std(0) / math.sqrt(len(excess))
    assert ((excess.mean(0) - relative_weight_variance(p, q)).abs() < 5 * se).all()


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, 0.0), (2.0, 2 / math.sqrt(3) - 1), (0.5, math.inf), (0.3, math.inf)]
)
def test_relative_weight_variance_in_one_dimension(ratio, expected):
    """q of `ratio` times p's variance: 1 + chi2 = ratio / sqrt(2 ratio - 1), infinite from one half downwards."""
    p = FullGaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    q = DiagonalGaussian(torch.zeros(1).double(), torch.tensor([math.log(ratio)], dtype=torch.float64))
    assert_close(float(relative_weight_variance(p, q)), expected, rtol=1e-12, atol=1e-12)


def test_dtype_is_kept(diagonal, full):
    for q in (diagonal, full):
        single = type(q)(*(t.float() for t in q))
        assert single.kl_to_standard_normal().dtype == torch.float32
        assert single.entropy().dtype == torch.float32
