import math

import pytest
import torch
from decoders import nonlinear, prior
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, FullGaussian
from vae.inference.rate_curve import ais_rate_distortion, at_slope

B, Z, X = 11, 3, 7
SLOPES = [0.1, 0.5, 2.0]
RUN = {"n_chains": 5, "n_steps": 4, "n_leapfrog": 2, "seed": 0}


def linear_distortion(normal, count):
    """d(x, W z), and the exact objective, rate and distortion at a slope: q* is the posterior at variance 1 / 2s."""
    W = normal(X, Z)
    x = normal(count, Z) @ W.mT + 0.5 * normal(count, X)

    def exact(slope):
        psi = 1 / (2 * slope)
        best = lg.posterior(W, psi, x)
        objective = -lg.log_evidence(W, psi, x) - 0.5 * X * math.log(2 * math.pi * psi)
        rest = (x - best.mean @ W.mT).square().sum(1) + (W.mT @ W * best.covariance()).sum((-1, -2))
        return objective, best.kl_to_standard_normal().expand(count), rest

    return lambda z: (x - z @ W.mT).square().sum(-1), exact, W, x


def assert_near(errors, ses):
    """Errors are six standard errors at most, and their squares as large on average as these say."""
    ratio = (errors / ses).flatten()
    assert ratio.abs().max() < 6
    assert 0.6 < float(ratio.square().mean()) < 1.6


def test_a_linear_decoder_has_its_closed_form(normal):
    count = 151
    distortion, exact, _, _ = linear_distortion(normal, count)
    run = {"n_chains": 32, "n_steps": 30, "n_leapfrog": 3, "seed": 0}
    found = ais_rate_distortion(distortion, prior(count, Z), SLOPES, **run)
    assert found.objective.shape == found.ess.shape == (len(SLOPES), count)
    for i, slope in enumerate(SLOPES):
        objective, rate, left = exact(slope)
        assert_close(objective, rate + slope * left)  # the reference itself
        assert_near(found.objective[i] - objective, found.objective_se[i])
        assert_near(found.rate[i] - rate, found.rate_se[i])
        assert_near(found.distortion[i] - left, found.distortion_se[i])
        assert_close(found.rate[i] + slope * found.distortion[i], found.objective[i], rtol=0, atol=1e-10)
        assert found.objective_se[i].mean() < 0.1 * objective.mean()
        weight = (objective - found.objective[i]).exp()
        assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(count)
    assert ((found.ess > 8) & (found.ess <= 32)).all()
    assert (found.acceptance > 0.6).all()


@pytest.mark.parametrize(("n_steps", "n_leapfrog"), [(1, 1), (3, 2)])
def test_weights_are_unbiased_and_the_objective_a_bound_whatever_the_schedule(normal, n_steps, n_leapfrog):
    count = 3001
    distortion, exact, _, _ = linear_distortion(normal, count)
    slopes, run = [0.02, 0.06], {"n_chains": 1, "n_steps": n_steps, "n_leapfrog": n_leapfrog, "seed": 1}
    found = ais_rate_distortion(distortion, prior(count, Z), slopes, **run)
    for i, slope in enumerate(slopes):
        above = found.objective[i] - exact(slope)[0]
        weight = (-above).exp()
        assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(count)
        assert float(above.mean()) > 3 * float(above.std()) / math.sqrt(count)
    assert (found.objective_se == math.inf).all()
    assert (found.ess == 1).all()


def test_standard_errors_are_those_of_leaving_out_a_chain(normal):
    """Distortions that go with the weights, as they do in a short run: then the signs within the errors matter."""
    n, slope = 997, 1.5
    log_w = 0.7 * normal(n, B)
    d = 4 - log_w + 0.3 * normal(n, B)
    whole = at_slope(log_w, d, slope)
    less = [at_slope(*(t[torch.arange(n) != i] for t in (log_w, d)), slope) for i in range(n)]
    for field in range(0, 6, 2):  # each estimate before its error
        without = torch.stack([point[field] for point in less])
        jackknife = ((n - 1) / n * (without - without.mean(0)).square().sum(0)).sqrt()
        assert_close(whole[field + 1], jackknife, rtol=0.03, atol=0)


