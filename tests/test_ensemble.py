import pytest
import torch
from torch.testing import assert_close

from vae.models.ensemble import stack
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MLPEncoder, mlp
from vae.models.vae import VAE, linear_vae_model
from vae.noise import generator

E, K, B, X, Z = 3, 7, 5, 11, 2


def build(member):
    stream = generator(member["seed"], "init")
    return VAE(MLPEncoder(X, [13], Z, stream), mlp([Z, 13, X], stream), BernoulliLikelihood())


@pytest.fixture
def ensemble():
    return stack(build, [{"seed": s, "beta": 1.0 + s} for s in range(E)], dtype=torch.float64)


def test_map_takes_arguments_per_member_and_returns_any_structure(ensemble, normal):
    x = normal(E, B, X)
    q = ensemble.map(lambda m, x, beta: {"q": m.encode(x), "beta": beta}, x, ensemble.column("beta"), in_dims=(0, 0))
    assert q["q"].mean.shape == (E, B, Z)
    assert q["beta"].tolist() == [1.0, 2.0, 3.0]
    assert_close(q["q"].mean[1], ensemble.member(1).encode(x[1]).mean)


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunks_of_rows_change_nothing(ensemble, chunk, normal):
    x, eps = (normal(B, X) > 0).double(), normal(B, Z)

    def f(model, x, eps):
        q = model.encode(x)
        return {"kl": q.kl_to_standard_normal(), "z": q.rsample(eps)}

    whole, parts = ensemble.map(f, x, eps), ensemble.map_rows(f, x, eps, chunk=chunk)
    assert parts["z"].shape == (E, B, Z)
    assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_scores_are_not_made_with_tf32(ensemble, monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    with pytest.raises(ValueError, match="must have the precision 'highest', got 'high'"):
        ensemble.to("cuda", torch.float32).map_rows(lambda model, x: {"x": x}, torch.zeros(B, X, device="cuda"))


def test_taken_members_are_the_same_models(ensemble, normal):
    x = normal(B, X)
    some = ensemble.take([2, 0])
    assert some.column("seed").tolist() == [2, 0]
    mean = ensemble.map(lambda m: m.encode(x).mean)
    assert_close(some.map(lambda m: m.encode(x).mean), mean[[2, 0]])


def test_members_keep_dtype_and_are_copies(ensemble):
    member = ensemble.member(0)
    assert {p.dtype for p in member.parameters()} == {torch.float64}
    with torch.no_grad():
        next(member.parameters()).add_(1)
    assert not torch.equal(next(member.parameters()), next(ensemble.member(0).parameters()))


def test_buffers_may_differ_between_members():
    noise = [0.1, 0.2, 0.4]
    ensemble = stack(
        lambda m: linear_vae_model(X, Z, m["noise"], generator(0, "init")), [{"seed": 0, "noise": n} for n in noise]
    )
    variance = ensemble.map(lambda m: m.likelihood.log_variance.exp())
    assert_close(variance, torch.tensor(noise))
    assert float(ensemble.member(2).likelihood.log_variance.exp()) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stack(build, []), "members must not be empty"),
        (
            lambda: stack(lambda m: linear_vae_model(X, m["z"], 0.1, generator(0, "init")), [{"z": 1}, {"z": 2}]),
            "equal shapes",
        ),
        (
            lambda: stack(build, [{"seed": 0}]).map(lambda m, x: x, torch.ones(1), in_dims=()),
            "in_dims must have one entry",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
