"""Pythae: its VAE and its trainer, whole epochs at a time, in which the last minibatch is a short one."""

from __future__ import annotations

import logging
import tempfile
import time

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from benchmarks.cases import BATCH, LEARNING_RATE, Case, Weights, data
from benchmarks.contenders.torch_model import Model, read_back


class Encoder(BaseEncoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_var = self.net(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_var)


class Decoder(BaseDecoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))  # Pythae's "bce" takes probabilities


class Contender:
    step_members = 1

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        logging.disable(logging.WARNING)
        self.case, self.dtype = case, dtype
        x = torch.from_numpy(data(case, dtype))
        self.dataset = BaseDataset(x, torch.zeros(len(x)))
        self.folder = tempfile.TemporaryDirectory()
        self.model, self.trainer = self._start()

    def run(self, steps: int) -> tuple[int, float]:
        per_epoch = len(self.trainer.train_loader)
        epochs = -(-steps // per_epoch)
        begin = time.perf_counter()
        for epoch in range(epochs):
            self.trainer.train_step(epoch)
        return epochs * per_epoch, time.perf_counter() - begin

    def trained(self, seed: int, steps: int) -> Weights:
        self.model, self.trainer = self._start(seed)
        self.run(steps)
        return read_back([nn.ModuleList([self.model.encoder, self.model.decoder])])

    def _start(self, seed: int = 0) -> tuple[VAE, BaseTrainer]:
        nets = Model(self.case, self.dtype)
        model = VAE(
            VAEConfig(input_dim=(self.case.x_dim,), latent_dim=self.case.z_dim, reconstruction_loss="bce"),
            encoder=Encoder(nets.encoder),
            decoder=Decoder(nets.decoder),
        )
        settings = BaseTrainerConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=BATCH,
            train_dataloader_num_workers=0,
            learning_rate=LEARNING_RATE,
            optimizer_cls="Adam",
            no_cuda=True,
            seed=seed,  # `prepare_training` seeds all global streams with it, whatever they were before
        )
        trainer = BaseTrainer(model, self.dataset, training_config=settings)
        trainer.prepare_training()
        return model, trainer
