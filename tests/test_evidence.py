import math

import pytest
import torch
from decoders import linear, nonlinear, prior
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, FullGaussian
from vae.inference import log_joint as joint
from vae.inference.evidence import ais_log_evidence, bdmc, importance_log_evidence
from vae.inference.local import fit_local

B, Z, PSI = 11, 3, 0.3


def mean_and_se(values):
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def wide(posterior, count):
    """A Gaussian wider than the posterior and beside it: a path that is not trivial, with weights of light tails."""
    scale = 1.1 * posterior.scale_tril.expand(count, -1, -1)
    return FullGaussian(posterior.mean + 0.5 * scale.sum(-1), scale)


def best_diagonal(posterior, W, count):
    return DiagonalGaussian(posterior.mean, -lg.posterior_precision(W, PSI).diagonal().log().expand(count, -1))


@pytest.mark.parametrize("df", [1, 5])
def test_importance_sampling_is_unbiased_and_knows_its_error(normal, df):
    count = 1009
    known, posterior, W = linear(normal, count)
    for q in (posterior, best_diagonal(posterior, W, count)):
        found = importance_log_evidence(known.log_joint, q, n_samples=211, seed=0, df=df)
        mean, se = mean_and_se((found.value - known.log_p).exp())
        assert abs(mean - 1) < 5 * se
        mean, se = mean_and_se(((found.value - known.log_p) / found.se).square())
        assert abs(mean - 1) < 5 * se
        assert ((found.ess > 20) & (found.ess < 211)).all()
        # Two ways to the same number: the delta method's error and Kong's effective sample size.
        assert_close(found.se, ((211 / found.ess - 1) / 210).sqrt())


def test_ais_from_the_posterior_is_exact(normal):
    known, posterior, _ = linear(normal, B)
    found = ais_log_evidence(known.log_joint, posterior, n_chains=5, n_temperatures=4, n_leapfrog=2, seed=0)
    assert_close(found.value, known.log_p, rtol=0, atol=1e-10)
    assert_close(found.ess, torch.full((B,), 5.0).double(), rtol=0, atol=1e-10)
    assert (found.se < 1e-10).all()


@pytest.mark.parametrize(("n_temperatures", "n_leapfrog"), [(2, 1), (3, 1), (7, 3)])
def test_weights_of_both_directions_average_to_the_evidence(normal, n_temperatures, n_leapfrog):
    """E[w] = p(x) forwards and E[1/w] = 1/p(x) backwards hold for any schedule if, and only if, every transition leaves
    its distribution alone; one chain a datum makes the bounds the weights themselves.
    """
    count = 5003
    known, posterior, _ = linear(normal, count)
    given = {"n_chains": 1, "n_temperatures": n_temperatures, "n_leapfrog": n_leapfrog, "seed": 0}
    found = bdmc(known.log_joint, wide(posterior, count), known.z, **given)
    forward, forward_se = mean_and_se((found.lower - known.log_p).exp())
    backward, backward_se = mean_and_se((known.log_p - found.upper).exp())
    assert abs(forward - 1) < 5 * forward_se < 0.2
    assert abs(backward - 1) < 5 * backward_se < 0.2
    lower, se = mean_and_se(found.lower - known.log_p)
    assert lower < -5 * se  # Jensen: a bound, not an estimate
    upper, se = mean_and_se(found.upper - known.log_p)
    assert upper > 5 * se
    assert n_temperatures == 2 or (found.acceptance.mean() > 0.5 and (found.acceptance < 1).any())


def test_more_temperatures_close_the_sandwich(normal):
    count = 53
    known, _, _ = linear(normal, count)
    widths = []
    for n_temperatures in (11, 101):
        given = {"n_chains": 5, "n_temperatures": n_temperatures, "n_leapfrog": 3, "seed": 0}
        found = bdmc(known.log_joint, prior(count, Z), known.z, **given)
        below, below_se = mean_and_se(known.log_p - found.lower)
        above, above_se = mean_and_se(found.upper - known.log_p)
        assert below > -5 * below_se
        assert above > -5 * above_se
        widths.append(below + above)
    assert 0 < widths[1] < 0.3 * widths[0]


def test_ais_on_the_way_from_the_diagonal_optimum(normal):
    count = 211
    known, posterior, W = linear(normal, count)
    q = best_diagonal(posterior, W, count)
    given = {"n_chains": 11, "n_leapfrog": 3, "seed": 0}
    coarse, fine = (ais_log_evidence(known.log_joint, q, n_temperatures=t, **given) for t in (5, 40))
    for found in (coarse, fine):
        mean, se = mean_and_se((found.value - known.log_p).exp())
        assert abs(mean - 1) < 5 * se
    assert fine.se.mean() < 0.7 * coarse.se.mean()
    assert fine.ess.mean() > coarse.ess.mean()
    assert (fine.acceptance > 0.6).all()


