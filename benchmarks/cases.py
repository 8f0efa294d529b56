"""What every contender trains: the same models from the same weights, on the same minibatches and noise. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BATCH, LEARNING_RATE = 128, 1e-3  # Adam's, constant; its other numbers are Kingma & Ba's
ROWS = {"tiny": 1397, "digits": 1397, "mnist": 20_000}
Weights = list[np.ndarray]  # (E, out, in) and (E, out) of every layer, the encoder's first


class Case(NamedTuple):
    """A VAE of tanh layers with a Bernoulli decoder; the encoder ends in the means and log-variances of q."""

    name: str
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    @property
    def z_dim(self) -> int:
        return self.decoder[0]

    @property
    def x_dim(self) -> int:
        return self.encoder[0]

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(in, out) of every layer."""
        return [pair for sizes in (self.encoder, self.decoder) for pair in zip(sizes, sizes[1:], strict=False)]

    @property
    def parameters(self) -> int:
        return sum(n_in * n_out + n_out for n_in, n_out in self.layers)

    @property
    def flops(self) -> float:
        """Of a model's step, in its matrix products: forward, and twice back, where the first layer needs it once."""
        products = [2.0 * BATCH * n_in * n_out for n_in, n_out in self.layers]
        return 3 * sum(products) - products[0]


CASES = {
    "tiny": Case("tiny", (8, 8), (4, 8)),
    "digits": Case("digits", (64, 128, 16), (8, 128, 64)),
    "mnist": Case("mnist", (784, 200, 200, 100), (50, 200, 200, 784)),
}


class Problem(NamedTuple):
    """Images of a data set under a decoder trained on it, and how near the optimum is near enough."""

    data: str
    hidden: tuple[int, ...]  # of the decoder; the encoder has them reversed
    z_dim: int
    steps: int  # of training
    images: int
    target: float  # nats below the optimum, mean over images
    n_draws: int  # that L-BFGS needs for it
    published_draws: int  # of Adam at 1e-3: Cremer et al. 2018 took 50
    most: int  # iterations of Adam before it is given up
    ais: tuple[int, int] | None  # temperatures from q*, and at most from the prior


PROBLEMS = {
    "local-digits": Problem("digits", (128,), 8, 2800, 100, 2e-3, 64, 16, 4000, (21, 3200)),
    "local-mnist": Problem("mnist", (200, 200), 50, 2400, 20, 5e-3, 128, 50, 3200, None),
}


def data(case: Case, dtype: str = "float32") -> np.ndarray:
    """Binary images (N, X) with some structure: pixels depend on a few hidden causes."""
    rng = np.random.default_rng(7)
    causes = rng.normal(size=(ROWS[case.name], 6)) @ rng.normal(size=(6, case.x_dim))
    return (causes + rng.normal(size=causes.shape) > 0.5).astype(dtype)


def weights(case: Case, members: int, dtype: str = "float32", first: int = 0) -> Weights:
    """Initial weights of the members `first`, `first` + 1, ...: Glorot-uniform, zero biases."""
    found: list[list[np.ndarray]] = []
    for member in range(first, first + members):
        rng = np.random.default_rng([1, member])
        found.append([])
        for n_in, n_out in case.layers:
            bound = (6 / (n_in + n_out)) ** 0.5
            found[-1] += [rng.uniform(-bound, bound, (n_out, n_in)), np.zeros(n_out)]
    return [np.stack(arrays).astype(dtype) for arrays in zip(*found, strict=True)]


def inputs(case: Case, members: int, steps: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Minibatches (steps, E, B) and noise (steps, E, B, Z), of every member its own."""
    rng = np.random.default_rng(2)
    index = rng.integers(0, ROWS[case.name], (steps, members, BATCH))
    return index, rng.normal(size=(steps, members, BATCH, case.z_dim)).astype(dtype)


def loss(case: Case, found: Weights, x: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The mean negative ELBO (E,) of images x (N, X) with noise eps (N, Z), in float64 and nats: the common judge."""
    x, eps = x.astype(np.float64), eps.astype(np.float64)
    arrays = [array.astype(np.float64) for array in found]
    n_encoder = 2 * (len(case.encoder) - 1)

    def net(layers: Weights, h: np.ndarray) -> np.ndarray:
        for i in range(0, len(layers), 2):
            h = np.einsum("enj,eoj->eno", h, layers[i], optimize=True) + layers[i + 1][:, None]
            h = np.tanh(h) if i + 2 < len(layers) else h
        return h

    mean, log_var = np.split(net(arrays[:n_encoder], np.broadcast_to(x, (len(arrays[0]), *x.shape))), 2, axis=-1)
    logits = net(arrays[n_encoder:], mean + np.exp(0.5 * log_var) * eps)
    log_px_z = (x * logits - np.logaddexp(0, logits)).sum(-1)
    kl = 0.5 * (mean**2 + np.expm1(log_var) - log_var).sum(-1)
    return (kl - log_px_z).mean(-1)
