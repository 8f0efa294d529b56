"""The model as an ordinary PyTorch module, for the trainers that take one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.cases import Case, Weights, weights


class Model(nn.Module):
    """A VAE whose loss is the mean negative ELBO of a minibatch."""

    def __init__(self, case: Case, dtype: str, member: int = 0) -> None:
        super().__init__()
        self.z_dim = case.z_dim
        self.encoder, self.decoder = _net(case.encoder), _net(case.decoder)
        self.to(getattr(torch, dtype))
        with torch.no_grad():
            for p, start in zip(self.parameters(), weights(case, 1, dtype, first=member), strict=True):
                p.copy_(torch.from_numpy(start[0]))

    def loss(self, x: Tensor, eps: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        logits = self.decoder(mean + (0.5 * log_var).exp() * eps)
        kl = 0.5 * (mean.square() + torch.expm1(log_var) - log_var).sum(-1)
        return (kl + binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)).mean()


def read_back(models: Sequence[nn.Module]) -> Weights:
    """The weights of the models, stacked; layers in the order of the case's."""
    return [
        np.stack([p.detach().numpy() for p in some]) for some in zip(*(m.parameters() for m in models), strict=True)
    ]


def _net(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])
