import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.models.ensemble import Ensemble, stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE, linear_vae_model
from vae.noise import Shuffled, generator
from vae.train import DivergedError, Schedule, train
from vae.train.objectives import elbo, terms

N, X, Z = 53, 7, 2
SHORT = Schedule(steps=23, batch_size=11, learning_rate=1e-2, n_samples=3, log_every=5)


def objective(model, x, eps, member):
    return elbo(terms(model, x, model.encode(x), eps), member["beta"])


def ensemble_of(members, dtype=torch.float64):
    return stack(lambda m: linear_vae_model(X, Z, 0.3, generator(m["seed"], "init")), members, dtype=dtype)


@pytest.fixture
def data(normal):
    return normal(N, 3) @ normal(3, X) + 0.1 * normal(N, X)


MEMBERS = [{"seed": s, "beta": b} for s in (0, 1) for b in (0.5, 1.0, 4.0)]


def test_an_ensemble_equals_its_members_trained_alone(data):
    together = train(ensemble_of(MEMBERS), objective, data, SHORT).ensemble
    for i, member in enumerate(MEMBERS):
        alone = train(ensemble_of([member]), objective, data, SHORT).ensemble
        for name in together.params:
            assert_close(together.params[name][i], alone.params[name][0], rtol=1e-10, atol=1e-12)


def test_a_step_is_adams(data):
    """The same steps by torch.optim.Adam on an ordinary module with the same minibatches and noise."""
    member = {"seed": 3, "beta": 2.0}
    ours = train(ensemble_of([member]), objective, data, SHORT).ensemble.member(0)
    model = ensemble_of([member]).member(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1.0)
    rows, noise = Shuffled(N, generator(3, "batches")), generator(3, "noise")
    for step in range(SHORT.steps):
        optimiser.param_groups[0]["lr"] = SHORT.learning_rate * SHORT.rate_factor(step)
        eps = torch.randn(SHORT.n_samples, SHORT.batch_size, Z, generator=noise, dtype=torch.float64)
        optimiser.zero_grad()
        (-objective(model, data[rows.take(SHORT.batch_size)], eps, member).mean()).backward()
        optimiser.step()
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_same_run_repeats_bit_for_bit(data):
    a, b = (train(ensemble_of(MEMBERS, torch.float32), objective, data, SHORT) for _ in range(2))
    assert all(torch.equal(a.ensemble.params[k], b.ensemble.params[k]) for k in a.ensemble.params)
    assert a.history.equals(b.history)


def test_training_reaches_the_closed_form(data):
    """Long enough, on a source with well separated eigenvalues: objective and rate of `linear_vae`, for every beta."""
    spectrum = torch.linalg.eigvalsh((data - data.mean(0)).mT @ (data - data.mean(0)) / N)
    members = [{"seed": 0, "beta": b} for b in (0.5, 1.0, 4.0, 100.0)]
    schedule = Schedule(steps=2500, batch_size=N, learning_rate=3e-2)
    trained = train(ensemble_of(members), objective, data, schedule).ensemble

    def exact_objective(model, beta):
        q = model.encode(data)
        log_lik = lg.expected_log_lik(model.decoder[0].weight, 0.3, data, q, model.decoder[0].bias)
        return (log_lik - beta * q.kl_to_standard_normal()).mean()

    values = trained.map(exact_objective, trained.column("beta"), in_dims=(0,))
    for value, member in zip(values.tolist(), members, strict=True):
        best = lg.linear_vae(spectrum, member["beta"], 0.3, Z).objective
        assert best - 0.05 < value < best + 1e-9


def test_a_learned_variance_trains_too_and_reaches_its_closed_form(data):
    """One number per member: the parameter without axes of its own."""
    ensemble = stack(
        lambda m: linear_vae_model(X, Z, 0.3, generator(0, "init"), learned=True), [{"seed": 0, "beta": 1.0}]
    )
    schedule = Schedule(steps=1500, batch_size=N, learning_rate=3e-2)
    trained = train(ensemble.to(torch.float64), objective, data, schedule).ensemble
    spectrum = torch.linalg.eigvalsh((data - data.mean(0)).mT @ (data - data.mean(0)) / N)
    best = lg.learned_noise_variance(spectrum, 1.0, Z)
    assert float(trained.params["likelihood.log_variance"][0].exp()) == pytest.approx(best, rel=0.03)


def test_untouched_ensemble_and_frozen_parts(data):
    before = ensemble_of(MEMBERS)
    copy = {k: v.clone() for k, v in before.params.items()}
    after = train(before, objective, data, SHORT, frozen=["decoder"]).ensemble
    for name, value in copy.items():
        assert torch.equal(before.params[name], value)
        assert torch.equal(after.params[name], value) == name.startswith("decoder")


