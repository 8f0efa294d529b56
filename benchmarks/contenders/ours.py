"""This trainer, in the chunks that it chooses."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.cases import BATCH, LEARNING_RATE, Case, Weights, data, weights
from vae.models.ensemble import Ensemble, stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import generator
from vae.train.objectives import elbo, terms
from vae.train.plan import Execution, Work, plan
from vae.train.run import Job, Run
from vae.train.schedule import Schedule
from vae.train.streams import Draws, rows_of


def objective(model, x, eps, member):  # noqa: ANN001, ANN201 (as a notebook writes it)
    return elbo(terms(model, x, model.encode(x), eps), member["beta"])


class Contender:
    """Every member has its own seed, so that nothing is shared; the plan is the trainer's for a long run."""

    compile: bool | None = True

    def __init__(self, case: Case, members: int, dtype: str, device: str = "cpu") -> None:
        self.case, self.device, self.dtype = case, torch.device(device), getattr(torch, dtype)
        self.schedule = Schedule(10**6, BATCH, LEARNING_RATE, decay="constant")
        self.ensemble = self._ensemble(members)
        work = Work(case.parameters, BATCH, self.schedule.steps)
        self.plan = plan(range(members), work, self.device, Execution(compile=self.compile, workers=1))
        self.rows = rows_of(torch.from_numpy(data(case, dtype)), self.dtype)
        self.step_members = max(map(len, self.plan.chunks))
        self.training = self._run(self.plan.chunks[0])
        self.run(1)
        self.compile_seconds = self.training.compile_seconds

    def run(self, steps: int) -> tuple[int, float]:
        begin = time.perf_counter()
        longest = self.schedule.log_every
        for done in range(0, steps, longest):
            self.training.advance(self.training.streams.draw(min(longest, steps - done)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return steps, time.perf_counter() - begin

    def replay(self, index: np.ndarray, eps: np.ndarray) -> Weights:
        found = []
        for chunk in self.plan.chunks:
            members = [*chunk, *[chunk[-1]] * (self.step_members - len(chunk))]
            run = self._run(tuple(members))
            rows, noise = (torch.from_numpy(np.ascontiguousarray(given[:, members])) for given in (index, eps))
            run.advance(Draws(rows, noise[:, :, None], ()))
            found.append([run.state["params"][name].cpu().numpy()[: len(chunk)] for name in self.ensemble.params])
        return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]

    def trained(self, seed: int, steps: int) -> Weights:
        """One member from the weights 0, with the minibatches and the noise of `seed`."""
        run = self._run((0,), seed)
        run.advance(run.streams.draw(steps))
        return [p.cpu().numpy() for p in run.state["params"].values()]

    def _ensemble(self, members: int) -> Ensemble:
        case = self.case

        def build(member):  # noqa: ANN001, ANN202
            stream = generator(0, "init")
            encoder = MLPEncoder(case.x_dim, case.encoder[1:-1], case.z_dim, stream)
            return VAE(encoder, mlp(case.decoder, stream), BernoulliLikelihood())

        ensemble = stack(build, [{"seed": i, "beta": 1.0} for i in range(members)], dtype=self.dtype)
        start = weights(case, members, str(self.dtype).removeprefix("torch."))
        ensemble.params.update(zip(ensemble.params, map(torch.from_numpy, start), strict=True))
        return ensemble

    def _run(self, chunk: tuple[int, ...], seed: int | None = None) -> Run:
        ensemble = self.ensemble.take(chunk)
        if seed is not None:
            ensemble = Ensemble(ensemble.model, ensemble.params, ensemble.buffers, ({"seed": seed, "beta": 1.0},))
        job = Job(
            ensemble, objective, self.rows, self.schedule, tuple(ensemble.params), None, self.case.z_dim, self.device,
            self.plan, None, 60.0, time.time(), f"{id(self)} {len(chunk)}",
        )  # fmt: skip
        return Run(job)
