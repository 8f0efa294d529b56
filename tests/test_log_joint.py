import math

import pytest
import torch
from decoders import nonlinear
from torch.testing import assert_close

from vae.gaussian import DiagonalGaussian
from vae.inference import log_joint as joint
from vae.train.objectives import terms

S, B, Z = 7, 5, 2


def test_a_models_log_joint_is_the_sum_of_its_terms(normal):
    known, model = nonlinear(B)
    q, eps = DiagonalGaussian(normal(B, Z), normal(B, Z)), normal(S, B, Z)
    t = terms(model, known.x, q, eps)
    assert_close(known.log_joint(q.rsample(eps)), t.log_px_z + t.log_pz)


@pytest.mark.parametrize("chunk", [None, 3])
def test_values_and_gradients_whatever_the_chunk(normal, chunk):
    known, model = nonlinear(B)
    model.requires_grad_()
    z = normal(S, B, Z)
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(known.log_joint(leaf).sum(), leaf)
    with torch.no_grad():  # whatever the caller's mode
        value, gradient = joint.value_and_gradient(known.log_joint, z, chunk)
    assert_close(value, known.log_joint(z).detach(), rtol=1e-12, atol=1e-12)
    assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert_close(joint.values(known.log_joint, z, chunk), value, rtol=1e-12, atol=1e-12)
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert not z.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_density_of_zero_is_legal_and_nothing_else_that_is_not_finite():
    z = torch.zeros(S, B, Z)
    assert (joint.values(lambda z: torch.full(z.shape[:2], -math.inf), z) == -math.inf).all()
    for value in (math.nan, math.inf):
        bad = torch.zeros(S, B)
        bad[4, 3] = value
        with pytest.raises(ValueError, match=r"log_joint must not be NaN or \+inf, got .* for datum 3;"):
            joint.values(lambda z, bad=bad: bad, z)
