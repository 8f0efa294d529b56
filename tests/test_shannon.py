import math

import pytest
import torch
from torch.testing import assert_close

from vae.exact import shannon
from vae.exact.linear_gaussian import linear_vae


def double(values):
    """Straight to float64: by way of float32 no identity would hold to rounding."""
    return torch.tensor(values, dtype=torch.float64)


SPECTRUM = double([0.25, 4.0, 1.0, 0.0, 1.0, 0.03, 2.0])  # a tie, a zero, no order
LEVELS = double([1e-3, 0.02, 0.03, 0.2, 0.25, 0.7, 1.0, 1.5, 2.0, 3.9])  # knots as well


def entropy(p):
    p = torch.as_tensor(p, dtype=torch.float64)
    return -torch.special.xlogy(p, p) - torch.special.xlogy(1 - p, 1 - p)


def uniform(size):
    return torch.full((size,), 1 / size, dtype=torch.float64)


def hamming(size):
    return 1 - torch.eye(size, dtype=torch.float64)


def gaussian_grid(size, width):
    x = torch.linspace(-width, width, size, dtype=torch.float64)
    weight = (-0.5 * x.square()).exp()
    return weight / weight.sum(), (x[:, None] - x).square()


def scattered(normal):
    """A source, a distortion matrix of another width, with a symbol that never occurs."""
    weight = normal(7).exp()
    weight[2] = 0
    return weight / weight.sum(), (normal(7, 3)[:, None] - normal(11, 3)).square().sum(-1)


# Reverse water-filling


@pytest.mark.parametrize("noise_variance", [0.1, 1.7])
def test_a_linear_vae_is_on_the_gaussian_curve(noise_variance):
    """At every level, the knots and a collapsed model included."""
    levels = torch.cat([LEVELS, double([4.0, 5.0])])
    point = shannon.gaussian_rate_distortion(SPECTRUM, theta=levels)
    models = [linear_vae(SPECTRUM, float(t) / noise_variance, noise_variance, len(SPECTRUM)) for t in levels]
    assert_close(point.rate, double([m.rate for m in models]), rtol=1e-12, atol=1e-12)
    assert_close(point.distortion, double([m.distortion for m in models]), rtol=1e-12, atol=1e-12)
    assert_close(point.slope, 1 / (2 * levels), rtol=1e-15, atol=0)


def test_a_bottleneck_is_above_the_curve_by_what_the_missing_latents_would_save():
    narrow = linear_vae(SPECTRUM, 1.0, 0.2, 2)
    at_its_rate = shannon.gaussian_rate_distortion(SPECTRUM, rate=narrow.rate)
    assert narrow.distortion > float(at_its_rate.distortion) + 0.1
    missing = SPECTRUM.sort(descending=True).values[2:]
    wide = shannon.gaussian_rate_distortion(SPECTRUM, theta=0.2)
    assert narrow.distortion - float(wide.distortion) == pytest.approx(float((missing - 0.2).clamp(min=0).sum()))


def test_level_distortion_and_rate_give_the_same_point():
    by_level = shannon.gaussian_rate_distortion(SPECTRUM, theta=LEVELS)
    by_distortion = shannon.gaussian_rate_distortion(SPECTRUM, distortion=by_level.distortion)
    by_rate = shannon.gaussian_rate_distortion(SPECTRUM, rate=by_level.rate)
    for other in (by_distortion, by_rate):
        for field in ("rate", "distortion", "slope"):
            assert_close(getattr(other, field), getattr(by_level, field), rtol=1e-12, atol=1e-12)


def test_one_dimension_is_the_textbooks():
    """D(R) = variance exp(-2 R)."""
    rates = torch.linspace(0, 12, 7, dtype=torch.float64)
    point = shannon.gaussian_rate_distortion(double([3.0]), rate=rates)
    assert_close(point.distortion, 3 * (-2 * rates).exp(), rtol=1e-13, atol=0)


def test_the_ends_of_the_gaussian_curve():
    total = float(SPECTRUM.sum())
    for point in (
        shannon.gaussian_rate_distortion(SPECTRUM, rate=0.0),
        shannon.gaussian_rate_distortion(SPECTRUM, distortion=total),
        shannon.gaussian_rate_distortion(SPECTRUM, distortion=total * (1 + 3e-16)),  # one unit in the last place up
    ):
        assert float(point.rate) == 0
        assert float(point.distortion) == pytest.approx(total, rel=1e-14)
        assert float(point.slope) == pytest.approx(1 / 8)  # the largest eigenvalue is 4
    beyond = shannon.gaussian_rate_distortion(SPECTRUM, distortion=2 * total)
    assert (float(beyond.rate), float(beyond.distortion), float(beyond.slope)) == (0, 2 * total, 0)
    fine = shannon.gaussian_rate_distortion(SPECTRUM, distortion=6e-12)  # six positive eigenvalues
    kept = SPECTRUM[SPECTRUM > 0]
    assert float(fine.rate) == pytest.approx(0.5 * float((kept / 1e-12).log().sum()), rel=1e-13)


