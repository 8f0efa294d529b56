"""What to expect of an estimate before making it: information, standard errors, the first-order bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vae.check import Numbers, tensor, tensors, whole
from vae.exact.factor_analysis.objective import Encoder, gap, log_likelihood
from vae.exact.factor_analysis.structure import Layout, Parameters, Structure
from vae.noise import numpy_generator


def information(parameters: Parameters, structure: Structure, S: Numbers | None = None) -> Tensor:
    """Fisher information of one datum about the free parameters, (..., P, P): expected, or observed in data of
    covariance S (p, p).

    In the order of `Layout.theta`: loadings, uniquenesses, factor correlations. The expected one of a normal
    distribution is half of tr(Sigma^-1 dSigma Sigma^-1 dSigma); the observed one is minus the log-likelihood's second
    derivative, and equal where the model fits.
    """
    parameters = tensors("parameters", parameters)
    layout = Layout(structure, parameters.W.shape[-2])
    if S is None:
        return _mapped(lambda theta: _information(theta, layout), layout.theta(parameters))
    loss = torch.func.hessian(lambda theta: -log_likelihood(layout.from_theta(theta), S))
    return _mapped(loss, layout.theta(parameters))


def standard_errors(parameters: Parameters, structure: Structure, n: int, S: Numbers | None = None) -> Parameters:
    """Asymptotic standard errors of maximum likelihood from n data at these parameters; 0 for what is fixed.

    From the expected information, or with the data's covariance S (p, p) from the observed one.

    ValueError: the parameters are not determined (an exploratory model of two factors may be rotated), or n is below 1.
    """
    n = whole("n", n, 1, "pass the number of data")
    layout = Layout(structure, parameters.W.shape[-2])
    inverse = torch.linalg.inv(_determined(information(parameters, structure, S)))
    return layout.placed((inverse.diagonal(dim1=-2, dim2=-1) / n).sqrt())


def first_order_bias(parameters: Parameters, structure: Structure, encoder: Encoder = "diagonal") -> Parameters:
    """What the ELBO's optimum differs by from these true parameters, to first order in the gap g: -I^-1 grad g.

    ValueError: the parameters are not determined, as for `standard_errors`.
    """
    parameters = tensors("parameters", parameters)
    layout = Layout(structure, parameters.W.shape[-2])
    _determined(information(parameters, structure))

    def one(theta: Tensor) -> Tensor:
        slope = torch.func.grad(lambda t: gap(layout.from_theta(t), encoder))(theta)
        return -torch.linalg.solve(_information(theta, layout), slope)

    return layout.placed(_mapped(one, layout.theta(parameters)))


def sample_covariances(covariance: Numbers, n: int, replicates: int, *, seed: int) -> Tensor:
    """1/n covariances (replicates, p, p) of n normal data with this covariance (p, p), their mean fitted.

    n times each is Wishart with n - 1 degrees of freedom, drawn without the data (Bartlett 1933). ValueError: n is too
    small for a covariance of full rank.
    """
    matrix = tensor("covariance", covariance, torch.float64)
    p = matrix.shape[-1]
    if n <= p:
        raise ValueError(f"n must exceed the {p} items, got {n}; fewer data have a singular covariance")
    stream = numpy_generator(seed, n)
    lower = np.tril(stream.standard_normal((replicates, p, p)), -1)
    lower[:, range(p), range(p)] = np.sqrt(stream.chisquare(n - 1 - np.arange(p), (replicates, p)))
    factor = torch.linalg.cholesky(matrix) @ torch.from_numpy(lower) / n**0.5
    return factor @ factor.mT


def _information(theta: Tensor, layout: Layout) -> Tensor:
    slopes = torch.func.jacfwd(lambda t: layout.from_theta(t).covariance())(theta)  # (p, p, P)
    inverse = torch.linalg.inv(layout.from_theta(theta).covariance())
    white = torch.einsum("ab,bcn->nac", inverse, slopes)
    return 0.5 * torch.einsum("nac,mca->nm", white, white)


def _determined(information: Tensor) -> Tensor:
    size = information.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(information.dtype).tiny).sqrt()
    smallest = torch.linalg.eigvalsh(information / size[..., None] / size[..., None, :])[..., 0]
    if not (smallest > 1e-10).all():
        raise ValueError(
            f"structure must be identified at these parameters, got an information matrix of rank below "
            f"{information.shape[-1]}; fix more of them (confirmatory), or take functions of the covariance alone"
        )
    return information


def _mapped(f: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    flat = torch.vmap(f)(theta.reshape(-1, theta.shape[-1]))
    return flat.reshape(*theta.shape[:-1], *flat.shape[1:])
