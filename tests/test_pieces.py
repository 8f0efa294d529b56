import pytest
import torch
from torch.testing import assert_close

from measured.pieces import kept
from vae.train import checkpoint


def counted():
    calls = []

    def compute():
        calls.append(1)
        return {"z": torch.arange(3.0), "a b": torch.tensor(float(len(calls))).double()}

    return calls, compute


def test_a_finished_piece_is_not_computed_again(tmp_path):
    calls, compute = counted()
    with checkpoint.kept_in(tmp_path / "run"):
        first = kept("64 units, test", compute)
    with checkpoint.kept_in(tmp_path / "run"):
        second, other = kept("64 units, test", compute), kept("64 units, train", compute)
    assert len(calls) == 2
    assert list(second) == list(first)
    assert_close(second, first, rtol=0, atol=0)
    assert other["a b"] == 2


def test_a_piece_that_fails_leaves_nothing(tmp_path):
    with checkpoint.kept_in(tmp_path), pytest.raises(KeyError):
        kept("piece", lambda: {}["missing"])
    assert not list(tmp_path.iterdir())


def test_outside_of_a_record_nothing_is_kept():
    calls, compute = counted()
    kept("piece", compute)
    assert kept("piece", compute)["a b"] == 2
    assert len(calls) == 2


def test_a_damaged_piece_is_refused_by_name(tmp_path):
    (tmp_path / "piece.safetensors").write_bytes(b"no tensors")
    with checkpoint.kept_in(tmp_path), pytest.raises(ValueError, match="piece.safetensors is damaged; delete it"):
        kept("piece", dict)