def test_subsets_hold_each_member_to_its_rows(data):
    poisoned = data.clone()
    poisoned[N // 2 :] += 1000
    members = [{"seed": 0, "beta": 1.0}] * 2
    first, all_rows = torch.arange(N // 2), torch.arange(N)
    trained = train(ensemble_of(members), objective, poisoned, SHORT, subsets=[first, all_rows]).ensemble
    alone = train(ensemble_of(members[:1]), objective, data[: N // 2], SHORT).ensemble
    for name in trained.params:
        assert_close(trained.params[name][0], alone.params[name][0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(trained.params["decoder.0.bias"][0], trained.params["decoder.0.bias"][1])


def test_every_member_has_its_own_learning_rate(data):
    members = [{"seed": 0, "beta": 1.0, "learning_rate": r} for r in (1e-2, 1e-4)]
    trained = train(ensemble_of(members), objective, data, SHORT).ensemble
    plain = train(ensemble_of([{"seed": 0, "beta": 1.0}]), objective, data, SHORT).ensemble
    for name in plain.params:
        assert_close(trained.params[name][0], plain.params[name][0], rtol=1e-10, atol=1e-12)
        assert not torch.allclose(trained.params[name][1], plain.params[name][0], rtol=1e-3)


def test_a_diverging_member_is_frozen_and_its_neighbours_finish(data):
    members = [{"seed": 0, "beta": 1.0, "learning_rate": r} for r in (1e-2, 1e200)]
    trained = train(ensemble_of(members), objective, data, SHORT, allow_divergence=True)
    assert list(trained.diverged) == [1]
    assert 0 < trained.diverged[1] < 10
    healthy = train(ensemble_of(members[:1]), objective, data, SHORT).ensemble
    for name in healthy.params:
        assert_close(trained.ensemble.params[name][0], healthy.params[name][0], rtol=1e-10, atol=1e-12)
    with pytest.raises(DivergedError, match=r"1 of 2 members diverged .* step") as error:
        train(ensemble_of(members), objective, data, SHORT)
    assert error.value.trained.diverged == trained.diverged
    assert isinstance(error.value.trained.ensemble, Ensemble)


def test_history_has_one_row_per_member_and_stretch(data):
    calls = []
    history = train(ensemble_of(MEMBERS), objective, data, SHORT, progress=lambda *a: calls.append(a)).history
    assert sorted(history["step"].unique()) == [5, 10, 15, 20, 23]
    assert len(history) == 5 * len(MEMBERS)
    assert calls[-1] == (23, 23)
    assert history.groupby(["seed", "beta"])["objective"].last().notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": torch.full((N, X), math.nan)}, "data must be finite, got NaN or infinity"),
        ({"data": torch.ones(N)}, r"data must be of shape \(N, X\), got .*; give each datum one row"),
        (
            {"data": np.ones((N, 1, 2, 4))},
            rf"data must be .*, got \({N}, 1, 2, 4\); flatten images to \({N}, 8\): data.re",
        ),
        ({"data": torch.ones(N, X + 1)}, f"data must have as many columns as the models were built for, .*, {X + 1}"),
        ({"data": [["a"]]}, "data must be a tensor, an array or nested numbers, got list"),
        ({"schedule": Schedule(steps=3, batch_size=N + 1)}, f"batch_size must lie between 1 and the {N}"),
        ({"frozen": ["encodr"]}, "frozen must name parts of the model, got 'encodr'"),
        ({"subsets": [torch.arange(N)]}, "subsets must have one entry per member"),
        ({"subsets": [torch.arange(1, N + 1)] * len(MEMBERS)}, f"subsets must hold row numbers .* from 0 to {N - 1}"),
        ({"subsets": [torch.ones(N, dtype=torch.bool)] * len(MEMBERS)}, "subsets must hold row numbers .* torch.bool"),
        ({"ensemble": ensemble_of([{"seed": 0, "beta": -1.0}])}, "beta must be finite and not negative, got -1.0"),
        ({"ensemble": ensemble_of([{"seed": 0, "beta": math.inf}])}, "beta must be finite"),
        (
            {"ensemble": stack(lambda m: linear_vae_model(X, Z, 0.3, generator(0, "init")), [{"beta": 1.0}])},
            "members need a seed",
        ),
        ({"device": "gpu"}, "device"),
    ],
)
def test_bad_input_is_refused_before_work_starts(data, change, message):
    arguments = {"ensemble": ensemble_of(MEMBERS), "objective": objective, "data": data, "schedule": SHORT} | change
    reached = []
    arguments["objective"] = lambda *a: reached.append(1) or objective(*a)
    with pytest.raises(ValueError, match=message):
        train(**arguments)
    assert not reached


def test_bernoulli_data_is_checked_before_training(data):
    stream = generator(0, "init")
    model = VAE(MLPEncoder(X, [], Z, stream), mlp([Z, X], stream), BernoulliLikelihood())
    with pytest.raises(ValueError, match=r"data must lie in \[0, 1\] for a Bernoulli decoder"):
        train(stack(lambda m: model, [{"seed": 0, "beta": 1.0}]), objective, data, SHORT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 2.5),
        ("n_samples", True),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("decay", "step"),
    ],
)
def test_schedule_refuses_bad_values_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        Schedule(**({"steps": 3, "batch_size": 2} | {field: value}))
