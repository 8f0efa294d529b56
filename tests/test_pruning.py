import math

import pytest
import torch
from torch.testing import assert_close

from vae.diagnostics.information import aggregate_kl, rate_per_dim
from vae.inference import log_joint as joint
from vae.models.decoders import MADE, SkipDecoder
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.pruning import pruned
from vae.models.vae import VAE, linear_vae_model
from vae.noise import generator
from vae.train import Execution, Schedule, train
from vae.train.objectives import elbo, log_px, terms

K, B, X, Z = 7, 5, 11, 3
MEMBERS = [{"seed": 0, "beta": 1.0}, {"seed": 1, "beta": 1.0}]
KEEP = torch.tensor([[True, False, True], [False, True, False]])


def build(member, decoder=lambda g: mlp([Z, 13, X], g)):
    g = generator(member["seed"], "init")
    return VAE(MLPEncoder(X, [13], Z, g), decoder(g), BernoulliLikelihood())


def score(model, x, eps):
    return terms(model, x, model.encode(x), eps)


@pytest.fixture
def ensemble():
    return stack(build, MEMBERS, dtype=torch.float64)


@pytest.fixture
def data(normal):
    return (normal(53, X) > 0).double()


def test_pruned_latents_are_the_prior_in_q_and_zero_to_the_decoder(ensemble, data, normal):
    x, eps = data[:B], normal(K, B, Z)
    small = pruned(ensemble, KEEP)
    q, whole = (e.map(lambda model, x: model.encode(x), x) for e in (small, ensemble))
    t = small.map(score, x, eps)
    for e, keep in enumerate(KEEP):
        assert (q.kl_per_dim()[e, :, ~keep] == 0).all()
        assert torch.equal(q.mean[e][:, keep], whole.mean[e][:, keep])
        assert torch.equal(q.log_var[e][:, keep], whole.log_var[e][:, keep])
        model = ensemble.member(e)
        z = torch.where(keep, model.encode(x).rsample(eps), 0.0)
        assert_close(t.log_px_z[e], model.log_lik(x, z), rtol=1e-12, atol=1e-12)
        alone = small.member(e)
        assert_close(score(alone, x, eps).log_w, t.log_w[e], rtol=1e-12, atol=1e-12)
    assert small.members == ensemble.members


def test_keeping_all_changes_nothing_and_the_given_ensemble_stays(ensemble, data, normal):
    before = {name: p.clone() for name, p in ensemble.params.items()}
    same = pruned(ensemble, torch.ones(Z, dtype=torch.bool))
    x, eps = data[:B], normal(K, B, Z)
    assert_close(same.map(score, x, eps).log_w, ensemble.map(score, x, eps).log_w, rtol=1e-12, atol=1e-12)
    next(iter(same.params.values())).zero_()
    assert all(torch.equal(ensemble.params[name], p) for name, p in before.items())


def test_the_exact_counterexample_to_pruning_by_the_aggregate():
    """Normal data, sigma^2 = 1, tau^2 = 0.01, a^2 = sigma^2 - tau^2: the aggregate is the prior, every nat of R is
    information, and without the latent the ELBO is that of noise around the mean.
    """
    variance, a = 0.01, math.sqrt(0.99)
    g = generator(0, "init")
    model = linear_vae_model(2, 2, variance, g).double().requires_grad_(False)
    k, s2 = a / (a * a + variance), variance / (a * a + variance)
    model.encoder.mean.weight.copy_(torch.tensor([[k, 0.0], [0.0, 0.0]]))
    model.encoder.log_var.copy_(torch.tensor([math.log(s2), 0.0]))
    model.decoder[0].weight.copy_(torch.tensor([[a, 0.0], [0.0, 0.0]]))
    ensemble = stack(lambda m: model, [{"seed": 0}], dtype=torch.float64)
    n = 4001
    x = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    x = torch.stack([x / x.square().mean().sqrt(), torch.zeros_like(x)], dim=1)
    q = ensemble.map(lambda model, x: model.encode(x), x)
    assert float(rate_per_dim(q)[0, 0]) == pytest.approx(2.3026, abs=1e-4)
    assert float(aggregate_kl(q)[0, 0]) == pytest.approx(0.0, abs=5e-4)  # not 0: the data are finite
    eps = torch.randn(50, n, 2, generator=generator(0, "test"), dtype=torch.float64)
    constant = -0.5 * math.log(2 * math.pi * variance)  # of the second pixel, which is always 0
    before = ensemble.map(lambda m, x, e: elbo(score(m, x, e)), x, eps)
    assert float(before.mean()) - constant == pytest.approx(-1.419, abs=5 * float(before.std()) / math.sqrt(n))
    wrong = pruned(ensemble, torch.tensor([False, True]))
    after = wrong.map(lambda m, x, e: elbo(score(m, x, e)), x, eps)
    assert float(after.mean()) - constant == pytest.approx(-48.616, abs=1e-3)


