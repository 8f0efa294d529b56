"""No test may leave PyTorch's or NumPy's global state other than it found it."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def clean_global_state():
    numpy_stream = np.random.mtrand._rand  # the object behind the legacy np.random functions
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads())
    drawn = numpy_stream.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), before[0]), "the test drew from torch's global stream; pass a generator"
    assert torch.get_default_dtype() == before[1], "the test changed torch's default dtype"
    assert torch.get_num_threads() == before[2], "the test changed the number of threads"
    assert np.array_equal(numpy_stream.get_state()[1], drawn), "the test drew from numpy's global stream"


@pytest.fixture
def normal():
    """normal(*shape): float64 standard normal draws, the same in every run."""
    stream = torch.Generator().manual_seed(20)
    return lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)