def test_the_pilot_shortens_steps_where_the_target_is_narrow(normal):
    """From the prior to a posterior a hundred times narrower: there a quarter of a turn accepts next to nothing."""
    known, _, _ = linear(normal, B, psi=1e-4)
    found = ais_log_evidence(known.log_joint, prior(B, Z), n_chains=5, n_temperatures=201, n_leapfrog=3, seed=0)
    assert (found.acceptance > 0.5).all()


def test_a_nonlinear_decoder_against_quadrature():
    count = 5
    known, _ = nonlinear(count)
    q = fit_local(known.log_joint, prior(count, 2, FullGaussian), n_draws=128, seed=0, n_fresh=4).q
    found = importance_log_evidence(known.log_joint, q, n_samples=20_000, seed=0)
    assert ((found.value - known.log_p).abs() < 5 * found.se).all()
    assert (found.se < 0.01).all()
    given = {"n_chains": 101, "n_temperatures": 15, "n_leapfrog": 3, "seed": 0}
    found = ais_log_evidence(known.log_joint, q, **given)
    assert ((found.value - known.log_p).abs() < 5 * found.se).all()
    assert (found.se < 0.1).all()
    assert_close(bdmc(known.log_joint, q, known.z, **given).lower, found.value)  # the same forward run
    bounds = bdmc(known.log_joint, q, known.z, **(given | {"n_temperatures": 101}))
    assert ((bounds.upper - known.log_p).abs() < 0.2).all()


def test_importance_sampling_needs_no_gradient(normal):
    known, posterior, _ = linear(normal, B)
    found = importance_log_evidence(lambda z: known.log_joint(z.detach()), posterior, n_samples=7, seed=0)
    assert (found.ess > 1).all()


