"""Datasets by name: verified pixels as tensors, one split by seed, a digest of what came out.

`digits` ships with scikit-learn and needs no network. `mnist`, `fashion_mnist` and `kmnist` are four IDX
files each, looked for under `<VAE_DATA_DIR>/<name>/` (without that variable: the user's cache) and
downloaded there if absent.

What is verified. For MNIST it is the SHA-256 of each file *decompressed*, so that a mirror which
compressed the same bytes anew passes. For Fashion-MNIST and KMNIST the published digests are those of the
compressed files (torchvision pins the same ones), so a copy compressed anew is refused, with a message
that says so. A file that fails is never loaded, and never replaced behind its owner's back.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from vae.check import integer, nearest, one_of, whole

__all__ = ["Binarize", "Dataset", "DatasetName", "REGISTRY", "Source", "declared_digest", "load", "size"]

Binarize = Literal["none", "threshold", "sample"]


class Dataset(NamedTuple):
    """What `load` returns. Pixels are float32 in [0, 1], labels int64; the event axis is last."""

    name: str
    train: Tensor  # (n_train, X)
    test: Tensor  # (n_test, X)
    train_labels: Tensor  # (n_train,)
    test_labels: Tensor  # (n_test,)
    digest: str  # SHA-256 of the four tensors above, the same on every platform
    licence: str
    image_shape: tuple[int, int]


class Source(NamedTuple):
    """What is declared about a dataset before a byte of it is seen."""

    n_train: int
    n_test: int
    image_shape: tuple[int, int]
    levels: int  # pixels are integers 0..levels, and are divided by it
    licence: str
    digests: tuple[str, ...]  # SHA-256, in the order of FILES; digits: one, of pixels, then labels
    digest_of: Literal["payload", "archive"] = "payload"  # the file decompressed, or as downloaded
    mirrors: tuple[str, ...] = ()  # tried in this order; each ends in a slash

    @property
    def n_pixels(self) -> int:
        return math.prod(self.image_shape)


FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

REGISTRY: dict[str, Source] = {
    "digits": Source(
        1397,
        400,
        (8, 8),
        16,
        "CC BY 4.0 (Alpaydin and Kaynak, UCI, 1998)",
        ("87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",),
    ),
    "mnist": Source(
        60_000,
        10_000,
        (28, 28),
        255,
        "CC BY-SA 3.0 (LeCun, Cortes and Burges, 1998)",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion_mnist": Source(
        60_000,
        10_000,
        (28, 28),
        255,
        "MIT (Zalando SE, 2017)",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        "archive",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    "kmnist": Source(
        60_000,
        10_000,
        (28, 28),
        255,
        "CC BY-SA 4.0 (ROIS-DS Center for Open Data in the Humanities, 2018)",
        (
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        "archive",
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
    ),
}


def _source(name: str) -> Source:
    if name not in REGISTRY:
        raise ValueError(f"dataset {name!r} is unknown; {nearest(name, REGISTRY)}")
    return REGISTRY[name]


def _known(name: str) -> str:
    _source(name)
    return name


class _Declared:
    """Tells whoever hashes parameters what the name of a data set stands for."""

    @staticmethod
    def content_digest(name: str) -> str:
        return declared_digest(name)


DatasetName = Annotated[str, AfterValidator(_known), _Declared]  # for a notebook's Config


def size(name: str) -> tuple[int, int, int]:
    """(n_train, n_test, n_pixels) as declared; touches neither network nor disk. ValueError: unknown name."""
    source = _source(name)
    return source.n_train, source.n_test, source.n_pixels


def declared_digest(name: str) -> str:
    """SHA-256 of what is declared about a dataset's content. `load` refuses data that differ from it. Touches
    neither network nor disk, so that a record can be matched without a download. ValueError: unknown name."""
    source = _source(name)
    declared = [name, source.n_train, source.n_test, source.levels, source.digest_of, *source.digests]
    return hashlib.sha256(json.dumps(declared).encode()).hexdigest()


def load(name: str, *, binarize: Binarize = "none", n_train: int | None = None, seed: int = 0) -> Dataset:
    """The dataset `name`, split and ordered by `seed`.

    Rows of both splits come in the order of a permutation drawn from `seed`, always. So `n_train` takes a
    random subset, a smaller subset is the beginning of a larger one, and `test[:n]` is a fair sample too; in
    upstream's order it is not (the first half of MNIST's test images is the easier one). Digits have no split
    of their own: the permutation deals 1397 rows to `train` and 400 to `test`. The other three keep theirs.

    binarize: "none" keeps grey values; "threshold" is pixel >= 0.5; "sample" is one Bernoulli draw per pixel
    with the grey value as its probability, fixed by `seed`, from a generator of its own: an image's draw does
    not depend on `n_train`. No global random state is read or written.

    >>> digits = load("digits", binarize="sample", n_train=100, seed=3)
    >>> digits.train.shape, digits.test.shape, digits.image_shape
    (torch.Size([100, 64]), torch.Size([400, 64]), (8, 8))

    Raises ValueError (unknown name or option, n_train out of range, a damaged file) and ConnectionError (a
    file is absent and no mirror delivers it; the message says where to put it).
    """
    source = _source(name)
    one_of("binarize", binarize, get_args(Binarize))
    seed = whole("seed", seed, 0, "use 0, 1, 2, ...")
    if n_train is not None and not 1 <= (integer(n_train) or 0) <= source.n_train:
        raise ValueError(
            f"n_train must be a whole number from 1 to {source.n_train}, which is all of {name}, "
            f"got {n_train!r}; leave it out to take them all"
        )

    rng = np.random.default_rng(seed)
    if name == "digits":
        x, y = _digits(source)
        order = rng.permutation(len(x))
        rows, held_out = order[: source.n_train], order[source.n_train :]
        x_test, y_test = x, y
    else:
        x, y, x_test, y_test = (_idx_file(name, source, i) for i in range(len(FILES)))
        rows, held_out = rng.permutation(len(x)), rng.permutation(len(x_test))
    rows = rows[:n_train]

    draws = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(2)]  # train's, test's
    arrays = (
        _pixels(x[rows], source.levels, binarize, draws[0]),
        _pixels(x_test[held_out], source.levels, binarize, draws[1]),
        y[rows].astype(np.int64),
        y_test[held_out].astype(np.int64),
    )
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    train, test, train_labels, test_labels = (torch.from_numpy(array) for array in arrays)
    return Dataset(name, train, test, train_labels, test_labels, digest.hexdigest(), source.licence, source.image_shape)


def _pixels(raw: np.ndarray, levels: int, binarize: Binarize, stream: np.random.SeedSequence) -> np.ndarray:
    """Integers (N, ...) to float32 (N, X) in [0, 1], by one rounded division: the same bits everywhere."""
    grey = raw.reshape(len(raw), -1).astype(np.float32) / np.float32(levels)
    if binarize == "threshold":
        return (grey >= 0.5).astype(np.float32)
    if binarize == "sample":  # row by row, so that the first rows' draws are the same whatever follows
        return (np.random.default_rng(stream).random(grey.shape, dtype=np.float32) < grey).astype(np.float32)
    return grey


def _digits(source: Source) -> tuple[np.ndarray, np.ndarray]:
    # Imported here because it takes longer than all else in this module, and many callers never need it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels, labels = bunch.data.astype(np.uint8), bunch.target.astype(np.uint8)
    if hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest() != source.digests[0]:
        raise ValueError(
            "scikit-learn's digits are not the ones declared; install the version that constraints.txt names"
        )
    return pixels, labels


def _idx_file(name: str, source: Source, i: int) -> np.ndarray:
    """One verified file of a dataset, downloaded first if it is absent."""
    root = os.environ.get("VAE_DATA_DIR")
    import pooch  # here and below: in a notebook its progress bars warn on import, and digits never need it

    path = (Path(root).expanduser() if root else Path(pooch.os_cache("vae-measured"))) / name / FILES[i]
    if not path.exists():
        _download(path, name, source, i)
    return _verified(path, source.digests[i], source.digest_of)


def _verified(path: Path, digest: str, digest_of: str) -> np.ndarray:
    """The array in a compressed IDX file whose digest is as declared. ValueError names file and remedy."""
    remedy = "delete it and run again"
    raw = path.read_bytes()
    try:
        payload = gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: expected a whole gzip file, but {error}; {remedy}") from error
    try:
        array = parse_idx(payload)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {remedy}") from None
    found = hashlib.sha256(payload if digest_of == "payload" else raw).hexdigest()
    if found != digest:
        of = "decompressed" if digest_of == "payload" else "as published (a copy compressed anew differs too)"
        raise ValueError(f"{path} is another file: expected SHA-256 {digest} {of}, got {found}; {remedy}")
    return array


def parse_idx(payload: bytes) -> np.ndarray:
    """Array of an IDX file of unsigned bytes: 00 00, type 08, number of axes, each length as big-endian
    uint32, then the values. ValueError says what was expected and what was found."""
    if len(payload) < 4 or payload[:3] != b"\x00\x00\x08" or payload[3] == 0:
        found = payload[:4].hex(" ") or "nothing"
        raise ValueError(f"expected IDX magic 00 00 08 and a number of axes, found {found}")
    start = 4 + 4 * payload[3]
    if len(payload) < start:
        raise ValueError(f"expected an IDX header of {start} bytes, found {len(payload)}")
    shape = struct.unpack(f">{payload[3]}I", payload[4:start])
    if len(payload) != start + math.prod(shape):
        raise ValueError(f"expected {start + math.prod(shape)} bytes for shape {shape}, found {len(payload)}")
    return np.frombuffer(payload, np.uint8, offset=start).reshape(shape)


def _download(path: Path, name: str, source: Source, i: int) -> None:
    """Fetch one file from the first mirror that delivers it. It appears under its name only once verified."""
    import pooch

    failures = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-")
    except OSError as error:
        raise ValueError(
            f"{path} is absent and its folder cannot be written ({error}); set VAE_DATA_DIR to a folder that can"
        ) from error
    with scratch as folder:
        part = Path(folder) / path.name
        for mirror in source.mirrors:
            try:
                pooch.HTTPDownloader(timeout=30)(mirror + path.name, str(part), None)
                _verified(part, source.digests[i], source.digest_of)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors
                failures.append(f"  {mirror}{path.name}: {error}")
            else:
                part.replace(path)
                return
    raise ConnectionError(
        "\n".join([f"could not download {name}:", *failures])
        + f"\nWithout a network, put {', '.join(FILES)} into {path.parent} (VAE_DATA_DIR chooses another "
        "place), or use the dataset 'digits', which needs no download"
    )
