"""Reproducible randomness: named CPU streams, one per seed or per datum, and moment-matched draws.

Streams live on the CPU whatever the device, so that a run on a GPU sees the same minibatches and the same noise, and
every member of a sweep with the same seed shares them (common random numbers).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from vae.check import whole
from vae.environment import run_number

APART = 10**6  # seeds from one run to the next; no experiment counts up to that


def generator(seed: int, purpose: str) -> Generator:
    """The stream of `seed` for one purpose ("init", "batches", ...); streams of different purposes are independent.

    >>> first, again = (torch.randn(3, generator=generator(0, "test")) for _ in range(2))
    >>> torch.equal(first, again), torch.equal(first, torch.randn(3, generator=generator(0, "init")))
    (True, False)
    """
    entropy = np.random.SeedSequence([_of_this_run(seed), zlib.crc32(purpose.encode())])
    state = int(entropy.generate_state(1, np.uint64)[0])
    return Generator().manual_seed(state)


def draw(seed: int, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of that shape, the first of the stream of `seed` for `purpose`."""
    return torch.randn(*shape, generator=generator(seed, purpose), dtype=dtype)


def numpy_generator(seed: int, *more: int) -> np.random.Generator:
    """NumPy's generator for a seed and further numbers that tell it from others of that seed, for what PyTorch cannot
    draw."""
    return np.random.default_rng([_of_this_run(seed), *more])


def _of_this_run(seed: int) -> int:
    """The seed, checked, in the streams of this run."""
    return whole("seed", seed, 0, "use 0, 1, 2, ...") + APART * run_number()


class Shuffled:
    """The rows 0 to n - 1 in one random order after another, endlessly: no row is dropped, every one comes equally
    often. Minibatches are consecutive pieces, which may span two orders.
    """

    def __init__(self, n: int, stream: Generator) -> None:
        self._n, self._stream = n, stream
        self._queue = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> Tensor:
        """The next `count` row numbers (count,)."""
        orders = [self._queue]
        while sum(map(len, orders)) < count:
            orders.append(torch.randperm(self._n, generator=self._stream))
        taken, self._queue = torch.cat(orders).tensor_split([count])
        return taken

    def skip(self, count: int) -> None:
        """As `take`, in little memory and without a result."""
        while count > 0:
            count -= len(self.take(min(count, max(self._n, 2**16))))


def per_datum(seed: int, purpose: str, first: int, count: int) -> list[Generator]:
    """One stream for each of the data first, first + 1, ...: what a datum draws does not depend on its company."""
    first = whole("first", first, 0, "pass the number of the first datum")
    generator(seed, purpose)  # refuses a bad seed by its name
    return [generator(seed, f"{purpose}, datum {row}") for row in range(first, first + count)]


def normals(streams: Sequence[Generator], n_draws: int, dim: int) -> Tensor:
    """The next standard normal draws of each datum's stream, float64 (n_draws, B, dim)."""
    return torch.stack([torch.randn(n_draws, dim, generator=s, dtype=torch.float64) for s in streams], dim=1)


def moment_matched(streams: Sequence[Generator], n_draws: int, dim: int) -> Tensor:
    """Standard normal draws, float64 (n_draws, B, dim), whose sample mean is 0 and sample covariance I, exactly, for
    every datum.

    Antithetic pairs give the mean; whitening each datum's own draws gives the covariance. Fixed draws that are not
    matched bias what is optimised over them; draws shared by a batch would share their error.
    """
    if n_draws % 2 or n_draws < 2 * dim:
        raise ValueError(
            f"n_draws must be even and at least twice the dimension {dim}, got {n_draws}; "
            "whitening needs that many pairs"
        )
    half = normals(streams, n_draws // 2, dim)
    second_moment = torch.einsum("kbi,kbj->bij", half, half) / half.shape[0]
    factor = torch.linalg.cholesky(second_moment)
    white = torch.linalg.solve_triangular(factor, half.movedim(0, -1), upper=False).movedim(-1, 0)
    return torch.cat([white, -white])
