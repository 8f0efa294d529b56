"""An encoder, a decoder and a likelihood as one model, and what everything else may ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from vae.gaussian import Gaussian
from vae.models.likelihoods import GaussianLikelihood, Likelihood
from vae.models.networks import LinearEncoder, MLPEncoder, mlp
from vae.noise import generator


class Model(Protocol):
    """What the objectives ask of a model: `log_lik(x (B, X), z (K, B, Z)) -> (K, B)`."""

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor: ...


class VAE(nn.Module):
    """p(z) = N(0, I), p(x|z) by `decoder` and `likelihood`, q(z|x) by `encoder`. Kingma & Welling 2014,
    arXiv:1312.6114.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def encode(self, x: Tensor) -> Gaussian:
        """q(z|x) for x (B, X)."""
        return self.encoder(x)

    @property
    def decoder_reads(self) -> str | None:
        """What of x the decoder reads beside z: None, "past" or "input" (see `vae.models.decoders`)."""
        return getattr(self.decoder, "reads", None)

    @property
    def is_generative(self) -> bool:
        """Whether there is a p(x): False if the decoder reads the x that it is to explain."""
        return self.decoder_reads != "input"

    def output(self, x: Tensor, z: Tensor) -> Tensor:
        """The decoder's output (K, B, X), which it makes of z (K, B, Z) and of what it reads of x (B, X)."""
        return self.decoder(z) if self.decoder_reads is None else self.decoder(z, x)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: x (B, X), z (K, B, Z) -> (K, B). With a skip from x it is log p(x|z, h(x))."""
        return self.likelihood.log_prob(x, self.output(x, z))

    def forward(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(self, *args): lets `torch.func.functional_call` evaluate any function of the model (see `Ensemble.map`)."""
        return f(self, *args)


def check_generative(model: object, purpose: str) -> None:
    """Raises ValueError unless `model` has a p(x), which is needed to `purpose`."""
    if not getattr(model, "is_generative", True):
        raise ValueError(
            f"model must have a p(x) to {purpose}, got one whose decoder reads x itself, so that its ELBO bounds "
            "log p(x|h(x)), which is not comparable; use a decoder of z alone, or an autoregressive one"
        )


def mlp_vae(
    x_dim: int,
    hidden: Sequence[int],
    z_dim: int,
    likelihood: Likelihood,
    seed: int,
    *,
    encoder_hidden: Sequence[int] | None = None,
    covariance: str = "diagonal",
) -> VAE:
    """The usual VAE: tanh networks with the hidden layers `hidden` in the decoder reversed, in the encoder as they
    stand or as `encoder_hidden` says. Initial weights are those of the stream "init" of `seed`, the encoder's first."""
    stream = generator(seed, "init")
    encoder = MLPEncoder(x_dim, hidden if encoder_hidden is None else encoder_hidden, z_dim, stream, covariance)
    return VAE(encoder, mlp([z_dim, *reversed(hidden), x_dim], stream), likelihood)


def linear_vae_model(
    x_dim: int, z_dim: int, noise_variance: float, generator: Generator, *, learned: bool = False
) -> VAE:
    """Linear encoder, linear decoder, Gaussian likelihood: the model that `vae.exact.linear_gaussian` solves
    exactly."""
    if z_dim > x_dim:
        raise ValueError(f"z_dim must not exceed the {x_dim} data dimensions of a linear model, got {z_dim}; lower it")
    return VAE(
        LinearEncoder(x_dim, z_dim, generator),
        mlp([z_dim, x_dim], generator),
        GaussianLikelihood(noise_variance, learned),
    )
