"""Types of the native modules, one for each instruction set and one for CUDA devices: for type checkers alone.

The functions take tensors, or in ``numpy`` arrays, of the module's kind of device, and return new ones. For bfloat16
and float16 all arithmetic, sums included, runs in float32 and is rounded where a result is stored.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any
"""A PyTorch tensor, or a NumPy array."""

Optional: TypeAlias = Any
"""An array, or None for what is not given."""

Needs: TypeAlias = Sequence[bool]
"""For which arguments a gradient is wanted; the others' are None."""

Gradients: TypeAlias = tuple[Optional, ...]

class Forward(Protocol):
    """The results of operations: of those written out here, and of those that csrc/operations.h lists.

    `row_operations` and `map_operations` tell the arguments of the latter.
    """

    def __getattr__(self, listed: str, /) -> Callable[..., Any]: ...
    def log_mean_exp(self, x: Array, dim: int, /) -> Array: ...
    def importance_weights(self, log_weights: Array, dim: int, /) -> Array: ...
    def effective_sample_size(self, log_weights: Array, dim: int, /) -> Array: ...
    def bernoulli_epilogue(self, logits: Array, bias: Optional, x: Array, keep_residual: bool, /) -> Array: ...
    def activate_layer(
        self, product: Array, activation: int, bias: Optional, slope: Optional, copy: Optional, /
    ) -> None: ...
    def rsample_normal(
        self, mean: Array, logvar: Array, seed: Any, sample_shape: int | Sequence[int], row_offset: int, /
    ) -> Array: ...
    def rsample_normal_with_log_ratio(
        self,
        mean: Array,
        logvar: Array,
        prior_mean: Optional,
        prior_logvar: Optional,
        seed: Any,
        num_samples: int,
        detach_posterior: bool,
        row_offset: int,
        /,
    ) -> tuple[Array, Array]: ...
    def fill_standard_normal(self, out: Array, seed: Any, /) -> None: ...

class Backward(Protocol):
    """The gradients of operations: those of the results come first, then the arguments of the forward function."""

    def __getattr__(self, listed: str, /) -> Callable[..., Gradients]: ...
    def log_mean_exp(self, grad: Array, x: Array, dim: int, needs: Needs, /) -> Gradients: ...
    def importance_weights(self, grad: Array, log_weights: Array, dim: int, needs: Needs, /) -> Gradients: ...
    def rsample_normal(
        self,
        grad: Array,
        mean: Array,
        logvar: Array,
        seed: Array,
        sample_shape: Sequence[int],
        row_offset: int,
        needs: Needs,
        /,
    ) -> Gradients: ...
    def rsample_normal_with_log_ratio(
        self,
        grad_z: Optional,
        grad_log_ratio: Optional,
        mean: Array,
        logvar: Array,
        prior_mean: Optional,
        prior_logvar: Optional,
        seed: Array,
        num_samples: int,
        detach_posterior: bool,
        row_offset: int,
        needs: Needs,
        /,
    ) -> Gradients: ...

class NativeModule(Protocol):
    """A native module.

    The functions of ``attempt`` take what the public functions take; they return NotImplemented where a transform, a
    mode or an unusual tensor asks for another route, and None where PyTorch is to record the call. Those of
    ``attempt_backward`` return NotImplemented likewise.
    """

    forward: Forward
    backward: Backward
    attempt: Any
    attempt_backward: Any
    numpy: Forward

    def use_torch(self, functions: dict[str, Any], /) -> None: ...
    def route(self, *tensors: Any) -> Any: ...
    def runs_backward(self, *tensors: Any) -> bool: ...
    def sum_over(self, tensor: Array, dim: int, weights: Optional, /) -> Array: ...
    def layer_gradient(
        self,
        gradient: Array,
        activation: int,
        value: Array,
        slope: Optional,
        scale: Optional,
        scaled: Optional,
        by_bias: bool,
        /,
    ) -> Optional: ...
    def sum_to_shape(self, tensor: Array, shape: Sequence[int], /) -> Array: ...
    def mixture_pass(self, kind: int, moments: int, x: Array, *parameters_rows_and_sums: Optional) -> None: ...
    def fill_normal_noise(self, out: Array, seed: Array, row_offset: int, /) -> None: ...
    def fill_philox_words(self, out: Array, seed: Array, /) -> None: ...
    def row_operations(self) -> list[tuple[str, list[str], int, list[str]]]: ...
    def map_operations(self) -> list[tuple[str, list[str], list[str], int, list[str], int]]: ...

class CpuModule(NativeModule, Protocol):
    """A module of the CPU: with perceptrons of few rows at once, and what the tests look at by itself.

    What is at once returns NotImplemented for what it is not made for. The layers' arguments are eight weights and
    biases in turn, None behind those that there are; ``narrow``, the last argument, rounds the factors of the
    products to bfloat16.
    """

    def perceptron(self, x: Any, *layers_activation_activate_last_narrow: Any) -> tuple[Any, Any]: ...
    def perceptron_backward(
        self, gradient: Any, x: Any, *layers_memory_activation_activate_last_needs_narrow: Any
    ) -> tuple[Any, ...]: ...
    def bernoulli_perceptron(self, z: Any, x: Any, *layers_activation_narrow: Any) -> tuple[Any, Any, Any]: ...
    def bernoulli_perceptron_value(self, z: Any, x: Any, *layers_activation_narrow: Any) -> Any: ...
    def bernoulli_perceptron_backward(
        self, gradient: Any, z: Any, x: Any, *layers_memory_residual_activation_needs_narrow: Any
    ) -> tuple[Any, ...]: ...
    def hidden_markov_posteriors(
        self, log_densities: Any, starts: Any, log_start: Any, log_transition: Any, posterior: Any, transitions: Any, /
    ) -> float: ...
    def hidden_markov_path(
        self, log_densities: Any, starts: Any, log_start: Any, log_transition: Any, path: Any, /
    ) -> None: ...
    def regression_trajectory(self, kind: int, rows: int, columns: int, *data_prior_state_and_steps: Any) -> Any: ...
    def mixture_trajectory(self, rows: int, columns: int, components: int, *data_prior_state_and_steps: Any) -> Any: ...
    def lasso_rows(
        self,
        correlations: Any,
        gram: Any,
        rank: int,
        threshold: float,
        max_steps: int,
        codes: Any,
        steps: Any,
        converged: Any,
        /,
    ) -> None: ...
    def proximal_step(
        self,
        direction: Any,
        step: Any,
        threshold: Any,
        codes: Any,
        extrapolated: Any,
        momentum: Any,
        restarts: int,
        /,
    ) -> None: ...
    def draw_momenta(self, position: Any, seed: int, first_chain: int, scale: Any, /) -> tuple[Any, Any]: ...
    def choose_states(self, *start_end_threshold_and_inverse_mass: Any) -> tuple[Any, Any, Any, Any, Any, Any]: ...
    def evaluate_formula(self, name: str, dtype: str, input: int, output: int, count: int, /) -> None: ...
    def philox(self, c0: int, c1: int, c2: int, c3: int, key: int, /) -> tuple[int, int, int, int]: ...
    def plan_rows(
        self,
        operation: str,
        names: list[str],
        layouts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
        sample_rank: int | None,
        /,
    ) -> dict[str, Any]: ...
    def max_threads(self) -> int: ...
