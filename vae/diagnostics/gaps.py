"""Between log p(x) and the ELBO of an encoder, datum by datum: the approximation gap, which no member of the encoder's
family of posteriors can close, and the amortization gap, by which the encoder misses the family's best member.

It composes `vae.inference`; start in `decomposed`, which says all levels and gaps. Axes: models E, data B, latents Z;
nats. Numbers of data begin at `first`, so that data taken in chunks get the draws that the whole would get.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import Numbers, finite_rows, whole
from vae.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from vae.inference import log_joint as joint
from vae.inference.evidence import ais_log_evidence, importance_log_evidence
from vae.inference.local import LocalFit, best_of, fit_local, prior_starts
from vae.inference.log_joint import LogJoint
from vae.inference.quadrature import bernoulli_log_evidence, gaussian_elbo, posterior_windows
from vae.models.vae import VAE
from vae.noise import normals, per_datum

GAPS = ("amortization gap", "approximation gap")
FASTEST, RUNS = 5, 9  # the runs that are kept; the others waited for a cold cache or for other processes


class Effort(NamedTuple):
    """How hard posteriors are searched for, and by how many draws everything is judged."""

    start_draws: int = 4096  # draws from the prior, the best of which is where a search starts
    fit_draws: tuple[int, int] = (64, 128)  # fixed draws behind the best diagonal and the best full-covariance q
    fresh_draws: int = 512  # by which every q of a datum is judged
    weights: int = 1000  # importance weights for each datum
    chains: int = 8  # annealed chains for each datum
    temperatures: int = 50  # distributions that a chain passes through
    leapfrog: int = 5  # steps of each of its proposals
    seed: int = 0


def best_posteriors(log_joint: LogJoint, like: Tensor, effort: Effort, first: int = 0) -> tuple[LocalFit, LocalFit]:
    """The best diagonal and the best full-covariance Gaussian of every datum, found without an encoder: from two starts
    (see `prior_starts`), of which the better end is kept, and from the best diagonal one.

    log_joint: z (S, B, Z) -> nats (S, B). like: (B, Z), for its shape, dtype and device. ValueError: as `fit_local`.
    """
    same = {"seed": effort.seed, "first": first}
    starts = prior_starts(log_joint, like, seed=effort.seed, n_draws=effort.start_draws)
    best = best_of([fit_local(log_joint, start, n_draws=effort.fit_draws[0], **same) for start in starts])
    start = FullGaussian(best.q.mean, torch.diag_embed((0.5 * best.q.log_var).exp()))  # type: ignore[union-attr]
    return best, fit_local(log_joint, start, n_draws=effort.fit_draws[1], **same)


def fresh_elbo(log_joint: LogJoint, like: Tensor, effort: Effort, first: int = 0) -> Callable[[Gaussian], Tensor]:
    """q -> its ELBO, nats (B,) in float64, on draws that no fit has seen and that are the same for every q, so that
    what they have in common cancels in the difference of two. Arguments as of `best_posteriors`."""
    streams = per_datum(effort.seed, "judge", first, len(like))
    eps = normals(streams, effort.fresh_draws, like.shape[1]).to(like)

    def judged(q: Gaussian) -> Tensor:
        z = q.rsample(eps)
        return (joint.values(log_joint, z) - q.log_prob(z)).double().mean(0)

    return judged


def log_evidence(
    log_joint: LogJoint, diagonal: Gaussian, full: Gaussian, effort: Effort, *, annealed: bool = True, first: int = 0
) -> dict[str, Tensor]:
    """log p(x) by two methods that share nothing but the decoder, (B,) each: "log p(x), importance" by weights from a
    Student-t around the q `full`, with "se of importance" and "ESS", the effective number of its weights; and unless it
    is not to be `annealed`, "log p(x), annealed" on the way from the q `diagonal`, with "se of annealed" and
    "acceptance"."""
    same = {"seed": effort.seed, "first": first}
    weighted = importance_log_evidence(log_joint, full, n_samples=effort.weights, **same)
    found = {"log p(x), importance": weighted.value, "se of importance": weighted.se, "ESS": weighted.ess}
    if annealed:
        run = {"n_chains": effort.chains, "n_temperatures": effort.temperatures, "n_leapfrog": effort.leapfrog}
        ais = ais_log_evidence(log_joint, diagonal, **run, **same)
        found |= {"log p(x), annealed": ais.value, "se of annealed": ais.se, "acceptance": ais.acceptance}
    return found


@torch.no_grad()
def decomposed(
    models: Sequence[VAE], x: Numbers, effort: Effort, *, annealed: bool = False, chunk: int = 200
) -> dict[str, Tensor]:
    """Every level and every gap of models that have one decoder in common, for data x (B, X): {name: (E, B)}, float64
    on the CPU.

    Levels: log p(x) as in `log_evidence`; by `fresh_elbo` "ELBO, encoder", "ELBO, best diagonal", "ELBO, best full".
    Gaps: "approximation gap" and "amortization gap" add up to log p(x) less the encoder's ELBO (Cremer et al. 2018,
    arXiv:1801.03558); "gap of a full covariance", "gained by a full covariance" and "amortization minus approximation"
    follow. What would show a bad optimum: "certificate, diagonal" and "decrement, diagonal" as of `LocalFit`, the same
    of "full", and "best from the encoder minus best without it", by what a third start at the encoder's q is better.

    `chunk` data at a time, which bounds the memory. ValueError: no model, one whose decoder reads x, x not (B, X).
    """
    if not models:
        raise ValueError("models must be one or more, got none; pass those that share a decoder")
    x, chunk = _beside(models[0], x), whole("chunk", chunk, 1, "200 is the default")
    parts = [_levels(models, part, effort, chunk * i, annealed) for i, part in enumerate(x.split(chunk))]
    found = {name: torch.cat([part[name].expand(len(models), -1) for part in parts], 1) for name in parts[0]}
    trust = {
        name: found.pop(name) for name in list(found) if name.startswith(("certificate", "decrement", "best from"))
    }
    amortised, diagonal, full = (found[f"ELBO, {q}"] for q in ("encoder", "best diagonal", "best full"))
    found["amortization gap"] = diagonal - amortised
    found["approximation gap"] = found["log p(x), importance"] - diagonal
    found["gap of a full covariance"] = found["log p(x), importance"] - full
    found["gained by a full covariance"] = full - diagonal
    found["amortization minus approximation"] = found["amortization gap"] - found["approximation gap"]
    if annealed:
        found["annealed minus importance"] = found["log p(x), annealed"] - found["log p(x), importance"]
    return found | trust


def _beside(model: VAE, x: Numbers) -> Tensor:
    """Data (B, X) where the model is, and in its dtype."""
    place = next(model.parameters())
    return finite_rows("x", x).to(place.device, place.dtype)


def _levels(models: Sequence[VAE], x: Tensor, effort: Effort, first: int, annealed: bool) -> dict[str, Tensor]:
    """What `decomposed` starts from, for data x (B, X), of which the first has this number; (B,) where no encoder has a
    say, else (E, B)."""
    log_joint, qs = joint.of(models[0], x), [model.encode(x) for model in models]
    best, full = best_posteriors(log_joint, qs[0].mean, effort, first)
    judged = fresh_elbo(log_joint, qs[0].mean, effort, first)
    found = log_evidence(log_joint, best.q, full.q, effort, annealed=annealed, first=first)
    found |= {"ELBO, encoder": torch.stack([judged(q) for q in qs])}
    found |= {"ELBO, best diagonal": judged(best.q), "ELBO, best full": judged(full.q)}
    same = {"n_draws": effort.fit_draws[0], "seed": effort.seed, "first": first}
    again = [fit_local(log_joint, q, **same).elbo - best.elbo for q in qs]
    for name, fit in {"diagonal": best, "full": full}.items():
        found |= {f"certificate, {name}": fit.certificate, f"decrement, {name}": fit.decrement}
    found["best from the encoder minus best without it"] = torch.stack(again)
    return {name: value.double().cpu() for name, value in found.items()}


def certificates(found: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """How far one can trust what `decomposed` found, annealed, by unit. In "nats", (E,), the sampling error of the mean
    of ln p(x) by either method; in "share", (E, B), 1 for data that break the order of the ELBOs by more than 0.01
    nats, and, (E,), the least acceptance; in "weights", (E,), the least ESS."""
    counts = {"encoder above the best diagonal": "amortization gap"}
    counts |= {"best diagonal above the best full": "gained by a full covariance"}
    return {
        "nats": {
            f"sampling error of ln p(x), {how}": found[f"se of {how}"].square().sum(1).sqrt() / found["ESS"].shape[1]
            for how in ("importance", "annealed")
        },
        "share": {f"{name} by 0.01": (found[gap] < -0.01).double() for name, gap in counts.items()}
        | {"least acceptance": found["acceptance"].min(1).values},
        "weights": {"least ESS": found["ESS"].min(1).values},
    }


class Exact(NamedTuple):
    """Of a decoder with two latents, for B data: what is so, by quadrature, what sampling makes of it, and pictures."""

    levels: dict[str, Tensor]  # (B,) both gaps, that "of a full covariance", "log p(x)"; nats
    errors: dict[str, Tensor]  # (B,) of what `decomposed` samples, and of half the nodes; nats
    seen: dict[str, Tensor]  # (B, ...) of encoder, best diagonal, best full: "ELBO" and the fields of `Windows`


@torch.no_grad()
def exactly_decomposed(model: VAE, x: Numbers, effort: Effort) -> Exact:
    """Both gaps of a model with two latents and a Bernoulli decoder, for data x (B, X), without sampling, and what
    `decomposed` says instead. ValueError: another likelihood, x not (B, X)."""
    x = _beside(model, x)
    log_joint, encoded = joint.of(model, x), model.encode(x)
    qs = encoded, *(fit.q for fit in best_posteriors(log_joint, encoded.mean, effort))
    exact, coarse = (bernoulli_log_evidence(model, x, nodes) for nodes in (401, 201))
    amortised, diagonal, full = elbos = [gaussian_elbo(log_joint, q) for q in qs]
    levels = {"amortization gap": diagonal - amortised, "approximation gap": exact - diagonal}
    levels |= {"gap of a full covariance": exact - full, "log p(x)": exact}
    found = {name: value[0] for name, value in decomposed([model], x, effort, annealed=True).items()}
    errors = {f"{name}, sampled minus exact": found[name] - levels[name] for name in levels if name in found}
    errors |= {f"{how} minus exact": found[f"log p(x), {how}"] - exact for how in ("importance", "annealed")}
    errors["exact with half the nodes, minus exact"] = coarse - exact
    windows = {name.replace("_", " "): value for name, value in posterior_windows(log_joint, qs)._asdict().items()}
    return Exact(levels, errors, {"ELBO": torch.stack(elbos, 1)} | windows)


class Timed(NamedTuple):
    """What one way to infer q costs, all data at once, and what it leaves."""

    seconds: Tensor  # (5,) for a datum, wall-clock, of the faster five of nine runs
    short: Tensor  # (B,) nats of ELBO below the best diagonal q


@torch.no_grad()
def timed_inference(model: VAE, x: Numbers, effort: Effort, evaluations: Sequence[int]) -> dict[tuple[str, int], Timed]:
    """By start and number of evaluations of the gradient: optimising a diagonal q from the "prior" or from the
    "encoder", cut off after each of `evaluations`, for data x (B, X); ("encoder", 0) is one pass of the encoder."""
    x = _beside(model, x)
    log_joint, encoded = joint.of(model, x), model.encode(x)
    judged = fresh_elbo(log_joint, encoded.mean, effort)
    best = judged(best_posteriors(log_joint, encoded.mean, effort)[0].q)
    prior = DiagonalGaussian(torch.zeros_like(encoded.mean), torch.zeros_like(encoded.mean))
    draws = {"n_draws": effort.fit_draws[0], "n_fresh": 4, "seed": effort.seed}
    ways: dict[tuple[str, int], Callable[[], Gaussian]] = {("encoder", 0): lambda: model.encode(x)}
    for n in evaluations:
        for name, q0 in {"prior": prior, "encoder": encoded}.items():
            ways[name, n] = lambda q0=q0, n=n: fit_local(log_joint, q0, max_iter=n, **draws).q  # type: ignore[misc]
    found = {}
    for way, infer in ways.items():
        spent = sorted(_seconds(infer) for _ in range(RUNS))[:FASTEST]
        found[way] = Timed(torch.tensor(spent) / len(x), best - judged(infer()))
    return found


def _seconds(infer: Callable[[], Gaussian]) -> float:
    start = time.perf_counter()
    infer().mean.sum().item()  # waits for a GPU
    return time.perf_counter() - start
