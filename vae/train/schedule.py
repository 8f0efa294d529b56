"""How long and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vae.check import number, one_of, positive, whole


@dataclass(frozen=True)
class Aggressive:
    """In the first `until` of a run's steps, `part` of the model moves at every step, the rest at every `every`-th
    alone, with a new minibatch each time; from then on all of it moves at every step.

    Aggressive updates of a lagging encoder (He et al. 2019, arXiv:1901.05534), with a fixed number of its steps for
    each of the decoder's where they test for convergence. Steps are counted as `part` sees them: the rest moves
    `Schedule.rest_updates` times. Gradients of the rest are computed at every step, used or not.
    """

    every: int
    until: float
    part: str = "encoder"

    def __post_init__(self) -> None:
        every = whole("every", self.every, 2, "1 is ordinary training")
        object.__setattr__(self, "every", every)  # as Python's int, which JSON knows
        number("until", self.until, "lie above 0 and at most at 1", lambda v: 0 < v <= 1, "it is a part of the steps")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `n_samples` is K, the latent samples per datum; history is averaged over `log_every`
    steps.

    A member with its own "learning_rate" uses that in place of the schedule's; "cosine" lets it fall to zero at the end
    (Loshchilov & Hutter 2017, eq. 5, one cycle). Adam's moments decay at 0.9 and 0.999, epsilon 1e-8 (Kingma & Ba
    2015). `aggressive` holds back what is not the encoder for a while. What varies with the step within an objective,
    such as the KL's weight, does so through `member["progress"]` (see `train`).
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    decay: Literal["cosine", "constant"] = "cosine"
    n_samples: int = 1
    log_every: int = 100
    aggressive: Aggressive | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_samples", "log_every"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        object.__setattr__(self, "learning_rate", positive("learning_rate", self.learning_rate, "try 1e-3"))
        one_of("decay", self.decay, ("cosine", "constant"))
        if self.aggressive is not None and not isinstance(self.aggressive, Aggressive):
            raise ValueError(f"aggressive must be an Aggressive or None, got {self.aggressive!r}; pass one of the two")

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at this step."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay == "cosine" else 1.0

    def rest_moves(self, step: int) -> bool:
        """Whether all of the model moves at this step (from 0), not the aggressive part alone."""
        return self.rest_updates(step + 1) > self.rest_updates(step)

    def rest_updates(self, steps: int | None = None) -> int:
        """How often, in the first `steps` steps (by default all), what is not the aggressive part moves."""
        steps = self.steps if steps is None else steps
        if self.aggressive is None:
            return steps
        held = min(steps, round(self.aggressive.until * self.steps))
        return held // self.aggressive.every + steps - held