def test_the_gaussian_curves_slope_is_its_derivative():
    distortion = torch.linspace(0.1, 8.0, 23, dtype=torch.float64)
    h = 1e-5
    up = shannon.gaussian_rate_distortion(SPECTRUM, distortion=distortion + h)
    down = shannon.gaussian_rate_distortion(SPECTRUM, distortion=distortion - h)
    here = shannon.gaussian_rate_distortion(SPECTRUM, distortion=distortion)
    assert_close((down.rate - up.rate) / (2 * h), here.slope, rtol=1e-5, atol=0)
    assert (here.rate.diff() < 0).all()
    assert (here.slope.diff() < 0).all()  # convex


def test_results_have_the_shape_of_the_question_and_are_float64():
    levels = LEVELS[:6].reshape(2, 3).float()
    point = shannon.gaussian_rate_distortion(SPECTRUM.float(), theta=levels)
    for field in (point.rate, point.distortion, point.slope, point.gap):
        assert field.shape == (2, 3)
        assert field.dtype == torch.float64
    assert point.converged.all()
    assert shannon.gaussian_rate_distortion(SPECTRUM, theta=0.5).rate.shape == ()
    one = shannon.gaussian_rate_distortion(SPECTRUM.float(), theta=levels[1, 2])
    assert float(one.rate) == pytest.approx(float(point.rate[1, 2]), rel=1e-14)


# Blahut-Arimoto


def test_a_coin_under_hamming_distortion():
    """R(D) = h(p) - h(D) at slope log((1 - D) / D), down to D = p where the rate ends."""
    p = 0.3
    target = double([0.01, 0.1, 0.2, 0.29])
    source = double([p, 1 - p])
    point = shannon.blahut_arimoto(source, hamming(2), ((1 - target) / target).log(), tolerance=1e-10)
    assert point.converged.all()
    assert (point.gap <= 1e-10).all()
    assert_close(point.distortion, target, rtol=0, atol=2e-5)  # F is flat at its minimum: sqrt of the tolerance
    exact = entropy(p) - entropy(point.distortion)
    assert (point.rate >= exact - 1e-12).all()
    assert (point.lower <= exact + 1e-12).all()
    flat = shannon.blahut_arimoto(source, hamming(2), 0.5 * math.log((1 - p) / p), tolerance=1e-10)
    assert float(flat.rate) < 1e-9
    assert float(flat.distortion) == pytest.approx(p, abs=1e-9)
    assert_close(flat.p_y, double([0.0, 1.0]), rtol=0, atol=1e-9)


def test_a_uniform_source_under_hamming_distortion():
    """R(D) = log M - h(D) - D log(M - 1)."""
    size = 5
    slopes = double([0.4, 1.0, 3.0, 40.0, 900.0])  # at the last the kernel underflows off its diagonal
    point = shannon.blahut_arimoto(uniform(size), hamming(size), slopes)
    expected = (size - 1) / (slopes.exp() + size - 1)
    assert_close(point.distortion, expected, rtol=1e-12, atol=1e-15)
    exact = math.log(size) - entropy(expected) - expected * math.log(size - 1)
    assert_close(point.rate, exact, rtol=0, atol=1e-12)
    assert (point.gap < 1e-14).all()


def test_a_distortion_that_no_reproduction_avoids_adds_to_the_distortion_only(normal):
    """A constant per source symbol, large enough that exp(-s d) alone would underflow everywhere."""
    p, d = scattered(normal)
    offset = 900 + normal(7).square()
    plain = shannon.blahut_arimoto(p, d, 1.3, tolerance=1e-9)
    lifted = shannon.blahut_arimoto(p, d + offset[:, None], 1.3, tolerance=1e-9)
    assert_close(lifted.rate, plain.rate, rtol=0, atol=1e-7)
    assert_close(lifted.distortion, plain.distortion + p @ offset, rtol=0, atol=1e-7)


