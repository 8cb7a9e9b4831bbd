"""Objectives that take the log of the mean weight.

The importance-weighted bound, with the whole or a sampled backward pass (Burda, Grosse and Salakhutdinov 2016), and
its doubly reparameterised gradient (Tucker, Lawson, Gu and Maddison 2019), for several stochastic layers in its
generalised form (Bauer and Mnih 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvi import ops
from fastvi._examples import first_tensor
from fastvi._options import option
from fastvi._sizes import MAX_SEED
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import iwae_bound, log_weights
from fastvi.objectives.draws import DrawingModel, Path, draw
from fastvi.objectives.latent import (
    GaussianPosterior,
    GaussianPrior,
    prior_of,
    reparameterised_posterior_of,
    sample_with_log_ratio,
)
from fastvi.objectives.model import (
    LatentVariableModel,
    has_own_draw,
    log_likelihood,
    member,
    require_path,
)
from fastvi.ops.random import seed_tensor


@dataclasses.dataclass(frozen=True)
class IWAE(Bound):
    """Importance-weighted bound L_K = E log (1/K) sum_k p(x, z_k) / q(z_k|x), at most log p(x), rising with K.

    Parameters
    ----------
    num_samples
        K.
    backward_samples
        None: the gradient of the whole bound. An integer m, at most K: the K weights are computed without a graph,
        then m of the samples, drawn (with replacement) with their normalised weights as probabilities, go through the
        model again with one, and the mean of their gradients stands for the weighted sum of all K. Unbiased; the
        memory and time of the backward pass are those of m samples.

    Raises
    ------
    ValueError, TypeError
        If a number of samples is not a positive integer, or ``backward_samples`` exceeds ``num_samples``.

    Notes
    -----
    Without ``backward_samples`` the bound is :func:`fastvi.objectives.iwae_bound` of
    :func:`fastvi.objectives.log_weights`. The value is the bound with all K samples in both cases. A model with a
    ``draw`` of its own needs its argument ``path`` for ``backward_samples``: all K samples are drawn with a graph then,
    and m of them enter the densities. Source: Burda, Grosse and Salakhutdinov 2016, "Importance weighted
    autoencoders", section 3, the sampled backward pass included.

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> model = types.SimpleNamespace(
    ...     prior_mean=None, prior_logvar=None,
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> torch.equal(IWAE(50)(model, x, seed=0), IWAE(50, backward_samples=1)(model, x, seed=0))
    True
    """

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)
    backward_samples: int | None = option("samples that the backward pass takes; none: all K", None, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backward_samples is not None and self.backward_samples > self.num_samples:
            raise ValueError(
                f"IWAE: backward_samples must be at most num_samples = {self.num_samples}, got {self.backward_samples}"
            )

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a bound, and samples that can be made again where the backward pass does so."""
        if self.backward_samples is None:
            super().check_model(model)
        else:
            require_path(model, "IWAE with backward_samples")

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        if self.backward_samples is None or not torch.is_grad_enabled():
            return iwae_bound(log_weights(model, x, self.num_samples, seed=seed, row_offset=row_offset))
        self.check_model(model)
        if has_own_draw(model):
            return self._by_own_draw(model, x, self.backward_samples, seed, row_offset)
        q = reparameterised_posterior_of(model, x, "IWAE with backward_samples")
        p = prior_of(model, x, q)
        if not isinstance(q, GaussianPosterior):
            # The samples keep their graph, which is small beside the decoder's.
            z, log_posterior = q.rsample_with_log_prob(self.num_samples, seed, row_offset)
            with torch.no_grad():
                log_weight = log_likelihood(model, x, z) + p.log_prob(z) - log_posterior
            index = draw_by_weight(log_weight, self.backward_samples, seed, row_offset)
            chosen = z.gather(0, index.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
            log_joint = log_likelihood(model, x, chosen) + p.log_prob(chosen)
            return iwae_bound(log_weight) + gradient_only((log_joint - log_posterior.gather(0, index)).mean(0))
        mean, logvar = q.mean, q.logvar
        with torch.no_grad():
            z, log_ratio = sample_with_log_ratio(q, p, self.num_samples, seed=seed, row_offset=row_offset)
            log_weight = log_likelihood(model, x, z) + log_ratio
            bound = iwae_bound(log_weight)
            index = draw_by_weight(log_weight, self.backward_samples, seed, row_offset)
            chosen = z.gather(0, index.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
            # The smallest normal number keeps a scale that underflowed to 0 from making 0 / 0 of noise it has lost.
            noise = (chosen - mean) / torch.exp(0.5 * logvar).clamp_min(torch.finfo(logvar.dtype).tiny)
        chosen = torch.addcmul(mean, torch.exp(0.5 * logvar), noise)
        log_joint = log_likelihood(model, x, chosen) + p.log_prob(chosen)
        # Along the path (z - mean) / scale is the noise, so that -log q(z|x) differs from the entropy by a constant.
        return bound + gradient_only(log_joint.mean(0) + ops.normal_entropy(logvar))

    def _by_own_draw(self, model: Any, x: Any, backward_samples: int, seed: int | None, row_offset: int) -> Tensor:
        """The same where the model draws: once for the weights, and once more with those samples that were chosen."""
        again = repeatable(seed, x)
        with torch.no_grad():
            log_weight = draw(model, x, self.num_samples, seed=again, row_offset=row_offset).log_weights
        index = draw_by_weight(log_weight, backward_samples, again, row_offset)

        def choose(z: Tensor) -> Tensor:
            return z.gather(0, along(index, z).expand(-1, -1, *z.shape[2:]))

        chosen = draw(model, x, self.num_samples, seed=again, row_offset=row_offset, path=choose)
        return iwae_bound(log_weight) + gradient_only(chosen.log_weights.mean(0))


@dataclasses.dataclass(frozen=True)
class DReG(Bound):
    """Importance-weighted bound L_K with the doubly reparameterised gradient.

    The value is that of :class:`IWAE`. The encoder's gradient is sum_k w_k^2 (d log w_k / d z_k)(d z_k / d phi), with
    normalised weights w_k and the parameters of q constant inside log q(z|x): unbiased, and its signal-to-noise ratio
    rises with K, whereas IWAE's falls. The likelihood and the prior get IWAE's own gradient sum_k w_k d log w_k.

    Parameters
    ----------
    num_samples
        K; with 1 the gradient is that of :class:`fastvi.objectives.STL`.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` is not a positive integer.

    Notes
    -----
    The likelihood's gradient needs the factor w_k, the encoder's w_k^2: the second factor is applied to the gradient
    where it passes z, one backward pass serving both. What reaches the likelihood beside z, the data or the encoder's
    own layers, gets the factor w_k, as in IWAE, and leaves the gradient unbiased.

    Where the model draws several stochastic layers, each layer's samples get the second factor on their way into the
    densities, and none on their way to the next layer's samples: a factor on z itself would count once more for each
    layer below. That takes a ``draw`` with the argument ``path``, see :class:`fastvi.objectives.DrawingModel`.
    Sources: Tucker, Lawson, Gu and Maddison 2019, "Doubly reparameterized gradient estimators for Monte
    Carlo objectives"; Bauer and Mnih 2021, "Generalized doubly reparameterized gradient estimators".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> model = types.SimpleNamespace(
    ...     prior_mean=None, prior_logvar=None,
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> torch.equal(DReG(50)(model, x, seed=0), IWAE(50)(model, x, seed=0))
    True
    """

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)

    def check_model(self, model: Any) -> None:
        """Raise unless the second factor can be put where it belongs, between the samples and their densities."""
        require_path(model, "DReG")

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        self.check_model(model)
        if has_own_draw(model):
            return self._by_own_draw(model, x, seed, row_offset)
        q = reparameterised_posterior_of(model, x, "DReG")
        p = prior_of(model, x, q)
        if not (isinstance(q, GaussianPosterior) and isinstance(p, GaussianPrior)):
            drawn = q.rsample(self.num_samples, seed, row_offset)

            def log_weights_by(path: Path) -> Tensor:
                z = path(drawn)
                return log_likelihood(model, x, z) + p.log_prob(z) - q.log_prob_along_path(z)

            return self._by_path(log_weights_by)
        # The prior is constant here, because the ratio's gradient will carry the encoder's weights.
        z, log_ratio = ops.rsample_normal_with_log_ratio(
            q.mean,
            q.logvar,
            self.num_samples,
            None if p.mean is None else p.mean.detach(),
            None if p.logvar is None else p.logvar.detach(),
            detach_posterior=True,
            seed=seed,
            row_offset=row_offset,
        )
        if not torch.is_grad_enabled() or not z.requires_grad:
            log_weight = log_likelihood(model, x, z) + log_ratio
        elif torch.compiler.is_compiling():
            # A hook is traced when it is registered, before its weights exist. A first pass makes them; seen through
            # the view that ScaleGradient takes, it repeats the second one and the compiler merges the two.
            with torch.no_grad():
                weights = ops.importance_weights(log_likelihood(model, x, z.view_as(z)) + log_ratio, 0)
            scaled_z: Tensor = ScaleGradient.apply(z, weights.unsqueeze(-1))  # type: ignore[no-untyped-call, unused-ignore]
            scaled_ratio: Tensor = ScaleGradient.apply(log_ratio, weights)  # type: ignore[no-untyped-call, unused-ignore]
            log_weight = log_likelihood(model, x, scaled_z) + scaled_ratio
        else:
            # A view of z, because the ratio, which has its own factor, may have been made from z itself.
            path = z.view_as(z)
            path.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))  # type: ignore[no-untyped-call, unused-ignore]
            log_ratio.register_hook(lambda gradient: gradient * weights)  # type: ignore[no-untyped-call, unused-ignore]
            log_weight = log_likelihood(model, x, path) + log_ratio
            weights = ops.importance_weights(log_weight.detach(), 0)
        if any(parameter is not None and parameter.requires_grad for parameter in (p.mean, p.logvar)):
            log_weight = log_weight + gradient_only(p.log_prob(z.detach()))
        return iwae_bound(log_weight)

    def _by_own_draw(self, model: Any, x: Any, seed: int | None, row_offset: int) -> Tensor:
        """The generalised form, for the samples of all layers together."""
        seed = repeatable(seed, x)

        def log_weights_by(path: Path) -> Tensor:
            drawn = draw(model, x, self.num_samples, detach_posterior=True, seed=seed, row_offset=row_offset, path=path)
            if drawn.log_posterior is not None:
                raise ValueError(
                    f"DReG: needs samples that are reparameterised in all layers; {member(model, 'draw')} gives a "
                    "log_posterior, that of samples which carry no gradient"
                )
            return drawn.log_weights

        return self._by_path(log_weights_by)

    def _by_path(self, log_weights_by: Callable[[Path], Tensor]) -> Tensor:
        """The bound of log-weights whose samples go through a path, where their gradient gets the second factor."""
        is_compiling = torch.compiler.is_compiling()
        weights: Tensor  # hooks run when they are known
        if is_compiling:  # a first pass makes them, as above
            with torch.no_grad():
                weights = ops.importance_weights(log_weights_by(lambda z: z.view_as(z)), 0)

        def path(z: Tensor) -> Tensor:
            if not torch.is_grad_enabled() or not z.requires_grad:
                return z
            if is_compiling:
                scaled: Tensor = ScaleGradient.apply(z, along(weights, z))  # type: ignore[no-untyped-call, unused-ignore]
                return scaled
            z = z.view_as(z)
            z.register_hook(lambda gradient: gradient * along(weights, gradient))  # type: ignore[no-untyped-call, unused-ignore]
            return z

        found = log_weights_by(path)
        if not is_compiling:
            weights = ops.importance_weights(found.detach(), 0)
        return iwae_bound(found)


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant tensor of weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        """Return ``x``."""
        ctx.save_for_backward(weights)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient times the weights."""
        (weights,) = ctx.saved_tensors
        return gradients[0] * weights, None


def along(weights: Tensor, z: Tensor) -> Tensor:
    """View weights or indices ``(K, B)`` with as many axes as ``z``, ``(K, B, ...)``."""
    return weights.reshape(*weights.shape, *(1,) * (z.dim() - 2))


def repeatable(seed: int | None, x: Any) -> Any:
    """A seed that two calls of ``draw`` can share; where none is given, one of PyTorch's generator.

    The compiler, to which a number of the generator would be the end of its graph, gets it as a tensor.
    """
    if seed is not None:
        return seed
    if torch.compiler.is_compiling():
        tensor = first_tensor(x)
        return seed_tensor("draw", None, torch.get_default_device() if tensor is None else tensor.device)
    return int(torch.randint(MAX_SEED - 1, ()))


def gradient_only(surrogate: Tensor) -> Tensor:
    """Zeros with the gradient of ``surrogate``; where that is infinite or NaN, zero without a gradient."""
    return (surrogate - surrogate.detach()).nan_to_num(nan=0.0)


def draw_by_weight(log_weights: Tensor, num_draws: int, seed: int | None, row_offset: int) -> Tensor:
    """Draw, for each column, ``num_draws`` row numbers with replacement, as likely as their weights say.

    Inverts the distribution function at uniforms that come from the Gaussian samples after the first K of the same
    ``seed``. Hence the choice, like the noise, depends on the seed and the position in the batch alone. In float64,
    so that neither the uniforms nor the sums of small weights are coarse. ``(K, B)`` gives ``(num_draws, B)``.
    """
    num_samples, batch = log_weights.shape
    cumulative = ops.importance_weights(log_weights.double(), 0).t().contiguous().cumsum(-1)
    zeros = cumulative.new_zeros((batch, 1))
    unused = ops.rsample_normal(zeros, zeros, (num_samples + num_draws,), seed, row_offset)[num_samples:, :, 0]
    # Below 1 also where the normal distribution function rounds to 1, so that no weightless sample is drawn.
    uniform = torch.special.ndtr(unused).clamp_max(1.0 - 0.5 * torch.finfo(torch.float64).eps)
    threshold = (uniform * cumulative[:, -1]).t().contiguous()
    # Columns without a valid weight (all zero, NaN) find no place: they take the last sample.
    return torch.searchsorted(cumulative, threshold, right=True).clamp_max(num_samples - 1).t()
