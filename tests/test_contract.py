"""What every decoder, every likelihood and every posterior keeps to, asked of all of them alike.

What is right of one alone is tested where it is defined. Every axis has another prime for its length.
"""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from vae.gaussian import LOG_2PI, DiagonalGaussian, FullGaussian
from vae.models.decoders import MADE, FiLMDecoder, SkipDecoder
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood, DiagonalGaussianLikelihood, GaussianLikelihood
from vae.models.multirate import MultiRateVAE
from vae.models.networks import CommittedEncoder, LinearEncoder, MaskedLinear, MLPEncoder, mlp
from vae.models.pruning import Pruned
from vae.models.vae import VAE, Encoded
from vae.noise import generator
from vae.train.objectives import elbo, iwae, terms

E, Z, B, K, X, H, FEATURES = 2, 3, 5, 7, 11, 13, 17
LOG_BETA = 0.7
DOUBLE = torch.float64


def some_loadings(x, z):
    return (torch.arange(x)[:, None] + torch.arange(z)) % 3 > 0


DECODERS = {
    "linear": lambda z, x, g: mlp([z, x], g),
    "mlp": lambda z, x, g: mlp([z, H, x], g),
    "loadings": lambda z, x, g: MaskedLinear(some_loadings(x, z), g),
    "made": lambda z, x, g: MADE(z, x, [H], g),
    "deep made": lambda z, x, g: MADE(z, x, [H, FEATURES], g),
    "skip": lambda z, x, g: SkipDecoder(z, x, [H], g),
    "linear skip": lambda z, x, g: SkipDecoder(z, x, [], g),
    "feature skip": lambda z, x, g: SkipDecoder(z, x, [H], g, n_features=FEATURES),
    "film": lambda z, x, g: FiLMDecoder(z, x, H, g, z_free=True),
    "film without a z-free path": lambda z, x, g: FiLMDecoder(z, x, H, g, z_free=False, n_features=FEATURES),
}
LIKELIHOODS = {
    "gaussian": lambda x: GaussianLikelihood(0.37),
    "learned gaussian": lambda x: GaussianLikelihood(0.37, learned=True),
    "diagonal gaussian": DiagonalGaussianLikelihood,
    "bernoulli": lambda x: BernoulliLikelihood(),
}
ENCODERS = {
    "mlp": lambda x, z, g: MLPEncoder(x, [H], z, g),
    "full mlp": lambda x, z, g: MLPEncoder(x, [H], z, g, "full"),
    "linear": lambda x, z, g: LinearEncoder(x, z, g),
    "full linear": lambda x, z, g: LinearEncoder(x, z, g, "full"),
    "committed mlp": lambda x, z, g: CommittedEncoder(MLPEncoder(x, [H], z, g), 0.2),
    "committed linear": lambda x, z, g: CommittedEncoder(LinearEncoder(x, z, g), 0.2),
}
FULL = {"full mlp", "full linear"}
READS_X = {"skip", "linear skip", "feature skip", "film", "film without a z-free path"}
MODELS = [*DECODERS, "multirate", "pruned"]
CASES = [(decoder, likelihood, "mlp") for decoder in MODELS for likelihood in LIKELIHOODS]
CASES += [("mlp", "gaussian", encoder) for encoder in ENCODERS if encoder != "mlp"]
every_model = pytest.mark.parametrize("case", CASES, ids=" with ".join)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def build(case, seed=0, x=X, z=Z):
    """A module of that kind, none of its parameters where they begin."""
    decoder, likelihood, encoder = case
    g = generator(seed, "init")
    if decoder == "multirate":
        model = MultiRateVAE(x, [H], z, LIKELIHOODS[likelihood](x), g)
    else:
        made = DECODERS["mlp" if decoder == "pruned" else decoder](z, x, g)
        model = VAE(ENCODERS[encoder](x, z, g), made, LIKELIHOODS[likelihood](x))
        model = Pruned(model, torch.arange(z) != 1) if decoder == "pruned" else model
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.numel(), generator=g, dtype=DOUBLE).view_as(p))
    return model


def seen(model: nn.Module) -> Encoded:
    """The module as a model: a network for all betas at one of them."""
    if not isinstance(model, MultiRateVAE):
        return model
    return model.at(torch.full((1, 1), LOG_BETA, dtype=model.encoder.layers[0].weight.dtype))


def data(case, normal, x=X):
    rows = normal(B, x)
    return (rows > 0).double() if case[1] == "bernoulli" else rows


