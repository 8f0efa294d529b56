"""What a trained model does, in numbers. Start in `information`: rate, information and activity of latents."""

from vae.diagnostics.bound import bound_of, likelihood_bounds, noise_for
from vae.diagnostics.decoder import decoded_variance, direction_lengths, residual_threshold, with_best_variance
from vae.diagnostics.information import (
    Estimate,
    active,
    active_units,
    aggregate_kl,
    decoded_draws,
    information_of,
    information_per_dim,
    lagrangian,
    latents_of,
    mutual_information,
    pointwise_information,
    posteriors,
    rate_and_distortion,
    rate_per_dim,
    variance_in_nats,
)
from vae.diagnostics.linear import scalar_channel_of

__all__ = [
    "Estimate",
    "active",
    "active_units",
    "aggregate_kl",
    "bound_of",
    "decoded_draws",
    "decoded_variance",
    "direction_lengths",
    "information_of",
    "information_per_dim",
    "lagrangian",
    "latents_of",
    "likelihood_bounds",
    "mutual_information",
    "noise_for",
    "pointwise_information",
    "posteriors",
    "rate_and_distortion",
    "rate_per_dim",
    "residual_threshold",
    "scalar_channel_of",
    "variance_in_nats",
    "with_best_variance",
]
