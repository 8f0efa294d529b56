"""Finished pieces of a long computation, kept in a place that is given."""

import numpy as np
import pytest
import torch

from measured.pieces import kept


def counted():
    calls = []

    def compute():
        calls.append(1)
        return {
            "z": torch.arange(3.0),
            "a b|c": torch.tensor(float(len(calls))).double(),
            "array": np.arange(6, dtype=np.int32).reshape(2, 3).T,
            "none": np.empty((0, 2)),
            "number": np.float64(2.5),
            "learnt": torch.ones(2, requires_grad=True),
        }

    return calls, compute


def test_a_finished_piece_is_not_computed_again_and_comes_back_as_what_it_was(tmp_path):
    calls, compute = counted()
    first, second = (kept(tmp_path / "run" / "64 units, test", compute) for _ in range(2))
    other = kept(tmp_path / "run" / "64 units, train", compute)
    assert len(calls) == 2
    assert list(second) == list(first) == ["z", "a b|c", "array", "none", "number", "learnt"]
    for name, value in first.items():
        assert isinstance(second[name], torch.Tensor) == isinstance(value, torch.Tensor), name
        assert second[name].dtype == value.dtype
        assert tuple(second[name].shape) == tuple(value.shape)
        np.testing.assert_array_equal(np.asarray(second[name].tolist()), np.asarray(value.tolist()))
    assert other["a b|c"] == 2
    (file,) = (tmp_path / "run").glob("64 units, test.*.piece")
    assert len(list((tmp_path / "run").iterdir())) == 2
    assert file.suffixes[-1] == ".piece"


def test_names_that_begin_alike_or_hold_dots_and_stars_are_told_apart(tmp_path):
    names = ["a", "a.b", "a*", "a[0]", "beta 0.5", "beta 0"]
    for again in range(2):
        for number, name in enumerate(names):
            assert kept(tmp_path / name, lambda n=number + 10 * again: {"x": np.array([n])})["x"].tolist() == [number]


def test_a_piece_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        kept(tmp_path / "piece", lambda: {}["missing"])
    assert not list(tmp_path.iterdir())


def test_outside_of_a_record_nothing_is_kept():
    calls, compute = counted()
    kept(None, compute)
    assert kept(None, compute)["a b|c"] == 2
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + b"\7", lambda b: b"no tensors"])
def test_a_damaged_piece_is_refused_by_name(tmp_path, damage):
    kept(tmp_path / "piece", lambda: {"x": np.arange(3)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"piece\..*\.piece is damaged; delete it, and what it held is computed again"):
        kept(tmp_path / "piece", dict)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written: .*; choose another place, or make room"):
        kept(tmp_path / "file" / "piece", lambda: {"x": np.arange(3)})
