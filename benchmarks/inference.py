"""Per-datum inference: seconds of one core until a posterior is as good as asked, and AIS at equal error.

Every method optimises diagonal Gaussians for the same images under the same trained decoder. Equal quality first: each
gets as many iterations as it takes until the mean suboptimality, judged on draws that nobody has seen, is within the
target, or until it has had its share. Then time, A B C A B C; long ones by the block of iterations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from benchmarks.cases import PROBLEMS, Problem
from benchmarks.report import METHODS, center
from vae.data.images import load
from vae.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from vae.inference import log_joint as joint
from vae.inference.evidence import ais_log_evidence, importance_log_evidence
from vae.inference.local import fit_local
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import generator, moment_matched, normals, per_datum
from vae.train import Execution, Schedule, train
from vae.train.objectives import elbo, terms


class Scene(NamedTuple):
    """A problem set up: what is asked of log p(x, z), where everybody starts, and the judge."""

    problem: Problem
    log_joint: joint.LogJoint
    start: DiagonalGaussian  # the encoder's, which favours Adam: its steps are short
    eps: Tensor  # draws of the judge alone
    best: Tensor  # (B,) the optimum's ELBO on them

    def suboptimality(self, q: DiagonalGaussian) -> float:
        return float((self.best - _judged(self, q)).mean())


def _judged(scene: Scene, q: DiagonalGaussian) -> Tensor:
    z = q.rsample(scene.eps)
    return (joint.values(scene.log_joint, z) - q.log_prob(z)).double().mean(0)


def _objective(model: VAE, x: Tensor, eps: Tensor, member: dict[str, Any]) -> Tensor:
    return elbo(terms(model, x, model.encode(x), eps))


def set_up(name: str) -> Scene:
    problem = PROBLEMS[name]
    data = load(problem.data, binarize="threshold", n_train=None if problem.data == "digits" else 20_000)
    x_dim = data.train.shape[1]

    def build(member: dict[str, Any]) -> VAE:
        stream = generator(member["seed"], "init")
        encoder = MLPEncoder(x_dim, problem.hidden[::-1], problem.z_dim, stream)
        return VAE(encoder, mlp([problem.z_dim, *problem.hidden, x_dim], stream), BernoulliLikelihood())

    schedule = Schedule(steps=problem.steps, batch_size=100, learning_rate=2e-3)
    trained = train(stack(build, [{"seed": 0}]), _objective, data.train, schedule, execution=Execution(compile=False))
    model = trained.ensemble.member(0).requires_grad_(False)
    x = data.test[: problem.images]
    log_joint, start = joint.of(model, x), model.encode(x)
    eps = normals(per_datum(0, "judge", 0, len(x)), 2048, problem.z_dim).to(x)
    scene = Scene(problem, log_joint, start, eps, torch.zeros(len(x)))
    optimum = fit_local(log_joint, start, n_draws=2048, seed=99, n_fresh=4)
    return scene._replace(best=_judged(scene, optimum.q))


# The methods: the posterior after so many iterations


def ours(scene: Scene, n: int, n_fresh: int = 4, start: DiagonalGaussian | None = None) -> DiagonalGaussian:
    """In `n` evaluations at most; it ends by itself. Four fresh draws are the fewest: nobody else's time has any."""
    q0 = start or scene.start
    return fit_local(scene.log_joint, q0, n_draws=scene.problem.n_draws, seed=0, max_iter=n, n_fresh=n_fresh).q


def prior(scene: Scene) -> DiagonalGaussian:
    return DiagonalGaussian(torch.zeros_like(scene.start.mean), torch.zeros_like(scene.start.mean))


