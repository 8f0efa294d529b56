import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.testing import assert_close

from vae.exact import linear_gaussian as lg
from vae.gaussian import DiagonalGaussian, kl

N, X, Z = 11, 7, 3


@pytest.fixture(params=["scalar psi", "full model"])
def model(request, normal):
    W, x = normal(X, Z), 2 * normal(N, X)
    if request.param == "scalar psi":
        return {"W": W, "psi": 0.3, "x": x, "mu": None, "phi": None}
    factor = torch.diag(torch.tensor([1.3, 0.7, 0.8]).double()) + 0.3 * torch.tril(normal(Z, Z), -1)
    return {"W": W, "psi": 0.2 + normal(X).square(), "x": x, "mu": normal(X), "phi": factor @ factor.mT}


def dense(W, psi, x, mu, phi):
    """Joint covariance of (z, x), written out."""
    phi = torch.eye(Z).double() if phi is None else phi
    noise = torch.diag(torch.as_tensor(psi, dtype=torch.float64).expand(X))
    sigma = W @ phi @ W.mT + noise
    mu = torch.zeros(X).double() if mu is None else mu
    return phi, sigma, mu


def test_posterior_and_evidence_are_those_of_the_dense_joint(model):
    phi, sigma, mu = dense(**model)
    gain = phi @ model["W"].mT @ torch.linalg.inv(sigma)
    q = lg.posterior(**model)
    assert_close(q.mean, (model["x"] - mu) @ gain.mT, rtol=1e-10, atol=1e-10)
    assert_close(q.covariance()[0], phi - gain @ model["W"] @ phi, rtol=1e-10, atol=1e-10)
    law = stats.multivariate_normal(mu.numpy(), sigma.numpy())
    expected = torch.from_numpy(law.logpdf(model["x"].numpy()))
    assert_close(lg.log_evidence(**model), expected, rtol=1e-11, atol=1e-11)


def test_log_evidence_when_the_noise_almost_vanishes(normal):
    W, x = normal(X, Z), normal(N, Z)
    data = x @ W.mT
    got = lg.log_evidence(W, 1e-8, data)
    sigma = W @ W.mT + 1e-8 * torch.eye(X).double()
    eigenvalues, vectors = torch.linalg.eigh(sigma)
    quadratic = ((data @ vectors).square() / eigenvalues)[:, -Z:].sum(-1)  # the data have no other component
    expected = -0.5 * (X * math.log(2 * math.pi) + eigenvalues.log().sum() + quadratic)
    assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_the_bound_and_its_gap(model, normal):
    """log p - ELBO = KL(q || posterior) = approximation gap + amortization gap, each computed by itself."""
    if model["phi"] is not None:
        model["phi"] = None  # the ELBO below takes the prior N(0, I)
    q = DiagonalGaussian(normal(N, Z), 0.5 * normal(N, Z))
    elbo = lg.expected_log_lik(model["W"], model["psi"], model["x"], q, model["mu"]) - q.kl_to_standard_normal()
    gap = lg.log_evidence(**model) - elbo
    assert_close(gap, kl(q, lg.posterior(**model)), rtol=1e-9, atol=1e-9)
    family = lg.approximation_gap(model["W"], model["psi"])
    assert_close(
        gap, family + lg.amortization_gap(model["W"], model["psi"], model["x"], q, model["mu"]), rtol=1e-9, atol=1e-9
    )
    assert (gap > 0).all()
    assert family > 0


def test_the_best_diagonal_posterior_closes_the_amortization_gap(model):
    precision = lg.posterior_precision(model["W"], model["psi"], model["phi"])
    q = DiagonalGaussian(lg.posterior(**model).mean, -precision.diagonal().log().expand(N, Z))
    assert_close(lg.amortization_gap(q=q, **model), torch.zeros(N).double(), rtol=0, atol=1e-12)
    assert_close(
        kl(q, lg.posterior(**model)),
        torch.full((N,), lg.approximation_gap(model["W"], model["psi"], model["phi"])).double(),
    )


def test_approximation_gap_vanishes_when_columns_are_orthogonal(normal):
    W = torch.linalg.qr(normal(X, Z)).Q * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    assert lg.approximation_gap(W, 0.4) < 1e-14


def test_functions_map_over_models(normal):
    W, x = normal(5, X, Z), normal(N, X)
    got = torch.vmap(lambda w: lg.log_evidence(w, 0.3, x))(W)
    assert_close(got, torch.stack([lg.log_evidence(w, 0.3, x) for w in W]))


