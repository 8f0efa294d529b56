import math

import pytest
import torch
from torch.testing import assert_close

from vae.noise import Shuffled, generator, moment_matched, normals, per_datum


def test_streams_repeat_and_differ_by_seed_and_purpose():
    def draw(seed, purpose):
        return torch.randn(5, generator=generator(seed, purpose))

    assert torch.equal(draw(3, "noise"), draw(3, "noise"))
    assert not torch.equal(draw(3, "noise"), draw(4, "noise"))
    assert not torch.equal(draw(3, "noise"), draw(3, "init"))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        generator(seed, "noise")


def test_rows_come_equally_often_and_none_is_dropped():
    n, size = 11, 4
    order = Shuffled(n, generator(0, "batches"))
    rows = torch.cat([order.take(size) for _ in range(n)])  # size * n rows: every row `size` times
    assert torch.equal(rows.bincount(minlength=n), torch.full((n,), size))
    assert not torch.equal(rows[:n], rows[n : 2 * n])
    for start in range(0, len(rows), n):  # each stretch of n is one whole order
        assert torch.equal(rows[start : start + n].sort().values, torch.arange(n))


@pytest.mark.parametrize("pieces", [[30], [3, 27], [1] * 30, [11, 0, 19]])
def test_pieces_of_any_length_are_the_same_rows(pieces):
    whole, parts, skipped = (Shuffled(11, generator(0, "batches")) for _ in range(3))
    expected = whole.take(50)
    assert torch.equal(torch.cat([parts.take(n) for n in pieces]), expected[:30])
    skipped.skip(30)
    assert torch.equal(skipped.take(20), expected[30:])


def test_moment_matched_draws_have_exact_moments_for_every_datum():
    draws, batch, dim = 22, 7, 3
    eps = moment_matched(per_datum(0, "local", 0, batch), draws, dim)
    assert eps.shape == (draws, batch, dim)
    assert_close(eps.mean(0), torch.zeros(batch, dim, dtype=torch.float64), rtol=0, atol=1e-14)
    covariance = torch.einsum("kbi,kbj->bij", eps, eps) / draws
    assert_close(covariance, torch.eye(dim, dtype=torch.float64).expand(batch, dim, dim), rtol=0, atol=1e-13)


def test_moment_matched_draws_remain_nearly_normal():
    eps = moment_matched(per_datum(1, "local", 0, 4000), 64, 2)
    fourth = eps.pow(4)
    means = fourth.mean((0, 2))
    se = means.std() / math.sqrt(len(means))
    # Whitened by its own sample, a normal's fourth moment is 3 (1 - O(1/draws)): 32 independent draws give 3 * 32/34.
    assert abs(float(means.mean()) - 3 * 32 / 34) < 5 * float(se)


@pytest.mark.parametrize("draws", [7, 4])
def test_moment_matching_needs_enough_pairs(draws):
    with pytest.raises(ValueError, match="n_draws must be even and at least twice"):
        moment_matched(per_datum(0, "local", 0, 5), draws, 3)


def test_a_datums_draws_do_not_depend_on_its_company():
    whole = normals(per_datum(0, "local", 0, 7), 5, 3)
    assert whole.shape == (5, 7, 3)
    assert torch.equal(normals(per_datum(0, "local", 4, 3), 5, 3), whole[:, 4:])
    assert not torch.equal(whole[:, 0], whole[:, 1])
    with pytest.raises(ValueError, match="first must be an integer of at least 0, got -1"):
        per_datum(0, "local", -1, 3)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -2"):
        per_datum(-2, "local", 0, 3)
