"""How a run is carried out changes nothing: compiled or eager, chunks, processes, interrupted or not."""

import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vae.data.images import REGISTRY
from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE
from vae.noise import generator
from vae.train import Aggressive, DivergedError, Execution, Schedule, checkpoint, train
from vae.train import step as steps
from vae.train.objectives import elbo, terms
from vae.train.plan import Work, has_compiler, plan
from vae.train.streams import Streams, rows_of

N, X, Z = 53, 7, 2
SHORT = Schedule(steps=23, batch_size=11, learning_rate=1e-2, n_samples=3, log_every=5)
MEMBERS = [{"seed": s, "beta": b} for b in (0.5, 1.0, 4.0) for s in (0, 1)] + [{"seed": 2, "beta": 1.0}]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not has_compiler(CPU), reason="no C++ compiler")


def objective(model, x, eps, member):
    return elbo(terms(model, x, model.encode(x), eps), member["beta"])


def build(member):
    stream = generator(member["seed"], "init")
    return VAE(MLPEncoder(X, [5], Z, stream), mlp([Z, 5, X], stream), BernoulliLikelihood())


@pytest.fixture
def data(normal):
    return (normal(N, X) > 0).double()


def run(data, dtype=torch.float64, schedule=SHORT, members=MEMBERS, **execution):
    return train(stack(build, members, dtype=dtype), objective, data, schedule, execution=Execution(**execution))


def agree(a, b, rtol=1e-10, atol=1e-11):
    for name in a.ensemble.params:
        assert_close(a.ensemble.params[name], b.ensemble.params[name], rtol=rtol, atol=atol)
    assert a.ensemble.members == b.ensemble.members
    assert a.history.drop(columns="objective").equals(b.history.drop(columns="objective"))
    assert_close(torch.tensor(a.history["objective"].to_numpy()), torch.tensor(b.history["objective"].to_numpy()),
                 rtol=max(rtol, 1e-10), atol=atol)  # fmt: skip
    assert a.diverged == b.diverged


def equal(a, b):
    """Bit for bit."""
    assert all(torch.equal(a.ensemble.params[k], b.ensemble.params[k]) for k in b.ensemble.params)
    assert a.history.equals(b.history)
    assert a.diverged == b.diverged


# The same numbers however it is done


@needs_compiler
def test_compiled_equals_eager_in_float64_and_repeats_bit_for_bit(data):
    ours = run(data, compile=True, chunk=4)  # two chunks, the second filled up
    assert ours.plan.compile
    assert ours.compile_seconds > 0
    agree(ours, run(data, compile=False))
    equal(ours, run(data, compile=True, chunk=4))


@needs_compiler
def test_compiled_chunks_may_hold_different_numbers_of_streams(data):
    members = [{"seed": s, "beta": b} for s in (0, 1, 2) for b in (0.5, 1.0, 2.0, 4.0, 8.0)]
    ours = run(data, members=members, compile=True, chunk=4, workers=1)
    assert len({len({members[i]["seed"] for i in chunk}) for chunk in ours.plan.chunks}) > 1
    agree(ours, run(data, members=members, compile=False))


@needs_compiler
def test_compiled_on_two_workers_equals_eager_in_float64(data):
    ours = run(data, compile=True, workers=2)
    assert ours.plan.compile
    assert ours.plan.workers == 2
    agree(ours, run(data, compile=False, workers=1))


