"""The scores of Holzinger and Swineford, and what two encoders make of their three factors."""

import math
from importlib import metadata, util

import pytest
import torch
from torch.testing import assert_close

from vae.data import scores
from vae.exact.factor_analysis import confirmatory, fit, log_likelihood, optima, standard_errors
from vae.exact.factor_analysis.structure import Layout

needs_semopy = pytest.mark.skipif(util.find_spec("semopy") is None, reason="pip install 'vae-measured[data]'")
THREE = confirmatory(torch.eye(3).repeat_interleave(3, 0), "free")


@pytest.fixture(scope="module")
def S():
    x = scores.holzinger_swineford().x
    x = x - x.mean(0)
    return x.mT @ x / len(x)


@needs_semopy
def test_the_scores():
    found = scores.holzinger_swineford()
    assert found.x.shape == (301, 9)
    assert found.x.dtype == torch.float64
    assert found.items == ("x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9")
    assert_close(found.x[0, :3], torch.tensor([3.3333333, 7.75, 0.375], dtype=torch.float64))
    assert found.digest == scores.DIGEST
    assert "semopy" in found.licence


def triangle(phi):
    return phi[torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])]


@needs_semopy
def test_maximum_likelihood_of_three_correlated_factors(S):
    found = fit(S, THREE)
    assert found.converged
    assert abs(301 * float(found.log_likelihood) + 3737.7449) < 6e-5
    assert_close(triangle(found.phi), torch.tensor([0.4585, 0.4705, 0.2830]).double(), rtol=0, atol=6e-5)
    expected = triangle(standard_errors(found.parameters, THREE, 301).phi)
    assert_close(expected, torch.tensor([0.064, 0.073, 0.069]).double(), rtol=0, atol=6e-4)
    layout = Layout(THREE, 9)  # those of the observed information, where the model does not fit, are others
    curvature = torch.func.hessian(lambda t: -log_likelihood(layout.from_theta(t), S))(layout.theta(found.parameters))
    observed = (torch.linalg.inv(curvature).diagonal() / 301).sqrt()[-3:]
    assert_close(observed, torch.tensor([0.064, 0.086, 0.072]).double(), rtol=0, atol=6e-4)
    # The test statistic that every package prints for this model: 85.306 on 24 degrees of freedom.
    saturated = -0.5 * (9 * (1 + math.log(2 * math.pi)) + torch.logdet(S))
    assert abs(2 * 301 * float(saturated - found.log_likelihood) - 85.306) < 6e-4


@needs_semopy
def test_a_diagonal_encoder_lowers_the_correlations(S):
    (only,) = optima(S, THREE, "diagonal", starts=20)
    found, exact = only.fit, fit(S, THREE)
    assert abs(301 * float(found.elbo) + 3741.2507) < 6e-5
    assert abs(301 * float(found.log_likelihood) + 3738.5805) < 6e-5
    assert_close(triangle(found.phi), torch.tensor([0.4317, 0.3752, 0.2654]).double(), rtol=0, atol=6e-5)
    for fitted, expected in ((exact, 0.7719), (found, 0.8086)):
        standardised = fitted.W[0, 0] / fitted.parameters.covariance()[0, 0].sqrt()
        assert abs(float(standardised) - expected) < 6e-5
    truth = fit(exact.parameters.covariance(), THREE, "diagonal")  # endless data from the model that was fitted
    assert_close(triangle(truth.phi), torch.tensor([0.4220, 0.3912, 0.2749]).double(), rtol=0, atol=6e-5)


@needs_semopy
def test_in_whitened_coordinates_the_optimum_is_a_heywood_case(S):
    deviation = S.diagonal().sqrt()
    z = S / deviation[:, None] / deviation
    assert abs(301 * float(fit(z, THREE).log_likelihood) + 3427.13) < 6e-3
    best = fit(z, THREE, "whitened", starts=20)
    assert abs(301 * float(best.elbo) + 3433.84) < 6e-3
    assert best.heywood.tolist() == [True] + [False] * 8


def test_without_semopy_the_message_says_what_to_install(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vae-measured\[data\]'"):
        scores.holzinger_swineford()


def test_other_numbers_are_refused(monkeypatch, tmp_path):
    class Package:
        def locate_file(self, name):
            return tmp_path / "scores.csv"

    monkeypatch.setattr(metadata, "distribution", lambda name: Package())
    with pytest.raises(ValueError, match=r"scores.csv cannot be read .*; install the semopy"):
        scores.holzinger_swineford()
    header = ",".join(f"x{i}" for i in range(1, 10))
    (tmp_path / "scores.csv").write_text(f"{header}\n{','.join('1' * 9)}\n")
    with pytest.raises(ValueError, match=r"scores.csv holds other scores: expected SHA-256 449ee24f"):
        scores.holzinger_swineford()
    (tmp_path / "scores.csv").write_text("x1,x2\n1,2\n")
    with pytest.raises(ValueError, match="cannot be read"):
        scores.holzinger_swineford()
