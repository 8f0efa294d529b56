"""Many minima at once: each found, none by the help or at the cost of another."""

import pytest
import torch

from vae.inference.lbfgs import minimise
from vae.noise import generator

E, P = 5, 7  # problems, variables


def quadratics():
    stream = generator(0, "quadratics")
    root = torch.randn(E, P, P, generator=stream, dtype=torch.float64)
    curvature = root @ root.mT + 0.1 * torch.eye(P, dtype=torch.float64)
    best = torch.randn(E, P, generator=stream, dtype=torch.float64)

    def f(u):
        d = u - best[: len(u)]
        return 0.5 * torch.einsum("ep,epq,eq->e", d, curvature[: len(u)], d)

    return f, best


def rosenbrock(u):
    return 100 * (u[:, 1] - u[:, 0].square()).square() + (1 - u[:, 0]).square()


def test_quadratics_end_at_their_minima():
    f, best = quadratics()
    found = minimise(f, torch.zeros(E, P, dtype=torch.float64), max_iter=300)
    torch.testing.assert_close(found.u, best, rtol=0, atol=1e-6)
    assert found.loss.max() < 1e-12
    assert found.slope.max() < 1e-5


def test_a_bent_valley_is_followed_to_its_end():
    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -3.0]], dtype=torch.float64)
    found = minimise(rosenbrock, starts, max_iter=200)
    torch.testing.assert_close(found.u, torch.ones_like(starts), rtol=0, atol=1e-6)


def test_memory_is_what_makes_it_fast():
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    short = minimise(rosenbrock, start, max_iter=60, memory=1)
    assert minimise(rosenbrock, start, max_iter=60).loss < 1e-3 * short.loss


def test_rows_do_not_influence_each_other():
    f, _ = quadratics()
    start = torch.zeros(E, P, dtype=torch.float64)
    whole = minimise(f, start, max_iter=40)
    torch.testing.assert_close(minimise(f, start[:2], max_iter=40).u, whole.u[:2], rtol=0, atol=1e-10)

    def with_a_fall(u):  # the last row's loss has no minimum
        return torch.cat([f(u)[:-1], u[-1:].sum(1)])

    fallen = minimise(with_a_fall, start, max_iter=40)
    torch.testing.assert_close(fallen.u[:-1], whole.u[:-1], rtol=0, atol=1e-10)
    assert fallen.loss[-1] < -10


def test_the_loss_never_rises_and_infinities_are_stepped_back_from():
    def barrier(u):
        return (u - u.log()).sum(1)  # NaN below 0

    start = torch.full((3, 2), 1e-3, dtype=torch.float64)
    losses = [minimise(barrier, start, max_iter=n).loss for n in (1, 2, 4, 8, 16, 100)]
    assert all((b <= a).all() for a, b in zip(losses, losses[1:], strict=False))
    torch.testing.assert_close(losses[-1], torch.full((3,), 2.0, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_start_at_the_minimum_stays_there():
    f, best = quadratics()
    found = minimise(f, best, max_iter=100)
    assert torch.equal(found.u, best)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.zeros(3, dtype=torch.float64)}, r"u must be \(E, P\) in float64, got shape \(3,\)"),
        ({"u": torch.zeros(2, 3)}, r"u must be .* torch.float32; convert it"),
        ({"max_iter": 0}, r"max_iter must be an integer of at least 1, got 0"),
        ({"memory": True}, r"memory must be an integer of at least 1, got True"),
        ({"f": lambda u: u.sum()}, r"f must return 2 finite losses"),
        ({"f": lambda u: u.sum(1).log()}, r"f must return 2 finite losses .* got \[-inf"),
    ],
)
def test_bad_input_is_refused_by_name(changes, message):
    given = {"f": lambda u: u.square().sum(1), "u": torch.zeros(2, 3, dtype=torch.float64), "max_iter": 5} | changes
    with pytest.raises(ValueError, match=message):
        minimise(given.pop("f"), given.pop("u"), **given)
