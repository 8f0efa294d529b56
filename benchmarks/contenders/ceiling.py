"""No trainer: the matrix product of 1024 x 1024 by itself, the most that arithmetic can reach here."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.cases import BATCH, Case

SIZE = 1024
FLOPS = 2.0 * SIZE**3


class Contender:
    step_members = 1

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        self.case, self.members = case, members
        stream = torch.Generator().manual_seed(0)
        self.a, self.b = (torch.randn(SIZE, SIZE, generator=stream) for _ in range(2))
        self.out = torch.empty(SIZE, SIZE)

    def run(self, steps: int) -> tuple[int, float]:
        begin = time.perf_counter()
        for _ in range(steps):
            torch.mm(self.a, self.b, out=self.out)
        return steps, time.perf_counter() - begin

    def operations(self) -> dict[str, float]:
        """GFLOP/s of the widest layer's batched product, and ns per value of noise and of tanh."""
        stream = torch.Generator().manual_seed(0)
        n_in, n_out = max(self.case.layers, key=lambda layer: layer[0] * layer[1])
        x, w = torch.randn(self.members, BATCH, n_in), torch.randn(self.members, n_in, n_out)
        out, values = torch.empty(self.members, BATCH, n_out), torch.randn(2**18)
        return {
            "batched product": x.numel() * n_out * 2 / _seconds(lambda: torch.bmm(x, w, out=out)) / 1e9,
            "normal noise": _seconds(lambda: values.normal_(generator=stream)) / values.numel() * 1e9,
            "tanh": _seconds(lambda: torch.tanh(values, out=values)) / values.numel() * 1e9,
        }


def _seconds(f: Callable[[], object]) -> float:
    """The median of seven blocks of at least 50 ms."""
    begin = time.perf_counter()
    f()
    calls = max(1, round(0.05 / (time.perf_counter() - begin)))
    blocks = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(calls):
            f()
        blocks.append((time.perf_counter() - begin) / calls)
    return sorted(blocks)[3]
