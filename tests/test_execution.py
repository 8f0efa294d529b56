"""How a run is carried out changes nothing: compiled or eager, chunks, processes, interrupted or not."""

import logging
import math

import pytest
import torch
from torch.testing import assert_close
from trainings import CPU, MEMBERS, SHORT, N, X, Z, agree, build, equal, needs_compiler, objective, run

from vae.data.images import REGISTRY
from vae.models.ensemble import stack
from vae.noise import generator
from vae.train import DivergedError, Execution, Schedule, train
from vae.train import step as steps
from vae.train.plan import Work, plan
from vae.train.streams import Streams, rows_of


@pytest.fixture
def data(normal):
    return (normal(N, X) > 0).double()


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