def test_exactly_n_samples_are_used(normal):
    known, posterior, _ = linear(normal, B)
    seen = []

    def counting(z):
        seen.append(len(z))
        return known.log_joint(z)

    for n_samples, chunk in ((1, None), (301, None), (301, 7), (2003, None)):
        seen.clear()
        importance_log_evidence(counting, posterior, n_samples=n_samples, seed=0, chunk=chunk)
        assert sum(seen) == 1 + n_samples  # the first looks at the mean of q
        assert max(seen) <= (chunk or 2**13 // B)


def calls(log_joint, q, z_true, **given):
    schedule = {"n_chains": 5, "n_temperatures": 4, "n_leapfrog": 2}
    return (
        *importance_log_evidence(log_joint, q, n_samples=301, seed=3, **given),
        *ais_log_evidence(log_joint, q, seed=3, **schedule, **given),
        *bdmc(log_joint, q, z_true, seed=3, **schedule, **given),
    )


def test_chunks_of_data_and_of_samples_change_nothing():
    known, model = nonlinear(B)
    q = fit_local(known.log_joint, prior(B, 2), n_draws=22, seed=0, n_fresh=4).q
    whole = calls(known.log_joint, q, known.z)
    parts = [
        calls(
            joint.of(model, known.x[start : start + 4]),
            DiagonalGaussian(*(t[start : start + 4] for t in q)),
            known.z[start : start + 4],
            first=start,
        )
        for start in range(0, B, 4)
    ]
    for all_at_once, some in zip(whole, zip(*parts, strict=True), strict=True):
        assert_close(torch.cat(some), all_at_once, rtol=0, atol=1e-10)
    for all_at_once, some in zip(whole, calls(known.log_joint, q, known.z, chunk=3), strict=True):
        assert_close(some, all_at_once, rtol=0, atol=1e-10)


def test_the_same_call_repeats_bit_for_bit_and_another_seed_does_not(normal):
    known, posterior, _ = linear(normal, B)
    q = wide(posterior, B)
    assert all(map(torch.equal, calls(known.log_joint, q, known.z), calls(known.log_joint, q, known.z)))
    one, two = (importance_log_evidence(known.log_joint, q, n_samples=7, seed=s).value for s in (0, 1))
    assert not torch.equal(one, two)


def test_single_precision_is_kept_and_agrees():
    known, model = nonlinear(B)
    double = fit_local(known.log_joint, prior(B, 2), n_draws=22, seed=0, n_fresh=4).q
    expected = calls(known.log_joint, double, known.z)
    single = DiagonalGaussian(double.mean.float(), double.log_var.float())
    found = calls(joint.of(model.float(), known.x.float()), single, known.z)
    assert all(value.dtype == torch.float32 and value.shape == (B,) for value in found)
    importance = slice(0, 4)  # no acceptance that rounding could turn over
    for a, b in zip(found[importance], expected[importance], strict=True):
        assert_close(a.double(), b, rtol=1e-3, atol=1e-4)


def test_one_sample_has_no_standard_error(normal):
    known, posterior, _ = linear(normal, B)
    found = importance_log_evidence(known.log_joint, posterior, n_samples=1, seed=0)
    assert (found.se == math.inf).all()
    assert (found.ess == 1).all()


def test_a_density_of_zero_weighs_nothing(normal):
    """Half of the posterior cut away: log p falls by log 2, whatever the value is at the other half's points."""

    def half(z):
        value = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return torch.where(z[..., 0] > -1e-9, value, -math.inf)

    q = prior(B, Z)
    found = importance_log_evidence(half, q, n_samples=2003, seed=0)
    assert ((found.value + math.log(2)).abs() < 5 * found.se).all()
    found = ais_log_evidence(half, q, n_chains=503, n_temperatures=4, n_leapfrog=3, seed=0)
    assert ((found.value + math.log(2)).abs() < 5 * found.se).all()


def good(z):
    return -0.5 * z.square().sum(-1)


def nan_away_from_zero(z):
    return torch.where((z.abs().sum(-1) > 0) & (torch.arange(B) == 7), math.nan, good(z))


GIVEN = {
    importance_log_evidence: {"n_samples": 7},
    ais_log_evidence: {"n_chains": 3, "n_temperatures": 4, "n_leapfrog": 2},
    bdmc: {"z_true": torch.zeros(B, Z), "n_chains": 3, "n_temperatures": 4, "n_leapfrog": 2},
}
EVERY = [
    ({"log_joint": lambda z: good(z).sum(-1)}, r"log_joint must return shape \(1, 11\) .* got \(1,\); sum over pixels"),
    ({"log_joint": nan_away_from_zero}, r"log_joint must not be NaN or \+inf, got \[nan\] for datum 7; check"),
    (
        {"log_joint": lambda z: math.nan * z.sum(-1)},
        r"log_joint must be finite .*, got \[nan, nan, nan\] for data \[0, 1",
    ),
    (
        {"q": DiagonalGaussian(torch.zeros(B, Z), torch.zeros(B, 2))},
        r"q.log_var must have shape \(11, 3\) .* got \(11, 2\)",
    ),
    ({"q": FullGaussian(torch.zeros(B, Z), torch.zeros(Z, Z))}, "q.scale_tril must be lower triangular"),
    ({"q": FullGaussian(torch.zeros(0, Z), torch.eye(Z))}, r"q.mean must have shape \(B, Z\), got \(0, 3\)"),
    ({"seed": True}, "seed must be an integer of at least 0, got True"),
    ({"first": 0.5}, "first must be an integer of at least 0, got 0.5"),
    ({"chunk": -2}, "chunk must be an integer of at least 1, got -2"),
]
ANNEALED = [
    ({"n_temperatures": 1}, "n_temperatures must be an integer of at least 2, got 1; the schedule needs both its ends"),
    ({"n_chains": 0}, "n_chains must be an integer of at least 1, got 0"),
    ({"n_leapfrog": 0}, "n_leapfrog must be an integer of at least 1, got 0"),
    ({"log_joint": lambda z: good(z.detach())}, "log_joint must be differentiable in z"),
]


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        *((f, *case) for f in GIVEN for case in EVERY),
        *((f, *case) for f in (ais_log_evidence, bdmc) for case in ANNEALED),
        (importance_log_evidence, {"n_samples": 0}, "n_samples must be an integer of at least 1, got 0; 1000 or more"),
        (importance_log_evidence, {"n_samples": 10.0}, "n_samples must be an integer of at least 1, got 10.0"),
        (importance_log_evidence, {"df": 0}, "df must be an integer of at least 1, got 0"),
        (importance_log_evidence, {"log_joint": lambda z: good(z) - math.inf * z.abs().sum(-1)}, "log_joint must be"),
        (bdmc, {"z_true": torch.zeros(B, 2)}, r"z_true must be finite of shape \(11, 3\), got \(11, 2\)"),
        (bdmc, {"z_true": torch.full((B, Z), math.nan)}, "z_true must be finite of shape"),
    ],
)
def test_bad_input_is_refused_by_name(function, change, message):
    given = {"log_joint": good, "q": DiagonalGaussian(torch.zeros(B, Z), torch.zeros(B, Z)), "seed": 0} | GIVEN[
        function
    ]
    with pytest.raises(ValueError, match=message):
        function(**(given | change))


def test_no_density_at_any_sample_is_an_error(normal):
    def nowhere(z):  # but at the mean of q
        return torch.where((z == 0).all(-1), good(z), -math.inf)

    with pytest.raises(ValueError, match="log_joint must be above -inf somewhere, got -inf at all 7 samples of data"):
        importance_log_evidence(nowhere, prior(B, Z), n_samples=7, seed=0)
