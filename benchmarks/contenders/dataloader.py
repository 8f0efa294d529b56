"""The tutorials' loop: a DataLoader, the plain Adam, and a running loss read at every step."""

from __future__ import annotations

import time

from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import BATCH, Case
from benchmarks.contenders import slices


class Contender(slices.Contender):
    fused = None  # PyTorch's default

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        super().__init__(case, members, dtype)
        # Without the short last batch, so that all steps are equal work.
        self.loader = DataLoader(TensorDataset(self.data), batch_size=BATCH, shuffle=True, drop_last=True)

    def run(self, steps: int) -> tuple[int, float]:
        begin, done, total = time.perf_counter(), 0, 0.0
        while done < steps:
            for (x,) in self.loader:
                total += self.step(self.model, self.optimiser, x, self.noise()).item()
                done += 1
                if done == steps:
                    break
        return done, time.perf_counter() - begin
