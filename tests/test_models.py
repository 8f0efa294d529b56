import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood, DiagonalGaussianLikelihood, GaussianLikelihood
from vae.models.networks import CommittedEncoder, LinearEncoder, MLPEncoder, mlp
from vae.models.vae import VAE, linear_vae_model
from vae.noise import generator

K, B, X, Z = 7, 5, 11, 3


def stream():
    return generator(0, "init")


def test_gaussian_likelihood_is_scipys_with_its_constant(normal):
    x, out = normal(B, X), normal(K, B, X)
    got = GaussianLikelihood(0.37).double().log_prob(x, out)
    expected = stats.norm(out.numpy(), math.sqrt(0.37)).logpdf(x.numpy()).sum(-1)
    assert got.shape == (K, B)
    assert_close(got, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)  # log 0.37 was rounded to float32


def test_bernoulli_likelihood_is_scipys(normal):
    logits, x = normal(K, B, X), (normal(B, X) > 0).double()
    got = BernoulliLikelihood().log_prob(x, logits)
    expected = stats.bernoulli(logits.sigmoid().numpy()).logpmf(x.numpy()).sum(-1)
    assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_linear_encoder_has_one_variance_for_all_data(normal):
    q = LinearEncoder(X, Z, stream()).double()(normal(B, X))
    assert q.log_var.shape == (B, Z)
    assert (q.log_var == q.log_var[0]).all()


def test_construction_repeats_and_leaves_the_global_stream_alone():
    a, b = (linear_vae_model(X, Z, 0.1, stream()) for _ in range(2))  # conftest checks the global state
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_learned_variance_is_a_parameter_and_fixed_one_is_not():
    assert "likelihood.log_variance" in dict(linear_vae_model(X, Z, 0.1, stream(), learned=True).named_parameters())
    assert "likelihood.log_variance" in dict(linear_vae_model(X, Z, 0.1, stream()).named_buffers())


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.01, 0.3, 2.0, 40.0])
def test_a_committed_encoder_cannot_go_below_its_rate(rate, normal):
    plain = MLPEncoder(X, [13], Z, stream()).double()
    encoder = CommittedEncoder(plain, rate).double()
    x = 100 * normal(B, X)
    q = encoder(x)
    assert torch.equal(q.mean, plain(x).mean)
    assert (q.kl_per_dim() >= rate * (1 - 1e-5)).all()
    last = plain.net[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 0.0)
    last.bias.data[Z:] = -200.0  # far below the cap it stays as it was
    assert_close(encoder(x).log_var, plain(x).log_var, rtol=1e-6, atol=0)
    last.bias.data[Z:] = 60.0  # as wide as it can be: the rate itself, and nothing said about x
    q = encoder(normal(B, X))
    assert_close(q.kl_per_dim(), torch.full((B, Z), rate, dtype=torch.float64), rtol=1e-4, atol=1e-9)
    assert (q.mean == 0).all()


def test_members_may_commit_different_rates():
    ensemble = stack(
        lambda m: VAE(CommittedEncoder(MLPEncoder(X, [], Z, stream()), m["rate"]), mlp([Z, X], stream()),
                      BernoulliLikelihood()),
        [{"seed": 0, "rate": 0.1}, {"seed": 0, "rate": 2.0}],
    )  # fmt: skip
    q = ensemble.map(lambda model, x: model.encode(x), torch.zeros(B, X))
    assert (q.kl_per_dim().amin((1, 2)) >= torch.tensor([0.1, 2.0])).all()


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_an_impossible_rate_is_refused_by_name(rate):
    with pytest.raises(ValueError, match="rate must be finite and not negative"):
        CommittedEncoder(MLPEncoder(X, [], Z, stream()), rate)


def test_a_rate_is_committed_by_diagonal_posteriors(normal):
    encoder = CommittedEncoder(MLPEncoder(X, [], Z, stream(), "full"), 0.1).double()
    with pytest.raises(ValueError, match="encoder must give a DiagonalGaussian, got FullGaussian"):
        encoder(normal(B, X))


@pytest.mark.parametrize(
    "build", [lambda: GaussianLikelihood(1.0, learned=True), lambda: DiagonalGaussianLikelihood(X)]
)
def test_a_free_variance_has_neither_floor_nor_ceiling(build, normal):
    likelihood, x = build().double(), normal(3, X)
    for log_variance in (-80.0, 80.0):
        torch.nn.init.constant_(likelihood.log_variance, log_variance)
        got = likelihood.log_prob(x, x[None])  # no error at all
        assert_close(got, torch.full_like(got, -X / 2 * (log_variance + math.log(2 * math.pi))))
        (slope,) = torch.autograd.grad(got.mean(), likelihood.log_variance)
        assert float(slope.sum()) == pytest.approx(-X / 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp([3], stream()), "sizes must be two or more"),
        (lambda: mlp([3, 0], stream()), "layer sizes must be at least 1"),
        (lambda: GaussianLikelihood(0.0), "noise_variance must be positive"),
        (lambda: GaussianLikelihood(math.nan), "noise_variance must be positive"),
        (lambda: MLPEncoder(3, [], 2, stream(), "isotropic"), "covariance must be"),
        (lambda: linear_vae_model(4, 5, 0.1, stream()), "z_dim must not exceed the 4"),
        (lambda: linear_vae_model(4, 0, 0.1, stream()), "layer sizes must be at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
