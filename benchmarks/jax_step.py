"""The step of `jitted.py` in JAX, under jit: a Normal, its divergence from another, and Adam.

Runs in an environment with jax and flowjax, without torch.

    python benchmarks/jax_step.py jax|flowjax
"""

# mypy: ignore-errors

from __future__ import annotations

import os
import sys
import time

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import equinox
import flowjax.distributions
import jax
import jax.numpy as jnp
import optax
import paramax

DIMS, SAMPLES, STEPS, BEST_OF = 64, 1_000, 200, 10
LOC, SCALE = jnp.ones(DIMS), 2 * jnp.ones(DIMS)
optimizer = optax.adam(1e-6)


def log_normal(x, loc, scale):
    """The log density, element by element."""
    return -((x - loc) ** 2) / (2 * scale**2) - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)


def by_hand(parameters, key):
    """The loss as one writes it."""
    scale = jnp.exp(parameters["log_scale"])
    x = parameters["loc"] + scale * jax.random.normal(key, (SAMPLES, DIMS))
    return (log_normal(x, parameters["loc"], scale) - log_normal(x, LOC, SCALE)).mean()


def with_flowjax(trained, static, key):
    """The loss with a distribution of flowjax; its log_prob sums over the event."""
    q = paramax.unwrap(equinox.combine(trained, static))
    x, log_q = q.sample_and_log_prob(key, (SAMPLES,))
    target = log_normal(x, LOC, SCALE).sum(-1)
    return (log_q - target).mean() / DIMS


def step_of(loss, parameters):
    """A jitted step, donating what it replaces."""

    def step(parameters, state, key):
        key, own = jax.random.split(key)
        gradients = jax.grad(loss)(parameters, own)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(parameters, updates), state, key

    return jax.jit(step, donate_argnums=(0, 1)), parameters, optimizer.init(parameters)


def main(kind):
    """Print the microseconds of one step."""
    if kind == "jax":
        parameters = {"loc": jnp.zeros(DIMS), "log_scale": jnp.zeros(DIMS)}
        step, parameters, state = step_of(by_hand, parameters)
    else:
        q = flowjax.distributions.Normal(jnp.zeros(DIMS), jnp.ones(DIMS))
        trained, static = equinox.partition(q, equinox.is_inexact_array)
        step, parameters, state = step_of(lambda p, key: with_flowjax(p, static, key), trained)
    key = jax.random.key(0)
    times = []
    for _ in range(BEST_OF + 1):
        start = time.perf_counter()
        for _ in range(STEPS):
            parameters, state, key = step(parameters, state, key)
        jax.block_until_ready(parameters)
        times.append((time.perf_counter() - start) / STEPS)
    print(1e6 * min(times[1:]))


if __name__ == "__main__":
    main(sys.argv[1])
