"""Types of the native modules, one for each instruction set and one for CUDA devices: for type checkers alone.

An address is that of an array's first element, 0 where there is none; strides are in elements. Arrays, seeds included,
are in the memory of the module's kind of device.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

Extent: TypeAlias = tuple[int, int, int]
"""``(samples, rows, columns)``, or ``(outer, count, inner)`` where one axis is reduced."""

View: TypeAlias = tuple[int, int, int]
"""``(address, sample stride, row stride)``."""

Factor: TypeAlias = tuple[int, int, int]
"""``(address, row stride, column step)``; the column step is 0 or 1."""

Gradient: TypeAlias = tuple[int, int]
"""``(address, whether samples are summed)``."""

class Kernels(Protocol):
    """The kernels for one dtype, which all arrays have.

    For bfloat16 and float16 all arithmetic, sums included, runs in float32 and is rounded where a result is stored;
    numbers (``free_bits``, ``kick``) are then float32, too.
    """

    def standard_normal(self, out: int, count: int, seed: int, /) -> None: ...
    def normal_noise(self, extent: Extent, seed: int, row_offset: int, out: int, /) -> None: ...
    def kl_normal(
        self,
        extent: Extent,
        mean: View,
        logvar: View,
        prior_mean: View,
        prior_logvar: View,
        free_bits: float,
        out: int,
        /,
    ) -> None: ...
    def kl_normal_backward(
        self,
        extent: Extent,
        mean: View,
        logvar: View,
        prior_mean: View,
        prior_logvar: View,
        free_bits: float,
        upstream: View,
        by_mean: Gradient,
        by_logvar: Gradient,
        by_prior_mean: Gradient,
        by_prior_logvar: Gradient,
        /,
    ) -> None: ...
    def normal_log_prob(self, extent: Extent, x: View, mean: View, logvar: View, out: int, /) -> None: ...
    def normal_log_prob_backward(
        self,
        extent: Extent,
        x: View,
        mean: View,
        logvar: View,
        upstream: View,
        by_x: Gradient,
        by_mean: Gradient,
        by_logvar: Gradient,
        /,
    ) -> None: ...
    def normal_entropy(self, extent: Extent, logvar: View, out: int, /) -> None: ...
    def normal_entropy_backward(self, extent: Extent, logvar: View, upstream: View, by_logvar: Gradient, /) -> None: ...
    def rsample_normal(
        self, extent: Extent, mean: View, logvar: View, seed: int, row_offset: int, z: int, /
    ) -> None: ...
    def rsample_normal_backward(
        self,
        extent: Extent,
        mean: View,
        logvar: View,
        seed: int,
        row_offset: int,
        upstream: int,
        by_mean: int,
        by_logvar: int,
        /,
    ) -> None: ...
    def rsample_normal_with_log_ratio(
        self,
        extent: Extent,
        mean: View,
        logvar: View,
        prior_mean: View,
        prior_logvar: View,
        seed: int,
        row_offset: int,
        z: int,
        log_ratio: int,
        /,
    ) -> None: ...
    def rsample_normal_with_log_ratio_backward(
        self,
        extent: Extent,
        mean: View,
        logvar: View,
        prior_mean: View,
        prior_logvar: View,
        seed: int,
        row_offset: int,
        detach_posterior: bool,
        z_upstream: int,
        ratio_upstream: View,
        by_mean: int,
        by_logvar: int,
        by_prior_mean: int,
        by_prior_logvar: int,
        /,
    ) -> None: ...
    def bernoulli_log_prob(self, extent: Extent, x: View, logits: View, out: int, /) -> None: ...
    def bernoulli_log_prob_backward(
        self, extent: Extent, x: View, logits: View, upstream: View, by_x: Gradient, by_logits: Gradient, /
    ) -> None: ...
    def bernoulli_epilogue(
        self, extent: Extent, logits: int, bias: int, x: View, keep_residual: bool, out: int, /
    ) -> None: ...
    def axis_sum(self, extent: Extent, x: int, weights: int, out: int, /) -> None: ...
    def log_mean_exp(self, extent: Extent, x: int, out: int, /) -> None: ...
    def scaled_softmax(self, extent: Extent, x: int, scale: int, as_gradient: bool, out: int, /) -> None: ...
    def effective_sample_size(self, extent: Extent, x: int, out: int, /) -> None: ...
    def leapfrog_step(
        self,
        rows: int,
        columns: int,
        position: View,
        momentum: View,
        gradient: View,
        step_size: Factor,
        inverse_mass: Factor,
        kick: float,
        new_position: int,
        new_momentum: int,
        /,
    ) -> None: ...
    def leapfrog_step_backward(
        self,
        rows: int,
        columns: int,
        position: View,
        momentum: View,
        gradient: View,
        step_size: Factor,
        inverse_mass: Factor,
        kick: float,
        by_position: int,
        by_momentum: int,
        momentum_out: int,
        gradient_out: int,
        step_size_out: int,
        inverse_mass_out: int,
        /,
    ) -> None: ...
    def kinetic_energy(self, extent: Extent, momentum: View, inverse_mass: View, out: int, /) -> None: ...
    def kinetic_energy_backward(
        self,
        extent: Extent,
        momentum: View,
        inverse_mass: View,
        upstream: View,
        by_momentum: Gradient,
        by_inverse_mass: Gradient,
        /,
    ) -> None: ...

class KernelModule(Protocol):
    """What every native module has."""

    @property
    def float32(self) -> Kernels: ...
    @property
    def float64(self) -> Kernels: ...
    @property
    def bfloat16(self) -> Kernels: ...
    @property
    def float16(self) -> Kernels: ...
    def philox_words(self, out: int, blocks: int, seed: int, /) -> None: ...

class NativeModule(KernelModule, Protocol):
    """The module of one instruction set."""

    def evaluate_formula(self, name: str, dtype: str, input: int, output: int, count: int, /) -> None: ...
    def philox(self, c0: int, c1: int, c2: int, c3: int, key: int, /) -> tuple[int, int, int, int]: ...
    def max_threads(self) -> int: ...

class CudaModule(KernelModule, Protocol):
    """The module of CUDA devices."""

    def use(self, device: int, stream: int, allocate: Callable[[int], int], /) -> None:
        """Tell where this thread's next kernel runs: the device's index, and a ``cudaStream_t``.

        ``allocate(nbytes)`` returns the address of scratch memory on that device, which is there until the kernel's
        function has returned, and after that for what was queued in the stream before.
        """