def test_a_nonlinear_decoder_against_quadrature():
    known, model = nonlinear(B)

    def distortion(z):
        return (known.x - model.decoder(z).sigmoid()).square().sum(-1)

    axis = torch.linspace(-7, 7, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        d = torch.cat([distortion(part[:, None].expand(-1, B, -1)) for part in grid.split(5000)])
    log_prior = torch.log_softmax(-0.5 * grid.square().sum(1), 0)[:, None]
    slopes = [0.3, 1.0, 3.0, 10.0]
    run = {"n_chains": 64, "n_steps": 40, "n_leapfrog": 3, "seed": 0}
    found = ais_rate_distortion(distortion, prior(B, 2), slopes, **run)
    for i, slope in enumerate(slopes):
        log_q = log_prior - slope * d
        objective, left = -log_q.logsumexp(0), (log_q.softmax(0) * d).sum(0)
        assert ((found.objective[i] - objective).abs() < 5 * found.objective_se[i]).all()
        assert ((found.distortion[i] - left).abs() < 5 * found.distortion_se[i]).all()
        assert ((found.rate[i] - objective + slope * left).abs() < 5 * found.rate_se[i]).all()
        assert float((found.objective[i] - objective).mean().abs() / objective.mean()) < 0.01


def test_a_decoder_that_ignores_z_needs_no_rate():
    found = ais_rate_distortion(lambda z: 0 * z.sum(-1) + 3.0, prior(B, Z), SLOPES, **RUN)
    assert_close(found.objective, 3 * torch.tensor(SLOPES).double()[:, None].expand(-1, B))
    assert_close(found.rate, torch.zeros(3, B).double(), rtol=0, atol=1e-10)
    assert_close(found.distortion, torch.full((3, B), 3.0).double())
    assert (torch.cat([found.objective_se, found.rate_se, found.distortion_se]) < 1e-10).all()


def test_another_prior_is_another_decoder(normal):
    """z = m + L u with u standard normal: the decoder W z of this prior is the decoder W m + W L u of that."""
    distortion, _, _, _ = linear_distortion(normal, B)
    other = FullGaussian(normal(B, Z), torch.linalg.cholesky(torch.eye(Z) + 0.3).double().expand(B, Z, Z))
    found = ais_rate_distortion(distortion, other, SLOPES, **RUN)
    same = ais_rate_distortion(lambda u: distortion(other.rsample(u)), prior(B, Z), SLOPES, **RUN)
    for a, b in zip(found, same, strict=True):
        assert_close(a, b, rtol=0, atol=1e-9)


def test_steps_shorten_where_the_slope_is_steep(normal):
    """From the prior to q* a hundred times narrower, over four decades of slopes."""
    distortion, exact, _, _ = linear_distortion(normal, B)
    slopes = [0.1, 1.0, 10.0, 100.0, 1000.0]
    run = {"n_chains": 16, "n_steps": 60, "n_leapfrog": 3, "seed": 0}
    found = ais_rate_distortion(distortion, prior(B, Z), slopes, **run)
    assert (found.acceptance > 0.6).all()
    assert found.ess[-1].mean() > 2.5
    assert ((found.objective[-1] - exact(1000.0)[0]).abs() < 5 * found.objective_se[-1]).all()


def test_chunks_of_data_and_of_chains_change_nothing(normal):
    _, _, W, x = linear_distortion(normal, B)

    def run(rows, **given):
        some = x[rows]
        return ais_rate_distortion(
            lambda z: (some - z @ W.mT).square().sum(-1), prior(len(some), Z), SLOPES, **RUN, **given
        )

    whole = run(slice(None))
    parts = [run(slice(start, start + 4), first=start) for start in range(0, B, 4)]
    for all_at_once, some in zip(whole, zip(*parts, strict=True), strict=True):
        assert_close(torch.cat(some, -1), all_at_once, rtol=0, atol=1e-10)
    for all_at_once, some in zip(whole, run(slice(None), chunk=2), strict=True):
        assert_close(some, all_at_once, rtol=0, atol=1e-10)


def test_the_same_call_repeats_bit_for_bit_and_another_seed_does_not(normal):
    distortion, _, _, _ = linear_distortion(normal, B)
    one, two = (ais_rate_distortion(distortion, prior(B, Z), SLOPES, **RUN) for _ in range(2))
    assert all(map(torch.equal, one, two))
    other = ais_rate_distortion(distortion, prior(B, Z), SLOPES, **(RUN | {"seed": 1}))
    assert not (other.objective == one.objective).any()


def test_single_precision_is_kept_and_agrees(normal):
    _, _, W, x = linear_distortion(normal, B)

    def run(dtype):
        some, map_ = x.to(dtype), W.mT.to(dtype)
        return ais_rate_distortion(
            lambda z: (some - z @ map_).square().sum(-1), prior(B, Z, dtype=dtype), SLOPES, **(RUN | {"n_chains": 7})
        )

    single, double = run(torch.float32), run(torch.float64)
    assert all(value.dtype == torch.float32 for value in single)
    assert float((single.objective.double() - double.objective).abs().median()) < 1e-3


def good(z):
    return z.square().sum(-1)


def odd_away_from_zero(value):
    return lambda z: torch.where((z.abs().sum(-1) > 0) & (torch.arange(B) == 7), value, good(z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slopes": [0.0, 1.0]}, r"slopes must be positive, finite and rising, got \[0.0, 1.0\]; sort them"),
        ({"slopes": [1.0, 1.0]}, "slopes must be positive, finite and rising"),
        ({"slopes": [2.0, 1.0]}, "slopes must be positive, finite and rising"),
        ({"slopes": [1.0, math.inf]}, "slopes must be positive, finite and rising"),
        ({"slopes": []}, r"slopes must be positive, finite and rising, got \[\]"),
        ({"n_steps": 0}, "n_steps must be an integer of at least 1, got 0; 60 are usual"),
        ({"n_chains": 0}, "n_chains must be an integer of at least 1, got 0"),
        ({"n_leapfrog": 1.0}, "n_leapfrog must be an integer of at least 1, got 1.0"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"first": True}, "first must be an integer of at least 0, got True"),
        ({"prior": torch.zeros(B, Z)}, "prior must be a DiagonalGaussian or a FullGaussian, got Tensor"),
        (
            {"prior": DiagonalGaussian(torch.zeros(B, Z), torch.zeros(B, 2))},
            r"prior.log_var must have shape \(11, 3\) .* got \(11, 2\)",
        ),
        ({"distortion": lambda z: good(z)[0]}, r"distortion must return shape \(5, 11\) .* got \(11,\); sum over"),
        ({"distortion": lambda z: good(z).numpy()}, "distortion must return shape .* got ndarray"),
        ({"distortion": lambda z: -good(z)}, "distortion must be finite and not negative, got -.* for data .0, 1"),
        (
            {"distortion": odd_away_from_zero(math.nan)},
            "distortion must be finite and not negative, got nan for datum 7",
        ),
        (
            {"distortion": odd_away_from_zero(math.inf)},
            "distortion must be finite and not negative, got inf for datum 7",
        ),
        ({"distortion": lambda z: good(z.detach())}, "distortion must be differentiable in z"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    given = {"distortion": good, "prior": prior(B, Z), "slopes": SLOPES} | RUN | change
    with pytest.raises(ValueError, match=message):
        ais_rate_distortion(given.pop("distortion"), given.pop("prior"), given.pop("slopes"), **given)
