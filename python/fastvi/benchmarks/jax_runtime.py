"""JAX as a provider where it is installed: why it is not timed, its start, and its calls for single operations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from torch import Tensor, from_numpy

from fastvi.benchmarks.timers import Call


def jax_obstacle(device: str, threads: int) -> str | None:
    """Why JAX is not timed; None where it is, after it was started with this number of threads."""
    if device != "cpu":
        return "it is timed on the CPU only"
    if find_spec("jax") is None:
        return "it is not installed: pip install jax"
    if "jax" not in sys.modules:  # what is set later, JAX does not read
        os.environ["NPROC"] = str(threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        import jax

        jax.devices("cpu")
    except (ImportError, RuntimeError, AttributeError) as error:
        return f"it cannot be imported ({' '.join(str(error).split())})"
    return None


def to_jax(tensor: Tensor) -> Any:
    """Return a copy of the tensor as an array of JAX."""
    from jax import numpy

    return numpy.array(tensor.detach().numpy())


def from_jax(array: Any) -> Tensor:
    """Return a copy of an array of JAX as a tensor."""
    import numpy

    return from_numpy(numpy.array(array))


def formulas() -> Mapping[str, Callable[..., Any]]:
    """Return the operations that JAX is timed with: formulas as one writes them, with the arguments of fastvi's."""
    import math

    from jax import nn, scipy
    from jax import numpy as jnp

    log_two_pi = math.log(2.0 * math.pi)

    def bernoulli_log_prob(x: Any, logits: Any) -> Any:
        return (x * logits - nn.softplus(logits)).sum(-1)

    return {
        "kl_normal": lambda mean, logvar: -0.5 * (1.0 + logvar - mean**2 - jnp.exp(logvar)).sum(-1),
        "normal_log_prob": lambda x, mean, logvar: (
            -0.5 * ((x - mean) ** 2 * jnp.exp(-logvar) + logvar + log_two_pi).sum(-1)
        ),
        "normal_entropy": lambda logvar: 0.5 * (logvar + (log_two_pi + 1.0)).sum(-1),
        "laplace_log_prob": lambda x, loc, log_scale: (
            -(jnp.abs(x - loc) * jnp.exp(-log_scale) + log_scale + math.log(2.0)).sum(-1)
        ),
        "bernoulli_log_prob": bernoulli_log_prob,
        "linear_bernoulli_log_prob": lambda h, weight, bias, x: bernoulli_log_prob(x, h @ weight.T + bias),
        "log_mean_exp": lambda x: scipy.special.logsumexp(x, 0) - math.log(x.shape[0]),
        "kinetic_energy": lambda p, inverse_mass: 0.5 * (p**2 * inverse_mass).sum(-1),
        "soft_threshold": lambda x, threshold: jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0.0),
    }


def operation_call(
    operation: str, inputs: Sequence[Tensor], differentiable: Sequence[int], upstream: Sequence[Tensor]
) -> tuple[Call, Callable[[], list[Tensor]]]:
    """Return the compiled call, which waits for its results, and the function that gives them as tensors.

    With ``differentiable`` positions they are the outputs followed by the gradients of these inputs.
    """
    import jax

    formula = formulas()[operation]
    arrays = [to_jax(tensor) for tensor in inputs]
    incoming = [to_jax(tensor) for tensor in upstream]

    def differentiated(arrays: list[Any], incoming: list[Any]) -> tuple[Any, Any]:
        def of_leaves(*leaves: Any) -> Any:
            arguments = list(arrays)
            for position, leaf in zip(differentiable, leaves, strict=True):
                arguments[position] = leaf
            return formula(*arguments)

        value, pull_back = jax.vjp(of_leaves, *(arrays[position] for position in differentiable))
        return value, pull_back(incoming[0])

    forward, backward = jax.jit(formula), jax.jit(differentiated)

    def call() -> Any:
        return jax.block_until_ready(backward(arrays, incoming) if differentiable else forward(*arrays))

    return call, lambda: [from_jax(array) for array in jax.tree.leaves(call())]
