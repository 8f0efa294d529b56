"""VAEs, Measured: exact solutions, certified estimators and one trainer for sweeps of variational autoencoders."""

from vae.config import Config

__all__ = ["Config"]