def scores(model, x, eps):
    """All that a model says of x (B, X), with noise eps (K, B, Z); one covariance may serve all data."""
    model = seen(model)
    q = model.encode(x)
    n, dim = q.mean.shape
    t = terms(model, x, q, eps)
    z = q.rsample(eps)
    covariance, entropy = q.covariance().expand(n, dim, dim), q.entropy().expand(n)
    output = model.output(x, z)
    return {
        "mean": q.mean, "covariance": covariance, "entropy": entropy, "z": z, "output": output,
        "x_mean": model.likelihood.mean(output), "elbo": elbo(t), "iwae": iwae(t), **t._asdict(),
    }  # fmt: skip


SHAPES = {
    "mean": (B, Z), "covariance": (B, Z, Z), "entropy": (B,), "z": (K, B, Z), "output": (K, B, X), "x_mean": (K, B, X),
    "elbo": (B,), "iwae": (B,), "log_px_z": (K, B), "log_pz": (K, B), "log_qz": (K, B), "kl": (B,),
}  # fmt: skip


@every_model
def test_shapes_and_dtypes(case, normal):
    x, eps, model = data(case, normal), normal(K, B, Z), build(case)
    found = scores(model, x, eps)
    assert {name: tuple(value.shape) for name, value in found.items()} == SHAPES
    single = scores(model.float(), x.float(), eps.float())
    assert {value.dtype for value in found.values()} == {DOUBLE}
    assert {value.dtype for value in single.values()} == {torch.float32}
    for name, value in single.items():
        assert_close(value.double(), found[name], rtol=1e-3, atol=1e-4)


@every_model
def test_a_datum_depends_on_no_other_and_on_no_number_of_samples(case, normal):
    x, eps, model = data(case, normal), normal(K, B, Z), build(case)
    found = scores(model, x, eps)
    for b in (0, 3):
        alone = scores(model, x[b : b + 1], eps[:, b : b + 1])
        for name, value in alone.items():
            axis = SHAPES[name].index(B)
            assert_close(value, found[name].narrow(axis, b, 1), rtol=1e-12, atol=1e-12)
    fewer = scores(model, x, eps[2:3])
    for name, value in fewer.items():
        if name == "elbo" or name == "iwae":
            continue
        assert_close(value, found[name][2:3] if SHAPES[name][0] == K else found[name], rtol=1e-12, atol=1e-12)


@every_model
def test_what_is_nan_stays_with_its_datum(case, normal):
    x, eps, model = data(case, normal), normal(K, B, Z), build(case)
    found = scores(model, x, eps)
    x[3, X - 1] = math.nan
    spoilt = scores(model, x, eps)
    assert spoilt["log_px_z"][:, 3].isnan().all()
    assert spoilt["elbo"][3].isnan()
    others = torch.arange(B) != 3
    for name, value in spoilt.items():
        axis = SHAPES[name].index(B)
        rest = others.nonzero()[:, 0]
        assert_close(value.index_select(axis, rest), found[name].index_select(axis, rest), rtol=1e-12, atol=1e-12)


@every_model
def test_gradients_are_those_of_finite_differences(case, normal):
    x, eps, model = data(case, normal), normal(K, B, Z), build(case)
    params = {name: p.detach() for name, p in model.named_parameters()}
    weights = normal(B)

    def objective(params, eps):
        return (weights * functional_call(model, params, (lambda m: scores(m, x, eps)["elbo"],))).sum()

    slopes, by_noise = torch.func.grad(objective, argnums=(0, 1))(params, eps)
    assert all(slope.isfinite().all() for slope in slopes.values())
    assert {name for name, slope in slopes.items() if (slope == 0).all()} == set()
    for _ in range(3):
        way = {name: normal(p.numel()).view_as(p) for name, p in params.items()}
        of_noise = normal(K, B, Z)
        exact = sum((way[name] * slope).sum() for name, slope in slopes.items()) + (of_noise * by_noise).sum()
        h = 1e-5
        ahead, behind = (
            objective({name: p + s * way[name] for name, p in params.items()}, eps + s * of_noise) for s in (h, -h)
        )
        assert_close((ahead - behind) / (2 * h), exact, rtol=1e-6, atol=1e-7)


@every_model
def test_members_of_an_ensemble_are_single_models(case, normal):
    x, eps = data(case, normal), normal(K, B, Z)
    ensemble = stack(lambda member: build(case, member["seed"]), [{"seed": s} for s in range(E)], dtype=DOUBLE)
    together = ensemble.map(scores, x, eps)
    by_rows = ensemble.map_rows(lambda model, x: {"mean": seen(model).encode(x).mean}, x.numpy(), chunk=2)
    for e in range(E):
        alone = scores(build(case, e), x, eps)
        assert_close({name: value[e] for name, value in together.items()}, alone, rtol=1e-12, atol=1e-12)
        assert_close(scores(ensemble.member(e), x, eps), alone, rtol=1e-12, atol=1e-12)
    assert_close(by_rows["mean"], together["mean"].detach(), rtol=1e-12, atol=1e-12)
    assert ensemble.latent_dim(x) == Z
    assert not torch.allclose(together["log_px_z"][0], together["log_px_z"][1])


