"""A small sweep, and how alike two trainings of it are."""

import pytest
import torch
from torch.testing import assert_close

from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import generator
from vae.train import Execution, Schedule, train
from vae.train.objectives import elbo, terms
from vae.train.plan import has_compiler

N, X, Z = 53, 7, 2
SHORT = Schedule(steps=23, batch_size=11, learning_rate=1e-2, n_samples=3, log_every=5)
MEMBERS = [{"seed": s, "beta": b} for b in (0.5, 1.0, 4.0) for s in (0, 1)] + [{"seed": 2, "beta": 1.0}]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not has_compiler(CPU), reason="no C++ compiler")


def objective(model, x, eps, member):
    return elbo(terms(model, x, model.encode(x), eps), member["beta"])


def build(member):
    stream = generator(member["seed"], "init")
    return VAE(MLPEncoder(X, [5], Z, stream), mlp([Z, 5, X], stream), BernoulliLikelihood())


def run(data, dtype=torch.float64, schedule=SHORT, members=MEMBERS, **execution):
    return train(stack(build, members, dtype=dtype), objective, data, schedule, execution=Execution(**execution))


def agree(a, b, rtol=1e-10, atol=1e-11):
    for name in a.ensemble.params:
        assert_close(a.ensemble.params[name], b.ensemble.params[name], rtol=rtol, atol=atol)
    assert a.ensemble.members == b.ensemble.members
    assert a.history.drop(columns="objective").equals(b.history.drop(columns="objective"))
    assert_close(torch.tensor(a.history["objective"].to_numpy()), torch.tensor(b.history["objective"].to_numpy()),
                 rtol=max(rtol, 1e-10), atol=atol)  # fmt: skip
    assert a.diverged == b.diverged


def equal(a, b):
    """Bit for bit."""
    assert all(torch.equal(a.ensemble.params[k], b.ensemble.params[k]) for k in b.ensemble.params)
    assert a.history.equals(b.history)
    assert a.diverged == b.diverged
