import math

import pytest
import torch

from vae.models.ensemble import stack
from vae.models.likelihoods import GaussianLikelihood
from vae.models.multirate import GatedMLP, MultiRateVAE, spread
from vae.noise import generator
from vae.train import Schedule, train
from vae.train.objectives import elbo, terms

X, Z, HIDDEN = 7, 2, [5]


def build(member):
    return MultiRateVAE(X, HIDDEN, Z, GaussianLikelihood(0.1), generator(member["seed"], "init"))


def objective(model, x, eps, member):
    log_beta = spread(member["low"], member["high"], len(x))
    at = model.at(log_beta)
    return elbo(terms(at, x, at.encode(x), eps), log_beta.exp().squeeze(1))


@pytest.mark.parametrize("gate", ["encoder", "decoder"])
def test_a_gate_is_the_formula(normal, gate):
    net = GatedMLP([X, 5, 3], generator(0, "init"), gate).double()
    x, log_beta = normal(11, X), torch.linspace(-2, 3, 11, dtype=torch.float64)[:, None]
    u = log_beta * net.slope[0] + net.offset[0]
    open_ = 1 / (1 + (-u).exp()) if gate == "encoder" else (1 - u.exp()).clamp(min=0).sqrt()
    expected = net.layers[1](open_ * torch.tanh(net.layers[0](x)))
    torch.testing.assert_close(net(x, log_beta), expected, atol=5e-3, rtol=0)  # 1e-6 under the root


def test_rows_of_other_betas_are_as_models_of_one_beta(normal):
    model = build({"seed": 0}).double()
    x, z = normal(5, X), normal(3, 5, Z)
    log_beta = torch.linspace(-1, 2, 5, dtype=torch.float64)[:, None]
    together = model.at(log_beta)
    for i in range(5):
        alone = model.at(log_beta[i : i + 1])
        torch.testing.assert_close(together.encode(x).mean[i], alone.encode(x[i : i + 1]).mean[0])
        torch.testing.assert_close(together.log_lik(x, z)[:, i], alone.log_lik(x[i : i + 1], z[:, i : i + 1])[:, 0])
    torch.testing.assert_close(model.encode(x).log_var, model.at(torch.zeros(5, 1).double()).encode(x).log_var)


def test_gradients_are_finite_where_a_gate_is_closed(normal):
    net = GatedMLP([X, 5, 3], generator(0, "init"), "decoder")
    net.offset[0].data[:2] = torch.tensor([0.0, 4.0])
    net.slope[0].data[:2] = 0.0
    net(normal(4, X).float(), torch.zeros(4, 1)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert net.slope[0].grad.abs()[2:].max() == 0  # at log beta = 0 the slope has no say
    assert net.offset[0].grad.abs()[2:].min() > 0


def test_betas_are_spread_evenly():
    low, high = torch.tensor(math.log(0.25)), torch.tensor(math.log(4.0))
    values = spread(low, high, 6).squeeze(1)
    torch.testing.assert_close(values.diff(), torch.full((5,), float(high - low) / 6))
    torch.testing.assert_close(values.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_one_training_gives_a_curve():
    """A line in the plane of noise: the rate falls with beta, far above the eigenvalue to nothing."""
    stream = generator(0, "data")
    x = torch.randn(512, 1, generator=stream) @ torch.randn(1, X, generator=stream)
    x = x + 0.05 * torch.randn(512, X, generator=stream)
    member = {"seed": 0, "low": math.log(0.1), "high": math.log(1000.0)}
    model = (
        train(stack(build, [member]), objective, x, Schedule(300, 64, 0.02)).ensemble.member(0).requires_grad_(False)
    )
    rates = [
        float(model.at(torch.full((1, 1), math.log(b))).encode(x).kl_to_standard_normal().mean())
        for b in (0.1, 1.0, 10.0, 1000.0)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.5
    assert rates[-1] < 0.05


@pytest.mark.parametrize(
    ("sizes", "gate", "message"),
    [([3, 4, 2], "both", "gate must be 'encoder' or 'decoder'"), ([3, 2], "encoder", "sizes must be three or more")],
)
def test_bad_input(sizes, gate, message):
    with pytest.raises(ValueError, match=message):
        GatedMLP(sizes, generator(0, "init"), gate)
