"""Test scores, people by items, for factor analysis. The optional extra `data` brings the file; no download."""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

# SHA-256 of the scores as float64, row by row
DIGEST = "449ee24f4042810dfb3d00437b062fc2ff0bf31a1a995954aff6fbabf9d88317"


class Scores(NamedTuple):
    """Scores x (N, p) of N people on p items, float64."""

    x: Tensor
    items: tuple[str, ...]
    digest: str  # SHA-256 of x
    licence: str


def holzinger_swineford() -> Scores:
    """Nine mental tests taken by 301 children of two schools, N = 301, p = 9.

    Three tests each of three abilities: visual (x1 perception, x2 cubes, x3 lozenges), textual (x4 paragraph
    comprehension, x5 sentence completion, x6 word meaning), speed (x7 addition, x8 counting dots, x9 letters).
    K. J. Holzinger and F. Swineford, A study in factor analysis: the stability of a bi-factor solution, Supplementary
    Educational Monographs 48, University of Chicago 1939; these nine since Joreskog 1969, some of them rescaled. The
    file is the one that semopy (MIT licence) ships among its examples; semopy itself is not imported.

    Raises ModuleNotFoundError (semopy is not installed) and ValueError (its file holds other numbers).
    """
    try:
        package = metadata.distribution("semopy")
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            "the scores of Holzinger and Swineford come with semopy, which is not installed; "
            "pip install 'vae-measured[data]'",
            name="semopy",
        ) from None
    path = package.locate_file("semopy/examples/holzinger_swineford39_data.csv")
    items = tuple(f"x{i}" for i in range(1, 10))
    try:
        table = pd.read_csv(str(path), usecols=list(items))[list(items)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); install the semopy that constraints.txt names") from error
    x = np.ascontiguousarray(table.to_numpy(np.float64))
    digest = hashlib.sha256(x.astype("<f8").tobytes()).hexdigest()
    if digest != DIGEST:
        raise ValueError(
            f"{path} holds other scores: expected SHA-256 {DIGEST}, got {digest}; "
            "install the semopy that constraints.txt names"
        )
    return Scores(torch.from_numpy(x), items, digest, "MIT (as shipped with semopy); Holzinger and Swineford, 1939")
