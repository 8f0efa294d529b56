"""How long and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `n_samples` is K, the latent samples per datum; history is averaged over `log_every`
    steps.

    A member with its own "learning_rate" uses that in place of the schedule's; "cosine" lets it fall to zero at the end
    (Loshchilov & Hutter 2017, eq. 5, one cycle). Adam's moments decay at 0.9 and 0.999, epsilon 1e-8 (Kingma & Ba
    2015).
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    decay: Literal["cosine", "constant"] = "cosine"
    n_samples: int = 1
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_samples", "log_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}; pass a positive integer")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}; try 1e-3")
        if self.decay not in ("cosine", "constant"):
            raise ValueError(f"decay must be 'cosine' or 'constant', got {self.decay!r}; pass one of the two")

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at this step."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay == "cosine" else 1.0
