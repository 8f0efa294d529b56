"""Decoders whose evidence is known: linear-Gaussian in closed form, a nonlinear one with two latents by quadrature."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, FullGaussian
from vae.inference import log_joint as joint
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE


class Known(NamedTuple):
    log_joint: joint.LogJoint
    log_p: Tensor  # (B,)
    z: Tensor  # (B, Z) from which x was simulated
    x: Tensor


def linear(normal, count, x_dim=7, z_dim=3, psi=0.3):
    """`Known` of the linear-Gaussian model, and its posterior and precision."""
    W, z = normal(x_dim, z_dim), normal(count, z_dim)
    x = z @ W.mT + psi**0.5 * normal(count, x_dim)
    return Known(linear_log_joint(W, psi, x), lg.log_evidence(W, psi, x), z, x), lg.posterior(W, psi, x), W


def linear_log_joint(W, psi, x):
    def log_joint(z):
        scale = torch.full((), psi, dtype=x.dtype).sqrt()
        return torch.distributions.Normal(z @ W.mT, scale, validate_args=False).log_prob(x).sum(
            -1
        ) + torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(z).sum(-1)

    return log_joint


def nonlinear(count=5):
    """`Known` of a Bernoulli decoder 2-11-13, weights large enough that posteriors are bent, and the model."""
    stream = torch.Generator().manual_seed(4)
    model = VAE(MLPEncoder(13, [3], 2, stream), mlp([2, 11, 13], stream), BernoulliLikelihood()).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(2.5)
    model.requires_grad_(False)
    z = torch.randn(count, 2, generator=stream, dtype=torch.float64)
    x = torch.bernoulli(model.decoder(z).sigmoid(), generator=stream)
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)  # the trapezium rule: exact to rounding for smooth tails
    grid = torch.cartesian_prod(axis, axis)
    log_joint = joint.of(model, x)
    with torch.no_grad():
        table = torch.cat([log_joint(part[:, None].expand(-1, count, -1)) for part in grid.split(10_000)])
    return Known(log_joint, torch.logsumexp(table, 0) + 2 * np.log(16 / 160), z, x), model


def exact_elbo(known, q, n_nodes=40):
    """E_q[log p(x, z) - log q(z)] (B,) of a Gaussian over two latents by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    eps = torch.cartesian_prod(torch.from_numpy(nodes), torch.from_numpy(nodes))
    weight = torch.from_numpy(np.outer(weights, weights).ravel() / (2 * np.pi))
    value = known.log_joint(q.rsample(eps[:, None].expand(-1, len(q.mean), -1)))
    return weight @ value + q.entropy()


def prior(count, z_dim, family=DiagonalGaussian, dtype=torch.float64):
    zero = torch.zeros(count, z_dim, dtype=dtype)
    return (
        DiagonalGaussian(zero, zero)
        if family is DiagonalGaussian
        else FullGaussian(zero, torch.eye(z_dim).to(zero)[None])
    )
