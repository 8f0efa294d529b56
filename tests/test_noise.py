import ast
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import vae
from measured.record.syntax import plain
from vae.exact.factor_analysis.theory import sample_covariances
from vae.noise import APART, Shuffled, draw, generator, moment_matched, normals, numpy_generator, per_datum


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


# other streams, by the number of the run

COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 2.0]], dtype=torch.float64)
DRAWS = {
    "generator": lambda seed: torch.rand(3, generator=generator(seed, "noise")),
    "numpy_generator": lambda seed: torch.from_numpy(numpy_generator(seed, 7).random(3)),
    "draw": lambda seed: draw(seed, "noise", 3),
    "per_datum": lambda seed: normals(per_datum(seed, "local", 2, 2), 3, 1),
    "sample_covariances": lambda seed: sample_covariances(COVARIANCE, 9, 3, seed=seed),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_run_shifts_every_stream_and_none_changes_nothing(monkeypatch, name):
    usual = DRAWS[name](3)
    for nothing in ("", "0", "00"):
        monkeypatch.setenv("VAE_RUN", nothing)
        assert torch.equal(DRAWS[name](3), usual)
    monkeypatch.setenv("VAE_RUN", "2")
    shifted = DRAWS[name](3)
    monkeypatch.delenv("VAE_RUN")
    assert not torch.equal(shifted, usual)
    assert torch.equal(shifted, DRAWS[name](3 + 2 * APART))  # by which results/other_seeds.json was measured
    assert APART == 10**6


@pytest.mark.parametrize("value", ["-1", "1.5", "one", " "])
def test_an_odd_run_is_refused(monkeypatch, value):
    monkeypatch.setenv("VAE_RUN", value)
    with pytest.raises(ValueError, match=f"VAE_RUN must be a whole number, got '{value}'; unset it"):
        generator(0, "noise")


TRAINED_BY_WORKERS = """
import sys
sys.path.insert(0, sys.argv[1])
import test_noise
print(test_noise.trained(workers=2))
"""


def trained(workers: int) -> float:
    """A number that sums up a short training."""
    import trainings

    stream = torch.Generator().manual_seed(1)
    data = (torch.randn(trainings.N, trainings.X, generator=stream, dtype=torch.float64) > 0).double()
    params = trainings.run(data, compile=False, workers=workers).ensemble.params
    return float(sum(p.sum() for p in params.values()))


def test_worker_processes_draw_the_streams_of_the_run(monkeypatch):
    usual = trained(workers=1)
    monkeypatch.setenv("VAE_RUN", "1")
    words = [sys.executable, "-c", TRAINED_BY_WORKERS, str(Path(__file__).parent)]
    together = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert together == pytest.approx(trained(workers=1), rel=1e-9)
    assert abs(usual - together) > 1e-3


def test_a_numpy_generator_is_the_seeds_and_no_other():
    assert np.array_equal(numpy_generator(3, 5).random(2), np.random.default_rng([3, 5]).random(2))
    assert np.array_equal(numpy_generator(np.int64(3)).random(2), np.random.default_rng([3]).random(2))
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        numpy_generator(-1)


def test_all_random_numbers_come_from_noise_but_how_data_are_split_and_binarised():
    pattern = re.compile(r"default_rng|SeedSequence\(|manual_seed|RandomState|np\.random\.[a-z]|\brandom\.[a-z]+\(")
    root = Path(vae.__file__).parent

    def code(path: Path) -> str:
        """Without the examples of docstrings."""
        return ast.unparse(plain(path.read_bytes()))

    found = {p.relative_to(root).as_posix() for p in root.rglob("*.py") if pattern.search(code(p))}
    assert found == {"noise.py", "data/images.py"}
