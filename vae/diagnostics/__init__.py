"""What a trained model does, in numbers. Start in `information`: rate, information and activity of latents."""

from vae.diagnostics.information import (
    Estimate,
    active,
    active_units,
    aggregate_kl,
    decoded_draws,
    information_of,
    information_per_dim,
    lagrangian,
    mutual_information,
    pointwise_information,
    rate_and_distortion,
    rate_per_dim,
    variance_in_nats,
)

__all__ = [
    "Estimate",
    "active",
    "active_units",
    "aggregate_kl",
    "decoded_draws",
    "information_of",
    "information_per_dim",
    "lagrangian",
    "mutual_information",
    "pointwise_information",
    "rate_and_distortion",
    "rate_per_dim",
    "variance_in_nats",
]
