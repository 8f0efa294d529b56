"""The careful loop: minibatches are slices of a permuted tensor, Adam is the fused one, nothing is printed."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import BATCH, LEARNING_RATE, Case, Weights, data
from benchmarks.contenders.torch_model import Model, read_back


class Contender:
    """One model after another."""

    step_members = 1
    fused = True

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        self.case, self.members, self.dtype = case, members, dtype
        self.data = torch.from_numpy(data(case, dtype))
        self.model, self.optimiser = self.start(0)

    def start(self, member: int) -> tuple[Model, torch.optim.Adam]:
        model = Model(self.case, self.dtype, member)
        return model, torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=self.fused)

    def step(self, model: Model, optimiser: torch.optim.Adam, x: Tensor, eps: Tensor) -> Tensor:
        optimiser.zero_grad()
        loss = model.loss(x, eps)
        loss.backward()
        optimiser.step()
        return loss

    def noise(self) -> Tensor:
        return torch.randn(BATCH, self.case.z_dim, dtype=self.data.dtype)

    def run(self, steps: int) -> tuple[int, float]:
        begin, done = time.perf_counter(), 0
        while done < steps:
            order = torch.randperm(len(self.data))
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH)[: steps - done]:
                self.step(self.model, self.optimiser, self.data[rows], self.noise())
                done += 1
        return done, time.perf_counter() - begin

    def replay(self, index: np.ndarray, eps: np.ndarray) -> Weights:
        models = []
        for member in range(self.members):
            model, optimiser = self.start(member)
            for rows, noise in zip(index[:, member], eps[:, member], strict=True):
                self.step(model, optimiser, self.data[rows], torch.from_numpy(noise))
            models.append(model)
        return read_back(models)