def test_a_gaussian_on_a_grid_approaches_the_closed_form():
    slopes = double([0.3, 1.0, 3.0, 20.0])  # at 0.3 the rate is 0
    exact = shannon.gaussian_rate_distortion(torch.ones(1), theta=1 / (2 * slopes))
    error = {}
    for size in (13, 101):
        point = shannon.blahut_arimoto(*gaussian_grid(size, 5.0), slopes, tolerance=1e-4)
        error[size] = (point.rate + slopes * point.distortion - exact.rate - slopes * exact.distortion).abs()
    assert (error[101] < 2e-4).all()
    assert error[13].max() > 20 * error[101].max()  # the error was the grid's


def test_the_bounds_hold_at_every_stop(normal):
    """However early the iteration is cut, the bracket contains the converged value, and it closes."""
    p, d = scattered(normal)
    s = 0.9
    sharp = shannon.blahut_arimoto(p, d, s, tolerance=1e-11)
    least = float(sharp.rate + s * sharp.distortion)
    gaps = []
    for cut in range(1, 61):
        point = shannon.blahut_arimoto(p, d, s, tolerance=1e-11, max_iter=cut)
        value = float(point.rate + s * point.distortion)
        assert value - float(point.gap) - 1e-11 <= least <= value + 1e-11
        gaps.append(float(point.gap))
        assert int(point.iterations) <= cut
        assert bool(point.converged) == (gaps[-1] <= 1e-11)
    assert gaps[0] > 1e-2
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * gaps[0]


def test_the_gap_is_the_upper_value_less_blahuts_lower_one(normal):
    """At the first stop q is uniform, and both sides can be written out."""
    p, d = scattered(normal)
    s = 0.9
    point = shannon.blahut_arimoto(p, d, s, max_iter=1)
    kernel = (-s * d).exp() / d.shape[1]
    evidence = kernel.sum(1)
    c = (p / evidence) @ kernel * d.shape[1]
    joint = p[:, None] * kernel / evidence[:, None]
    information = torch.special.xlogy(joint, kernel / evidence[:, None] / joint.sum(0)).sum()
    assert_close(point.rate, information, rtol=1e-12, atol=0)
    assert_close(point.distortion, (joint * d).sum(), rtol=1e-12, atol=0)
    lower = -(p * evidence.log()).sum() - c.max().log()
    assert_close(point.gap, point.rate + s * point.distortion - lower, rtol=1e-12, atol=0)


def test_the_point_is_that_of_its_channel(normal):
    """Rate and distortion are recomputed from the reproduction's distribution by their definitions, at the optimum."""
    p, d = scattered(normal)
    s = 0.9
    point = shannon.blahut_arimoto(p, d, s, tolerance=1e-12)
    assert_close(point.p_y.sum(), double(1.0))
    channel = point.p_y * (-s * d).exp()
    channel = channel / channel.sum(1, keepdim=True)
    joint = p[:, None] * channel
    assert_close((joint * d).sum(), point.distortion, rtol=1e-6, atol=0)
    information = torch.special.xlogy(joint, channel / joint.sum(0)).sum()
    assert_close(information, point.rate, rtol=1e-6, atol=0)
    c = (p[:, None] * (-s * d).exp() / ((-s * d).exp() @ point.p_y)[:, None]).sum(0)
    assert c.max() < 1 + 1e-9  # Kuhn-Tucker: 1 on the support, at most 1 off it
    assert_close(c[point.p_y > 1e-3], torch.ones_like(c[point.p_y > 1e-3]), rtol=0, atol=1e-6)
    assert (point.p_y < 1e-6).any()  # the support is not everything, or the case were easy


def test_momentum_saves_what_plain_iteration_spends():
    """Blahut's own step, written out, is still far away after three times as many iterations."""
    p, d = gaussian_grid(61, 4.0)
    s = 3.0
    point = shannon.blahut_arimoto(p, d, s, tolerance=1e-4)
    assert point.converged
    kernel, q = (-s * d).exp(), uniform(61)
    for _ in range(3 * int(point.iterations)):
        c = (p / (kernel @ q)) @ kernel
        q = q * c
    assert float(c.max().log() - (q * c.log()).sum()) > 1e-4


def test_slopes_together_equal_slopes_alone(normal):
    p, d = scattered(normal)
    slopes = double([2.3, 0.0, 0.9])
    together = shannon.blahut_arimoto(p, d, slopes)
    assert together.p_y.shape == (3, 11)
    for i, s in enumerate(slopes):
        alone = shannon.blahut_arimoto(p, d, float(s))
        for field, value in together._asdict().items():
            assert torch.equal(value[i], getattr(alone, field)), field


def test_a_symbol_that_never_occurs_changes_nothing(normal):
    p, d = scattered(normal)
    kept = p > 0
    for everything, less in zip(
        shannon.blahut_arimoto(p, d, 0.9), shannon.blahut_arimoto(p[kept], d[kept], 0.9), strict=True
    ):
        assert torch.equal(everything, less)


