"""JAX: gradients of all members by vmap, Adam on the tree of weights, steps in a scan, all under one jit."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import LEARNING_RATE, Case, Weights, data, inputs, weights

SCAN = 16  # steps of a call


class Contender:
    """Minibatches and noise of `run` were drawn before and come round again, which flatters JAX: its generator would
    take part of every step.
    """

    def __init__(self, case: Case, members: int, dtype: str) -> None:
        jax.config.update("jax_enable_x64", dtype == "float64")
        self.case, self.members, self.step_members = case, members, members
        self.data = jnp.asarray(data(case, dtype))
        self.start = [jnp.asarray(array) for array in weights(case, members, dtype)]
        self.steps = jax.jit(lambda state, x, given: jax.lax.scan(self._step(x), state, given)[0], donate_argnums=0)
        self.state = self._fresh()
        self.given = tuple(jnp.asarray(array) for array in inputs(case, members, SCAN, dtype))
        begin = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - begin

    def run(self, steps: int) -> tuple[int, float]:
        calls = -(-steps // SCAN)
        begin = time.perf_counter()
        for _ in range(calls):
            self.state = self.steps(self.state, self.data, self.given)
        jax.block_until_ready(self.state)
        return calls * SCAN, time.perf_counter() - begin

    def replay(self, index: np.ndarray, eps: np.ndarray) -> Weights:
        state = self.steps(self._fresh(), self.data, (jnp.asarray(index), jnp.asarray(eps)))
        return [np.asarray(array) for array in state[0]]

    def _fresh(self) -> tuple[Any, ...]:
        zeros = [jnp.zeros_like(array) for array in self.start]
        return [jnp.copy(array) for array in self.start], zeros, [jnp.copy(array) for array in zeros], 0

    def _step(self, x: jax.Array) -> Any:
        case = self.case
        n_encoder = 2 * (len(case.encoder) - 1)

        def net(layers: list[jax.Array], h: jax.Array) -> jax.Array:
            for i in range(0, len(layers), 2):
                h = h @ layers[i].T + layers[i + 1]
                h = jnp.tanh(h) if i + 2 < len(layers) else h
            return h

        def loss(w: list[jax.Array], x: jax.Array, eps: jax.Array) -> jax.Array:
            mean, log_var = jnp.split(net(w[:n_encoder], x), 2, axis=-1)
            logits = net(w[n_encoder:], mean + jnp.exp(0.5 * log_var) * eps)
            log_px_z = (x * logits - jax.nn.softplus(logits)).sum(-1)
            kl = 0.5 * (mean**2 + jnp.expm1(log_var) - log_var).sum(-1)
            return (kl - log_px_z).mean()

        gradients = jax.vmap(jax.grad(loss))

        def step(state: Any, given: Any) -> Any:
            w, first, second, t = state
            index, eps = given
            g = gradients(w, x[index], eps)
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, g)
            t = t + 1
            rate, correction = LEARNING_RATE / (1 - 0.9**t), 1 / (1 - 0.999**t)
            w = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v * correction) + 1e-8), w, first, second)
            return (w, first, second, t), None

        return step
