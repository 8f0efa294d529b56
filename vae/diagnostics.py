"""What a trained model does, in numbers: information, aggregated posteriors, tidy tables with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vae.gaussian import LOG_2PI, DiagonalGaussian, logmeanexp
from vae.noise import generator


class Estimate(NamedTuple):
    """A Monte Carlo estimate with its standard error over data and, where the estimator has one, the cap it
    cannot exceed.
    """

    value: float
    se: float
    cap: float = math.inf


def aggregate_kl(q: DiagonalGaussian, n_nodes: int = 32) -> Tensor:
    """KL(q(z_j) || N(0, 1)) per latent, (Z,) nats, where q(z_j) is the mixture of the B posteriors q(z_j|x).

    Gauss-Hermite quadrature under every component, no sampling. At most the mean of `kl_per_dim`, from which it
    differs by the mutual information I(X; Z_j) (Hoffman & Johnson 2016): near zero does not mean that the latent is
    unused.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    eps = torch.tensor(nodes, dtype=q.mean.dtype, device=q.mean.device)
    weight = torch.tensor(weights / weights.sum(), dtype=q.mean.dtype, device=q.mean.device)

    def one(mean: Tensor, log_var: Tensor) -> Tensor:
        z = mean[:, None] + (0.5 * log_var).exp()[:, None] * eps  # (B, nodes)
        components = -0.5 * ((z[..., None] - mean).square() * (-log_var).exp() + log_var + LOG_2PI)
        log_ratio = logmeanexp(components, dim=-1) + 0.5 * (z.square() + LOG_2PI)
        return (log_ratio @ weight).mean()

    return torch.stack([one(m, v) for m, v in zip(q.mean.unbind(-1), q.log_var.unbind(-1), strict=True)])


def mutual_information(q: DiagonalGaussian, *, seed: int) -> Estimate:
    """I(X; Z) in nats when x is one of the B data, each equally likely: E[log q(z|x) - log q(z)], one draw of z per
    datum.

    It cannot exceed log B however informative the encoder is; the estimate reports that cap. Compare models at equal B.
    """
    eps = torch.randn(q.mean.shape, generator=generator(seed, "mutual information"), dtype=q.mean.dtype)
    z = q.rsample(eps.to(q.mean.device))
    chunks = z.unsqueeze(1).split(64)  # (64, B, Z) at a time, never (B, B, Z)
    log_aggregate = torch.cat([logmeanexp(q.log_prob(chunk), dim=1) for chunk in chunks])
    per_datum = q.log_prob(z) - log_aggregate
    n = z.shape[0]
    return Estimate(float(per_datum.mean()), float(per_datum.std() / math.sqrt(n)), math.log(n))


def active_units(q: DiagonalGaussian, threshold: float = 0.01) -> int:
    """Latents whose posterior mean varies over data by more than `threshold` (Burda et al. 2016, sec. 4.2);
    variance is 1/N.
    """
    return int((q.mean.var(0, correction=0) > threshold).sum())


def tidy(
    members: Sequence[Mapping[str, Any]],
    values: Mapping[str, Tensor],
    *,
    split: str,
    unit: str = "nats",
    over: str = "images",
) -> pd.DataFrame:
    """The long table of a record: one row per member and quantity.

    A value of shape (E, N) becomes its mean over N with the standard error of that mean; one of shape (E,) is exact
    for the member: se 0, n 1. Columns: the members' keys, split, quantity, value, se, n, over, unit.
    """
    frames = []
    for quantity, value in values.items():
        value = value.detach().to("cpu", torch.float64)
        if value.shape[0] != len(members) or value.ndim > 2:
            raise ValueError(
                f"{quantity} must have shape ({len(members)},) or ({len(members)}, N), got {tuple(value.shape)}"
            )
        n = value.shape[1] if value.ndim == 2 else 1
        mean = value.mean(1) if value.ndim == 2 else value
        se = value.std(1) / math.sqrt(n) if n > 1 else torch.zeros_like(mean)
        frames.append(
            pd.DataFrame(list(members)).assign(
                split=split,
                quantity=quantity,
                value=mean.numpy(),
                se=se.numpy(),
                n=n,
                over=over if n > 1 else "exact",
                unit=unit,
            )
        )
    return pd.concat(frames, ignore_index=True)


def over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of `value` over seeds within each group of `by`, se = sd / sqrt(seeds) (NaN for one seed), n = seeds."""
    grouped = table.groupby(list(by), sort=False, dropna=False)["value"]
    out = grouped.agg(value="mean", sd="std", n="count").reset_index()
    return out.assign(se=out["sd"] / np.sqrt(out["n"]), over="seeds").drop(columns="sd")


def pooled(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of `value` over seeds within each group of `by`, indexed by `by`; se of images and of seeds, n = seeds.

    Seeds evaluated on the same images share those images' error, which averaging over seeds does not reduce: se^2 is
    the mean of the rows' se^2 plus, for two seeds or more, sd^2 / seeds. With one seed the error is that of its images.
    """
    seeds = over_seeds(table, by).set_index(list(by))
    images = table.assign(square=table["se"] ** 2).groupby(list(by), sort=False, dropna=False)["square"].mean()
    between = seeds["se"].where(seeds["n"] > 1, 0.0)
    found = seeds.assign(se=np.sqrt(images.to_numpy() + between**2), over="images and seeds")
    return found[["value", "se", "n", "over"]]
