"""From three log-densities per latent sample to the bounds: everything is larger-is-better, in nats per datum."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from vae.gaussian import LOG_2PI, Gaussian, logmeanexp


class Model(Protocol):
    """What the objectives ask of a model: `log_lik(x (B, X), z (K, B, Z)) -> (K, B)`."""

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor: ...


class Terms(NamedTuple):
    """The log-weights of K samples for B data: log p(x|z), log p(z), log q(z|x), each (K, B), and the analytic
    KL (B,).
    """

    log_px_z: Tensor
    log_pz: Tensor
    log_qz: Tensor
    kl: Tensor

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z|x), nats (K, B)."""
        return self.log_px_z + self.log_pz - self.log_qz


def terms(model: Model, x: Tensor, q: Gaussian, eps: Tensor) -> Terms:
    """Evaluates the model at z = q.rsample(eps): x (B, X), eps (K, B, Z); the prior is N(0, I)."""
    z = q.rsample(eps)
    log_pz = -0.5 * (z.square() + LOG_2PI).sum(-1)
    return Terms(model.log_lik(x, z), log_pz, q.log_prob(z), q.kl_to_standard_normal())


def elbo(t: Terms, beta: float | Tensor = 1.0) -> Tensor:
    """mean_K log p(x|z) - beta KL(q || p), nats (B,), with the KL in closed form.

    beta = 1: an unbiased estimate of the evidence lower bound (Kingma & Welling 2014, eq. 3). Otherwise the beta-VAE's
    objective (Higgins et al. 2017, eq. 4), still a lower bound on log p(x) if beta >= 1, not in general below.
    """
    return t.log_px_z.mean(0) - beta * t.kl


def iwae(t: Terms) -> Tensor:
    """logmeanexp_K log_w, nats (B,): the importance-weighted bound, at K = 1 the ELBO with a sampled KL.

    Burda et al. 2016, eq. 8. A lower bound on log p(x) in expectation, rising with K; K is read from the tensor.
    """
    return logmeanexp(t.log_w, dim=0)
