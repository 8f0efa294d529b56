"""Sources in the plane: what they are, and what codes for them cost."""

import math

import pytest
import torch

from vae.exact.shannon import blahut_arimoto
from vae.exact.sources import (
    BANANA_ENTROPY,
    banana,
    banana_grid,
    circle_points,
    code_lagrangian,
    disc_grid,
    off_grid_gap,
)
from vae.inference.point_codes import best_gaussians, rate_and_distortions
from vae.noise import draw, generator


def test_the_banana_has_mean_zero_and_the_entropy_of_its_axes():
    x = banana(40_000, generator(0, "banana"))
    error = x.std(0) / math.sqrt(len(x))
    assert (x.mean(0).abs() < 5 * error).all()
    second = x[:, 1] - 0.5 * (x[:, 0].square() - 1)  # the bend undone
    assert float(second.std()) == pytest.approx(0.25, abs=0.005)
    assert pytest.approx(math.log(2 * math.pi * math.e) + math.log(0.25)) == BANANA_ENTROPY


def test_the_grid_is_the_bananas_distribution_and_its_reproductions_lie_around_it():
    x, p_x, y = banana_grid(0.2)
    assert float(p_x.sum()) == pytest.approx(1)
    assert (p_x @ x).abs().max() < 1e-3
    assert float(p_x @ x[:, 0].square()) == pytest.approx(1, abs=1e-3)
    assert len(y) > len(x)
    assert float(p_x @ torch.cdist(x, y).min(1).values) < 1e-4  # but for the ends, where hardly anything is


def test_a_code_costs_what_blahut_arimoto_says_on_its_own_grid_and_more_elsewhere_is_certified():
    x, p_x, y = banana_grid(0.3)
    best = blahut_arimoto(p_x, torch.cdist(x, y).square(), 3.0, tolerance=1e-4)
    cost = p_x @ code_lagrangian(x, y, best.p_y, 3.0)
    assert float(cost) == pytest.approx(float(best.lagrangian), abs=2e-4)
    assert off_grid_gap(x, p_x, y, best.p_y, 3.0, y) <= 2e-4  # the certificate on the grid
    assert off_grid_gap(x, p_x, y, best.p_y, 3.0, banana_grid(0.15)[2]) >= -1e-9


def test_points_lie_on_the_circle_and_reproductions_in_the_disc():
    points, y = circle_points(8), disc_grid(5, 16)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(8, dtype=torch.float64))
    assert y.shape == (81, 2)
    assert float(y.norm(dim=1).max()) == pytest.approx(1)
    assert torch.cdist(points, y).min(1).values.max() < 1e-12


def test_gaussians_that_are_all_the_prior_cost_nothing_and_know_nothing():
    rate, distortion = rate_and_distortions(torch.zeros(1, 15), draw(0, "eps", 11, 2), circle_points(3).float())
    assert float(rate) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(distortion, torch.ones(1, 11))  # of three points, about their mean


def test_the_best_gaussians_beat_knowing_nothing_and_not_the_source():
    points, slopes = circle_points(3), [0.5, 6.0]
    rate, distortion = best_gaussians(points, slopes, 2)
    d = torch.cdist(points, disc_grid(20, 48)).square()
    source = blahut_arimoto(
        torch.full((3,), 1 / 3, dtype=torch.float64), d, torch.tensor(slopes), tolerance=1e-5
    ).lagrangian
    cost = rate + torch.tensor(slopes) * distortion.mean(1)
    error = torch.tensor(slopes) * distortion.std(1) / math.sqrt(distortion.shape[1])
    assert (cost > source - 5 * error - 1e-3).all()
    assert (cost < torch.tensor(slopes) + 5 * error + 1e-9).all()


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="spacing must be positive"):
        banana_grid(0.0)
    with pytest.raises(ValueError, match=r"points must have the 2 columns"):
        best_gaussians(torch.zeros(3, 4), [1.0], 1)
