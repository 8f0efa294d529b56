"""Factor analysis from the items' covariance alone: maximum likelihood, and what a restricted encoder makes of it."""

from vae.exact.factor_analysis import ar1
from vae.exact.factor_analysis.examples import bifactor, dense, exact_sample, examples, simple, two_factors, two_forms
from vae.exact.factor_analysis.fit import FLOOR, FactorFit, Optimum, em_step, fit, optima
from vae.exact.factor_analysis.objective import (
    Encoder,
    Patterns,
    Posterior,
    elbo,
    elbo_of,
    gap,
    log_likelihood,
    posterior,
    precision,
)
from vae.exact.factor_analysis.structure import Parameters, Structure, confirmatory, exploratory
from vae.exact.factor_analysis.theory import first_order_bias, information, sample_covariances, standard_errors

__all__ = [
    "FLOOR",
    "Encoder",
    "FactorFit",
    "Optimum",
    "Parameters",
    "Patterns",
    "Posterior",
    "Structure",
    "ar1",
    "bifactor",
    "confirmatory",
    "dense",
    "elbo",
    "elbo_of",
    "em_step",
    "exact_sample",
    "examples",
    "exploratory",
    "first_order_bias",
    "fit",
    "gap",
    "information",
    "log_likelihood",
    "optima",
    "posterior",
    "precision",
    "sample_covariances",
    "simple",
    "standard_errors",
    "two_factors",
    "two_forms",
]
