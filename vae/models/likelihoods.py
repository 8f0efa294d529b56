"""What a decoder's output says of x: log p(x|z) in nats, its mean, and the data that it is for."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from vae.check import Numbers, positive, tensor
from vae.gaussian import LOG_2PI


class GaussianLikelihood(nn.Module):
    """p(x|z) = N(x; f(z), noise_variance I), the variance a fixed number or, with `learned`, one free parameter."""

    def __init__(self, noise_variance: float, learned: bool = False) -> None:
        super().__init__()
        log_variance = torch.tensor(math.log(positive("noise_variance", noise_variance)))
        if learned:
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over X, with its constant: x (B, X), decoder output (K, B, X) -> (K, B)."""
        squared = (x - out).square().sum(-1)
        return -0.5 * (squared * (-self.log_variance).exp() + x.shape[-1] * (self.log_variance + LOG_2PI))

    def mean(self, out: Tensor) -> Tensor:
        """E[x|z] from the decoder's output."""
        return out

    def check(self, x: Numbers) -> None:
        """Any real data will do."""


class DiagonalGaussianLikelihood(nn.Module):
    """p(x|z) = N(x; f(z), diag(exp(log_variance))), a free variance for each of the X dimensions."""

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(x_dim))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over X, with its constant: x (B, X), decoder output (K, B, X) -> (K, B)."""
        squared = (x - out).square() * (-self.log_variance).exp()
        return -0.5 * (squared + self.log_variance + LOG_2PI).sum(-1)

    def mean(self, out: Tensor) -> Tensor:
        """E[x|z] from the decoder's output."""
        return out

    def check(self, x: Numbers) -> None:
        """Any real data will do."""


class BernoulliLikelihood(nn.Module):
    """p(x|z) = prod Bernoulli(x; sigmoid(f(z))); on grey values in [0, 1] the usual cross-entropy, which is no
    density.
    """

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over X: x (B, X), logits (K, B, X) -> (K, B)."""
        return (x * out + logsigmoid(-out)).sum(-1)  # one exponential and one logarithm; rounds as the logit does

    def mean(self, out: Tensor) -> Tensor:
        """E[x|z] from the decoder's output."""
        return out.sigmoid()

    def check(self, x: Numbers) -> None:
        """Raises ValueError for data outside [0, 1]."""
        low, high = (float(bound) for bound in tensor("data", x).aminmax())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(
                f"data must lie in [0, 1] for a Bernoulli decoder, got [{low:g}, {high:g}]; "
                "rescale it, or use a Gaussian decoder"
            )


Likelihood = GaussianLikelihood | DiagonalGaussianLikelihood | BernoulliLikelihood