def plane(reach, steps):
    """Points (P, 2) of a square about zero, and the logarithm of the area that each stands for: the trapezium rule,
    exact to rounding for what is smooth and gone at the ends."""
    axis = torch.linspace(-reach, reach, steps, dtype=DOUBLE)
    return torch.cartesian_prod(axis, axis), 2 * math.log(2 * reach / (steps - 1))


@pytest.mark.parametrize("case", [case for case in CASES if case[2] == "mlp"], ids=" with ".join)
def test_there_is_a_density_of_x_where_the_model_says_so(case, normal):
    """log p(x|z) sums or integrates to one over all x, unless the decoder reads the x that it is to explain."""
    if case[1] == "bernoulli":
        x, log_area = torch.tensor(list(product((0.0, 1.0), repeat=5)), dtype=DOUBLE), 0.0
    else:
        x, log_area = plane(20, 201)
    model = seen(build(case, x=x.shape[1]).requires_grad_(False))
    z = normal(Z).expand(1, len(x), Z)
    total = float(model.log_lik(x, z).logsumexp(-1)) + log_area
    assert model.is_generative == (case[0] not in READS_X)
    if model.is_generative:
        assert total == pytest.approx(0, abs=1e-8)
    else:
        assert abs(total) > 1e-3


@every_likelihood
def test_a_likelihoods_mean_is_that_of_x_given_z(likelihood, normal):
    module = LIKELIHOODS[likelihood](2).double().requires_grad_(False)
    for p in module.parameters():
        p.add_(0.3)
    if likelihood == "bernoulli":
        x, log_area = torch.tensor(list(product((0.0, 1.0), repeat=2)), dtype=DOUBLE), 0.0
    else:
        x, log_area = plane(15, 401)
    out = normal(K, 1, 2)
    share = (module.log_prob(x, out.expand(K, len(x), 2)) + log_area).exp()
    assert_close(share @ x, module.mean(out)[:, 0], rtol=1e-9, atol=1e-9)


@every_likelihood
def test_a_likelihood_refuses_data_outside_its_range(likelihood):
    module, good = LIKELIHOODS[likelihood](2), torch.tensor([[0.0, 1.0], [0.5, 0.25]])
    module.check(good)
    module.check(good.numpy())
    for bad in (-0.1, 255.0, math.nan):
        data = good.clone()
        data[1, 0] = bad
        if likelihood == "bernoulli":
            with pytest.raises(
                ValueError, match=r"data must lie in \[0, 1\] for a Bernoulli decoder, got \[.*; rescale"
            ):
                module.check(data)
        else:
            module.check(data.nan_to_num())


@every_encoder
def test_a_posterior_is_the_density_of_its_samples(encoder, normal):
    """Its density integrates to one, to its mean, covariance, entropy and KL; sampling and whitening are inverse."""
    module = build(("mlp", "gaussian", encoder), z=2).encoder.requires_grad_(False)
    q = module(normal(B, X))
    assert type(q) is (FullGaussian if encoder in FULL else DiagonalGaussian)
    u, log_area = plane(9, 201)
    sd = q.covariance().diagonal(dim1=-2, dim2=-1).sqrt().expand(B, 2)
    z = q.mean + sd * u[:, None]  # (P, B, 2)
    log_q = q.log_prob(z)
    share = (log_q + log_area + sd.log().sum(-1)).exp()
    close = {"rtol": 1e-7, "atol": 1e-7}
    assert_close(share.sum(0), torch.ones(B, dtype=DOUBLE), **close)
    assert_close(torch.einsum("pb,pbi->bi", share, z), q.mean, **close)
    second = torch.einsum("pb,pbi,pbj->bij", share, z, z)
    assert_close(second - q.mean[:, :, None] * q.mean[:, None, :], q.covariance().expand(B, 2, 2), **close)
    assert_close(-(share * log_q).sum(0), q.entropy().expand(B), **close)
    log_p = -0.5 * (z.square() + LOG_2PI).sum(-1)
    assert_close((share * (log_q - log_p)).sum(0), q.kl_to_standard_normal(), **close)
    eps, weights = normal(K, B, 2).requires_grad_(), normal(K, B, 2)
    drawn = q.rsample(eps)
    assert_close(q.whiten(drawn), eps, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad((weights * drawn).sum(), eps)
    assert_close(q.pull_back(weights), slope, rtol=1e-12, atol=1e-12)
    assert (torch.linalg.eigvalsh(q.covariance()) > 0).all()
