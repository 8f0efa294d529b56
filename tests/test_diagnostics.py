import math

import pandas as pd
import pytest
import torch
from scipy import integrate
from torch.testing import assert_close

from vae.diagnostics import active_units, aggregate_kl, mutual_information, over_seeds, pooled, tidy
from vae.gaussian import DiagonalGaussian

B, Z = 13, 3


def normal_pdf(z, mean, variance):
    return math.exp(-((z - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_aggregate_kl_against_adaptive_quadrature(normal):
    q = DiagonalGaussian(normal(B, Z), 0.5 * normal(B, Z) - 1)
    got = aggregate_kl(q, n_nodes=96)
    for j in range(Z):
        means, variances = q.mean[:, j].tolist(), q.log_var[:, j].exp().tolist()

        def integrand(z, means=means, variances=variances):
            density = sum(normal_pdf(z, m, v) for m, v in zip(means, variances, strict=True)) / B
            return density * math.log(density / normal_pdf(z, 0, 1))

        expected, _ = integrate.quad(integrand, -12, 12, limit=400)
        assert float(got[j]) == pytest.approx(expected, abs=2e-4)


def test_rate_is_information_plus_aggregate_kl_in_one_dimension(normal):
    q = DiagonalGaussian(2 * normal(1009, 1), torch.full((1009, 1), -2.0, dtype=torch.float64))
    information = mutual_information(q, seed=0)
    rate = float(q.kl_to_standard_normal().mean())
    assert abs(rate - information.value - float(aggregate_kl(q)[0])) < 5 * information.se


def test_aggregate_kl_is_at_most_the_mean_kl(normal):
    q = DiagonalGaussian(normal(B, Z), normal(B, Z))
    assert (aggregate_kl(q) <= q.kl_per_dim().mean(0) + 1e-12).all()


def test_an_unused_latent_has_neither_information_nor_activity():
    q = DiagonalGaussian(torch.full((B, Z), 0.5, dtype=torch.float64), torch.zeros(B, Z, dtype=torch.float64))
    assert_close(aggregate_kl(q), torch.full((Z,), 0.125, dtype=torch.float64))  # yet its KL is not zero
    assert mutual_information(q, seed=0).value == pytest.approx(0, abs=1e-12)
    assert active_units(q) == 0


def test_mutual_information_reports_its_cap(normal):
    q = DiagonalGaussian(100 * normal(B, Z), torch.full((B, Z), -6.0, dtype=torch.float64))
    estimate = mutual_information(q, seed=0)
    assert estimate.cap == math.log(B)
    assert estimate.value == pytest.approx(math.log(B))  # every datum told apart: it cannot say more


def test_tidy_means_and_standard_errors(normal):
    members = [{"seed": 0, "beta": 1.0}, {"seed": 1, "beta": 1.0}]
    values = normal(2, B)
    table = tidy(members, {"elbo": values, "optimum": values[:, 0]}, split="test")
    elbo = table[table.quantity == "elbo"]
    assert elbo["value"].tolist() == pytest.approx(values.mean(1).tolist())
    assert elbo["se"].tolist() == pytest.approx((values.std(1) / math.sqrt(B)).tolist())
    assert set(elbo["over"]) == {"images"}
    assert table[table.quantity == "optimum"][["se", "n", "over"]].drop_duplicates().values.tolist() == [
        [0.0, 1, "exact"]
    ]
    with pytest.raises(ValueError, match=r"elbo must have shape \(2,\)"):
        tidy(members, {"elbo": normal(3, B)}, split="test")


def test_over_seeds_uses_the_spread_of_seeds():
    table = pd.DataFrame({"beta": [1.0] * 4, "quantity": ["elbo"] * 4, "seed": range(4), "value": [1.0, 2.0, 3.0, 6.0]})
    row = over_seeds(table, ["beta", "quantity"]).iloc[0]
    assert row["value"] == 3.0
    assert row["se"] == pytest.approx(pd.Series([1.0, 2.0, 3.0, 6.0]).std() / 2)
    assert row["n"] == 4
    assert math.isnan(over_seeds(table[:1], ["beta"])["se"].iloc[0])


def test_pooled_keeps_the_error_that_seeds_share():
    table = pd.DataFrame(
        {"beta": [2.0, 1.0, 2.0, 2.0], "seed": [0, 0, 1, 2], "value": [1.0, 7.0, 2.0, 6.0], "se": [0.3, 0.5, 0.1, 0.2]}
    )
    found = pooled(table, ["beta"])
    assert found.index.tolist() == [2.0, 1.0]  # in the table's order
    assert found["value"].tolist() == [3.0, 7.0]
    spread = pd.Series([1.0, 2.0, 6.0]).var() / 3
    assert found["se"].tolist() == pytest.approx([math.sqrt((0.09 + 0.01 + 0.04) / 3 + spread), 0.5])
    assert pooled(table, ["beta", "seed"])["se"].tolist() == pytest.approx(table["se"].tolist())
