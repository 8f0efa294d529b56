"""What is taken where numbers are: NumPy's integers for integers, arrays for tensors; for images a remedy is told."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from decoders import nonlinear, prior
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vae import check
from vae import diagnostics as dg
from vae.data import load
from vae.exact import factor_analysis as fa
from vae.exact import linear_gaussian as lg
from vae.exact import shannon
from vae.gaussian import DiagonalGaussian
from vae.inference import evidence, local, rate_curve
from vae.inference import log_joint as joint
from vae.inference.lbfgs import minimise
from vae.models import MaskedLinear, MLPEncoder, linear_vae_model, stack
from vae.models.pruning import pruned
from vae.noise import generator, moment_matched, normals, numpy_generator, per_datum
from vae.train import Aggressive, Execution, Schedule, beta_elbo, train

X, Z, N = 5, 2, 23
SPECTRUM = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64)
FLIP = 1 - torch.eye(2, dtype=torch.float64)
COVARIANCE = torch.diag(SPECTRUM) + 0.3
HALF = torch.full((2,), 0.5, dtype=torch.float64)


def rows(*shape):
    return torch.randn(*shape, generator=generator(0, "rows"), dtype=torch.float64)


def q(n=N):
    return DiagonalGaussian(rows(n, Z), -rows(n, Z).square())


def squares(u):
    return (u - 1).square().sum(1)


def fitted(**options):
    known, _ = nonlinear(3)
    return local.fit_local(known.log_joint, prior(3, 2), **{"n_draws": 8, "seed": 0, "max_iter": 3} | options)


def ais(**options):
    known, _ = nonlinear(3)
    numbers = {"n_chains": 2, "n_temperatures": 3, "n_leapfrog": 2, "seed": 0} | options
    return evidence.ais_log_evidence(known.log_joint, prior(3, 2), **numbers)


def curve(n):
    return rate_curve.ais_rate_distortion(
        lambda z: z.square().sum(-1), prior(3, 2), [1.0], n_chains=2, n_steps=n, n_leapfrog=2, seed=0
    )


INTEGERS = {
    "generator's seed": lambda n: torch.randn(3, generator=generator(n, "test")),
    "numpy_generator's seeds": lambda n: torch.from_numpy(numpy_generator(n, n).standard_normal(3)),
    "per_datum": lambda n: normals(per_datum(n, "test", n, n), n, n),
    "moment_matched": lambda n: moment_matched(per_datum(0, "test", 0, 3), n, 2),
    "load": lambda n: load("digits", n_train=n, seed=n)[1:5],
    "Schedule": lambda n: Schedule(steps=n, batch_size=n, n_samples=n, log_every=n).rate_factor(2),
    "Aggressive": lambda n: Schedule(n, n, aggressive=Aggressive(n, 0.5)).rest_updates(),
    "Execution": lambda n: Execution(workers=n, chunk=n).chunk,
    "layers": lambda n: list(MLPEncoder(n, [n], n, generator(0, "init")).parameters()),
    "linear_vae": lambda n: lg.linear_vae(SPECTRUM, 1.0, 0.3, n),
    "learned_noise_variance": lambda n: lg.learned_noise_variance(SPECTRUM, 1.0, n),
    "blahut_arimoto": lambda n: shannon.blahut_arimoto(HALF, FLIP, 1.0, max_iter=n),
    "shannon_lower_bound": lambda n: shannon.shannon_lower_bound(1.0, n, 1.0),
    "factor analysis": lambda n: fa.fit(COVARIANCE, fa.exploratory(1), starts=n, seed=n, max_iter=n),
    "exploratory": lambda n: fa.exploratory(n).k,
    "sample_covariances": lambda n: fa.sample_covariances(COVARIANCE[:3, :3], n, n, seed=n),
    "aggregate_kl": lambda n: dg.aggregate_kl(q(), n),
    "mutual_information": lambda n: dg.mutual_information(q(), seed=n),
    "minimise": lambda n: minimise(squares, rows(3, X), max_iter=n, memory=n),
    "fit_local": lambda n: fitted(n_draws=n, seed=n, max_iter=n, n_fresh=n, first=n, chunk=n),
    "prior_starts": lambda n: local.prior_starts(nonlinear(3)[0].log_joint, rows(3, 2), seed=n, n_draws=n),
    "importance_log_evidence": lambda n: evidence.importance_log_evidence(
        nonlinear(3)[0].log_joint, prior(3, 2), n_samples=n, seed=n, df=n, first=n, chunk=n
    ),
    "ais_log_evidence": lambda n: ais(n_chains=n, n_temperatures=n, n_leapfrog=n, seed=n, first=n, chunk=n),
    "ais_rate_distortion": curve,
}


def plain(result):
    """All numbers of a result, as tensors."""
    return tree_map(torch.as_tensor, tree_leaves(result))


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
@pytest.mark.parametrize("call", INTEGERS.values(), ids=INTEGERS)
def test_numpys_integers_are_integers(call, kind):
    torch.testing.assert_close(plain(call(kind(6))), plain(call(6)), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [True, np.True_, 6.0, np.float64(6), "6", None], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda n: Schedule(steps=n, batch_size=2),
        lambda n: generator(n, "test"),
        lambda n: fitted(max_iter=n),
        lambda n: ais(n_chains=n),
        lambda n: lg.linear_vae(SPECTRUM, 1.0, 0.3, n),
        lambda n: dg.aggregate_kl(q(), n),
    ],
)
def test_what_is_no_integer_is_refused(call, value):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        call(value)


def test_whole_numbers_become_pythons():
    schedule = Schedule(steps=np.int64(3), batch_size=np.uint8(2), learning_rate=np.float32(0.5))
    assert (type(schedule.steps), type(schedule.batch_size), type(schedule.learning_rate)) == (int, int, float)
    assert type(Execution(chunk=np.int64(3)).chunk) is int


# --- arrays ---

W, PSI, MU, PHI = rows(X, Z), rows(X).square() + 0.1, rows(X), torch.eye(Z).double() + 0.2
MASK = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]) > 0
CONFIRMED = fa.confirmatory(MASK, "free")
FACTORS = fa.Parameters(0.7 * MASK.double(), torch.full((6,), 0.5).double(), torch.eye(2).double() + 0.3 * FLIP)
S = FACTORS.covariance()
GIVEN = {
    "posterior_precision": lambda a: lg.posterior_precision(a(W), a(PSI), a(PHI)),
    "posterior": lambda a: lg.posterior(a(W), a(PSI), a(rows(N, X)), a(MU), a(PHI)),
    "log_evidence": lambda a: lg.log_evidence(a(W), a(PSI), a(rows(N, X)), a(MU), a(PHI)),
    "expected_log_lik": lambda a: lg.expected_log_lik(a(W), a(PSI), a(rows(N, X)), q(N)._make(map(a, q(N))), a(MU)),
    "approximation_gap": lambda a: lg.approximation_gap(a(W), a(PSI), a(PHI)),
    "amortization_gap": lambda a: lg.amortization_gap(a(W), a(PSI), a(rows(N, X)), DiagonalGaussian(*map(a, q(N)))),
    "linear_vae": lambda a: lg.linear_vae(a(SPECTRUM), 1.0, 0.3, 2),
    "learned_noise_variance": lambda a: lg.learned_noise_variance(a(SPECTRUM), 1.0, 2),
    "principal_axes": lambda a: lg.principal_axes(a(rows(N, X))),
    "linear_code": lambda a: lg.linear_code(lg.principal_axes(rows(N, X)), a(rows(N, X)), [0.1, 0.5]),
    "collapse_threshold": lambda a: lg.collapse_threshold(a(rows(N, X)), "gaussian"),
    "collapse_threshold of pixels": lambda a: lg.collapse_threshold(a(rows(N, X).sigmoid()), "bernoulli"),
    "gaussian_rate_distortion": lambda a: shannon.gaussian_rate_distortion(a(SPECTRUM), rate=a(torch.ones(3)))[:6],
    "blahut_arimoto": lambda a: shannon.blahut_arimoto(a(HALF), a(FLIP), a(torch.ones(2))),
    "convex_hull": lambda a: shannon.convex_hull(a(rows(N)), a(rows(N).square())),
    "fit": lambda a: fa.fit(a(S), fa.confirmatory(a(MASK), "free"), starts=0),
    "fixed parts": lambda a: fa.fit(a(S), fa.confirmatory(a(MASK), a(S[:2, :2]), a(FACTORS.psi)), starts=0),
    "em_step": lambda a: fa.em_step(FACTORS._make(map(a, FACTORS)), a(S), CONFIRMED),
    "elbo": lambda a: fa.elbo(FACTORS._make(map(a, FACTORS)), a(S)),
    "gap": lambda a: fa.gap(FACTORS._make(map(a, FACTORS))),
    "elbo_of": lambda a: fa.elbo_of(FACTORS._make(map(a, FACTORS)), a(S), fa.posterior(FACTORS)),
    "standard_errors": lambda a: fa.standard_errors(FACTORS._make(map(a, FACTORS)), CONFIRMED, 100, a(S)),
    "first_order_bias": lambda a: fa.first_order_bias(FACTORS._make(map(a, FACTORS)), CONFIRMED),
    "sample_covariances": lambda a: fa.sample_covariances(a(COVARIANCE), 30, 3, seed=0),
    "rate_per_dim": lambda a: dg.rate_per_dim(DiagonalGaussian(*map(a, q()))),
    "aggregate_kl": lambda a: dg.aggregate_kl(DiagonalGaussian(*map(a, q()))),
    "information_per_dim": lambda a: dg.information_per_dim(DiagonalGaussian(*map(a, q()))),
    "pointwise_information": lambda a: dg.pointwise_information(DiagonalGaussian(*map(a, q())), seed=0),
    "mutual_information": lambda a: dg.mutual_information(DiagonalGaussian(*map(a, q())), seed=0),
    "active": lambda a: dg.active(DiagonalGaussian(*map(a, q()))),
    "log_joint.of": lambda a: joint.of(nonlinear(3)[1], a(nonlinear(3)[0].x))(rows(7, 3, 2)),
    "fit_local": lambda a: local.fit_local(
        nonlinear(3)[0].log_joint, DiagonalGaussian(*map(a, prior(3, 2))), n_draws=8, seed=0, max_iter=3
    ),
    "prior_starts": lambda a: local.prior_starts(nonlinear(3)[0].log_joint, a(rows(3, 2)), seed=0, n_draws=8),
    "bdmc": lambda a: evidence.bdmc(
        nonlinear(3)[0].log_joint, DiagonalGaussian(*map(a, prior(3, 2))), a(rows(3, 2)), n_chains=2, n_temperatures=3,
        n_leapfrog=2, seed=0,
    ),
    "MaskedLinear": lambda a: MaskedLinear(a(MASK), generator(0, "init")).loadings().detach(),
    "pruned": lambda a: pruned(models(), a(torch.tensor([True, False]))).params,
    "map_rows": lambda a: models().map_rows(lambda model, x: {"z": model.encode(x).mean}, a(rows(N, X))),
    "train": lambda a: train(models(), beta_elbo, a(rows(N, X)), SHORT).ensemble.params,
    "subsets": lambda a: train(models(), beta_elbo, rows(9, X), SHORT, subsets=[a(torch.arange(5))] * 2)[0].params,
}  # fmt: skip
SHORT = Schedule(steps=5, batch_size=3)


def models():
    members = [{"seed": 0}, {"seed": 1}]
    return stack(lambda m: linear_vae_model(X, Z, 0.3, generator(m["seed"], "init")), members, dtype=torch.float64)


def read_only(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


def backwards(tensor):
    return np.flip(np.flip(tensor.numpy()).copy())


@pytest.mark.parametrize("form", [Tensor.numpy, read_only, backwards])
@pytest.mark.parametrize("call", GIVEN.values(), ids=GIVEN)
def test_arrays_give_what_tensors_give(call, form):
    expected, got = call(lambda t: t), call(form)
    torch.testing.assert_close(plain(got), plain(expected), rtol=0, atol=0, equal_nan=True)
    assert all(isinstance(value, Tensor | float | int) for value in tree_leaves(got))


def test_frames_and_numbers_are_taken_too():
    x = rows(N, X)
    expected = lg.collapse_threshold(x, "gaussian")
    assert lg.collapse_threshold(pd.DataFrame(x.numpy()), "gaussian") == expected
    assert lg.collapse_threshold(x.tolist(), "gaussian") == pytest.approx(expected, rel=1e-6)
    spectrum = lg.principal_axes(x).eigenvalues
    assert lg.linear_vae(spectrum.tolist(), 1, 0.3, 2).objective == lg.linear_vae(spectrum, 1, 0.3, 2).objective
    assert lg.log_evidence(W.int(), 1, x.numpy()).dtype == torch.float64


def test_a_model_of_float32_takes_data_of_float64():
    x = rows(N, X)
    assert lg.log_evidence(W.float(), PSI, x.numpy()).dtype == torch.float32
    torch.testing.assert_close(
        lg.log_evidence(W.float(), PSI, x.numpy()).double(), lg.log_evidence(W, PSI, x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda x: lg.collapse_threshold(x, "gaussian"),
        lg.principal_axes,
        lambda x: lg.log_evidence(W, 0.3, x),
        lambda x: lg.posterior(W, 0.3, x),
        lambda x: dg.lagrangian(models(), x, 0.3, n_draws=2, purpose="test"),
    ],
)
@pytest.mark.parametrize("convert", [torch.from_numpy, lambda a: a])
def test_images_are_to_be_flattened(call, convert):
    images = convert(np.zeros((N, 2, 4)))
    with pytest.raises(ValueError, match=r"x must be of shape \(N, X\), got \(23, 2, 4\); flatten .* \(23, 8\)"):
        call(images)


def test_data_of_another_model_are_told():
    with pytest.raises(ValueError, match=r"x must have the 5 columns of the model, got shape \(23, 6\)"):
        lg.log_evidence(W, 0.3, rows(N, 6))
    with pytest.raises(ValueError, match=r"x must have as many columns as the models were built for, got .*\(23, 6\)"):
        models().latent_dim(rows(N, 6))


def test_numbers_of_members_may_be_numpys():
    python, numpy = [{"seed": 1, "beta": 2.0}], [{"seed": np.int64(1), "beta": np.float32(2.0)}]

    def trained(members):
        ensemble = stack(lambda m: linear_vae_model(X, Z, 0.3, generator(m["seed"], "init")), members)
        return train(ensemble, beta_elbo, rows(N, X), SHORT)

    ours, theirs = trained(python), trained(numpy)
    assert ours.history["objective"].tolist() == theirs.history["objective"].tolist()


# --- check ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check.whole("n", 2, 3), "n must be an integer of at least 3, got 2; pass a positive integer"),
        (lambda: check.positive("v", "1"), "v must be positive and finite, got '1'; pass a number above zero"),
        (lambda: check.positive("v", None), "v must be positive and finite, got None"),
        (lambda: check.positive("v", True), "v must be positive and finite, got True"),
        (lambda: check.positive("v", math.inf), "v must be positive and finite, got inf"),
        (lambda: check.not_negative("v", -1), "v must be finite and not negative, got -1; pass zero or more"),
        (lambda: check.finite("v", torch.ones(2)), "v must be finite, got tensor"),
        (lambda: check.one_of("c", "x", ("a", "b")), "c must be 'a' or 'b', got 'x'; pass one of the two"),
        (lambda: check.one_of("c", None, "abc"), "c must be 'a', 'b' or 'c', got None; pass one of them"),
        (lambda: check.tensor("t", "text"), "t must be a tensor, an array or nested numbers, got str"),
        (lambda: check.tensor("t", np.array(["a"])), "t must be a tensor, an array or nested numbers, got ndarray"),
        (lambda: check.rows("t", [1.0]), r"t must be of shape \(N, X\), got \(1,\); give each datum one row"),
        (lambda: check.finite_rows("t", [[math.nan]]), "t must be finite, got NaN or infinity; remove what is missing"),
    ],
)
def test_errors_name_argument_value_and_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_nearest_name_is_told():
    assert check.nearest("mnits", ["mnist", "digits"]) == "did you mean 'mnist'? known: mnist, digits"
    assert check.nearest("q", []) == "known: none"
