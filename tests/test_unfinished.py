"""Runs that were stopped go on to the same numbers, bit for bit; another run never goes on from what one has left."""

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
from trainings import MEMBERS, SHORT, N, X, build, equal, needs_compiler, objective, run

from vae.models.ensemble import stack
from vae.noise import generator
from vae.train import Aggressive, Execution, Schedule, checkpoint, train
from vae.train.objectives import elbo, terms


@pytest.fixture
def data(normal):
    return (normal(N, X) > 0).double()


INTERRUPTED = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_unfinished as t
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
