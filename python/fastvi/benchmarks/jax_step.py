"""The training step of `fastvi.benchmarks.perceptron_step` in JAX, compiled, with the state's memory donated.

The model has the names and shapes of weights of the model in PyTorch, and Adam the formula of `torch.optim.Adam`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastvi.benchmarks.jax_runtime import to_jax
from fastvi.benchmarks.timers import Call

LEARNING_RATE, FIRST_DECAY, SECOND_DECAY, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def loss(parameters: dict[str, Any], x: Any, noise: Any) -> Any:
    """Return minus the bound of Burda, Grosse & Salakhutdinov 2016, a mean over the batch.

    ``noise`` has the shape (K, B, Z), ``x`` (B, D).
    """
    from jax import nn, scipy
    from jax import numpy as jnp

    def linear(name: str, rows: Any) -> Any:
        return rows @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]

    def perceptron(name: str, head: str, rows: Any) -> Any:
        return linear(head, jnp.tanh(linear(f"{name}.2", jnp.tanh(linear(f"{name}.0", rows)))))

    mean, logvar = jnp.split(perceptron("encoder", "posterior_head", x), 2, -1)
    z = mean + jnp.exp(0.5 * logvar) * noise
    logits = perceptron("decoder", "likelihood_head", z)
    log_likelihood = (x * logits - nn.softplus(logits)).sum(-1)
    log_ratio = 0.5 * (noise**2 + logvar - z**2).sum(-1)  # of prior and posterior; the constants cancel
    log_weights = log_likelihood + log_ratio
    return -(scipy.special.logsumexp(log_weights, 0) - math.log(noise.shape[0])).mean()


def start(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state before the first step: the weights, both moments of Adam and the number of steps."""
    import jax
    from jax import numpy as jnp

    parameters = {name: to_jax(weight) for name, weight in weights.items()}
    moments = [jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    return {"parameters": parameters, "first": moments[0], "second": moments[1], "count": jnp.zeros((), "int32")}


def update(state: dict[str, Any], x: Any, noise: Any) -> tuple[dict[str, Any], Any]:
    """Return the state after one step of Adam, and the loss before it."""
    import jax
    from jax import numpy as jnp

    value, gradients = jax.value_and_grad(loss)(state["parameters"], x, noise)
    count = state["count"] + 1
    first_scale, second_scale = (1.0 - decay ** count.astype("float32") for decay in (FIRST_DECAY, SECOND_DECAY))

    def first_moment(moment: Any, gradient: Any) -> Any:
        return FIRST_DECAY * moment + (1.0 - FIRST_DECAY) * gradient

    def second_moment(moment: Any, gradient: Any) -> Any:
        return SECOND_DECAY * moment + (1.0 - SECOND_DECAY) * gradient**2

    def moved(parameter: Any, first: Any, second: Any) -> Any:
        root = jnp.sqrt(second / second_scale) + EPSILON
        return parameter - LEARNING_RATE * (first / first_scale) / root

    first = jax.tree.map(first_moment, state["first"], gradients)
    second = jax.tree.map(second_moment, state["second"], gradients)
    parameters = jax.tree.map(moved, state["parameters"], first, second)
    return {"parameters": parameters, "first": first, "second": second, "count": count}, value


def step_call(weights: Mapping[str, Tensor], x: Tensor, num_samples: int, latent_dim: int) -> Call:
    """Return the call of one step, which draws its own noise and waits for the new weights."""
    import jax

    shape = (num_samples, x.shape[0], latent_dim)

    def drawn(state: dict[str, Any], key: Any, x: Any) -> tuple[dict[str, Any], Any, Any]:
        key, own = jax.random.split(key)
        state, value = update(state, x, jax.random.normal(own, shape))
        return state, key, value

    compiled = jax.jit(drawn, donate_argnums=(0, 1))
    images = to_jax(x)
    state, key = start(weights), jax.random.key(0)

    def step() -> None:
        nonlocal state, key
        state, key, value = compiled(state, key, images)
        jax.block_until_ready((state, value))

    return step