def beta_elbo(W, V, log_var, S, beta, noise_variance):
    """The linear beta-VAE's objective on a source of covariance S, from its definition."""
    x_dim = S.shape[0]
    residual = torch.eye(x_dim).double() - W @ V
    squared = torch.trace(residual @ S @ residual.mT) + (W.square() @ log_var.exp()).sum()
    rate = 0.5 * (torch.trace(V @ S @ V.mT) + (log_var.exp() - 1 - log_var).sum())
    return -0.5 * (x_dim * math.log(2 * math.pi * noise_variance) + squared / noise_variance) - beta * rate


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_linear_vae_is_the_optimum_that_an_optimiser_finds(beta, normal):
    x_dim, z_dim, noise = 6, 3, 0.5
    spectrum = torch.tensor([5.0, 2.5, 1.3, 0.7, 0.4, 0.2], dtype=torch.float64)
    rotation = torch.linalg.qr(normal(x_dim, x_dim)).Q
    S = rotation @ torch.diag(spectrum) @ rotation.mT
    sizes = [x_dim * z_dim, z_dim * x_dim, z_dim]

    def value(flat):
        W, V, log_var = flat.split(sizes)
        return -beta_elbo(W.view(x_dim, z_dim), V.view(z_dim, x_dim), log_var, S, beta, noise)

    def both(flat):
        gradient, loss = torch.func.grad_and_value(value)(torch.from_numpy(flat))
        return float(loss), gradient.numpy()

    best = min(
        (
            optimize.minimize(
                both,
                0.5 * normal(sum(sizes)).numpy(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 20_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30},
            )
            for _ in range(3)
        ),
        key=lambda r: r.fun,
    )
    exact = lg.linear_vae(spectrum.flip(0), beta, noise, z_dim)
    assert_close(-best.fun, exact.objective, rtol=0, atol=1e-7)
    W, V, log_var = torch.from_numpy(best.x).split(sizes)
    V, log_var = V.view(z_dim, x_dim), log_var
    kl_per_dim = 0.5 * ((V @ S * V).sum(-1) + log_var.exp() - 1 - log_var)
    assert_close(kl_per_dim.sort(descending=True).values, exact.kl, rtol=0, atol=2e-3)
    assert_close(float(kl_per_dim.sum()), exact.rate, rtol=0, atol=1e-3)


def test_linear_vae_at_beta_one_is_probabilistic_pca():
    spectrum = torch.tensor([4.0, 2.0, 0.5, 0.3], dtype=torch.float64)
    noise = lg.learned_noise_variance(spectrum, 1.0, 2)
    assert noise == pytest.approx(0.4)  # Tipping & Bishop: the mean of what is left out
    fitted = torch.tensor([4.0, 2.0, noise, noise], dtype=torch.float64)
    log_likelihood = -0.5 * (4 * math.log(2 * math.pi) + fitted.log().sum() + (spectrum / fitted).sum())
    assert lg.linear_vae(spectrum, 1.0, noise, 2).objective == pytest.approx(float(log_likelihood), abs=1e-12)


def test_beta_and_fixed_noise_variance_are_one_knob():
    spectrum = torch.tensor([4.0, 2.0, 0.5], dtype=torch.float64)
    a, b = lg.linear_vae(spectrum, 6.0, 0.1, 2), lg.linear_vae(spectrum, 1.0, 0.6, 2)
    assert_close(a.kl, b.kl)
    assert a.distortion == pytest.approx(b.distortion)


def test_more_latents_than_data_dimensions_add_nothing():
    spectrum = torch.tensor([4.0, 2.0], dtype=torch.float64)
    wide = lg.linear_vae(spectrum, 1.0, 0.1, 5)
    assert wide.kl.shape == (5,)
    assert wide.active == 2
    assert wide.objective == lg.linear_vae(spectrum, 1.0, 0.1, 2).objective


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("z_dim", [1, 2, 4])
@pytest.mark.parametrize("spectrum", [(16.0, 4.0, 1.0, 1.0, 1.0), (3.0, 2.0, 0.9, 0.5, 0.0), (2.0, 2.0, 2.0, 2.0, 0.1)])
def test_learned_noise_variance_beats_a_fine_grid(beta, z_dim, spectrum):
    spectrum = torch.tensor(spectrum, dtype=torch.float64)
    if z_dim == 4 and spectrum[-1] == 0 and beta <= 1:
        with pytest.raises(ValueError, match="unbounded"):
            lg.learned_noise_variance(spectrum, beta, z_dim)
        return
    best = lg.learned_noise_variance(spectrum, beta, z_dim)
    top = lg.linear_vae(spectrum, beta, best, z_dim).objective
    grid = torch.logspace(-4, 2, 2001).double()
    values = torch.tensor([lg.linear_vae(spectrum, beta, float(s), z_dim).objective for s in grid], dtype=torch.float64)
    assert top >= float(values.max()) - 1e-12
    assert abs(math.log(best / float(grid[values.argmax()]))) < 0.02 or top == pytest.approx(
        float(values.max()), abs=1e-9
    )


