import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from vae.inference import log_joint as joint
from vae.models.decoders import MADE, FiLMDecoder, RandomFeatures, SkipDecoder, sampled_pixels
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood, GaussianLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import generator
from vae.train.objectives import elbo, iwae, log_px, terms

K, B, X, Z, H = 7, 5, 11, 3, 13
MAKE = {
    "mlp": lambda z, x, g: mlp([z, H, x], g),
    "made": lambda z, x, g: MADE(z, x, [H], g),
    "deep made": lambda z, x, g: MADE(z, x, [H, 17], g),
    "skip": lambda z, x, g: SkipDecoder(z, x, [H], g),
    "feature skip": lambda z, x, g: SkipDecoder(z, x, [H], g, n_features=2),
    "film": lambda z, x, g: FiLMDecoder(z, x, H, g, z_free=True),
    "film without a z-free path": lambda z, x, g: FiLMDecoder(z, x, H, g, z_free=False, n_features=2),
}
GENERATIVE = {"mlp", "made", "deep made"}


def stream(seed=0):
    return generator(seed, "init")


def vae(kind, z=Z, x=X, seed=0):
    g = stream(seed)
    return VAE(MLPEncoder(x, [H], z, g), MAKE[kind](z, x, g), BernoulliLikelihood()).double()


def binary(n, x):
    return torch.tensor(list(product((0.0, 1.0), repeat=x)), dtype=torch.float64)[:n]


@pytest.mark.parametrize("kind", ["made", "deep made"])
def test_made_reads_the_whole_past_and_no_more(kind, normal):
    decoder = vae(kind).decoder
    for p in decoder.parameters():
        torch.nn.init.uniform_(p, 0.1, 1.0, generator=stream())  # so that no dependence cancels
    jacobian = torch.autograd.functional.jacobian(lambda x: decoder(normal(Z), x), 0.01 * normal(X))
    assert torch.equal(jacobian != 0, torch.ones(X, X).tril(-1).bool())
    by_z = torch.autograd.functional.jacobian(lambda z: decoder(z, torch.zeros(X).double()), 0.01 * normal(Z))
    assert (by_z != 0).all()


@pytest.mark.parametrize("kind", list(MAKE))
def test_no_log_px_of_a_model_without_one(kind, normal):
    model, x, eps = vae(kind), (normal(B, X) > 0).double(), normal(K, B, Z)
    q = model.encode(x)
    assert model.is_generative == (kind in GENERATIVE)
    bound = elbo(terms(model, x, q, eps))  # a training objective it has
    assert bound.shape == (B,)
    if kind in GENERATIVE:
        assert_close(log_px(model, x, q, eps), iwae(terms(model, x, q, eps)))
        assert joint.of(model, x)(eps).shape == (K, B)
        return
    for ask in (lambda: log_px(model, x, q, eps), lambda: joint.of(model, x), lambda: sampled_pixels(model, eps[0], x)):
        with pytest.raises(ValueError, match=r"model must have a p\(x\) to .* not comparable; use a decoder of z"):
            ask()


def test_a_skip_reads_the_pixels_or_so_many_features_of_them(normal):
    z, x = normal(Z), normal(X)

    def rank(kind):
        decoder = vae(kind).decoder
        return torch.linalg.matrix_rank(torch.autograd.functional.jacobian(lambda x: decoder(z, x), x))

    assert rank("skip") == X
    assert rank("feature skip") == 2
    features = RandomFeatures(X, 2, stream())
    assert not list(features.parameters())  # fixed
    assert features(x.float()).shape == (2,)


def test_film_is_open_or_shut_at_zero_and_z_alone_opens_it(normal):
    x, zero, one = normal(B, X), torch.zeros(1, B, Z).double(), torch.ones(1, B, Z).double()

    def varies(kind, z):
        out = vae(kind).decoder(z, x)[0]
        return bool((out - out[0]).abs().max() > 1e-3)

    assert varies("film", zero)
    assert not varies("film without a z-free path", zero)
    assert varies("film without a z-free path", one)  # one z for all x is enough
    decoder = vae("film without a z-free path").decoder
    h = decoder.skip(decoder.features(x))
    by_hand = decoder.out(torch.tanh((one @ decoder.gate.weight.mT) * h + one @ decoder.shift.weight.mT))
    assert_close(decoder(one, x), by_hand)
    assert_close(vae("film").decoder(zero, x)[0], vae("film").decoder.out(vae("film").decoder.skip(x).tanh()))


@pytest.mark.parametrize("kind", ["mlp", "made"])
def test_sampled_pixels_have_the_models_probabilities(kind, normal):
    model, n, dim = vae(kind, x=3), 40_000, 3
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p, std=1.5, generator=stream())
    z = normal(Z)
    uniform = torch.rand(n, dim, generator=generator(0, "sample"), dtype=torch.float64)
    drawn = sampled_pixels(model, z.expand(n, Z), uniform)
    assert drawn.dtype == torch.float64
    every = binary(2**dim, dim)
    p = model.log_lik(every, z.expand(1, 2**dim, Z))[0].exp()
    assert p.max() < 0.9
    found = (drawn[:, None] == every).all(-1).double().mean(0)
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()


def test_sampling_maps_over_members(normal):
    ensemble = stack(lambda m: vae("made", seed=m["seed"]), [{"seed": 0}, {"seed": 1}], dtype=torch.float64)
    z, uniform = normal(B, Z), torch.rand(B, X, generator=stream(), dtype=torch.float64)
    together = ensemble.map(sampled_pixels, z, uniform)
    assert torch.equal(together[1], sampled_pixels(ensemble.member(1), z, uniform))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MADE(2, 5, [], stream()), "hidden must not be empty"),
        (lambda: MADE(2, 1, [3], stream()), "x_dim must be at least 2, got 1"),
        (lambda: MADE(0, 5, [3], stream()), "layer sizes must be at least 1"),
        (lambda: RandomFeatures(5, 0, stream()), "n_features must be at least 1, got 5 and 0"),
        (lambda: SkipDecoder(2, 5, [3], stream(), n_features=0), "n_features must be at least 1"),
        (lambda: FiLMDecoder(2, 5, 0, stream(), z_free=True), "layer sizes must be at least 1"),
        (lambda: FiLMDecoder(0, 5, 3, stream(), z_free=True), "layer sizes must be at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_pixels_are_drawn_from_bernoulli_models_alone(normal):
    model = VAE(MLPEncoder(X, [], Z, stream()), mlp([Z, X], stream()), GaussianLikelihood(1.0)).double()
    with pytest.raises(ValueError, match="model must have a Bernoulli likelihood, got GaussianLikelihood"):
        sampled_pixels(model, normal(B, Z), normal(B, X))


def test_random_features_keep_the_inputs_size():
    x = torch.ones(1, 10_000)
    linear = torch.atanh(RandomFeatures(10_000, 500, stream())(0.1 * x)) / 0.1
    assert float(linear.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 500))
