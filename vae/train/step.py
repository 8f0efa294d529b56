"""One step of training as a pure function of tensors, and the three ways to carry it out: eager, compiled, captured.

The step is gradients of every member by one vmapped backward pass, then Adam, in place. Compiling traces it with
`make_fx`, which sees through `vmap` and `grad`, and gives Inductor the whole of it, the optimiser included. That
is `torch.compile` without its front end: no guards are evaluated at a call, which for small models is most of the time
of a call, and a warm start takes a second instead of five.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from vae.train.schedule import Schedule
from vae.train.streams import Rows

Objective = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
Tree = dict[str, Any]
Step = Callable[[Tensor, Tensor, Tensor], None]  # one step: its minibatches, its noise, its rates
Stretch = Callable[[Tensor, Tensor, Tensor], None]  # several: each argument with a leading axis of steps

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, algorithm 1


def step_of(
    model: nn.Module, objective: Objective, levels: int, dtype: torch.dtype, lagging: Collection[str] = ()
) -> Callable[..., None]:
    """step(state, given, index, eps, rates): one step for all members, changing `state` in place.

    `state`: params, first and second moments {name: (E, ...)}, alive (E,), frozen_at (E,), total (E,), step ().
    `given`: fixed parameters, buffers, numbers {name: (E,)}, base_rate (E,), values (N, X), stream (E,). `index`
    (streams, B), `eps` (streams, K, B, Z), `rates` (7,) as by `rates_at`, which says when the parameters
    named in `lagging` move.
    """

    def loss(moving: Tree, fixed: Tree, buffers: Tree, x: Tensor, eps: Tensor, member: Tree) -> Tensor:
        return -functional_call(model, (moving | fixed, buffers), (objective, x, eps, member)).mean()

    gradients = torch.vmap(grad_and_value(loss))

    def step(state: Tree, given: Tree, index: Tensor, eps: Tensor, rates: Tensor) -> None:
        params, first, second = state["params"], state["first"], state["second"]
        x = Rows(given["values"], levels, dtype).at(index)
        stream = given["stream"]
        factor, progress, correction1, correction2, moves, late1, late2 = rates.unbind()
        numbers = given["numbers"] | {"progress": progress.expand(stream.shape)}
        gradient, value = gradients(params, given["fixed"], given["buffers"], x[stream], eps[stream], numbers)
        checksum = value
        for g in gradient.values():
            checksum = checksum + (g.sum(tuple(range(1, g.ndim))) if g.ndim > 1 else g)
        healthy = state["alive"] & checksum.isfinite()
        state["frozen_at"].copy_(torch.where(state["alive"] & ~healthy, state["step"], state["frozen_at"]))
        state["alive"].copy_(healthy)
        base = given["base_rate"] * factor
        rate = torch.where(healthy, base * correction1, 0.0)
        late_rate = torch.where(healthy, base * late1 * moves, 0.0)
        for name, p in params.items():
            shape = (-1, *[1] * (p.ndim - 1))
            g = torch.where(healthy.view(shape), gradient[name], 0.0)
            if name in lagging:  # moments, too, stand still where it does not move
                first[name].lerp_(g, (1 - BETA1) * moves)
                second[name].lerp_(g * g, (1 - BETA2) * moves)
                p.sub_(late_rate.view(shape) * first[name] / ((second[name] * late2).sqrt() + EPSILON))
                continue
            first[name].lerp_(g, 1 - BETA1)
            second[name].mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(rate.view(shape) * first[name] / ((second[name] * correction2).sqrt() + EPSILON))
        state["total"].sub_(value)
        state["step"].add_(1)

    return step


def rates_at(step: int, schedule: Schedule) -> tuple[float, ...]:
    """The third argument of a step (from 0), as numbers: the schedule's factor, the part of all steps already taken,
    Adam's two bias corrections; then, for the parameters that lag, whether they move (1 or 0) and their corrections.
    """
    late = max(1, schedule.rest_updates(step + 1))  # before the first, corrections of any value are for nothing
    return (
        schedule.rate_factor(step),
        step / schedule.steps,
        *_corrections(step + 1),
        float(schedule.rest_moves(step)),
        *_corrections(late),
    )


def _corrections(updates: int) -> tuple[float, float]:
    return 1 / (1 - BETA1**updates), 1 / (1 - BETA2**updates)


def eager(step: Callable[..., None], state: Tree, given: Tree) -> Step:
    """The step as PyTorch executes it, operation by operation."""
    return lambda index, eps, rates: step(state, given, index, eps, rates)


def compiled(
    step: Callable[..., None], state: Tree, given: Tree, example: tuple[Tensor, Tensor, Tensor]
) -> Callable[[Tree, Tree], Step]:
    """The step compiled by Inductor for exactly these shapes, to be bound to any state and givens of these shapes.

    Nothing is changed; `example` is one step's arguments. Raises whatever the compiler does.
    """
    leaves, form = tree_flatten((state, given))
    on_cpu = example[0].device.type == "cpu"

    def flat(*tensors: Tensor) -> tuple[()]:
        step(*tree_unflatten(list(tensors[: len(leaves)]), form), *tensors[len(leaves) :])
        return ()

    # The C++ wrapper calls kernels without Python in between. Code is for a number of threads, which the compiler's
    # cache knows only if it is set.
    settings = {"cpp_wrapper": True, "cpp.threads": torch.get_num_threads()} if on_cpu else {}
    with torch.no_grad(), torch._inductor.config.patch(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own parts to each other
        trace = make_fx(flat, decomposition_table={torch.ops.aten.tanh.default: _tanh} if on_cpu else {})
        graph = trace(*(tensor.clone() for tensor in (*leaves, *example)))
        program = torch._inductor.standalone_compile(graph, [*leaves, *example], dynamic_shapes="from_example_inputs")

    def bound(state: Tree, given: Tree) -> Step:
        tensors = tree_flatten((state, given))[0]
        return lambda index, eps, rates: program(*tensors, index, eps, rates)

    return bound


def _tanh(x: Tensor) -> Tensor:
    """tanh by one exponential, accurate to rounding near zero too; Inductor's own takes nearly three times as long."""
    t = torch.expm1(-2 * x.clamp(min=-20.0))  # below, tanh is -1 in every dtype
    return -t / (t + 2)