def test_learned_noise_variance_on_known_cases():
    pca = torch.tensor([16.0, 4.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert lg.learned_noise_variance(pca, 1.5, 2) == pytest.approx(1.5)  # 3 / (5 - 1.5 * 2)
    assert lg.learned_noise_variance(torch.tensor([3.0, 2.0], dtype=torch.float64), 1.0, 2) == pytest.approx(
        2.0
    )  # plateau: its end
    assert lg.learned_noise_variance(torch.tensor([2.0], dtype=torch.float64), 3.0, 1) == pytest.approx(
        2.0
    )  # full collapse
    with pytest.raises(ValueError, match="unbounded"):
        lg.learned_noise_variance(torch.tensor([2.0], dtype=torch.float64), 0.5, 1)
    with pytest.raises(ValueError, match="unbounded"):
        lg.learned_noise_variance(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64), 1.0, 2)
    with pytest.raises(ValueError, match="unbounded"):
        lg.learned_noise_variance(torch.zeros(3).double(), 1.0, 2)
    assert lg.learned_noise_variance(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64), 3.0, 2) > 0


@pytest.mark.parametrize(("beta", "used"), [(0.5, 5), (0.9, 5), (1.0, 3), (1.5, 3), (2.2, 3)])
def test_a_noisy_surfaces_variance_is_the_noises_at_beta_one_only(beta, used):
    dim, z_dim, noise = 7, 5, 0.01  # below beta = 1 the two superfluous latents encode noise
    spectrum = noise + torch.tensor([11.0, 5.0, 2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    best = lg.learned_noise_variance(spectrum, beta, z_dim)
    assert best == pytest.approx(noise * (dim - used) / (dim - beta * used), rel=1e-12)
    assert beta == 1 or lg.linear_vae(spectrum, beta, best, z_dim).active == used
    for change in (1.001, 0.999):
        other = lg.linear_vae(spectrum, beta, best * change, z_dim).objective
        assert other < lg.linear_vae(spectrum, beta, best, z_dim).objective


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_noise_free_data_pay_the_dimensions_less_the_price_per_unit_of_precision(beta):
    spectrum = torch.tensor([4.0, 2.0, 1.0, *[0.0] * 7], dtype=torch.float64)
    at = [lg.linear_vae(spectrum, beta, math.exp(-2 * minus_log), 5) for minus_log in (6.0, 7.0)]
    assert at[1].objective - at[0].objective == pytest.approx(10 - 3 * beta, abs=1e-9)
    assert at[1].rate - at[0].rate == pytest.approx(3, abs=1e-9)


def test_an_eigensolvers_rounding_counts_as_zero(normal):
    x = normal(200, 2) @ normal(2, 6)
    eigenvalues = torch.linalg.eigvalsh(x.mT @ x / 200)  # four of them are zero up to rounding, of either sign
    with pytest.raises(ValueError, match="rank 2 in 6"):
        lg.learned_noise_variance(eigenvalues, 1.0, 2)


@pytest.mark.parametrize("a", [-1.3, 0.0, 0.7])
def test_scalar_channel_is_the_best_encoder(a):
    variance, beta, noise = 1.7, 2.0, 0.3
    exact = lg.scalar_channel(a, variance, beta, noise)

    def loss(point):
        k, log_s2 = point
        s2 = math.exp(log_s2)
        distortion = (1 - a * k) ** 2 * variance + a * a * s2
        return distortion / (2 * noise) + beta * 0.5 * (k * k * variance + s2 - 1 - log_s2)

    found = optimize.minimize(loss, [0.1, -0.1], tol=1e-14)
    assert loss([exact.k, math.log(exact.s2)]) <= found.fun + 1e-12
    assert exact.k == pytest.approx(found.x[0], abs=1e-5)
    assert exact.distortion == pytest.approx((1 - a * exact.k) ** 2 * variance + a * a * exact.s2)
    level = beta * noise
    assert exact.mutual_information == pytest.approx(0.5 * math.log1p(a * a * variance / (level * (a * a + level))))
    assert exact.rate >= exact.mutual_information - 1e-15


def test_scalar_channel_at_the_best_decoder_is_the_linear_vae():
    variance, beta, noise = 1.7, 2.0, 0.3
    channel = lg.scalar_channel(math.sqrt(variance - beta * noise), variance, beta, noise)
    exact = lg.linear_vae(torch.tensor([variance]), beta, noise, 1)
    assert channel.rate == pytest.approx(exact.rate)
    assert channel.mutual_information == pytest.approx(exact.rate)  # the aggregated posterior is the prior
    assert channel.distortion == pytest.approx(exact.distortion)


def test_collapse_threshold(normal):
    x = normal(500, 4) * torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    centred = x - x.mean(0)
    assert lg.collapse_threshold(x, "gaussian") == pytest.approx(
        float(torch.linalg.eigvalsh(centred.mT @ centred / 500)[-1])
    )
    bits = (x > 0.1).double()
    constant = torch.cat([bits, torch.ones(500, 1).double(), torch.zeros(500, 1).double()], 1)
    expected = float(torch.linalg.eigvalsh(torch.corrcoef(bits.mT))[-1])
    assert lg.collapse_threshold(constant, "bernoulli") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lg.linear_vae(torch.ones(3), -1.0, 0.1, 2), "beta must be positive"),
        (lambda: lg.linear_vae(torch.ones(3), math.nan, 0.1, 2), "beta must be positive"),
        (lambda: lg.linear_vae(torch.ones(3), 1.0, 0.0, 2), "noise_variance must be positive"),
        (lambda: lg.linear_vae(torch.ones(3), 1.0, 0.1, 0), "latent_dim must be an integer"),
        (lambda: lg.linear_vae(torch.tensor([1.0, -0.5]), 1.0, 0.1, 1), "eigenvalues must be non-negative"),
        (lambda: lg.linear_vae(torch.tensor([1.0, math.nan]), 1.0, 0.1, 1), "eigenvalues must be a finite"),
        (lambda: lg.scalar_channel(math.inf, 1.0, 1.0, 1.0), "a must be finite"),
        (lambda: lg.collapse_threshold(torch.tensor([[0.0], [math.nan]]), "gaussian"), "x must be finite"),
        (lambda: lg.collapse_threshold(torch.tensor([[0.0], [2.0]]), "bernoulli"), r"x must lie in \[0, 1\]"),
        (lambda: lg.collapse_threshold(torch.zeros(3, 2), "bernoulli"), "x must vary"),
        (lambda: lg.collapse_threshold(torch.zeros(3, 2), "poisson"), "likelihood must be"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_bound_above_the_likelihood_is_an_n_minus_one():
    """Where maximum likelihood is computed from np.cov's 1/(N - 1), the ELBO of the same model may end above it.

    N = 1000 data of 784 dimensions: the excess is 784/2 log(1000/999) = .392 nats, whatever the data; none with 1/N.
    """
    n, dim, k = 1000, 784, 20
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((n, dim)) * np.linspace(0.1, 2, dim))
    covariance = torch.from_numpy(np.cov(x.numpy(), rowvar=False))

    def maximum(spectrum):  # of the likelihood, if the data had this covariance (Tipping & Bishop 1999, eq. 5 and 8)
        spectrum = spectrum.sort(descending=True).values
        left = spectrum[k:].mean()
        return -0.5 * (dim * math.log(2 * math.pi) + spectrum[:k].log().sum() + (dim - k) * left.log() + dim)

    values = torch.linalg.eigvalsh(covariance)
    right = values * (n - 1) / n
    best = lg.linear_vae(right, 1.0, lg.learned_noise_variance(right, 1.0, k), k).objective
    assert_close(float(maximum(right)), best, rtol=0, atol=1e-9)  # the ELBO reaches the likelihood, and is not above it
    assert_close(best - float(maximum(values)), dim / 2 * math.log(n / (n - 1)), rtol=0, atol=1e-9)
    assert round(dim / 2 * math.log(n / (n - 1)), 3) == 0.392


@pytest.mark.parametrize(("grid", "side"), [([1.0, 2.0], "below"), ([5.0], "above"), ([1.0, 4.25], "below")])
def test_a_grid_that_straddles_no_threshold_is_warned_of_with_its_value(grid, side):
    with pytest.warns(UserWarning, match=rf"beta straddles no threshold: collapse sets in at 4.25, .* all {side}"):
        lg.warn_unless_straddled("beta", grid, 4.25)


def test_a_grid_that_straddles_the_threshold_is_not():
    lg.warn_unless_straddled("beta", [5.0, 1.0], 4.25)  # a warning would be an error here
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="beta must hold finite numbers"):
            lg.warn_unless_straddled("beta", bad, 4.25)


def test_principal_axes_are_those_of_the_covariance(normal):
    x = normal(29, 5) @ normal(5, 5) + 3
    found = lg.principal_axes(x)
    rebuilt = found.axes @ found.eigenvalues.diag() @ found.axes.mT
    torch.testing.assert_close(rebuilt, torch.cov(x.mT, correction=0))
    assert (found.eigenvalues.diff() <= 0).all()
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(float(found.eigenvalues[0]), lg.collapse_threshold(x, "gaussian"))
    assert (lg.principal_axes(x[:3]).eigenvalues >= 0).all()  # two directions vary


def test_principal_axes_refuse_what_is_no_data():
    with pytest.raises(ValueError, match="x must be of shape"):
        lg.principal_axes(torch.zeros(3))
