"""One trainer for every sweep: all members of an ensemble, one loop, stochastic gradients by reparameterisation.

Start in `trainer` (`train`) and `objectives` (what is maximised); `schedule` says how long, `plan` how it is carried
out, `step` is one step as a pure function, `run` one chunk of members, `checkpoint` what an interrupted run leaves.
"""

from vae.train.objectives import (
    annealing,
    beta_elbo,
    elbo,
    exact_beta_elbo,
    free_bits,
    importance_weighted,
    iwae,
    log_px,
    losses_in_code,
    minimum_rate,
    multirate_elbo,
    remedied_elbo,
    terms,
    weighted_elbo,
    weights_of,
)
from vae.train.plan import Execution, Plan
from vae.train.schedule import Aggressive, Schedule
from vae.train.trainer import DivergedError, Trained, sweep, train

__all__ = [
    "Aggressive",
    "DivergedError",
    "Execution",
    "Plan",
    "Schedule",
    "Trained",
    "annealing",
    "beta_elbo",
    "elbo",
    "exact_beta_elbo",
    "free_bits",
    "importance_weighted",
    "iwae",
    "log_px",
    "losses_in_code",
    "minimum_rate",
    "multirate_elbo",
    "remedied_elbo",
    "sweep",
    "terms",
    "train",
    "weighted_elbo",
    "weights_of",
]