def test_a_pruned_ensemble_trains_on_and_what_was_pruned_stays_out(ensemble, data, normal):
    def objective(model, x, eps, member):
        return elbo(score(model, x, eps), member["beta"])

    schedule = Schedule(steps=23, batch_size=11, learning_rate=1e-2, log_every=5)
    small = pruned(ensemble, KEEP)
    execution = Execution(compile=False, workers=1)
    tuned = train(small, objective, data, schedule, execution=execution).ensemble
    assert not torch.equal(tuned.params["model.decoder.0.weight"], small.params["model.decoder.0.weight"])
    assert torch.equal(tuned.buffers["keep"].bool(), KEEP)
    rate = rate_per_dim(tuned.map(lambda model, x: model.encode(x), data))
    assert torch.equal(rate != 0, KEEP)
    for e in (0, 1):  # the columns of pruned latents have no gradient
        columns = "model.decoder.0.weight"
        assert torch.equal(tuned.params[columns][e][:, ~KEEP[e]], small.params[columns][e][:, ~KEEP[e]])
        alone = train(small.take([e]), objective, data, schedule, execution=execution).ensemble
        for name, value in alone.params.items():
            assert_close(tuned.params[name][e], value[0], rtol=1e-10, atol=1e-12)
    frozen = train(small, objective, data, schedule, frozen=["model.decoder"], execution=execution).ensemble
    assert torch.equal(frozen.params[columns], small.params[columns])
    again = pruned(tuned, torch.tensor([True, True, False]).expand(2, Z) | KEEP)
    assert again.map(score, data[:B], normal(K, B, Z)).log_w.shape == (2, K, B)


def test_a_model_without_latents_is_measured_if_asked_for_and_stays_without(ensemble, data, normal):
    def objective(model, x, eps, member):
        return elbo(score(model, x, eps))

    keep = KEEP & torch.tensor([[True], [False]])
    small = pruned(ensemble, keep, allow_empty=True)
    x, eps = data[:B], normal(K, B, Z)
    t = small.map(score, x, eps)
    assert (t.kl[0] > 0).all()
    assert (t.kl[1] == 0).all()
    alone = ensemble.member(1).log_lik(x, torch.zeros_like(eps))
    assert_close(t.log_px_z[1], alone, rtol=1e-12, atol=1e-12)
    schedule = Schedule(steps=7, batch_size=11, learning_rate=1e-2)
    execution = Execution(compile=False, workers=1)
    tuned = train(small, objective, data, schedule, execution=execution).ensemble
    moved = {name for name, p in tuned.params.items() if not torch.equal(p[1], small.params[name][1])}
    assert moved
    assert all(name.startswith("model.decoder") for name in moved)  # the encoder has no gradient
    assert (tuned.map(score, x, eps).kl[1] == 0).all()


def test_a_pruned_model_is_generative_if_it_was(data, normal):
    for decoder, is_generative in (
        (lambda g: MADE(Z, X, [13], g), True),
        (lambda g: SkipDecoder(Z, X, [13], g), False),
    ):
        model = pruned(stack(lambda m, d=decoder: build(m, d), MEMBERS, dtype=torch.float64), KEEP).member(0)
        x, eps = data[:B], normal(K, B, Z)
        if is_generative:
            assert log_px(model, x, model.encode(x), eps).shape == (B,)
            continue
        with pytest.raises(ValueError, match=r"model must have a p\(x\)"):
            joint.of(model, x)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.zeros(Z, dtype=torch.bool), r"keep must leave every member a latent, got none for members \[0, 1\]"),
        (KEEP & torch.tensor([[True], [False]]), r"got none for members \[1\], such as {'seed': 1, 'beta': 1.0}"),
        (torch.ones(Z), r"keep must be boolean, of shape \(Z,\) or \(2, Z\), got torch.float32"),
        (torch.ones(3, Z, dtype=torch.bool), r"keep must be boolean, .* \(3, 3\)"),
        (torch.ones(2, 1, Z, dtype=torch.bool), "keep must be boolean"),
    ],
)
def test_bad_input_is_refused_by_name(ensemble, keep, message):
    with pytest.raises(ValueError, match=message):
        pruned(ensemble, keep)


def test_full_posteriors_are_not_pruned(data):
    def full(member):
        g = generator(member["seed"], "init")
        return VAE(MLPEncoder(X, [13], Z, g, "full"), mlp([Z, X], g), BernoulliLikelihood())

    small = pruned(stack(full, MEMBERS, dtype=torch.float64), KEEP)
    with pytest.raises(ValueError, match="encoder must give a DiagonalGaussian, got FullGaussian"):
        small.map(lambda model, x: model.encode(x), data)
