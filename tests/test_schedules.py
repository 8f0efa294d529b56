"""What varies with the step: the KL's weight, and which part of the model moves."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vae.models.decoders import MADE, FiLMDecoder
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import CommittedEncoder, MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import Shuffled, generator
from vae.train import Aggressive, Execution, Schedule, train
from vae.train.objectives import annealing, elbo, free_bits, terms
from vae.train.plan import has_compiler
from vae.train.step import rates_at

N, X, Z = 53, 7, 2
SCHEDULE = Schedule(
    steps=23, batch_size=11, learning_rate=1e-2, n_samples=3, log_every=5, aggressive=Aggressive(every=3, until=0.6)
)
HELD = 14  # steps of 23, in which the rest moves at 2, 5, 8 and 11
PLAIN = {"beta": 1.0, "free_nats": 0.0, "cycles": 1, "rise": 0.0}
CHANGES = ({}, {"rise": 0.5}, {"cycles": 4, "rise": 0.5}, {"free_nats": 0.3}, {"beta": 4.0, "free_nats": 0.1})
MEMBERS = [{**PLAIN, **change, "seed": seed} for seed in (0, 1) for change in CHANGES]
DECODERS = {
    "mlp": lambda g: mlp([Z, 5, X], g),
    "made": lambda g: MADE(Z, X, [5], g),
    "film": lambda g: FiLMDecoder(Z, X, 5, g, z_free=False, n_features=3),
}
needs_compiler = pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no C++ compiler")


def objective(model, x, eps, member):
    q = model.encode(x)
    t = terms(model, x, q, eps)._replace(kl=free_bits(q, member["free_nats"]))
    return elbo(t, member["beta"] * annealing(member["progress"], member["cycles"], member["rise"]))


def build(member, kind="mlp"):
    stream = generator(member["seed"], "init")
    encoder = CommittedEncoder(MLPEncoder(X, [5], Z, stream), 0.1 if kind == "made" else 0.0)
    return VAE(encoder, DECODERS[kind](stream), BernoulliLikelihood())


@pytest.fixture
def data(normal):
    return (normal(N, X) > 0).double()


def run(data, kind="made", members=MEMBERS, schedule=SCHEDULE, objective=objective, progress=None, **execution):
    ensemble = stack(partial(build, kind=kind), members, dtype=torch.float64)
    execution = Execution(**({"compile": False, "workers": 1} | execution))
    return train(ensemble, objective, data, schedule, execution=execution, progress=progress)


def agree(a, b):
    for name, value in a.ensemble.params.items():
        assert_close(value, b.ensemble.params[name], rtol=1e-10, atol=1e-11)
    assert_close(torch.tensor(a.history["objective"]), torch.tensor(b.history["objective"]), rtol=1e-10, atol=1e-11)


# The trainer with schedules: the same numbers however it is done


@pytest.mark.parametrize("kind", list(DECODERS))
def test_members_with_different_schedules_equal_each_alone(data, kind):
    together = run(data, kind).ensemble
    for i, member in enumerate(MEMBERS):
        alone = run(data, kind, members=[member]).ensemble
        for name in together.params:
            assert_close(together.params[name][i], alone.params[name][0], rtol=1e-10, atol=1e-12)
    name = "encoder.encoder.net.2.weight"
    for i, j in ((0, 1), (1, 2), (0, 3)):  # the numbers of a declaration do change the run
        assert not torch.allclose(together.params[name][i], together.params[name][j], rtol=1e-4)


def by_hand(data, member, schedule, weight):
    """The same steps by two optimisers of torch.optim, one for the encoder and one for the rest."""
    model = stack(build, [member], dtype=torch.float64).member(0)
    optimisers = [torch.optim.Adam(part.parameters(), lr=1.0) for part in (model.encoder, model.decoder)]
    rows, noise = Shuffled(N, generator(member["seed"], "batches")), generator(member["seed"], "noise")
    for step in range(schedule.steps):
        eps = torch.randn(schedule.n_samples, schedule.batch_size, Z, generator=noise, dtype=torch.float64)
        x = data[rows.take(schedule.batch_size)]
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = schedule.learning_rate * schedule.rate_factor(step)
            optimiser.zero_grad()
        (-elbo(terms(model, x, model.encode(x), eps), weight(step)).mean()).backward()
        optimisers[0].step()
        if step >= HELD or step % 3 == 2:
            optimisers[1].step()
    return model


@pytest.mark.parametrize(
    ("change", "weight"),
    [
        ({}, lambda t: 1.0),
        ({"beta": 2.0, "rise": 0.5}, lambda t: 2 * min(t / 11.5, 1.0)),
        ({"cycles": 23, "rise": 1.0, "beta": 3.0}, lambda t: 0.0),  # every step begins a cycle
        ({"cycles": 2, "rise": 0.5}, lambda t: min(t % 11.5 / 5.75, 1.0)),
    ],
)
def test_a_step_is_adams_with_the_weight_of_that_step(data, change, weight):
    member = {**PLAIN, "seed": 3, **change}
    ours = run(data, "mlp", [member]).ensemble.member(0)
    theirs = by_hand(data, member, SCHEDULE, weight)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_in_the_first_part_the_rest_moves_at_every_third_step_alone(data):
    schedule = Schedule(steps=20, batch_size=11, aggressive=Aggressive(every=3, until=0.5))
    moves = [schedule.rest_moves(step) for step in range(20)]
    assert [step for step, move in enumerate(moves) if move] == [2, 5, 8, *range(10, 20)]
    assert schedule.rest_updates() == sum(moves) == 13
    assert Schedule(steps=20, batch_size=11).rest_updates() == 20
    start = stack(build, MEMBERS, dtype=torch.float64)
    after = run(data, "mlp", schedule=Schedule(steps=4, batch_size=11, aggressive=Aggressive(5, 1.0))).ensemble
    for name, value in start.params.items():
        assert torch.equal(after.params[name], value) == name.startswith("decoder")


def test_another_part_may_lead_and_a_frozen_one_stays(data):
    schedule = Schedule(steps=4, batch_size=11, aggressive=Aggressive(5, 1.0, part="decoder"))
    start = stack(build, MEMBERS, dtype=torch.float64)
    after = train(start, objective, data, schedule, frozen=["decoder.0"]).ensemble
    for name, value in start.params.items():
        assert torch.equal(after.params[name], value) == (not name.startswith("decoder.2"))


@needs_compiler
@pytest.mark.parametrize("kind", ["made", "film"])
def test_compiled_equals_eager(data, kind):
    compiled = run(data, kind, compile=True, chunk=4)
    assert compiled.plan.compile
    agree(compiled, run(data, kind))


def test_chunks_and_workers_change_nothing(data):
    whole = run(data, chunk=len(MEMBERS))
    agree(whole, run(data, chunk=3))
    agree(whole, run(data, chunk=5, workers=2))


class StopHereError(Exception):
    pass


@pytest.mark.parametrize(
    ("stop", "how"),  # in the aggressive part, and behind it
    [(5, {}), (15, {}), pytest.param(10, {"compile": True}, marks=needs_compiler)],
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(data, tmp_path, stop, how):
    def interrupt(step, steps):
        if step > stop:
            raise StopHereError

    where = {"checkpoint": tmp_path, "checkpoint_seconds": 0.0, **how}
    with pytest.raises(StopHereError):
        run(data, progress=interrupt, **where)
    resumed, whole = run(data, **where), run(data, **how)
    assert all(torch.equal(resumed.ensemble.params[k], p) for k, p in whole.ensemble.params.items())
    assert resumed.history.equals(whole.history)


def test_another_aggressive_part_is_another_run(data, tmp_path):
    run(data, checkpoint=tmp_path)
    other = Schedule(**(vars(SCHEDULE) | {"aggressive": Aggressive(every=3, until=0.5)}))
    with pytest.raises(ValueError, match="another run: schedule differ"):
        run(data, checkpoint=tmp_path, schedule=other)


def test_the_trainer_tells_objectives_how_far_they_are(data):
    def told(model, x, eps, member):
        return objective(model, x, eps, member) * 0 + member["progress"]

    history = run(data, objective=told).history
    means = history[history["seed"] == 0].groupby("step")["objective"].first()
    expected = [np.mean([t / 23 for t in range(a, b)]) for a, b in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 23))]
    assert means.tolist() == pytest.approx(expected, rel=1e-12)


def test_rates_before_the_first_late_update_are_finite():
    assert all(map(math.isfinite, rates_at(0, SCHEDULE)))
    assert rates_at(0, SCHEDULE)[4] == 0.0
    assert rates_at(2, SCHEDULE)[4:] == (1.0, pytest.approx(1 / 0.1), pytest.approx(1 / 0.001))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rise": 1.5}, "rise must lie between 0 and 1, got 1.5"),
        ({"rise": -0.1}, "rise must lie between 0 and 1"),
        ({"rise": math.nan}, "rise must lie between 0 and 1, got nan"),
        ({"cycles": 0}, "cycles must be a whole number of at least 1, got 0"),
        ({"cycles": 2.5}, "cycles must be a whole number"),
        ({"cycles": math.inf}, "cycles must be a whole number"),
        ({"cycles": 24}, "cycles must be at most the 23 steps, got 24; lower it or train longer"),
        ({"free_nats": -1.0}, "free_nats must be finite and not negative, got -1.0"),
        ({"free_nats": math.inf}, "free_nats must be finite"),
        ({"free_nats": "0.3"}, "free_nats must be finite"),
        ({"minimum_rate": math.nan}, "minimum_rate must be finite"),
        ({"progress": 0.5}, "members must not declare 'progress'"),
    ],
)
def test_impossible_numbers_are_refused_before_work_starts(data, change, message):
    reached = []
    with pytest.raises(ValueError, match=message):
        run(data, members=[{**MEMBERS[0], **change}], objective=lambda *a: reached.append(1) or objective(*a))
    assert not reached


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": 1}, "every must be an integer of at least 2, got 1"),
        ({"every": 2.5}, "every must be an integer"),
        ({"until": 0.0}, "until must lie above 0 and at most at 1, got 0.0"),
        ({"until": 1.1}, "until must lie above 0"),
        ({"until": math.nan}, "until must lie above 0"),
    ],
)
def test_an_impossible_aggressive_part_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        Aggressive(**({"every": 5, "until": 0.3} | values))


@pytest.mark.parametrize(("part", "frozen"), [("encodr", []), ("encoder", ["decoder"]), ("encoder", ["encoder"])])
def test_the_aggressive_part_must_be_one_of_several_that_move(data, part, frozen):
    schedule = Schedule(steps=3, batch_size=11, aggressive=Aggressive(2, 0.5, part=part))
    with pytest.raises(ValueError, match=f"aggressive.part must be one part of several that move, got '{part}'"):
        train(stack(build, MEMBERS), objective, data, schedule, frozen=frozen)


def test_a_schedule_takes_an_aggressive_alone():
    with pytest.raises(ValueError, match="aggressive must be an Aggressive or None, got 5"):
        Schedule(steps=3, batch_size=2, aggressive=5)


# The function of the step


def test_annealing_is_a_warm_up_in_one_cycle_and_fus_in_several():
    progress = torch.arange(0, 1, 0.05, dtype=torch.float64)
    assert_close(annealing(progress, 1, 0.5), (2 * progress).clamp(max=1))
    assert_close(annealing(progress, 4, 0.5), torch.tensor([0.0, 0.4, 0.8, 1, 1] * 4, dtype=torch.float64))
    assert torch.equal(annealing(progress, 3, 0.0), torch.ones(20, dtype=torch.float64))
    assert_close(annealing(progress, 1, 1.0), progress)
    assert annealing(1.0, 1, 1.0) in (0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cycles_begin_at_their_step_whatever_the_rounding(dtype):
    for steps in (100, 1200, 50_000):
        for cycles in (3, 4, 10, 50):  # 50 of 100: 58 / 100 times 50 is below 29
            progress = torch.tensor([t / steps for t in range(steps)], dtype=dtype)
            weight = annealing(progress, torch.tensor(float(cycles), dtype=dtype), torch.tensor(0.5, dtype=dtype))
            starts = [t for t in range(steps) if t * cycles % steps == 0]
            assert (weight[starts] < 1e-5).all()
            assert weight.dtype == dtype
            exact = torch.tensor([min(1.0, t * cycles % steps / steps / 0.5) for t in range(steps)], dtype=dtype)
            assert_close(weight, exact, rtol=0, atol=1e-5)


def test_annealing_refuses_numbers_that_cannot_be():
    for wrong in ({"cycles": 1.5}, {"rise": 2.0}, {"progress": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            annealing(**({"progress": 0.0} | wrong))
