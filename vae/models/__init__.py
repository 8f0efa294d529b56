"""Models: encoders and decoders, likelihoods, and many models of one shape as one ensemble.

Start in `vae`: what a model is. `networks` and `likelihoods` are its parts, `decoders` and `multirate` other decoders,
`ensemble` stacks members of a sweep, `pruning` takes latents out of a trained one.
"""

from vae.models.decoders import MADE, FiLMDecoder, SkipDecoder
from vae.models.ensemble import Ensemble, stack
from vae.models.likelihoods import BernoulliLikelihood, DiagonalGaussianLikelihood, GaussianLikelihood, Likelihood
from vae.models.multirate import MultiRateVAE
from vae.models.networks import CommittedEncoder, LinearEncoder, MaskedLinear, MLPEncoder, linear, mlp
from vae.models.pruning import linear_cost, pruned
from vae.models.vae import VAE, Model, linear_vae_model, mlp_vae

__all__ = [
    "MADE",
    "VAE",
    "BernoulliLikelihood",
    "CommittedEncoder",
    "DiagonalGaussianLikelihood",
    "Ensemble",
    "FiLMDecoder",
    "GaussianLikelihood",
    "Likelihood",
    "LinearEncoder",
    "MLPEncoder",
    "MaskedLinear",
    "Model",
    "MultiRateVAE",
    "SkipDecoder",
    "linear",
    "linear_cost",
    "linear_vae_model",
    "mlp",
    "mlp_vae",
    "pruned",
    "stack",
]
