"""One trainer for every sweep: all members of an ensemble, one loop, stochastic gradients by reparameterisation."""

from vae.train.plan import Execution, Plan
from vae.train.schedule import Aggressive, Schedule
from vae.train.trainer import DivergedError, Trained, train

__all__ = ["Aggressive", "DivergedError", "Execution", "Plan", "Schedule", "Trained", "train"]
