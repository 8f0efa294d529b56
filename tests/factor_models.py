"""Factor models with known answers, shared by the tests of factor analysis."""

import torch

from vae.exact.factor_analysis import Parameters, Patterns, confirmatory, exploratory


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def standardised(W, phi=None):
    """Parameters with loadings W whose items have variance 1."""
    W = torch.as_tensor(W, dtype=torch.float64)
    phi = torch.eye(W.shape[1], dtype=torch.float64) if phi is None else torch.as_tensor(phi, dtype=torch.float64)
    return Parameters(W, 1 - (W @ phi @ W.mT).diagonal(), phi)


def crossed(pure, cross):
    """Two factors, two pure items each, and two items that load on both: the model C2."""
    rows = [[pure, 0]] * 2 + [[0, pure]] * 2 + [[cross, cross]] * 2
    return standardised(matrix(rows))


def correlated(load, phi):
    """Two correlated factors of three items each, simple structure."""
    return standardised(matrix([[load, 0]] * 3 + [[0, load]] * 3), matrix([[1, phi], [phi, 1]]))


def bifactor(general, group):
    """A general factor of nine items and three group factors of three."""
    rows = [[general, *(group * (i // 3 == j) for j in range(3))] for i in range(9)]
    return standardised(matrix(rows))


def exploratory_truth():
    """The model E0: six items, two factors, in an orientation whose posterior correlates -.76."""
    W = matrix([[0.9, 0.5], [0.8, 0.6], [0.7, 0.7], [0.6, 0.8], [0.5, 0.9], [0.8, 0.3]])
    return Parameters(W, matrix([0.4, 0.5, 0.6, 0.5, 0.4, 0.3]), torch.eye(2, dtype=torch.float64))


# Structures of every kind on seven items and two factors

P, K, N = 7, 2, 61
ENCODERS = ["full", "diagonal", "isotropic", "whitened"]
MASK = torch.tensor([[1, 0]] * 3 + [[1, 1]] + [[0, 1]] * 3).bool()
PHI = matrix([[1, 0.4], [0.4, 1]])
TIES = torch.tensor([[1, 0], [1, 0], [0, 0], [2, 3], [0, 2], [0, 3], [0, 0]])
SEEN = Patterns(matrix([[1, 1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]), matrix([0.3, 0.2, 0.5]))
KINDS = {
    "exploratory": (exploratory(K), None),
    "exploratory, psi fixed": (exploratory(K, torch.linspace(0.3, 0.7, P)), None),
    "exploratory, patterns": (exploratory(K), SEEN),
    "confirmatory": (confirmatory(MASK), None),
    "phi free": (confirmatory(MASK, "free"), None),
    "phi free, patterns": (confirmatory(MASK, "free"), SEEN),
    "phi fixed": (confirmatory(MASK, PHI), None),
    "psi fixed": (confirmatory(MASK, psi=torch.linspace(0.3, 0.7, P)), None),
    "tied": (confirmatory(MASK, tied=TIES), None),
    "tied, patterns": (confirmatory(MASK, tied=TIES), SEEN),
    "tied, phi free": (confirmatory(MASK, "free", tied=TIES), None),
}


def covariance(x):
    x = x - x.mean(0)
    return x.mT @ x / len(x)


def sample(normal):
    """(N, P): two correlated factors and noise."""
    z = normal(N, K) @ torch.linalg.cholesky(PHI).mT
    W = 0.8 * MASK.double() + 0.1 * normal(P, K)
    return z @ W.mT + (0.4 + 0.1 * torch.arange(P)).sqrt() * normal(N, P)


def arbitrary(normal):
    """Parameters (P, K) without any structure."""
    factor = torch.diag(matrix([1.4, 0.7])) + 0.4 * torch.tril(normal(K, K), -1)
    return Parameters(normal(P, K), 0.2 + normal(P).square(), factor @ factor.mT)
