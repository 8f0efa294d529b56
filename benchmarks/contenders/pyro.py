"""Pyro: stochastic variational inference by `Trace_ELBO`, its default and its tutorials'."""

from __future__ import annotations

import time

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from benchmarks.cases import BATCH, LEARNING_RATE, Case, Weights, data
from benchmarks.contenders.torch_model import Model, read_back


class Contender:
    step_members = 1

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        self.case, self.dtype = case, dtype
        self.data = torch.from_numpy(data(case, dtype))
        self._start()

    def run(self, steps: int) -> tuple[int, float]:
        begin, done = time.perf_counter(), 0
        while done < steps:
            order = torch.randperm(len(self.data))
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH)[: steps - done]:
                self.svi.step(self.data[rows])
                done += 1
        return done, time.perf_counter() - begin

    def trained(self, seed: int, steps: int) -> Weights:
        pyro.set_rng_seed(seed)
        self._start()
        self.run(steps)
        return read_back([self.model])

    def _start(self) -> None:
        pyro.clear_param_store()
        self.model = Model(self.case, self.dtype)
        # The loss as the mean over the minibatch: Adam then takes the steps of the others, its epsilon included.
        model, guide = (pyro.poutine.scale(f, 1 / BATCH) for f in (self._joint, self._posterior))
        self.svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO())

    def _joint(self, x: Tensor) -> None:
        pyro.module("decoder", self.model.decoder)
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), self.case.z_dim)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.model.decoder(z)).to_event(1), obs=x)

    def _posterior(self, x: Tensor) -> None:
        pyro.module("encoder", self.model.encoder)
        with pyro.plate("data", len(x)):
            mean, log_var = self.model.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, (0.5 * log_var).exp()).to_event(1))
