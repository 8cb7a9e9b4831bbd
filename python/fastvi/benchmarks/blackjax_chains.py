"""BlackJAX's HMC and ChEES-HMC, warmed up by BlackJAX and compiled once, as `fastvi.benchmarks.mcmc` times them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from fastvi.benchmarks.jax_runtime import from_jax, to_jax
from fastvi.benchmarks.timers import Call

LEARNING_RATE, FIRST_DECAY, SECOND_DECAY = 0.025, 0.0, 0.95
"""Of Adam in ChEES, as Hoffman, Radul and Sountsov 2021 have them."""
FIRST_STEP = 0.1
"""The step size that ChEES begins with."""


def is_installed() -> bool:
    """Whether there is a BlackJAX."""
    return find_spec("blackjax") is not None


class BlackJAXChains:
    """Chains of one log density, from one start.

    Parameters
    ----------
    log_density
        JAX's, of one position (D,).
    start
        Positions (C, D).
    num_steps
        Leapfrog steps of HMC's trajectories; None for ChEES.
    num_warmup, num_draws
        Transitions of the warm-up, and of `draws`.
    """

    def __init__(
        self, log_density: Callable[[Any], Any], start: Tensor, num_steps: int | None, num_warmup: int, num_draws: int
    ) -> None:
        import jax

        self._num_draws = num_draws
        warm_up = self._hmc if num_steps is not None else self._chees
        self._transition: Callable[..., Any] = lambda *_: None
        prepared = warm_up(log_density, to_jax(start), num_steps or 0, num_warmup)
        self._warm_up = jax.jit(prepared)
        self._sample = jax.jit(self._scan, static_argnums=3)
        self._warm: Any = None

    def _hmc(self, log_density: Any, start: Any, num_steps: int, num_warmup: int) -> Callable[[Any], Any]:
        import blackjax
        import jax

        kernel = blackjax.hmc.build_kernel()

        def transition(key: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            state, _ = kernel(key, state, log_density, parameters["step_size"], parameters["mass"], num_steps)
            return state, num_steps

        def one(key: Any, position: Any) -> Any:
            warm_up = blackjax.window_adaptation(blackjax.hmc, log_density, num_integration_steps=num_steps)
            (state, found), _ = warm_up.run(key, position, num_warmup)
            return state, {"step_size": found["step_size"], "mass": found["inverse_mass_matrix"]}

        self._transition = jax.vmap(transition)
        return lambda key: jax.vmap(one)(jax.random.split(key, len(start)), start)

    def _chees(self, log_density: Any, start: Any, _: int, num_warmup: int) -> Callable[[Any], Any]:
        import blackjax
        import jax
        import optax

        warm_up = blackjax.chees_adaptation(log_density, len(start))
        optimiser = optax.adam(LEARNING_RATE, b1=FIRST_DECAY, b2=SECOND_DECAY)
        functions: dict[str, Any] = {}

        def warmed(key: Any) -> Any:
            (states, found), _ = warm_up.run(
                key, start, FIRST_STEP, optimiser, num_warmup, max_sampling_steps=self._num_draws
            )
            functions.update({name: found[name] for name in ("next_random_arg_fn", "integration_steps_fn")})
            return states, {
                "step_size": found["step_size"],
                "inverse_mass_matrix": found["inverse_mass_matrix"],
                "integration_steps_params": found["integration_steps_params"],
            }

        def transition(keys: Any, states: Any, parameters: Any) -> tuple[Any, Any]:
            kernel = blackjax.dynamic_hmc(log_density, **functions, **parameters)
            states, info = jax.vmap(kernel.step)(keys, states)
            return states, info.num_integration_steps

        self._transition = transition
        return warmed

    def _scan(self, key: Any, states: Any, parameters: Any, num_draws: int) -> tuple[Any, Any]:
        import jax

        def step(states: Any, key: Any) -> tuple[Any, Any]:
            keys = jax.random.split(key, len(states.logdensity))
            states, num_steps = self._transition(keys, states, parameters)
            return states, (states.position, num_steps[0] if hasattr(num_steps, "shape") else num_steps)

        _, found = jax.lax.scan(step, states, jax.random.split(key, num_draws))
        position, num_steps = found
        return position, num_steps

    def draws(self, seed: int) -> tuple[Tensor, int]:
        """Warm up by this seed; return draws (N, C, D) and how many leapfrog steps a chain took for them."""
        import jax

        warm_key, sample_key = jax.random.split(jax.random.key(seed))
        self._warm = self._warm_up(warm_key)
        position, num_steps = self._sample(sample_key, *self._warm, self._num_draws)
        return from_jax(position), int(num_steps.sum())

    def call(self, num_transitions: int) -> tuple[Call, int]:
        """Return the call of so many transitions after the last warm-up, and how many leapfrog steps a chain takes."""
        import jax

        key, warm = jax.random.key(0), self._warm

        def sample() -> Any:
            return jax.block_until_ready(self._sample(key, *warm, num_transitions))

        return sample, int(sample()[1].sum())