def lbfgs(scene: Scene, n: int) -> DiagonalGaussian:
    """PyTorch's own, one line search for all images together, on the same draws as ours."""
    shape = scene.start.mean.shape
    eps = moment_matched(per_datum(0, "local", 0, shape[0]), scene.problem.n_draws, shape[1]).to(scene.start.mean)
    leaves = [t.clone().requires_grad_() for t in scene.start]
    optimizer = torch.optim.LBFGS(leaves, max_iter=n, max_eval=n, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(scene, leaves, eps)
        loss.backward()
        return loss

    optimizer.step(closure)
    return DiagonalGaussian(*(t.detach() for t in leaves))


def adam(
    scene: Scene, n: int, *, rate: float, draws: int, cosine: bool, every: int | None = None
) -> Iterator[tuple[int, DiagonalGaussian]]:
    """(iterations, posterior) after every `every` iterations, and after `n`; fresh draws in each."""
    stream = generator(0, "adam")
    leaves = [t.clone().requires_grad_() for t in scene.start]
    optimizer = torch.optim.Adam(leaves, rate)
    for i in range(n):
        if cosine:
            optimizer.param_groups[0]["lr"] = 0.5 * rate * (1 + math.cos(math.pi * i / n))
        eps = torch.randn(draws, *leaves[0].shape, generator=stream)
        optimizer.zero_grad()
        _loss(scene, leaves, eps).backward()
        optimizer.step()
        if i + 1 == n or (every and (i + 1) % every == 0):
            yield i + 1, DiagonalGaussian(*(t.detach().clone() for t in leaves))


def _loss(scene: Scene, leaves: Sequence[Tensor], eps: Tensor) -> Tensor:
    q = DiagonalGaussian(*leaves)
    return -(scene.log_joint(q.rsample(eps)).mean(0) + q.entropy()).sum()


def _tuned(scene: Scene, n: int) -> Iterator[tuple[int, DiagonalGaussian]]:
    return adam(scene, n, rate=0.02, draws=16, cosine=True)


def _published(scene: Scene, n: int, every: int | None = None) -> Iterator[tuple[int, DiagonalGaussian]]:
    return adam(scene, n, rate=1e-3, draws=scene.problem.published_draws, cosine=False, every=every)


RUN: dict[str, Callable[[Scene, int], object]] = {
    "ours": ours,
    "certified": lambda scene, n: ours(scene, n, n_fresh=512),
    "unaided": lambda scene, n: ours(scene, n, start=prior(scene)),
    "joint": lbfgs,
    "tuned": lambda scene, n: list(_tuned(scene, n)),
    "published": lambda scene, n: list(_published(scene, n)),
}


# Equal quality, then time


class Quality(NamedTuple):
    """How many iterations of a method, and where they end; `reached`: within the target."""

    iterations: int
    suboptimality: float
    reached: bool


# Of the methods, those that end by themselves.
OURS = ("ours", "certified", "unaided")


def quality(scene: Scene, method: str) -> Quality:
    """The fewest iterations tried that reach the target."""
    target, most = scene.problem.target, scene.problem.most
    if method in OURS:
        q = RUN[method](scene, 200)
        tried: Iterable[tuple[int, DiagonalGaussian]] = [(200, q)]
    elif method == "joint":
        tried = ((n, lbfgs(scene, n)) for n in (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64))
    elif method == "tuned":
        ladder = [n for k in range(40) if (n := round(50 * 1.3**k)) <= most]
        tried = (last for n in ladder for last in _tuned(scene, n))
    else:
        tried = _published(scene, most, every=50)
    found = Quality(0, math.inf, False)
    for n, q in tried:
        value = scene.suboptimality(q)
        found = Quality(n, value, value <= target)
        if found.reached:
            break
    return found


def annealing_errors(scene: Scene, reference: Tensor, start: Gaussian, temperatures: int) -> tuple[float, float, float]:
    """Root mean square error of AIS, mean error, and the standard error of that."""
    found = (
        ais_log_evidence(
            scene.log_joint, start, n_chains=16, n_temperatures=temperatures, n_leapfrog=5, seed=0
        ).value.double()
        - reference
    )
    return float(found.square().mean().sqrt()), float(found.mean()), float(found.std()) / len(found) ** 0.5


def log_evidence(scene: Scene) -> Tensor:
    """The reference: importance sampling with a full-covariance fit, standard errors of a few mnats."""
    q = DiagonalGaussian(*scene.start)
    full = FullGaussian(q.mean, torch.diag_embed((0.5 * q.log_var).exp()))
    q_full = fit_local(scene.log_joint, full, n_draws=8 * scene.problem.n_draws, seed=1, n_fresh=4).q
    return importance_log_evidence(scene.log_joint, q_full, n_samples=20_000, seed=2).value.double()


def check(
    name: str, say: Callable[[str], None], scene: Scene | None = None, methods: Sequence[str] = tuple(RUN)
) -> dict[str, Quality]:
    """What each method reaches. RuntimeError: one of ours misses the target, or AIS is not unbiased."""
    scene = scene or set_up(name)
    found = {method: quality(scene, method) for method in methods}
    for method, (n, value, reached) in found.items():
        short = "" if reached else "  NOT within the target, so its time is a lower bound"
        say(f"{name:12} {METHODS[method]:42} {1e3 * value:7.2f} mnats after {n}{short}")
        if method in OURS and not reached:
            raise RuntimeError(f"{METHODS[method]} ends {value:.4f} nats below the optimum on {name}: not timed")
    if scene.problem.ais:
        reference = log_evidence(scene)
        for start, n in ((ours(scene, 200), scene.problem.ais[0]), (prior(scene), 201)):
            rms, mean, se = annealing_errors(scene, reference, start, n)
            say(f"{name:12} AIS, {n} temperatures: {1e3 * mean:+.1f} +- {1e3 * se:.1f} mnats, rms {1e3 * rms:.0f}")
            # log of an average of weights: below log p(x) by half their relative variance, some rms^2 / 2
            if not -5 * se - rms**2 <= mean <= 5 * se:
                raise RuntimeError(f"AIS is off by {mean:+.4f} +- {se:.4f} nats on {name}: not timed")
    return found


def measure(name: str, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of a table: of each method its iterations, suboptimality, time (s) and time over ours, on one thread."""
    torch.set_num_threads(1)
    scene = set_up(name)
    found = check(name, say, scene)
    work = {method: (RUN[method], quality.iterations) for method, quality in found.items()}
    rows: list[dict[str, Any]] = []
    if scene.problem.ais:
        few, most = scene.problem.ais
        reference = log_evidence(scene)
        error, *_ = annealing_errors(scene, reference, ours(scene, 200), few)
        many = 200
        while (theirs := annealing_errors(scene, reference, prior(scene), many)[0]) > error and 2 * many <= most:
            many *= 2
        say(f"{name:12} AIS: rms error {1e3 * error:.0f} mnats at {few} temperatures from q*")
        say(f"{name:12} AIS: rms error {1e3 * theirs:.0f} mnats at {many} temperatures from the prior")
        work["ais"] = (lambda scene, n: annealing_errors(scene, reference, ours(scene, 200), n), few)
        work["ais-prior"] = (lambda scene, n: annealing_errors(scene, reference, prior(scene), n), many)
        for method, n, value in (("ais", few, error), ("ais-prior", many, theirs)):
            rows.append(_row(name, method, "temperatures", n))
            rows.append(_row(name, method, "rms error", value, "nats"))
    for method, (n, value, reached) in found.items():
        rows += [_row(name, method, "iterations", n), _row(name, method, "suboptimality", value, "nats")]
        rows.append(_row(name, method, "target reached", float(reached)))
    times: dict[str, list[float]] = {method: [] for method in work}
    for _ in range(rounds + 1):  # the first one warms up
        for method, (f, n) in work.items():
            times[method].append(_seconds(f, scene, n, method))
    for method, seconds in times.items():
        own = pd.Series(seconds[1:])
        base = pd.Series(times["ais" if method.startswith("ais") else "ours"][1:])
        rows.append(_row(name, method, "time", **center(own), unit="s"))
        rows.append(_row(name, method, "time over ours", **center(own / base), unit="ratio"))
        say(f"{name:12} {METHODS[method]:42} {own.median():9.3f} s  ({(own / base).median():.1f})")
    return [row | {"members": scene.problem.images} for row in rows]


def _row(name: str, method: str, quantity: str, value: float, unit: str | None = None, **more: Any) -> dict[str, Any]:
    keys = {"case": name, "layout": "1 thread", "contender": method, "quantity": quantity}
    return keys | {"value": value, "unit": unit} | more


def _seconds(f: Callable[[Scene, int], object], scene: Scene, n: int, method: str) -> float:
    """Of n iterations; of a long run by the block, where iterations cost the same."""
    block = {"tuned": 100, "published": 100, "ais-prior": 400}.get(method, n)
    begin = time.perf_counter()
    f(scene, min(n, block))
    return (time.perf_counter() - begin) * n / min(n, block)
