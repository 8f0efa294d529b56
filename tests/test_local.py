import math

import pytest
import torch
from decoders import exact_elbo, linear, linear_log_joint, nonlinear, prior
from scipy import optimize
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, FullGaussian, kl
from vae.inference.local import best_of, fit_local, prior_starts

B, Z, PSI = 11, 3, 0.3
FAMILIES = [DiagonalGaussian, FullGaussian]


def every(fit):
    return (*fit.q, *fit[1:])


def test_full_covariance_finds_the_exact_posterior(normal):
    known, posterior, _ = linear(normal, B)
    fit = fit_local(known.log_joint, prior(B, Z, FullGaussian), n_draws=14, seed=0, tol=1e-13)
    assert fit.converged.all()
    assert_close(fit.q.mean, posterior.mean, rtol=0, atol=1e-6)
    assert_close(fit.q.scale_tril, posterior.scale_tril.expand(B, Z, Z), rtol=0, atol=1e-6)
    assert_close(fit.elbo, known.log_p, rtol=0, atol=1e-6)
    assert_close(fit.certificate, torch.zeros(B).double(), rtol=0, atol=1e-6)
    assert (fit.decrement.abs() < 1e-9).all()


def test_the_diagonal_family_misses_the_approximation_gap(normal):
    known, posterior, W = linear(normal, B)
    fit = fit_local(known.log_joint, prior(B, Z), n_draws=14, seed=0)
    exact = lg.expected_log_lik(W, PSI, known.x, fit.q) - fit.q.kl_to_standard_normal()
    gap = torch.full((B,), lg.approximation_gap(W, PSI), dtype=torch.float64)
    assert_close(known.log_p - exact, gap, rtol=0, atol=1e-6)
    assert_close(known.log_p - (fit.elbo + fit.certificate), gap, rtol=0, atol=1e-6)  # the fixed draws' own value
    assert ((fit.elbo - exact).abs() < 5 * fit.se).all()
    assert (fit.se > 1e-3).all()
    assert_close(fit.q.mean, posterior.mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_of_a_nonlinear_decoder_is_found(family):
    count = 3
    known, _ = nonlinear(count)
    fit = fit_local(known.log_joint, prior(count, 2, family), n_draws=1024, seed=0, n_fresh=5003)
    value = exact_elbo(known, fit.q).detach()
    assert ((fit.elbo - value).abs() < 5 * fit.se).all()
    assert (value < known.log_p).all()

    def gaussian(flat):
        rows = flat.view(count, -1)
        if family is DiagonalGaussian:
            return DiagonalGaussian(rows[:, :2], rows[:, 2:])
        zero = torch.zeros_like(rows[:, 0])
        entries = torch.stack([rows[:, 2].exp(), zero, rows[:, 3], rows[:, 4].exp()], 1)
        return FullGaussian(rows[:, :2], entries.view(count, 2, 2))

    def both(flat):
        slope, loss = torch.func.grad_and_value(lambda f: -exact_elbo(known, gaussian(f)).sum())(torch.from_numpy(flat))
        return float(loss), slope.numpy()

    start = torch.zeros(count, 4 if family is DiagonalGaussian else 5).double().flatten().numpy()
    best = optimize.minimize(both, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-8})
    optimum = exact_elbo(known, gaussian(torch.from_numpy(best.x))).detach()
    assert ((optimum - value).abs() < 2e-3).all()  # 1024 draws; 1.5e-4 nats are usual
    assert (fit.converged & (fit.iterations > 2)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("psi", [1.0, 1e-2])
def test_a_parabola_takes_one_step(normal, family, psi):
    known, _, _ = linear(normal, B, psi=psi)
    fit = fit_local(known.log_joint, prior(B, Z, family), n_draws=6, seed=0, n_fresh=4, tol=1e-9)
    assert (fit.converged & (fit.iterations == 1)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_posterior_a_thousand_times_narrower_than_the_start_is_found(normal, family):
    known, _, W = linear(normal, B, psi=1e-6)
    fit = fit_local(known.log_joint, prior(B, Z, family), n_draws=6, seed=0, n_fresh=4, max_iter=15)
    gap = lg.approximation_gap(W, 1e-6) if family is DiagonalGaussian else 0.0
    assert fit.converged.all()
    assert_close(fit.elbo + fit.certificate, known.log_p - gap, rtol=0, atol=1e-5)


def test_a_fit_that_had_too_few_evaluations_says_so():
    known, _ = nonlinear(B)
    assert not fit_local(known.log_joint, prior(B, 2), n_draws=22, seed=0, max_iter=2, n_fresh=4).converged.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_few_evaluations_are_enough(family):
    """From the prior, to what rounding leaves: the curvature known from the draws is worth a hundred plain steps."""
    known, _ = nonlinear(B)
    fit = fit_local(known.log_joint, prior(B, 2, family), n_draws=64, seed=0, max_iter=16, n_fresh=4, tol=1e-9)
    assert fit.converged.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_certificates_measure_an_unfinished_fit(normal, family):
    """No step at all: what is left to gain is a number. The data are replicas of one, so that the certificates are
    independent estimates of it.
    """
    known, posterior, W = linear(normal, 1)
    count = 997
    log_joint = linear_log_joint(W, PSI, known.x.expand(count, -1))
    q = prior(1, Z, family)
    q = type(q)(posterior.mean + 0.3 * normal(1, Z), q[1] - 0.7 if family is DiagonalGaussian else 0.6 * q[1])
    q0 = type(q)(q[0].expand(count, Z), q[1])
    fit = fit_local(log_joint, q0, n_draws=14, seed=0, n_fresh=101, tol=1e9)
    assert (fit.iterations == 0).all()
    assert_close(fit.q[1], q[1].expand_as(fit.q[1]))
    scale = torch.linalg.cholesky(q.covariance())
    value = known.log_p - kl(q, posterior)
    assert abs(fit.elbo.mean() - value) < 5 * fit.elbo.std() / math.sqrt(count)
    assert abs(fit.certificate.mean()) < 5 * fit.certificate.std() / math.sqrt(count)

    def gain(shift, stretch):
        moved = FullGaussian(q.mean + scale[0] @ shift, scale @ (torch.eye(Z).double() + stretch.tril()))
        return -kl(moved, posterior).sum()

    by_mean, by_scale = torch.func.grad(gain, (0, 1))(torch.zeros(Z).double(), torch.zeros(Z, Z).double())
    if family is DiagonalGaussian:
        by_scale = by_scale.diagonal().diag()
    exact = 0.5 * (by_mean.square().sum() + (by_scale.square() / (1 + torch.eye(Z))).sum())
    assert exact > 0.1
    assert abs(fit.decrement.mean() - exact) < 5 * fit.decrement.std() / math.sqrt(count)
    assert abs(fit.elbo.std() / fit.se.mean() - 1) < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_data_and_of_samples_change_nothing(family):
    known, model = nonlinear(B)
    q0 = prior(B, 2, family)
    q0 = type(q0)(q0[0], q0[1].expand(B, *q0[1].shape[1:]))
    given = {"n_draws": 22, "seed": 3, "n_fresh": 13}
    whole = fit_local(known.log_joint, q0, **given)
    assert whole.iterations.unique().numel() > 1, "no datum is harder than another"
    parts = [
        fit_local(
            lambda z, rows=slice(start, start + 4): (
                model.log_lik(known.x[rows], z) - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
            ),
            type(q0)(*(t[start : start + 4] for t in q0)),
            first=start,
            **given,
        )
        for start in range(0, B, 4)
    ]
    for all_at_once, some in zip(every(whole), zip(*map(every, parts), strict=True), strict=True):
        assert_close(torch.cat(some), all_at_once, rtol=0, atol=1e-10)
    for a, b in zip(every(whole), every(fit_local(known.log_joint, q0, chunk=5, **given)), strict=True):
        assert_close(a, b, rtol=0, atol=1e-10)


def test_the_same_call_repeats_bit_for_bit_and_another_seed_does_not():
    known, _ = nonlinear(B)
    one, two, other = (fit_local(known.log_joint, prior(B, 2), n_draws=22, seed=s, n_fresh=13) for s in (0, 0, 1))
    assert all(map(torch.equal, every(one), every(two)))
    assert not torch.equal(one.q.mean, other.q.mean)
    assert not torch.equal(one.elbo, other.elbo)


def test_the_start_does_not_matter_where_log_joint_is_concave(normal):
    known, _, _ = linear(normal, B)
    far = DiagonalGaussian(30 * normal(B, Z), 3 * normal(B, Z))
    fits = [fit_local(known.log_joint, q0, n_draws=14, seed=0, tol=1e-13) for q0 in (prior(B, Z), far)]
    assert all(fit.converged.all() for fit in fits)
    assert_close(fits[0].q.mean, fits[1].q.mean, rtol=0, atol=1e-6)
    assert_close(fits[0].q.log_var, fits[1].q.log_var, rtol=0, atol=1e-6)


def test_a_step_that_leaves_the_support_is_shortened():
    def log_joint(z):  # NaN from 0.5 on, and steep towards it
        return (20 * z + 3 * torch.log(0.5 - z)).sum(-1)

    q0 = DiagonalGaussian(torch.full((B, 1), -4.0).double(), torch.full((B, 1), -6.0).double())
    fit = fit_local(log_joint, q0, n_draws=10, seed=0, n_fresh=4)
    assert fit.converged.all()
    assert (fit.q.mean < 0.5).all()
    assert (fit.elbo > log_joint(q0.mean[None])[0] + q0.entropy() + 5).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_is_kept_and_agrees(family):
    known, model = nonlinear(B)
    double = fit_local(known.log_joint, prior(B, 2, family), n_draws=22, seed=0, n_fresh=13)
    model, x = model.float(), known.x.float()
    single = fit_local(
        lambda z: model.log_lik(x, z) - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1),
        prior(B, 2, family, torch.float32),
        n_draws=22,
        seed=0,
        n_fresh=13,
    )
    for name in ("elbo", "se", "certificate", "decrement"):
        assert getattr(single, name).dtype == torch.float32
        assert_close(getattr(single, name).double(), getattr(double, name), rtol=0, atol=5e-3)
    assert single.q.mean.dtype == torch.float32
    assert single.converged.all()


def nan_at(row):
    def log_joint(z):
        value = -0.5 * z.square().sum(-1)
        return torch.where(torch.arange(z.shape[1]) == row, math.nan * value, value)

    return log_joint


def good(z):
    return -0.5 * z.square().sum(-1)


BAD_Q = FullGaussian(torch.zeros(B, Z), torch.ones(B, Z, Z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"log_joint": lambda z: good(z).T},
            r"log_joint must return shape \(1, 11\) for z of shape \(1, 11, 3\), got \(11",
        ),
        ({"log_joint": lambda z: good(z).sum(0)}, r"log_joint must return shape .* got \(11,\); sum over pixels"),
        ({"log_joint": lambda z: 3.0}, "log_joint must return shape .* got float"),
        ({"log_joint": lambda z: good(z.detach())}, "log_joint must be differentiable in z"),
        ({"log_joint": nan_at(7)}, r"log_joint must be finite at the mean of q, .* got \[nan\] for datum 7; check x"),
        (
            {"log_joint": lambda z: good(z) + z.abs().sqrt().sum(-1)},
            "log_joint must be .* got a gradient that is not for data",
        ),
        ({"q0": torch.zeros(B, Z)}, "q0 must be a DiagonalGaussian or a FullGaussian, got Tensor"),
        ({"q0": DiagonalGaussian(torch.zeros(Z), torch.zeros(Z))}, r"q0.mean must have shape \(B, Z\), got \(3,\)"),
        (
            {"q0": DiagonalGaussian(torch.zeros(B, Z), torch.zeros(2, Z))},
            r"q0.log_var must have shape \(11, 3\) .* \(2, 3\)",
        ),
        ({"q0": DiagonalGaussian(torch.full((B, Z), math.nan), torch.zeros(B, Z))}, "q0.mean must be finite, .* data"),
        ({"q0": BAD_Q}, "q0.scale_tril must be lower triangular with a positive diagonal"),
        ({"n_draws": 4}, "n_draws must be even and at least twice the dimension 3, got 4"),
        ({"n_draws": 7}, "n_draws must be even"),
        ({"n_fresh": 3}, "n_fresh must be an integer of at least 4, got 3"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
        ({"tol": math.nan}, "tol must be positive, got nan"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"first": -1}, "first must be an integer of at least 0, got -1"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    given = {"log_joint": good, "q0": DiagonalGaussian(torch.zeros(B, Z), torch.zeros(B, Z)), "n_draws": 8, "seed": 0}
    given |= change
    with pytest.raises(ValueError, match=message):
        fit_local(given.pop("log_joint"), given.pop("q0"), **given)


def test_nothing_is_evaluated_before_the_numbers_are_checked():
    def never(z):
        raise AssertionError("log_joint was called")

    with pytest.raises(ValueError, match="n_draws"):
        fit_local(never, prior(B, Z), n_draws=3, seed=0)


def test_nan_at_the_draws_of_the_start_is_an_error_that_names_the_datum():
    def log_joint(z):
        return torch.where((z.abs() > 0.5).any(-1) & (torch.arange(B) == 6), math.nan, good(z))

    with pytest.raises(
        ValueError, match=r"log_joint must be finite .* at the draws of q0, got on average \[nan\] for datum 6"
    ):
        fit_local(log_joint, prior(B, Z), n_draws=8, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_latent_is_enough(normal, family):
    known, _, _ = linear(normal, B, z_dim=1)
    fit = fit_local(known.log_joint, prior(B, 1, family), n_draws=2, seed=0, n_fresh=4)
    assert isinstance(fit.q, family)
    assert_close(fit.elbo, known.log_p, rtol=0, atol=1e-6)


def test_nan_at_fresh_draws_is_an_error_that_names_the_datum():
    def log_joint(z):  # finite near the origin, where the 8 fitted draws are; some of 4000 fresh ones are not there
        far = (z.abs() > 3.2).any(-1) & (torch.arange(B) == 6)
        return torch.where(far, math.nan, good(z))

    with pytest.raises(ValueError, match=r"log_joint must not be NaN or \+inf, got \[nan\] for datum 6"):
        fit_local(log_joint, prior(B, Z), n_draws=8, seed=0, n_fresh=4000)


def two_modes(z):
    """Density 1/20 in a wide mode about 0 and 19/20 in a narrow one at a corner, different for each datum."""
    corner = torch.tensor([[1.5, 1.0], [-1.5, 1.0], [1.0, -1.5]], dtype=z.dtype)
    wide = -0.5 * (z / 0.5).square().sum(-1) - 2 * math.log(0.5) + math.log(1 / 20)
    narrow = -0.5 * ((z - corner) / 0.02).square().sum(-1) - 2 * math.log(0.02) + math.log(19 / 20)
    return torch.logaddexp(wide, narrow) - math.log(2 * math.pi)


def test_a_search_from_the_prior_misses_the_narrow_mode_and_its_certificates_do_not_see_it():
    how = {"n_draws": 64, "seed": 0}
    blind = fit_local(two_modes, prior(3, 2), **how)
    assert blind.converged.all()
    assert (blind.certificate.abs() < 0.01).all()
    assert (blind.decrement.abs() < 0.01).all()
    assert_close(blind.elbo, torch.full((3,), math.log(1 / 20), dtype=torch.float64), rtol=0, atol=0.02)
    best = best_of([fit_local(two_modes, q0, **how) for q0 in prior_starts(two_modes, blind.q.mean, seed=0)])
    assert_close(best.elbo, torch.full((3,), math.log(19 / 20), dtype=torch.float64), rtol=0, atol=0.02)


def test_starts_owe_nothing_to_chunks_and_more_draws_are_better(normal):
    known, _, _ = linear(normal, B)
    like = torch.zeros(B, Z).double()
    whole, pieces = (prior_starts(known.log_joint, like, seed=0, n_draws=100, chunk=c) for c in (None, 7))
    assert_close(whole[0], prior(B, Z), rtol=0, atol=0)
    assert_close(whole, pieces, rtol=0, atol=0)
    better = [prior_starts(known.log_joint, like, seed=0, n_draws=n)[1].mean for n in (1, 10, 100)]
    values = torch.stack([known.log_joint(z[None])[0] for z in better])
    assert (values.mean(1).diff() > 0).all()


def test_the_best_is_picked_datum_by_datum(normal):
    known, _, _ = linear(normal, B)
    good = fit_local(known.log_joint, prior(B, Z, FullGaussian), n_draws=14, seed=0)
    bad = type(good)(type(good.q)(*(part - 1 for part in good.q)), *(part.double() - 1 for part in good[1:]))
    swapped = torch.arange(B) % 2 == 0

    def mixed(a, b):
        return torch.where(swapped.view(-1, *[1] * (a.ndim - 1)), a, b)

    def mix(one, other):
        return type(one)(type(one.q)(*map(mixed, one.q, other.q)), *map(mixed, one[1:], other[1:]))

    best = best_of([mix(good, bad), mix(bad, good)])
    for a, b in zip(every(best), every(good), strict=True):
        assert_close(a, b.to(a), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_draws": 0}, "n_draws must be an integer of at least 1, got 0"),
        ({"like": torch.zeros(3)}, r"like.mean must have shape \(B, Z\), got \(3,\)"),
        ({"log_joint": lambda z: z}, r"log_joint must return shape"),
    ],
)
def test_starts_refuse_what_they_cannot_use(change, message):
    given = {"log_joint": two_modes, "like": torch.zeros(3, 2), "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        prior_starts(given.pop("log_joint"), given.pop("like"), **given)


def test_the_best_of_nothing_or_of_two_families_is_refused():
    fits = [fit_local(two_modes, prior(3, 2, family), n_draws=8, seed=0, max_iter=1, n_fresh=4) for family in FAMILIES]
    for given in ([], fits):
        with pytest.raises(ValueError, match="fits must be one or more, of one family"):
            best_of(given)
