"""Datasets: what is verified, what is refused, and that the same seed gives the same bytes.

The IDX files here are tiny ones made on the spot, under a registry entry of their own; a server on the
loopback address plays the mirrors. The test of the real MNIST runs where VAE_DATA_DIR, or shared/data beside
the repository, holds it.
"""

import gzip
import hashlib
import os
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pydantic
import pytest
import torch

from vae.data import images as data
from vae.data.images import FILES, REGISTRY, DatasetName, declared_digest, load, parse_idx, size

NOBODY = "http://127.0.0.1:9/"  # the discard port: the connection is refused at once
N_TRAIN, N_TEST, SHAPE = 23, 11, (5, 3)


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def sha256(raw):
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (N_TRAIN, *SHAPE)),
        np.arange(N_TRAIN),
        rng.integers(0, 256, (N_TEST, *SHAPE)),
        np.arange(N_TEST),
    ]


@pytest.fixture
def toy(arrays, tmp_path, monkeypatch):
    """Registers the dataset `toy`, no file of it in place; returns its four files' decompressed contents."""
    payloads = [idx(a) for a in arrays]
    digests = tuple(sha256(p) for p in payloads)
    mirrors = (NOBODY + "a/", NOBODY + "b/")
    source = data.Source(N_TRAIN, N_TEST, SHAPE, 255, "none", digests, mirrors=mirrors)
    monkeypatch.setitem(REGISTRY, "toy", source)
    monkeypatch.setenv("VAE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return payloads


@pytest.fixture
def folder(toy, tmp_path):
    """The same, with the files in place."""
    path = tmp_path / "data" / "toy"
    path.mkdir(parents=True)
    for name, payload in zip(FILES, toy, strict=True):
        (path / name).write_bytes(gzip.compress(payload))
    return path


@pytest.fixture
def mirror(tmp_path):
    """A folder and the address at which a local server shows it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    root = tmp_path / "mirror"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def redeclare(monkeypatch, **changes):
    monkeypatch.setitem(REGISTRY, "toy", REGISTRY["toy"]._replace(**changes))


# --- digits ---


def test_digits_have_the_declared_shapes_range_and_dtype():
    d = load("digits")
    assert (len(d.train), len(d.test), d.train.shape[1]) == size("digits") == (1397, 400, 64)
    assert d.image_shape == (8, 8)
    assert d.train.dtype == d.test.dtype == torch.float32
    assert d.train_labels.dtype == torch.int64
    assert (d.train.min(), d.train.max()) == (0, 1)
    assert torch.equal(d.train * 16, (d.train * 16).round())
    assert set(d.test_labels.tolist()) == set(range(10))
    assert "CC BY" in d.licence


def test_the_split_is_a_partition_that_the_seed_chooses():
    from sklearn.datasets import load_digits

    upstream = torch.from_numpy(load_digits().data / 16).float()
    a, b = load("digits"), load("digits", seed=1)
    for d in (a, b):
        rows = torch.cat([d.train, d.test]).tolist()
        assert sorted(rows) == sorted(upstream.tolist())
    order = np.random.default_rng(0).permutation(1797)  # anyone can redo the split
    assert torch.equal(a.train, upstream[order[:1397]])
    assert torch.equal(a.test, upstream[order[1397:]])
    assert not torch.equal(a.test, b.test)


def test_the_same_seed_gives_the_same_bytes_on_every_platform():
    assert load("digits").digest == "0f0e578f03094f44f431e870e7fc22b09d77cdf40a97244e595be36e04ea868d"
    assert load("digits", binarize="sample").digest == load("digits", binarize="sample").digest


def test_options_that_change_the_data_change_the_digest():
    digests = [
        load("digits", **options).digest
        for options in ({}, {"seed": 1}, {"n_train": 7}, {"binarize": "threshold"}, {"binarize": "sample"})
    ]
    assert len(set(digests)) == len(digests)


def test_a_small_training_set_is_the_beginning_of_a_larger_one():
    for binarize in ("none", "threshold", "sample"):
        small, large = load("digits", n_train=101, binarize=binarize), load("digits", binarize=binarize)
        assert torch.equal(small.train, large.train[:101])
        assert torch.equal(small.train_labels, large.train_labels[:101])
        assert torch.equal(small.test, large.test)


def test_threshold_is_one_from_a_half_up():
    grey, black = load("digits"), load("digits", binarize="threshold")
    assert torch.equal(black.train, (grey.train >= 0.5).float())
    assert (grey.train == 0.5).any()  # so that the boundary was tested


def test_sampled_pixels_are_bernoulli_in_the_grey_value():
    grey, drawn = load("digits").train, load("digits", binarize="sample").train
    assert set(drawn.unique().tolist()) == {0, 1}
    for level in grey.unique():
        hits = drawn[grey == level]
        se = (level * (1 - level) / len(hits)).sqrt()  # 0 at 0 and 1: those are never flipped
        assert (hits.mean() - level).abs() <= 5 * se
    assert not torch.equal(drawn, load("digits", binarize="sample", seed=1).train)


def test_the_draws_of_train_and_test_differ():
    p = np.full((50, 40), 8)
    streams = [np.random.SeedSequence(0, spawn_key=(i,)) for i in range(2)]
    a, b = (data._pixels(p, 16, "sample", s) for s in streams)
    assert 0.4 < (a == b).mean() < 0.6


def test_no_global_random_state_is_touched():
    legacy, state = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    load("digits", binarize="sample", n_train=10, seed=3)
    assert np.random.get_state()[1].tolist() == legacy  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)


# --- bad options ---


def test_an_unknown_dataset_is_refused_with_the_nearest_name():
    for call in (load, size, declared_digest):
        with pytest.raises(ValueError, match="'fashion-mnist' is unknown; did you mean 'fashion_mnist'"):
            call("fashion-mnist")
    with pytest.raises(ValueError, match="known: digits, mnist, fashion_mnist, kmnist"):
        load("cifar")


def test_the_annotated_type_refuses_an_unknown_dataset_too():
    adapter = pydantic.TypeAdapter(DatasetName)
    assert adapter.validate_python("digits") == "digits"
    with pytest.raises(pydantic.ValidationError, match="did you mean 'mnist'"):
        adapter.validate_python("mnits")


@pytest.mark.parametrize("n_train", [0, -1, 1398, 10.0, True, "10"])
def test_n_train_out_of_range_is_refused(n_train):
    with pytest.raises(ValueError, match="n_train must be a whole number from 1 to 1397"):
        load("digits", n_train=n_train)


@pytest.mark.parametrize(("option", "value"), [("binarize", "yes"), ("seed", -1), ("seed", 0.5), ("seed", True)])
def test_other_bad_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*, got {value!r}"):
        load("digits", **{option: value})


def test_bad_options_are_refused_before_any_download(toy, tmp_path):
    with pytest.raises(ValueError, match="n_train"):
        load("toy", n_train=N_TRAIN + 1)
    assert not (tmp_path / "data").exists()


def test_declared_digests_differ_and_need_no_data(monkeypatch):
    monkeypatch.setenv("VAE_DATA_DIR", "/nowhere")
    digests = [declared_digest(name) for name in ("digits", "mnist", "fashion_mnist", "kmnist")]
    assert len({len(d) for d in digests}) == 1
    assert len(set(digests)) == 4
    assert size("kmnist") == (60_000, 10_000, 784)


# --- IDX files ---


def test_files_in_place_are_read_and_nothing_is_written(folder, arrays):
    before = sorted(os.listdir(folder))
    folder.chmod(0o555)
    d = load("toy", seed=5)
    assert sorted(os.listdir(folder)) == before
    folder.chmod(0o755)
    # Labels number the rows, so they tell which image each row must be.
    for x, labels, images in ((d.train, d.train_labels, arrays[0]), (d.test, d.test_labels, arrays[2])):
        assert sorted(labels.tolist()) == list(range(len(images)))
        expected = torch.from_numpy(images.reshape(len(images), -1) / 255).float()[labels]
        assert torch.equal(x, expected)
    assert d.image_shape == SHAPE


def test_a_file_compressed_anew_passes(folder, toy):
    digest = load("toy").digest
    for name, payload in zip(FILES, toy, strict=True):
        (folder / name).write_bytes(gzip.compress(payload, compresslevel=1, mtime=12345))
    assert load("toy").digest == digest


def test_where_only_the_compressed_digest_is_known_that_is_checked(folder, toy, monkeypatch):
    archives = tuple(sha256((folder / name).read_bytes()) for name in FILES)
    redeclare(monkeypatch, digests=archives, digest_of="archive")
    assert len(load("toy").train) == N_TRAIN
    (folder / FILES[2]).write_bytes(gzip.compress(toy[2], mtime=12345))
    with pytest.raises(ValueError, match=rf"{FILES[2]} is another file.* compressed anew .*delete it"):
        load("toy")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda raw, _: raw[:-20], "expected a whole gzip file"),
        (lambda raw, _: raw[:30] + bytes(b ^ 255 for b in raw[30:40]) + raw[40:], "a whole gzip file"),
        (lambda raw, _: b"<html>404</html>", "expected a whole gzip file"),
        (lambda raw, _: b"", "IDX magic"),
        (lambda _, payload: gzip.compress(payload[:-1]), "361 bytes for shape .23, 5, 3., found 360"),
        (lambda _, payload: gzip.compress(payload[:9]), "header of 16 bytes, found 9"),
        (lambda _, payload: gzip.compress(b"\0\0\x0d" + payload[3:]), "found 00 00 0d 03"),
        (lambda _, payload: gzip.compress(payload[:-1] + bytes([payload[-1] ^ 1])), "another file"),
    ],
    ids=["cut", "flipped", "a web page", "empty", "short", "header", "floats", "one bit"],
)
def test_a_damaged_file_is_refused_by_name_and_left_alone(folder, toy, spoil, complaint):
    path = folder / FILES[0]
    spoilt = spoil(path.read_bytes(), toy[0])
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match=complaint) as caught:
        load("toy")
    assert str(path) in str(caught.value)
    assert "delete it and run again" in str(caught.value)
    assert path.read_bytes() == spoilt


def test_idx_parsing_keeps_order_and_shape():
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    assert np.array_equal(parse_idx(idx(array)), array)
    with pytest.raises(ValueError, match="found 32"):
        parse_idx(idx(array[:, :, :2]) + bytes(4))
    with pytest.raises(ValueError, match="magic"):
        parse_idx(b"\0\0\x08\0")


# --- downloads ---


def test_absent_files_are_downloaded_once_and_a_failing_mirror_gives_way(toy, mirror, tmp_path, monkeypatch):
    root, address = mirror
    for name, payload in zip(FILES, toy, strict=True):
        (root / name).write_bytes(gzip.compress(payload))
    # The first is not there, the second has one damaged file, the third is good.
    (root / "bad").mkdir()
    (root / "bad" / FILES[0]).write_bytes(b"damaged")
    redeclare(monkeypatch, mirrors=(NOBODY, address + "bad/", address))
    first = load("toy").digest
    folder = tmp_path / "data" / "toy"
    assert sorted(os.listdir(folder)) == sorted(FILES)  # no scratch left
    redeclare(monkeypatch, mirrors=(NOBODY,))
    assert load("toy").digest == first


def test_offline_the_message_says_where_to_put_the_files(toy, tmp_path):
    with pytest.raises(ConnectionError) as caught:
        load("toy")
    message = str(caught.value)
    folder = tmp_path / "data" / "toy"
    assert "could not download toy" in message
    for part in (NOBODY + "a/" + FILES[0], NOBODY + "b/", str(folder), "VAE_DATA_DIR", *FILES):
        assert part in message
    assert os.listdir(folder) == []


def test_a_mirror_with_only_damaged_files_leaves_nothing_behind(toy, mirror, tmp_path, monkeypatch):
    root, address = mirror
    (root / FILES[0]).write_bytes(gzip.compress(toy[0])[:-5])
    redeclare(monkeypatch, mirrors=(address,))
    with pytest.raises(ConnectionError, match="whole gzip file"):
        load("toy")
    assert os.listdir(tmp_path / "data" / "toy") == []


def test_a_folder_that_cannot_be_written_is_named(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VAE_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot be written .* set VAE_DATA_DIR"):
        load("toy")


def test_without_the_variable_the_cache_of_the_user_is_used(toy, tmp_path, monkeypatch):
    monkeypatch.delenv("VAE_DATA_DIR")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    with pytest.raises(ConnectionError, match="cache/vae-measured/toy"):
        load("toy")


# --- the real files ---


def test_the_real_mnist(monkeypatch):
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("VAE_DATA_DIR") or beside)
    if not all((root / "mnist" / name).exists() for name in FILES):
        pytest.skip(f"no MNIST in {root}; set VAE_DATA_DIR to a folder with mnist/*.gz")
    monkeypatch.setenv("VAE_DATA_DIR", str(root))
    d = load("mnist", n_train=1000)
    assert d.train.shape == (1000, 784)
    assert d.test.shape == (10_000, 784)
    assert torch.bincount(d.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (d.train.min(), d.train.max()) == (0, 1)
    assert d.digest == load("mnist", n_train=1000).digest
    order = np.random.default_rng(0).permutation(60_000)
    labels = parse_idx(gzip.decompress((root / "mnist" / FILES[1]).read_bytes()))
    assert d.train_labels.tolist() == labels[order[:1000]].tolist()
