import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vae.exact import linear_gaussian
from vae.exact.side_information import ends, kl_and_information, negative_objective, optimum_kl, tie
from vae.inference.lbfgs import minimise

VARIANCES = [0.03, 0.1, 0.3, 0.45, 0.6, 0.9]


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def minima(v, t, sees, normal, starts=24):
    """What L-BFGS finds from many states, pushed off saddles: (KL, loss), the best first, those of one KL once."""
    v, t, sees = (torch.full((starts,), float(number), dtype=torch.float64) for number in (v, t, sees))
    u = normal(starts, 5)
    for _ in range(3):
        u = minimise(lambda u: negative_objective(u, v, t, sees), u + 0.01 * normal(starts, 5), max_iter=80, memory=6).u
    losses, kls = negative_objective(u, v, t, sees), kl_and_information(u, v, sees)[0]
    found = {round(kl, 3): (kl, loss) for loss, kl in sorted(zip(losses.tolist(), kls.tolist(), strict=True))}
    return sorted(found.values(), key=lambda pair: pair[1])


# What is minimised


def test_the_objective_is_the_expectation_over_data_and_noise(normal):
    """Written out with the joint covariance of x, the noise of y and that of z, by which everything is linear."""
    u = 0.7 * normal(7, 5)
    v, t, sees = normal(7).sigmoid(), normal(7).exp(), double(0, 1, 1, 0, 1, 0, 1)
    for i, (a, b, k, own, log_s2) in enumerate(u.tolist()):
        noise = (v[i] / (1 - v[i])).item()
        sources = np.diag([1.0, noise, math.exp(log_s2)])
        y, mean = np.array([1.0, 1.0, 0.0]), np.array([k + own * sees[i].item(), own * sees[i].item(), 0.0])
        z = mean + [0, 0, 1]
        miss = np.array([1.0, 0, 0]) - a * z - b * y
        kl = 0.5 * (mean @ sources @ mean + math.exp(log_s2) - 1 - log_s2)
        expected = miss @ sources @ miss / (2 * t[i].item()) + kl
        assert_close(negative_objective(u, v, t, sees)[i].item(), expected, rtol=1e-12, atol=0)
        found, information = kl_and_information(u, v, sees)
        assert_close(found[i].item(), kl, rtol=1e-12, atol=0)
        log_ratio = math.log(z @ sources @ z) - log_s2  # variance of z over that given x and y
        assert_close(information[i].item(), 0.5 * log_ratio, rtol=1e-12, atol=0)
        assert information[i] <= found[i]


def test_y_leaves_the_variance_that_is_named():
    """By the best linear prediction: with z ignored, the miss is v at b = 1 - v, and nowhere less."""
    for v in VARIANCES:
        u = torch.zeros(101, 5, dtype=torch.float64)
        u[:, 1] = 1 - v + torch.linspace(-0.5, 0.5, 101)
        miss = 2 * negative_objective(u, double(v), double(1.0), double(0.0))
        assert miss.argmin() == 50
        assert_close(miss[50], double(v)[0])


# Optima, against a search that knows nothing of them


@pytest.mark.parametrize("v", [0.1, 0.3, 0.45])
def test_between_the_ends_there_are_two_optima_and_elsewhere_one(v, normal):
    first, last = ends(v)
    for t in (0.8 * first, math.sqrt(first * last), 1.2 * last):
        predicted = {float(optimum_kl(v, t, warm=warm)) for warm in (False, True)}
        assert len(predicted) == (2 if first < t < last else 1)
        found = [kl for kl, _ in minima(v, t, False, normal)]
        assert sorted(found) == pytest.approx(sorted(predicted), abs=1e-4)


def test_above_the_tie_the_state_that_uses_z_is_the_worse(normal):
    for share, used_is_better in ((0.98, True), (1.02, False)):
        (best, _), (other, _) = minima(0.1, share * tie(0.1), False, normal)
        assert (best > other) == used_is_better


