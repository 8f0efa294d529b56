"""From three log-densities per latent sample to the bounds: everything is larger-is-better, in nats per datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae.check import number, one_of, whole
from vae.exact.linear_gaussian import expected_log_lik
from vae.gaussian import LOG_2PI, DiagonalGaussian, Gaussian, logmeanexp
from vae.models.multirate import MultiRateVAE, spread
from vae.models.networks import check_diagonal
from vae.models.vae import VAE, Model, check_generative


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
    """Evaluates the model at z = q.rsample(eps): x (B, X), eps (K, B, Z); the prior is N(0, I).

    >>> from vae.models import linear_vae_model
    >>> from vae.noise import draw, generator
    >>> model = linear_vae_model(64, 2, 0.1, generator(0, "init")).requires_grad_(False)
    >>> x = draw(0, "data", 5, 64)
    >>> t = terms(model, x, model.encode(x), draw(0, "noise", 1000, 5, 2))
    >>> elbo(t).shape, bool((elbo(t, beta=1.0) < iwae(t)).all())
    (torch.Size([5]), True)
    """
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


def beta_elbo(model: VAE, x: Tensor, eps: Tensor, member: Mapping[str, Any]) -> Tensor:
    """The objective of a sweep over beta: `elbo` with the member's "beta", 1 where it declares none, nats (B,)."""
    return elbo(terms(model, x, model.encode(x), eps), member.get("beta", 1.0))


def exact_beta_elbo(model: Any, x: Tensor, eps: Tensor | None, member: Mapping[str, Any]) -> Tensor:
    """`beta_elbo` of a linear VAE (`vae.models.linear_vae_model`), nats (B,), without sampling: the expectation over z
    is in closed form, and `eps` is not used. The decoder's variance is the member's "noise_variance" where it declares
    one, else the model's own."""
    q, layer = model.encode(x), model.decoder[0]
    noise = member["noise_variance"] if "noise_variance" in member else model.likelihood.log_variance.exp()
    log_lik = expected_log_lik(layer.weight, noise, x, q, layer.bias)
    return log_lik - member.get("beta", 1.0) * q.kl_to_standard_normal()


def importance_weighted(model: VAE, x: Tensor, eps: Tensor, member: Mapping[str, Any]) -> Tensor:
    """The objective of importance-weighted autoencoders, `iwae` of all samples K, nats (B,)."""
    return iwae(terms(model, x, model.encode(x), eps))


def multirate_elbo(model: MultiRateVAE, x: Tensor, eps: Tensor, member: Mapping[str, Any]) -> Tensor:
    """The objective of one network for all betas, nats (B,): the minibatch is spread evenly over log beta from the
    member's "low" to its "high". Bae et al. 2023, arXiv:2212.03905."""
    log_beta = spread(member["low"], member["high"], len(x))
    return elbo(terms(model.at(log_beta), x, model.at(log_beta).encode(x), eps), log_beta.exp().squeeze(1))


def weighted_elbo(model: VAE, x: Tensor, eps: Tensor, member: Mapping[str, Any]) -> Tensor:
    """ "log_lik_weight" E_q log p(x|z) - "kl_weight" KL, both the member's, nats (B,): a loss with means in it, as it
    is written; the beta that it trains with is the ratio of its weights."""
    t = terms(model, x, model.encode(x), eps)
    return member["log_lik_weight"] * t.log_px_z.mean(0) - member["kl_weight"] * t.kl


def losses_in_code(likelihood: str, x_dim: int, z_dim: int) -> dict[str, tuple[float, float]]:
    """Losses as they are found in code for a "gaussian" or "bernoulli" decoder of x_dim pixels and z_dim latents, by
    name: the weights that each gives to the log-likelihood and to the KL, both in sums, for `weighted_elbo`. Squared
    errors are in units of the Gaussian log-likelihood at variance 1, so that the second over the first is beta, or
    beta times the variance, as `vae.exact.linear_gaussian.collapse_threshold` has it.

    >>> losses_in_code("gaussian", 64, 4)["MSE + KL mean"]
    (0.03125, 0.25)
    """
    one_of("likelihood", likelihood, ("gaussian", "bernoulli"))
    x_dim, z_dim = whole("x_dim", x_dim), whole("z_dim", z_dim)
    if likelihood == "bernoulli":
        return {
            "BCE summed + KL": (1.0, 1.0),
            "BCE mean over pixels + KL": (1.0 / x_dim, 1.0),
            "BCE mean + KL mean": (1.0 / x_dim, 1.0 / z_dim),
        }
    return {
        "SSE + KL": (2.0, 1.0),
        "SSE / 2 + KL": (1.0, 1.0),
        "MSE + KL": (2.0 / x_dim, 1.0),
        "MSE + KL mean": (2.0 / x_dim, 1.0 / z_dim),
    }


def weights_of(
    reduction: Callable[[Tensor, Tensor], Tensor], batch_size: int, x_dim: int, z_dim: int
) -> tuple[float, float]:
    """What an objective as code has it weighs, for `weighted_elbo`: one datum's log-likelihood and minus its KL, in
    units of their mean over the minibatch. The second over the first is the beta that it hides.

    reduction: of the log-likelihood of each dimension (B, X) and the KL of each latent (B, Z), linear in both.

    >>> weights_of(lambda log_lik, kl: log_lik.mean() - kl.sum(1).mean(), batch_size=4, x_dim=64, z_dim=2)
    (0.015625, 1.0)
    """
    log_lik, kl = torch.zeros(batch_size, x_dim), torch.zeros(batch_size, z_dim)
    by_log_lik, by_kl = torch.func.grad(reduction, argnums=(0, 1))(log_lik, kl)
    return batch_size * float(by_log_lik[0, 0]), -batch_size * float(by_kl[0, 0])