def test_the_discrete_curve_is_monotone_convex_and_has_the_slopes_asked_for(normal):
    p, d = scattered(normal)
    slopes = torch.linspace(0.3, 3.0, 28, dtype=torch.float64)
    point = shannon.blahut_arimoto(p, d, slopes, tolerance=1e-11)
    assert (point.rate.diff() > 0).all()
    assert (point.distortion.diff() < 0).all()
    secant = -point.rate.diff() / point.distortion.diff()
    assert (secant > slopes[:-1]).all()  # the secant's slope lies between its ends': convexity
    assert (secant < slopes[1:]).all()
    up, down = (shannon.blahut_arimoto(p, d, 1.0 + e, tolerance=1e-13) for e in (1e-3, -1e-3))
    assert float((up.rate - down.rate) / (down.distortion - up.distortion)) == pytest.approx(1.0, abs=1e-4)


def test_slope_zero_is_the_best_constant(normal):
    p, d = scattered(normal)
    point = shannon.blahut_arimoto(p, d, 0.0)
    assert float(point.rate) == pytest.approx(0, abs=1e-15)
    assert float(point.gap) == pytest.approx(0, abs=1e-15)
    assert float(point.distortion) == pytest.approx(float((p @ d).min()), rel=1e-14)


def test_float32_input_is_computed_in_float64():
    point = shannon.blahut_arimoto(torch.tensor([0.25, 0.75]), hamming(2).float(), torch.tensor([2.0]), tolerance=1e-12)
    assert {point.rate.dtype, point.distortion.dtype, point.gap.dtype, point.p_y.dtype} == {torch.float64}
    exact = entropy(0.25) - entropy(1 / (1 + math.exp(2)))
    assert float(point.rate) == pytest.approx(float(exact), abs=1e-5)  # flat at the minimum: sqrt of the tolerance


# The Shannon lower bound


def test_the_lower_bound_is_tight_for_a_gaussian_below_its_smallest_eigenvalue():
    spectrum = double([2.0, 0.5, 0.1])
    h = 0.5 * float((2 * math.pi * math.e * spectrum).log().sum())
    for distortion in (1e-6, 0.1, 0.29):
        exact = shannon.gaussian_rate_distortion(spectrum, distortion=distortion)
        assert shannon.shannon_lower_bound(h, 3, distortion) == pytest.approx(float(exact.rate), abs=1e-13)
    for distortion in (0.32, 1.0, 2.5):  # some component is above water: strictly below
        exact = shannon.gaussian_rate_distortion(spectrum, distortion=distortion)
        assert shannon.shannon_lower_bound(h, 3, distortion) < float(exact.rate) - 1e-4


def test_the_lower_bound_is_below_a_uniform_source_on_a_grid():
    """h = 0 on the unit interval; the bound and Blahut-Arimoto approach one another as the distortion falls."""
    x = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    y = torch.linspace(-0.1, 1.1, 121, dtype=torch.float64)
    slopes = double([10.0, 200.0])
    point = shannon.blahut_arimoto(uniform(200), (x[:, None] - y).square(), slopes, tolerance=1e-3)
    above = [float(r) - shannon.shannon_lower_bound(0.0, 1, float(d)) for r, d in zip(*point[:2], strict=True)]
    assert above[0] > above[1] > 0
    assert above[1] < 0.1


# The convex hull


def test_the_hull_of_known_points():
    # In turn: corner, corner, on a line, above it, corner, as distorted as a corner, beyond the last corner, high.
    distortion = double([0.0, 1.0, 2.0, 2.0, 3.0, 1.0, 5.0, 4.0])
    rate = double([9.0, 4.0, 3.0, 3.5, 2.0, 6.0, 2.0, 8.0])
    hull = shannon.convex_hull(rate, distortion)
    assert hull.vertex.tolist() == [True, True, False, False, True, False, False, False]
    assert_close(hull.excess, double([0.0, 0.0, 0.0, 0.5, 0.0, 2.0, 0.0, 6.0]), rtol=0, atol=1e-15)


def test_the_excess_is_the_least_lagrangian_excess(normal):
    rate, distortion = 3 * normal(37).exp(), 2 * normal(37).exp()
    hull = shannon.convex_hull(rate, distortion)
    slopes = torch.cat([double([0.0]), torch.logspace(-4, 4, 40_001, dtype=torch.float64)])[:, None]
    value = rate + slopes * distortion
    least = (value - value.min(1, keepdim=True).values).min(0).values
    assert (least >= hull.excess - 1e-12).all()  # a minimum over a grid of slopes only
    assert_close(least, hull.excess, rtol=0, atol=2e-3)
    assert 2 < int(hull.vertex.sum()) < 37
    assert torch.equal(hull.excess == 0, hull.vertex)