def each(step: Step) -> Stretch:
    """Consecutive steps, one call each."""

    def run(index: Tensor, eps: Tensor, rates: Tensor) -> None:
        for arguments in zip(index, eps, rates, strict=True):
            step(*arguments)

    return run


def captured(step: Step, state: Tree, example: tuple[Tensor, Tensor, Tensor], longest: int) -> Stretch:
    """Consecutive steps, `longest` at most, as replays of one CUDA graph, which launch one thing each and wait for
    nothing.
    """
    leaves = tree_flatten(state)[0]
    replayable, load = at_counter(step, example, longest)
    load(*example)
    before = [leaf.clone() for leaf in leaves]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # CUDA asks for some runs on another stream before a capture
        for _ in range(3):
            replayable()
    torch.cuda.current_stream().wait_stream(side)
    for leaf, value in zip(leaves, before, strict=True):
        leaf.copy_(value)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayable()

    def run(index: Tensor, eps: Tensor, rates: Tensor) -> None:
        load(index, eps, rates)
        for _ in range(len(index)):
            graph.replay()

    return run


def at_counter(
    step: Step, example: tuple[Tensor, Tensor, Tensor], longest: int
) -> tuple[Callable[[], None], Callable[[Tensor, Tensor, Tensor], None]]:
    """The step without arguments, which are read from buffers at a counter that it moves on; and the function that
    fills the buffers with a stretch like `example` and sets the counter to its beginning.
    """
    # Zeros are legal arguments, which a capture's warm-up may meet behind a short first stretch.
    buffers = tuple(tensor.new_zeros((longest, *tensor.shape[1:])) for tensor in example)
    counter = torch.zeros(1, dtype=torch.int64, device=example[0].device)

    def replayable() -> None:
        step(*(buffer.index_select(0, counter).squeeze(0) for buffer in buffers))
        counter.add_(1).remainder_(longest)

    def load(*stretch: Tensor) -> None:
        for buffer, tensor in zip(buffers, stretch, strict=True):
            buffer[: len(tensor)].copy_(tensor, non_blocking=True)
        counter.zero_()

    return replayable, load