def log_px(model: Model, x: Tensor, q: Gaussian, eps: Tensor) -> Tensor:
    """`iwae` of K = len(eps) samples taken for log p(x), nats (B,): a lower bound in expectation, within about half the
    weights' relative variance over K. For decoders without an encoder, or a certified value, see
    `vae.inference.evidence`.

    ValueError: the model's decoder reads x itself, so that it has no p(x) (`VAE.is_generative`).
    """
    check_generative(model, "estimate log p(x)")
    return iwae(terms(model, x, q, eps))


def free_bits(q: DiagonalGaussian, free_nats: float | Tensor) -> Tensor:
    """sum_j max(free_nats, mean_B KL_j), nats (B,): what to put in place of a KL of which every latent has so much for
    free. `terms(...)._replace(kl=free_bits(q, 0.25))` makes an ELBO of it.

    The maximum is taken after the mean over the minibatch (Kingma et al. 2016, arXiv:1606.04934, appendix on free
    bits), hence the same number for every datum; taken before it, it would be another objective. At 0 it is the KL's
    mean. A latent below its allowance costs a constant and has no gradient.
    """
    check_numbers({"free_nats": free_nats})
    kl = q.kl_per_dim()
    allowance = torch.as_tensor(free_nats, dtype=kl.dtype, device=kl.device)
    return torch.maximum(kl.mean(-2), allowance).sum(-1).expand(kl.shape[:-1])  # unlike where, it passes NaN on


def minimum_rate(q: Gaussian, rate: float | Tensor) -> Tensor:
    """max(rate, mean_B KL), nats (B,): a KL whose first `rate` nats, of all latents together, are free. Use as
    `free_bits`. To commit a rate by the encoder's family instead, see `vae.models.networks.CommittedEncoder`.
    """
    check_numbers({"minimum_rate": rate})
    kl = q.kl_to_standard_normal()
    return torch.maximum(kl.mean(-1), torch.as_tensor(rate, dtype=kl.dtype, device=kl.device)).expand(kl.shape)


def annealing(progress: float | Tensor, cycles: float | Tensor = 1, rise: float | Tensor = 0.5) -> Tensor:
    """What the KL's weight is multiplied by: in each of `cycles` equal cycles it rises linearly from 0 to 1 over the
    first part `rise`, then stays 1 (Fu et al. 2019, arXiv:1903.10145, eqs. 6-7).

    One cycle is the usual warm-up (Bowman et al. 2016); rise 0 is none. `progress` is the part of the steps already
    taken, which the trainer gives to objectives as `member["progress"]`: so members of one ensemble may have
    schedules of their own, as numbers in their declarations.
    """
    check_numbers({"cycles": cycles, "rise": rise, "progress": progress})
    at = torch.as_tensor(progress) * cycles
    phase = (at - (at + 1e-6).floor()).clamp(min=0)  # rounding would else delay a cycle's start by a step
    return torch.where(phase < rise, phase / rise, torch.ones_like(phase))


def remedied_elbo(model: Any, x: Tensor, eps: Tensor, member: Mapping[str, Any]) -> Tensor:
    """The objective of remedies for collapse, as numbers of the member, nats (B,): its KL is the larger of `free_bits`
    of "free_nats" and `minimum_rate` of "minimum_rate", its weight "beta" times `annealing` with "cycles" and "rise".
    With 0, 0, 1, 1 and 0 for them it is the plain ELBO; members of one ensemble may have any.
    """
    q = check_diagonal(model.encode(x))
    kl = torch.maximum(free_bits(q, member["free_nats"]), minimum_rate(q, member["minimum_rate"]))
    weight = member["beta"] * annealing(member["progress"], member["cycles"], member["rise"])
    return elbo(terms(model, x, q, eps)._replace(kl=kl), weight)


def _not_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0


_RULES: dict[str, tuple[Callable[[float], bool], str, str]] = {
    "beta": (_not_negative, "be finite and not negative", "pass 0 or more"),
    "learning_rate": (lambda v: math.isfinite(v) and v > 0, "be positive and finite", "try 1e-3"),
    "free_nats": (_not_negative, "be finite and not negative", "pass nats per latent, 0 for none"),
    "minimum_rate": (_not_negative, "be finite and not negative", "pass nats per datum, 0 for none"),
    "cycles": (
        lambda v: math.isfinite(v) and v >= 1 and v == int(v),
        "be a whole number of at least 1",
        "1 is a plain warm-up",
    ),
    "rise": (lambda v: 0 <= v <= 1, "lie between 0 and 1", "it is the part of a cycle in which beta rises"),
    "progress": (lambda v: 0 <= v <= 1, "lie between 0 and 1", "it is the part of the steps already taken"),
}


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Raises ValueError for an impossible value of a name that objectives and the trainer know: beta, learning_rate,
    free_nats, minimum_rate, cycles, rise, progress. Other names, and tensors, pass.
    """
    for name, value in numbers.items():
        if name not in _RULES or isinstance(value, Tensor):
            continue
        good, must, remedy = _RULES[name]
        number(name, value, must, good, remedy)
