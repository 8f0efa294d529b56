"""Lightning: the same module in a LightningModule, trained by its Trainer from a DataLoader."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import BATCH, LEARNING_RATE, Case, Weights, data
from benchmarks.contenders.torch_model import Model, read_back


class Module(lightning.LightningModule):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        x = batch[0]
        eps = batch[1] if len(batch) > 1 else torch.randn(len(x), self.model.z_dim, dtype=x.dtype)
        return self.model.loss(x, eps)

    def configure_optimizers(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


class Clock(lightning.Callback):
    """From the start of the first minibatch to the end of the last: set-up does not count."""

    def on_train_batch_start(self, *args: Any) -> None:
        self.begin = getattr(self, "begin", time.perf_counter())

    def on_train_batch_end(self, *args: Any) -> None:
        self.end = time.perf_counter()


class Contender:
    step_members = 1

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        self.case, self.members, self.dtype = case, members, dtype
        self.data = torch.from_numpy(data(case, dtype))
        self.module = Module(Model(case, dtype))
        self.loader = DataLoader(TensorDataset(self.data), batch_size=BATCH, shuffle=True, drop_last=True)

    def run(self, steps: int) -> tuple[int, float]:
        return steps, self._fit(self.module, self.loader, steps)

    def replay(self, index: np.ndarray, eps: np.ndarray) -> Weights:
        models = []
        for member in range(self.members):
            module = Module(Model(self.case, self.dtype, member))
            rows, noise = torch.from_numpy(index[:, member].ravel()), torch.from_numpy(eps[:, member])
            fed = TensorDataset(self.data[rows], noise.flatten(0, 1))
            self._fit(module, DataLoader(fed, batch_size=BATCH), len(index))
            models.append(module.model)
        return read_back(models)

    def _fit(self, module: Module, loader: DataLoader, steps: int) -> float:
        clock = Clock()
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, callbacks=[clock], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return clock.end - clock.begin