@pytest.mark.parametrize("v", [0.6, 0.9])
@pytest.mark.parametrize("share", [0.4, 0.9, 1.3])
def test_poor_side_information_leaves_one_optimum(v, share, normal):
    ((found, _),) = minima(v, share * v**2, False, normal)
    assert found == pytest.approx(float(optimum_kl(v, share * v**2)), abs=1e-4)
    assert optimum_kl(v, share * v**2) == optimum_kl(v, share * v**2, warm=True)


@pytest.mark.parametrize("share", [0.2, 0.7, 1.1])
def test_an_encoder_that_sees_y_encodes_the_remainder(share, normal):
    """As a linear VAE does whose data have the variance that y leaves."""
    for v in (0.1, 0.7):
        model = linear_gaussian.linear_vae(double(v), beta=2.0, noise_variance=share * v / 2, latent_dim=1)
        kl = float(optimum_kl(v, share * v, sees_y=True))
        assert kl == pytest.approx(model.rate, abs=1e-12)
        assert minima(v, share * v, True, normal)[0][0] == pytest.approx(kl, abs=1e-4)


def test_the_kl_falls_continuously_or_by_a_jump():
    for v in VARIANCES:
        first, last = ends(v)
        jump = optimum_kl(v, last * (1 - 1e-9), warm=True)
        if v < 0.5:  # a^2 = (1 - 2 v) / (4 (1 - v)) there, and u = 1/4
            assert first < last
            a2, t = (1 - 2 * v) / (4 * (1 - v)), float(last)
            k, s2 = math.sqrt(a2) * v / (a2 * v + t), t / (a2 + t)
            assert jump == pytest.approx(0.5 * (k * k + s2 - 1 - math.log(s2)), rel=1e-3)
        else:
            assert first == last
            assert jump < 1e-6
        assert optimum_kl(v, last * (1 + 1e-9), warm=True) == 0
        assert optimum_kl(v, v * (1 - 1e-9), sees_y=True) < 1e-8


@pytest.mark.parametrize("v", [0.02, 0.1, 0.3, 0.49])
def test_at_the_tie_both_optima_are_equally_good(v):
    def best(t):
        """The loss of the state that uses z less that of the one that does not, over a fine grid of a^2."""
        w = np.linspace(0.2 * (1 - 2 * v), 1.0, 200_001)
        used = 0.5 * (v / (w * v + t) + np.log((w + t) / t))
        return used.min() - 0.5 * v / t

    t = tie(v)
    assert ends(v).ignored < t < ends(v).used
    assert best(t) == pytest.approx(0, abs=1e-7)
    assert best(0.999 * t) < 0 < best(1.001 * t)


# Shapes and bad input


def test_numbers_arrays_and_tensors_go_together():
    v, t = np.array([[0.1], [0.6]]), np.geomspace(0.01, 1.0, 5)
    sees = np.array([True, False, True, False, True])
    together = optimum_kl(v, t, sees_y=sees, warm=True)
    assert together.shape == (2, 5)
    for i, j in np.ndindex(2, 5):
        assert together[i, j] == optimum_kl(float(v[i, 0]), float(t[j]), sees_y=bool(sees[j]), warm=True)
    assert np.array_equal(optimum_kl(torch.from_numpy(v), torch.from_numpy(t)), optimum_kl(v, t))
    both = ends([0.1, 0.6], [[False], [True]])
    assert np.array_equal(both.ignored[1], both.used[1])
    assert np.array_equal(both.ignored[1], [0.1, 0.6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ends([0.5, 1.0]), "variance must lie between 0 and 1, got 1.0"),
        (lambda: optimum_kl(0.0, 0.1), "variance must lie between 0 and 1, got 0.0"),
        (lambda: optimum_kl(math.nan, 0.1), "variance must lie between 0 and 1, got nan"),
        (lambda: optimum_kl(0.3, [0.1, -1.0]), "level must be positive and finite, got -1.0"),
        (lambda: optimum_kl(0.3, math.inf), "level must be positive and finite, got inf"),
        (lambda: optimum_kl("much", 0.1), "variance must lie between 0 and 1, got 'much'"),
        (lambda: tie(0.5), "variance must be below 0.5, got 0.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