def test_every_point_of_a_convex_curve_is_a_vertex_in_any_order():
    point = shannon.gaussian_rate_distortion(SPECTRUM, theta=LEVELS)
    order = torch.tensor([3, 0, 9, 5, 1, 8, 2, 7, 6, 4])
    hull = shannon.convex_hull(point.rate[order], point.distortion[order])
    assert hull.vertex.all()
    assert (hull.excess == 0).all()
    raised = point.rate.clone()
    raised[4] += 1.0
    assert shannon.convex_hull(raised, point.distortion).vertex.tolist() == [i != 4 for i in range(10)]


def test_hulls_of_a_single_corner_and_of_equal_points():
    single = shannon.convex_hull(double([1.0, 2.0, 1.5]), double([1.0, 1.0, 3.0]))
    assert single.vertex.tolist() == [True, False, False]
    assert single.excess.tolist() == [0.0, 1.0, 0.5]
    twins = shannon.convex_hull(double([1.0, 0.0, 1.0]), double([1.0, 2.0, 1.0]))
    assert twins.vertex.tolist() == [True, True, True]


FAIR, FLIP = double([0.5, 0.5]), hamming(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM), "exactly one of theta, distortion and rate, got none"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, theta=1.0, rate=1.0), "got theta, rate"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, theta=0.0), "theta must be positive and finite, got 0"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, theta=math.inf), "theta must be positive and finite"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, theta=double([1.0, -2.0])), "theta .* got -2"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, theta=torch.ones(0)), "theta .* got nothing"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, distortion=0.0), "distortion must be positive"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, distortion=1e-310), "distortion .* float64 can hold"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, rate=-1.0), "rate must be a finite number of at least"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, rate=math.nan), "rate must be a finite number"),
        (lambda: shannon.gaussian_rate_distortion(SPECTRUM, rate=1e5), "rate .* hold, got 100000; lower it"),
        (lambda: shannon.gaussian_rate_distortion(torch.zeros(3), rate=1.0), "eigenvalues must have at least one"),
        (lambda: shannon.gaussian_rate_distortion(-torch.ones(3), rate=1.0), "eigenvalues must be non-negative"),
        (lambda: shannon.gaussian_rate_distortion(torch.ones(2, 2), rate=1.0), "eigenvalues must be a finite"),
        (lambda: shannon.blahut_arimoto(FAIR / 2, FLIP, 1.0), "p_x must .* sum to one, .* sum of 0.5"),
        (lambda: shannon.blahut_arimoto(double([1.5, -0.5]), FLIP, 1.0), "p_x must .* least of -0.5"),
        (lambda: shannon.blahut_arimoto(double([1.0, math.nan]), FLIP, 1.0), "p_x must be non-negative"),
        (lambda: shannon.blahut_arimoto(uniform(3), FLIP, 1.0), "p_x must have one probability per row"),
        (lambda: shannon.blahut_arimoto(FAIR, torch.ones(2), 1.0), "distortion_matrix must be a non-empty"),
        (lambda: shannon.blahut_arimoto(FAIR, torch.ones(2, 0), 1.0), "distortion_matrix must be a non-empty"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP - 1, 1.0), "distortion_matrix must be finite and non-negative"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP / 0, 1.0), "distortion_matrix must be finite and non-negative"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP, -1.0), "slope must be a finite number of at least zero, got -1"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP, torch.ones(2, 2)), "slope must be a number or"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP, 1.0, tolerance=0.0), "tolerance must be positive"),
        (lambda: shannon.blahut_arimoto(FAIR, FLIP, 1.0, max_iter=0), "max_iter must be an integer of at least 1"),
        (lambda: shannon.shannon_lower_bound(math.inf, 1, 1.0), "entropy must be finite"),
        (lambda: shannon.shannon_lower_bound(0.0, 0, 1.0), "dim must be an integer of at least 1"),
        (lambda: shannon.shannon_lower_bound(0.0, 1, -1.0), "distortion must be positive and finite, got -1"),
        (lambda: shannon.convex_hull(torch.ones(2), torch.ones(2)), "at least three points for a hull, got 2"),
        (lambda: shannon.convex_hull(torch.ones(3), torch.ones(4)), "of one length, got 3 and 4"),
        (lambda: shannon.convex_hull(double([1.0, 2.0, math.nan]), torch.ones(3)), "rate must be a finite"),
        (lambda: shannon.convex_hull(torch.ones(3), torch.ones(3, 1)), "distortion must be a finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
