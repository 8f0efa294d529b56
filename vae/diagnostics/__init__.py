"""What a trained model does, in numbers. Start in `information`: rate, information and activity of latents."""

from vae.diagnostics.information import (
    Estimate,
    active,
    active_units,
    aggregate_kl,
    information_per_dim,
    mutual_information,
    pointwise_information,
    rate_per_dim,
    variance_in_nats,
)

__all__ = [
    "Estimate",
    "active",
    "active_units",
    "aggregate_kl",
    "information_per_dim",
    "mutual_information",
    "pointwise_information",
    "rate_per_dim",
    "variance_in_nats",
]
