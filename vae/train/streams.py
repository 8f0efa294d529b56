"""What a chunk of members reads: training rows, minibatches, noise. Members that share a seed share all three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae.noise import Shuffled, generator
from vae.train.schedule import Schedule

GREY_LEVELS = (16, 255)  # of images whose pixels were integers: digits; all others


class Rows(NamedTuple):
    """Training data (N, X) as they lie on the device: images as bytes, x = values / levels; others (levels 0) as they
    are.
    """

    values: Tensor
    levels: int
    dtype: torch.dtype

    def at(self, index: Tensor) -> Tensor:
        """Rows (*index.shape, X) in the training's dtype, bit for bit those of the data given."""
        x = self.values[index]
        # A GPU may multiply by a reciprocal, off by a rounding: in float64 that is lost in the float32 which follows.
        through = torch.float64 if x.is_cuda else torch.float32
        return (x.to(through) / self.levels).to(torch.float32).to(self.dtype) if self.levels else x


def rows_of(data: Tensor, dtype: torch.dtype) -> Rows:
    """`data` (N, X) for training in `dtype`, as bytes where that loses nothing: a quarter of the memory and traffic."""
    for levels in GREY_LEVELS:
        packed = (data * levels).round().clamp(0, 255).to(torch.uint8)
        rows = Rows(packed, levels, dtype)
        if torch.equal((packed.to(torch.float32) / levels).to(data.dtype), data):
            return rows
    return Rows(data.to(dtype), 0, dtype)


class Draws(NamedTuple):
    """Minibatches `rows` (steps, streams, B) and noise `eps` (steps, streams, K, B, Z) of consecutive steps, and the
    noise generators' states after them.
    """

    rows: Tensor
    eps: Tensor
    noise_states: tuple[Tensor, ...]


class Streams:
    """The random streams of some members: one for each distinct pair of seed and subset of rows.

    Drawn on the CPU, step by step, so that neither the device nor the length of a stretch changes a number.
    """

    def __init__(
        self,
        members: Sequence[Mapping[str, Any]],
        n_rows: int,
        schedule: Schedule,
        z_dim: int,
        dtype: torch.dtype,
        subsets: Sequence[Tensor] | None,
        pin: bool = False,
    ) -> None:
        keys = stream_keys(members, subsets)
        distinct = dict.fromkeys(keys)
        self.of_member = torch.tensor([list(distinct).index(key) for key in keys])
        self._subsets = [None if subset is None else torch.tensor(subset) for _, subset in distinct]
        self._orders = [
            Shuffled(n_rows if subset is None else len(subset), generator(seed, "batches")) for seed, subset in distinct
        ]
        self._noise = [generator(seed, "noise") for seed, _ in distinct]
        self._shape = (schedule.n_samples, schedule.batch_size, z_dim)
        self._dtype, self._pin = dtype, pin

    def draw(self, steps: int) -> Draws:
        """The next `steps` steps."""
        batch = self._shape[1]
        rows = []
        for order, subset in zip(self._orders, self._subsets, strict=True):
            taken = order.take(steps * batch).view(steps, batch)
            rows.append(taken if subset is None else subset[taken])
        # PyTorch fills 16 numbers at a time, so that only then several steps at once are the same numbers.
        at_once = torch.Size(self._shape).numel() % 16 == 0
        eps = torch.empty((len(self._noise), steps, *self._shape), dtype=self._dtype)
        for target, stream in zip(eps, self._noise, strict=True):
            for part in [target] if at_once else target:
                torch.randn(part.shape, generator=stream, dtype=self._dtype, out=part)
        found = torch.stack(rows, dim=1), eps.movedim(0, 1).contiguous()
        if self._pin:  # so that the copy to the GPU need not be waited for
            found = found[0].pin_memory(), found[1].pin_memory()
        return Draws(*found, tuple(stream.get_state() for stream in self._noise))

    def resume(self, steps: int, noise_states: Sequence[Tensor]) -> None:
        """Go on behind the first `steps` steps. Minibatches are cheap to draw again, noise is not."""
        for order in self._orders:
            order.skip(steps * self._shape[1])
        for stream, state in zip(self._noise, noise_states, strict=True):
            stream.set_state(state)

    def step_bytes(self) -> int:
        """The memory that one step's noise takes."""
        return len(self._noise) * self._dtype.itemsize * torch.Size(self._shape).numel()


def stream_keys(
    members: Sequence[Mapping[str, Any]], subsets: Sequence[Tensor] | None
) -> list[tuple[int, tuple[int, ...] | None]]:
    """(seed, subset) of every member: those with equal keys see the same minibatches and noise."""
    rows = [None] * len(members) if subsets is None else [tuple(subset.tolist()) for subset in subsets]
    return [(member["seed"], subset) for member, subset in zip(members, rows, strict=True)]
