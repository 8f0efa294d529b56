"""Data sets by name, verified and split by seed.

Start in `images`: digits, MNIST and its like. `scores` has Holzinger and Swineford's test scores, `surfaces`
made-up data of known dimension.
"""

from vae.data.images import REGISTRY, Binarize, Dataset, DatasetName, declared_digest, load, size

__all__ = ["REGISTRY", "Binarize", "Dataset", "DatasetName", "declared_digest", "load", "size"]