@pytest.mark.parametrize(
    "how",
    [pytest.param({"compile": True}, marks=needs_compiler), {"compile": False, "chunk": 3},
     {"compile": False, "workers": 2}],
)  # fmt: skip
def test_in_float32_all_agree_to_1e_5_after_200_steps(data, how):
    schedule = Schedule(steps=200, batch_size=11, learning_rate=1e-3)
    whole = run(data, torch.float32, schedule, compile=False, workers=1, chunk=len(MEMBERS))
    agree(run(data, torch.float32, schedule, **how), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
def test_chunks_change_nothing(data, chunk):
    whole, parts = run(data, compile=False, chunk=len(MEMBERS)), run(data, compile=False, chunk=chunk)
    assert len(parts.plan.chunks) == math.ceil(len(MEMBERS) / max(map(len, parts.plan.chunks)))
    agree(whole, parts)


def test_worker_processes_change_nothing(data):
    here, there = run(data, compile=False, workers=1), run(data, compile=False, workers=2)
    assert there.plan.workers == 2
    agree(here, there)
    equal(there, run(data, compile=False, workers=2))


def test_subsets_and_frozen_parts_survive_chunks_and_workers(data):
    rows = [torch.arange(12 + i, 40 + i) for i in range(len(MEMBERS))]

    def go(**execution):
        return train(
            stack(build, MEMBERS, dtype=torch.float64),
            objective,
            data,
            SHORT,
            frozen=["decoder"],
            subsets=rows,
            execution=Execution(compile=False, **execution),
        )

    here = go(workers=1, chunk=len(MEMBERS))
    agree(here, go(workers=2, chunk=2))
    start = stack(build, MEMBERS, dtype=torch.float64)
    assert torch.equal(here.ensemble.params["decoder.0.weight"], start.params["decoder.0.weight"])


@pytest.mark.parametrize(
    "execution", [{"compile": False, "chunk": 2}, pytest.param({"compile": True}, marks=needs_compiler)]
)
def test_a_diverging_member_is_frozen_wherever_it_is_trained(data, execution):
    def hostile(model, x, eps, member):
        return objective(model, x, eps, member) + torch.where(member["learning_rate"] > 1, math.nan, 0.0)

    members = [{"seed": s, "beta": 1.0, "learning_rate": r} for s, r in ((0, 1e-2), (1, 1e3), (2, 1e-2))]
    ensemble = stack(build, members, dtype=torch.float64)
    with pytest.raises(DivergedError, match="member 1 .* at step 0") as error:
        train(ensemble, hostile, data, SHORT, execution=Execution(**execution))
    trained = error.value.trained
    assert trained.diverged == {1: 0}
    for name, value in ensemble.params.items():
        assert torch.equal(trained.ensemble.params[name][1], value[1])
    healthy = train(ensemble.take([0, 2]), objective, data, SHORT, execution=Execution(compile=False)).ensemble
    for name, value in healthy.params.items():
        assert_close(trained.ensemble.params[name][[0, 2]], value, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("levels", [16, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_kept_as_bytes_without_loss(levels, dtype):
    grey = torch.randint(levels + 1, (N, X), generator=generator(0, "test")).float() / levels
    rows = rows_of(grey.to(dtype), dtype)
    assert rows.values.dtype == torch.uint8
    index = torch.tensor([[3, 1], [4, 1]])
    assert torch.equal(rows.at(index), grey.to(dtype)[index])


@pytest.mark.parametrize("levels", sorted({source.levels for source in REGISTRY.values()}))
def test_bytes_become_the_same_numbers_however_a_gpu_divides(levels):
    grey = torch.arange(256)
    for quotient in (grey.double() / levels, grey.double() * (1 / levels)):
        assert torch.equal(quotient.float(), grey.float() / levels)


@pytest.mark.parametrize("spoil", [lambda x: x + 1e-6, lambda x: x - 1, lambda x: 300 * x])
def test_what_is_no_image_is_kept_as_it_is(normal, spoil):
    x = spoil((normal(N, X) > 0).float())
    rows = rows_of(x, torch.float32)
    assert rows.values.dtype == torch.float32
    assert torch.equal(rows.at(torch.arange(N)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [8, 11])  # a step of 48 numbers, which PyTorch draws 16 at a time, and of 66
def test_stretches_of_any_length_draw_the_same(batch, dtype):
    schedule = Schedule(steps=23, batch_size=batch, n_samples=3)
    subsets = [torch.arange(i, N) for i in range(len(MEMBERS))]

    def drawn(lengths):
        streams = Streams(MEMBERS, N, schedule, Z, dtype, subsets)
        draws = [streams.draw(n) for n in lengths]
        return torch.cat([d.rows for d in draws]), torch.cat([d.eps for d in draws])

    whole = drawn([13])
    for lengths in ([1] * 13, [5, 8], [7, 2, 4]):
        assert all(torch.equal(a, b) for a, b in zip(drawn(lengths), whole, strict=True))
    rows, eps = whole
    assert rows.shape == (13, len(MEMBERS), batch)
    assert eps.shape == (13, len(MEMBERS), 3, batch, Z)
    assert (rows.amin((0, 2)) >= torch.arange(len(MEMBERS))).all()


def test_a_step_at_a_counter_is_the_step(normal):
    """What a CUDA graph replays, without the graph."""
    seen = []
    stretch = (torch.arange(10).reshape(5, 2), normal(5, 3), normal(5, 1))
    replayable, load = steps.at_counter(lambda *a: seen.append([t.clone() for t in a]), stretch, 5)
    load(*stretch)
    for _ in range(5):
        replayable()
    load(*(tensor[1:3] for tensor in stretch))
    for _ in range(2):
        replayable()
    for arguments, i in zip(seen, [0, 1, 2, 3, 4, 1, 2], strict=True):
        assert all(torch.equal(a, whole[i]) for a, whole in zip(arguments, stretch, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("compile_", [False, True])
def test_a_gpu_agrees(data, compile_):
    ensemble = stack(build, MEMBERS, dtype=torch.float64)
    there = train(ensemble, objective, data, SHORT, device="cuda", execution=Execution(compile=compile_))
    assert next(iter(there.ensemble.params.values())).device.type == "cuda"
    agree(there._replace(ensemble=there.ensemble.to("cpu")), run(data, compile=False), rtol=1e-9, atol=1e-10)


# The choice


def chosen(steps, parameters=20_000, members=36, **execution):
    return plan(list(range(members)), Work(parameters, 128, steps), CPU, Execution(**execution))


@needs_compiler
def test_only_long_runs_are_compiled():
    assert not chosen(200).compile
    assert chosen(20_000).compile
    assert not chosen(20_000, compile=False).compile
    assert chosen(2, compile=True).compile


def test_every_member_is_in_one_chunk_and_chunks_are_even():
    for members in (1, 2, 7, 36, 37, 64):
        for workers in (1, 2, 3):
            made = chosen(20_000, members=members, workers=workers)
            assert sorted(i for chunk in made.chunks for i in chunk) == list(range(members))
            assert max(map(len, made.chunks)) - min(map(len, made.chunks)) < made.workers + len(made.chunks)
            assert made.workers == min(workers, members)
    large, small = chosen(20_000, parameters=425_000, workers=1), chosen(20_000, parameters=100, workers=1)
    assert max(map(len, large.chunks)) < max(map(len, small.chunks))


def test_short_runs_stay_in_this_process():
    assert chosen(20).workers == 1
    if torch.get_num_threads() > 1:
        assert chosen(200_000).workers == torch.get_num_threads()


def test_the_environment_stands_in_for_what_is_left_open(monkeypatch):
    monkeypatch.setenv("VAE_COMPILE", "0")
    monkeypatch.setenv("VAE_WORKERS", "3")
    monkeypatch.setenv("VAE_CHUNK", "5")
    made = chosen(20_000)
    assert (made.compile, made.workers, max(map(len, made.chunks))) == (False, 3, 5)
    assert chosen(20_000, workers=1).workers == 1


@pytest.mark.parametrize(
    ("variable", "value"), [("VAE_COMPILE", "yes"), ("VAE_WORKERS", "0"), ("VAE_CHUNK", "-1"), ("VAE_WORKERS", "two")]
)
def test_an_odd_environment_variable_is_refused_by_name(data, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} must be .*{value}"):
        run(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("workers", 0), ("chunk", 2.5), ("workers", True), ("compile", "yes"), ("checkpoint_seconds", -1)],
)
def test_execution_refuses_bad_values_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must"):
        Execution(**{name: value})


def test_the_choice_is_logged_and_returned(data, caplog):
    with caplog.at_level(logging.INFO, "vae.train"):
        made = run(data, compile=False, chunk=3, workers=1).plan
    assert f"training 7 members: {made}" in caplog.text
    assert str(made) == "eager, 3 chunk(s) of at most 3 members, this process"


def test_without_a_compiler_it_is_eager_and_to_ask_for_one_is_an_error(data, monkeypatch):
    monkeypatch.setattr("vae.train.plan.has_compiler", lambda device: False)
    assert not chosen(20_000).compile
    with pytest.raises(ValueError, match="compile is True, but PyTorch finds no compiler for cpu"):
        run(data, compile=True)


def test_a_compiler_that_fails_is_a_warning_or_if_it_was_asked_for_an_error(data, monkeypatch, caplog):
    def fails(*args):
        raise OSError("no header files")

    monkeypatch.setattr("vae.train.run.compiled", fails)
    monkeypatch.setattr("vae.train.plan.has_compiler", lambda device: True)
    monkeypatch.setattr("vae.train.plan.COMPILE_SECONDS", -1.0)  # so that it is chosen
    members = [{"seed": 0, "beta": b} for b in (0.5, 1.0, 2.0, 4.0)]
    made = run(data, workers=1, chunk=2, members=members)  # one try for both chunks
    assert caplog.text.count("does not compile and runs eagerly: no header files") == 1
    assert not made.plan.compile
    agree(made, run(data, compile=False, members=members))
    with pytest.raises(RuntimeError, match="does not compile; leave compile out"):
        run(data, compile=True, workers=1)


# Interrupted runs


INTERRUPTED = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_execution as t
data = torch.load({data!r}, weights_only=True)
t.run(data, torch.float32, t.LONG, checkpoint=Path({folder!r}), checkpoint_seconds=0, **{how!r})
"""
LONG = Schedule(steps=600, batch_size=11, learning_rate=1e-2, n_samples=3, log_every=5)


@pytest.mark.parametrize(
    "how",
    [{"compile": False, "workers": 1, "chunk": 4}, {"compile": False, "workers": 2, "chunk": 4},
     pytest.param({"compile": True, "workers": 1, "chunk": 4}, marks=needs_compiler)],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_numbers(data, tmp_path, how):
    folder = tmp_path / "checkpoints"
    torch.save(data, tmp_path / "data.pt")
    source = INTERRUPTED.format(
        tests=os.path.dirname(__file__), data=str(tmp_path / "data.pt"), folder=str(folder), how=how
    )
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)])
    first = folder / "chunk-0000.safetensors"
    deadline = time.time() + 120
    while not (first.exists() and checkpoint.read(first)[1]["step"] >= 50):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # a worker notices at its next row of history
    at = checkpoint.read(first)[1]["step"]
    assert 50 <= at < LONG.steps
    resumed = run(data, torch.float32, LONG, checkpoint=folder, checkpoint_seconds=1e9, **how)
    assert resumed.plan.compile == how["compile"]
    equal(resumed, run(data, torch.float32, LONG, **how))


def test_finished_members_are_not_trained_again(data, tmp_path):
    calls = []

    def counting(model, x, eps, member):
        calls.append(1)
        return objective(model, x, eps, member)

    def go():
        calls.clear()
        execution = Execution(compile=False, workers=1, chunk=4, checkpoint=tmp_path / "c", checkpoint_seconds=0)
        trained = train(stack(build, MEMBERS, dtype=torch.float64), counting, data, SHORT, execution=execution)
        return trained, len(calls)

    (first, made), (second, asked) = go(), go()  # `asked`: of the objective, what run it is
    assert made == 2 * SHORT.steps + asked
    assert asked < SHORT.steps
    equal(first, second)
    (tmp_path / "c" / "chunk-0001.safetensors").unlink()
    assert go()[1] == SHORT.steps + asked


def test_a_finished_chunk_is_kept_whatever_the_interval(data, tmp_path, monkeypatch):
    """Once the run is older than the interval, though its chunks are younger."""
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr("vae.train.run.time.time", lambda: next(clock))
    monkeypatch.setattr("vae.train.trainer.time.time", lambda: next(clock))
    run(data, compile=False, workers=1, chunk=1, checkpoint=tmp_path, checkpoint_seconds=40)
    finished = [checkpoint.read(file)[1]["step"] == SHORT.steps for file in sorted(tmp_path.glob("chunk-*"))]
    assert finished[-3:] == [True] * 3
    assert sum(finished) >= len(MEMBERS) - 3


def test_an_unfinished_run_keeps_its_plan(data, tmp_path, monkeypatch):
    first = run(data, compile=False, chunk=3, workers=1, checkpoint=tmp_path, checkpoint_seconds=0)
    assert run(data, workers=1, checkpoint=tmp_path).plan.chunks == first.plan.chunks
    monkeypatch.setattr("vae.train.plan.has_compiler", lambda device: True)
    monkeypatch.setenv("VAE_CHUNK", "2")
    for how, what in (({"compile": False}, "chunks"), ({"compile": True, "chunk": 3}, "compile")):
        with pytest.raises(ValueError, match=rf"{tmp_path} holds a run whose {what} differ .* delete the folder"):
            run(data, workers=1, checkpoint=tmp_path, **how)


def test_a_chunk_of_another_plan_is_refused_by_name(data, tmp_path):
    """As runs of the same work leave them that began at the same time in one folder."""
    for name, chunk in (("a", 3), ("b", 2)):
        run(data, compile=False, chunk=chunk, workers=1, checkpoint=tmp_path / name, checkpoint_seconds=0)
    (tmp_path / "a" / "run.json").replace(tmp_path / "b" / "run.json")
    with pytest.raises(ValueError, match=r"b.chunk-0000.safetensors is of another plan; delete it"):
        run(data, workers=1, checkpoint=tmp_path / "b")


def test_a_plan_that_has_made_nothing_yet_may_be_replaced(data, tmp_path):
    run(data, compile=False, chunk=3, workers=1, checkpoint=tmp_path / "c")
    assert len(run(data, compile=False, chunk=1, workers=1, checkpoint=tmp_path / "c").plan.chunks) == len(MEMBERS)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b[:-9] + b"\1" + b[-8:], lambda b: b"", lambda b: b[9:]]
)
def test_a_damaged_checkpoint_is_refused_by_name(data, tmp_path, damage):
    run(data, compile=False, chunk=4, workers=1, checkpoint=tmp_path / "c", checkpoint_seconds=0)
    file = tmp_path / "c" / "chunk-0001.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"chunk-0001.safetensors is damaged; delete it"):
        run(data, compile=False, chunk=4, workers=1, checkpoint=tmp_path / "c", checkpoint_seconds=0)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": 3, "plan": {}}', '{"identity": {}, "plan": {}}'])
def test_a_damaged_manifest_is_refused_by_name(data, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged; delete"):
        run(data, checkpoint=tmp_path)


def test_the_checkpoints_of_another_run_are_refused(data, tmp_path):
    run(data, checkpoint=tmp_path, compile=False)
    for change, name in (
        ({"schedule": Schedule(steps=23, batch_size=12)}, "schedule, objective"),
        ({"members": MEMBERS[:3]}, "members, initial parameters, objective"),
        ({"dtype": torch.float32}, "initial parameters, objective, dtype"),
    ):
        with pytest.raises(ValueError, match=f"checkpoints of another run: {name} differ"):
            run(data, checkpoint=tmp_path, compile=False, **change)
    with pytest.raises(ValueError, match="another run: data, objective differ"):
        run(1 - data, checkpoint=tmp_path, compile=False)


def test_grey_values_that_are_stored_as_the_same_bytes_are_other_data(tmp_path):
    grey = torch.randint(1, 17, (N, X), generator=generator(0, "test")).double()
    run(grey / 16, checkpoint=tmp_path, compile=False)
    with pytest.raises(ValueError, match="another run: data, objective differ"):
        run(grey / 255, checkpoint=tmp_path, compile=False)


def test_a_run_does_not_go_on_with_another_number_of_threads(data, tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    run(data, checkpoint=tmp_path, compile=False, workers=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.raises(ValueError, match="another run: threads differ"):
        run(data, checkpoint=tmp_path, compile=False, workers=1)


# An objective is told by what it says


WEIGHTS = [1.0]


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, model, x, eps, member):
        return self.weight * objective(model, x, eps, member)


def closing_over(held, read):
    return lambda model, x, eps, member: read(held) * objective(model, x, eps, member)


def with_default(value):
    def weighted(model, x, eps, member, weight=value):
        return weight * objective(model, x, eps, member)

    return weighted


def with_argument(value):
    return partial(lambda model, x, eps, member, weight: weight * objective(model, x, eps, member), weight=value)


def reading_a_global(value):
    WEIGHTS[0] = value
    return lambda model, x, eps, member: WEIGHTS[0] * objective(model, x, eps, member)


def reading_a_file(value):
    def weighted(model, x, eps, member):
        return float((value[0] / "weight").read_text()) * objective(model, x, eps, member)

    (value[0] / "weight").write_text(str(value[1]))
    return weighted


def bounded(bound):
    """A least rate that is below what the first steps have."""

    def at_least(model, x, eps, member):
        t = terms(model, x, model.encode(x), eps)
        return t.log_px_z.mean(0) - t.kl.clamp(min=bound)

    return at_least


def capped(bound):
    def at_most(model, x, eps, member):
        t = terms(model, x, model.encode(x), eps)
        return t.log_px_z.mean(0) - t.kl.clamp(max=bound)

    return at_most


def late(start):
    return lambda model, x, eps, member: (
        torch.where(member["progress"] > start, 2.0, 1.0) * objective(model, x, eps, member)
    )


def by_helper(helper):
    def weighted(model, x, eps, member):
        return helper(objective(model, x, eps, member))

    return weighted


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (lambda v: closing_over(v, float), (1.0, 2.0)),
        (lambda v: closing_over(v, lambda v: v[1]), ([0.0, 1.0], [0.0, 2.0])),
        (lambda v: closing_over(v, lambda v: v["w"]["x"]), ({"w": {"x": 1.0}}, {"w": {"x": 2.0}})),
        (lambda v: closing_over(v, lambda v: v[7]), (np.ones(8), np.arange(8.0) - 5)),
        (lambda v: closing_over(v, lambda v: v), (torch.ones(11), 2 * torch.ones(11))),
        (lambda v: closing_over(v, lambda v: v[0]()), ([lambda: 1.0], [lambda: 2.0])),
        (with_default, (1.0, 2.0)),
        (with_argument, (1.0, 2.0)),
        (Weighted, (1.0, 2.0)),
        (lambda v: Weighted(v).__call__, (1.0, 2.0)),
        (reading_a_global, (1.0, 2.0)),
        (by_helper, (torch.neg, torch.square)),
        (bounded, (1e-4, 2e-4)),
        (capped, (50.0, 60.0)),
        (late, (0.65, 0.75)),
    ],
)
def test_another_number_within_the_objective_is_another_run(data, tmp_path, made, values):
    def go(value):
        execution = Execution(compile=False, workers=1, checkpoint=tmp_path, checkpoint_seconds=0)
        start = stack(build, MEMBERS, dtype=torch.float64)
        return train(start, made(value), data, Schedule(steps=3, batch_size=11), execution=execution)

    equal(go(values[0]), go(values[0]))
    with pytest.raises(ValueError, match="another run: objective differ; choose another folder, or delete it"):
        go(values[1])


def test_a_file_that_the_objective_reads_makes_another_run(data, tmp_path):
    def go(value):
        execution = Execution(compile=False, workers=1, checkpoint=tmp_path / "c", checkpoint_seconds=0)
        f = reading_a_file((tmp_path, value))
        return train(stack(build, MEMBERS), f, data, Schedule(steps=3, batch_size=11), execution=execution)

    equal(go(1.0), go(1.0))
    with pytest.raises(ValueError, match="another run: objective differ"):
        go(2.0)


def test_a_list_that_is_changed_in_place_makes_another_run(data, tmp_path):
    held = [1.0]
    f = closing_over(held, lambda v: v[0])
    execution = Execution(compile=False, workers=1, checkpoint=tmp_path, checkpoint_seconds=0)
    short = Schedule(steps=3, batch_size=11)
    train(stack(build, MEMBERS), f, data, short, execution=execution)
    held[0] = 2.0
    with pytest.raises(ValueError, match="another run: objective differ"):
        train(stack(build, MEMBERS), f, data, short, execution=execution)


def test_another_number_within_the_model_is_another_run(data, tmp_path):
    def with_slope(slope):
        def build_bent(member):
            model = build(member)
            model.decoder[1] = torch.nn.LeakyReLU(slope)
            return model

        return build_bent

    def go(slope):
        execution = Execution(compile=False, workers=1, checkpoint=tmp_path, checkpoint_seconds=0)
        short = Schedule(steps=3, batch_size=11)
        return train(stack(with_slope(slope), MEMBERS), objective, data, short, execution=execution)

    equal(go(0.1), go(0.1))
    with pytest.raises(ValueError, match="another run: objective differ"):
        go(0.2)


def test_the_same_objective_in_other_words_goes_on(data, tmp_path):
    """An edited comment or a new name stops no run."""

    def same(model, x, eps, member):
        t = terms(model, x, model.encode(x), eps)  # as `objective`
        return elbo(t, member["beta"])

    first = run(data, compile=False, workers=1, checkpoint=tmp_path, checkpoint_seconds=0)
    execution = Execution(compile=False, workers=1, checkpoint=tmp_path)
    equal(first, train(stack(build, MEMBERS, dtype=torch.float64), same, data, SHORT, execution=execution))


ROWS = [torch.arange(12 + i, 40 + i) for i in range(len(MEMBERS))]


@pytest.mark.parametrize(
    "how",
    [
        {"subsets": ROWS, "frozen": ["decoder"], "schedule": SHORT},
        {"schedule": replace(SHORT, n_samples=5, batch_size=7, log_every=4, decay="constant")},
        {"schedule": replace(SHORT, aggressive=Aggressive(every=3, until=0.8)), "subsets": ROWS},
        {
            "schedule": replace(SHORT, aggressive=Aggressive(every=2, until=0.5), n_samples=2),
            "frozen": ["encoder.net.0"],
        },
    ],
)
@pytest.mark.parametrize("stop", [6, 16])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(data, tmp_path, how, stop):
    """With a part frozen, subsets of the rows, several samples, an encoder ahead of its decoder."""

    def go(**more):
        execution = Execution(compile=False, workers=1, chunk=3, checkpoint=tmp_path, checkpoint_seconds=0)
        rest = {name: value for name, value in how.items() if name != "schedule"}
        f = closing_over([1.0], lambda v: v[0])
        start = stack(build, MEMBERS, dtype=torch.float64)
        return train(start, f, data, how["schedule"], execution=execution, **rest, **more)

    def stopping(step, steps):
        if step >= SHORT.steps + stop:  # in the second chunk
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(progress=stopping)
    steps = [checkpoint.read(file)[1]["step"] for file in sorted(tmp_path.glob("chunk-*"))]
    assert len(steps) == 2
    assert steps[0] == SHORT.steps > steps[1] > 0
    resumed = go()
    for file in tmp_path.iterdir():
        file.unlink()
    equal(resumed, go())


def test_trainings_of_one_record_have_a_folder_each(data, tmp_path):
    """The only way in is a folder that is given; two runs never share one."""

    def go(sign, folder):
        execution = Execution(compile=False, workers=1, checkpoint=folder, checkpoint_seconds=0)
        f = closing_over(sign, lambda v: v)
        return train(stack(build, MEMBERS), f, data, SHORT, execution=execution)

    up, down = go(1.0, tmp_path / "up"), go(-1.0, tmp_path / "down")
    assert not up.history.equals(down.history)
    with pytest.raises(ValueError, match="another run: objective differ"):
        go(-1.0, tmp_path / "up")
    assert all(not hasattr(checkpoint, name) for name in ("home", "kept_in", "number"))


def test_a_folder_that_cannot_be_written_is_refused_before_training(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written .* choose another checkpoint folder"):
        run(data, checkpoint=tmp_path / "file")
