"""What models with discrete latent variables share: samples, their score, a control variate, examples made up.

Such a model draws for itself (:class:`fastvi.objectives.DrawingModel`). The estimators that train it use the score:
:class:`fastvi.objectives.VIMCO`, :class:`fastvi.objectives.ScoreFunction`,
:class:`fastvi.objectives.ReweightedWakeSleep`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count, check_sizes
from fastvi.models.likelihoods import MEAN_MARGIN
from fastvi.models.vae import _glorot_linear, _perceptron
from fastvi.objectives import Draw
from fastvi.objectives.signals import slopes
from fastvi.ops._values import describe_range, range_outside_unit_interval, values_at_hand


class DiscreteLatentModel(nn.Module):
    """A model of x in [0, 1]^D whose latent variables are discrete, in one layer or several.

    The posterior is q(z_1|x) q(z_2|z_1) ..., from the data upwards. A layer's states are vectors that its density is
    linear in (bits, or one-hot vectors), so that their mean is a probability: that is what `control_variate` uses.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    baseline_dims
        Widths of the hidden layers of a baseline network b(x); None: the model has no such network.

    Attributes
    ----------
    baseline
        The network, (B, D) to (B,), for :class:`fastvi.objectives.ScoreFunction` with ``baseline="network"``; or None.

    Raises
    ------
    TypeError, ValueError
        For a size that is not a positive integer, and an x of another shape or type or not in [0, 1].
    """

    samples_have_path = False
    """A bound that does not use the score has no gradient for the encoder: `fastvi train` refuses it."""
    latent_shapes: tuple[tuple[int, ...], ...]
    """Shape of each layer's states, without the axes of samples and examples, from the data upwards."""

    def __init__(self, data_dim: int, baseline_dims: Sequence[int] | None) -> None:
        super().__init__()
        self.data_dim = check_count(type(self).__name__, "data_dim", data_dim)
        self.baseline: nn.Module | None = None
        if baseline_dims is not None:
            widths = self._counts("baseline_dims", baseline_dims)
            hidden = _perceptron((self.data_dim, *widths), "tanh")
            self.baseline = nn.Sequential(*hidden, _glorot_linear(widths[-1], 1), nn.Flatten(0))

    # What a model gives

    @abstractmethod
    def log_joint(self, x: Tensor, samples: Sequence[Tensor]) -> Tensor:
        """Return log p(x, z) in nats, (K, B), for ``x`` (B, D) and a tensor (K, B, ...) of each layer."""

    @abstractmethod
    def posterior_logits(self, layer: int, below: Tensor) -> Tensor:
        """Return the logits of a layer's q, given x or the states of the layer below."""

    @abstractmethod
    def generative_logits(self, layer: int, above: Tensor | None, like: Tensor) -> Tensor:
        """Return the logits of p of a layer, given the states above it; None: of the highest layer, for (1, B)."""

    @abstractmethod
    def data_logits(self, lowest: Tensor) -> Tensor:
        """Return the logits of p(x|z), (..., D), given the states of the lowest layer."""

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Return the mean state of a layer."""

    @abstractmethod
    def states(self, layer: int, means: Tensor, uniforms: Tensor) -> Tensor:
        """Return states of a layer, drawn with uniforms in [0, 1)."""

    @abstractmethod
    def log_prob(self, states: Tensor, logits: Tensor) -> Tensor:
        """Return the log-probability of states, (K, B)."""

    @abstractmethod
    def num_uniforms(self, layer: int) -> int:
        """Return how many numbers in [0, 1) the states of a layer take."""

    # What follows

    def draw(
        self,
        x: Tensor,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
    ) -> Draw:
        """Return samples of all layers, each (K, B, ...), their log-weights and the score.

        The arguments are those of :func:`fastvi.objectives.draw`; the noise of sample k, row b and variable d depends
        on (seed, k, b + row_offset, d) alone.
        """
        self._check_data(x)
        samples: list[Tensor] = []
        log_posterior = x.new_zeros(())
        below = x
        for layer, uniforms in enumerate(self._uniforms(x, num_samples, seed, row_offset)):
            logits = self.posterior_logits(layer, below)
            with torch.no_grad():
                below = self.states(layer, self.means(logits), uniforms)
            samples.append(below)
            log_posterior = log_posterior + self.log_prob(below, logits)
        subtracted = log_posterior.detach() if detach_posterior else log_posterior
        return Draw(tuple(samples), self.log_joint(x, samples) - subtracted, log_posterior)

    def log_posterior(self, x: Tensor, samples: Sequence[Tensor]) -> Tensor:
        """Return log q(z|x) in nats, (K, B), for ``x`` (B, D) and a tensor (K, B, ...) of each layer."""
        total = x.new_zeros(())
        for layer, (below, states) in enumerate(zip((x, *samples), samples, strict=False)):
            total = total + self.log_prob(states, self.posterior_logits(layer, below))
        return total

    def control_variate(self, x: Tensor, samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return a control variate of the samples, and what its mean under q adds to the gradient.

        It is the first-order Taylor polynomial of log p(x, z) - log q(z|x) at the means of the layers, each mean that
        of q given the means below (Gu, Levine, Sutskever & Mnih 2016, "MuProp").

        Parameters
        ----------
        x
            Data, (B, D).
        samples
            Of `draw`.

        Returns
        -------
        tuple of Tensor
            h(z), (K, B), a constant of mean 0; and zeros (K, B) whose mean gradient is that of E_q h.
        """
        with torch.no_grad():
            point: list[Tensor] = []
            for layer in range(len(samples)):
                point.append(self.means(self.posterior_logits(layer, point[-1] if point else x.unsqueeze(0))))

        def log_weight(*states: Tensor) -> Tensor:
            return (self.log_joint(x, states) - self.log_posterior(x, states)).sum()

        slope = slopes(log_weight, *point)
        values, expectation = x.new_zeros(()), x.new_zeros(())
        for layer, (below, states) in enumerate(zip((x, *samples), samples, strict=False)):
            means = self.means(self.posterior_logits(layer, below))
            fixed = means.detach()
            values = values + _product(slope[layer], states - fixed, self.latent_shapes[layer])
            expectation = expectation + _product(slope[layer], means - fixed, self.latent_shapes[layer])
        return values, expectation.expand_as(values)

    @torch.no_grad()
    def sample_prior_and_data(
        self, x: Tensor, *, seed: int | None = None, row_offset: int = 0
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Draw z from p(z) and then x from p(x|z), once for each example of ``x``, of which the number alone counts.

        Returns
        -------
        tuple
            The samples, a tensor (1, B, ...) of each layer, and the examples (B, D).
        """
        *of_layers, of_data = self._uniforms(x, 1, seed, row_offset, with_data=True)
        samples: list[Tensor] = []
        above: Tensor | None = None
        for layer in reversed(range(len(self.latent_shapes))):
            above = self.states(layer, self.means(self.generative_logits(layer, above, x)), of_layers[layer])
            samples.insert(0, above)
        return tuple(samples), (of_data < torch.sigmoid(self.data_logits(samples[0]))).to(x.dtype)[0]

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z) at the posterior's mean of the lowest layer, (B, D), for ``x`` (B, D)."""
        self._check_data(x)
        return torch.sigmoid(self.data_logits(self.means(self.posterior_logits(0, x))))

    def _uniforms(
        self, x: Tensor, num_samples: int, seed: int | None, row_offset: int, with_data: bool = False
    ) -> tuple[Tensor, ...]:
        """Numbers in [0, 1) for the states of each layer, and for the data, (K, B, ...): Gaussian noise's quantiles.

        Small ones keep their digits, so that nothing happens more often than its probability says.
        """
        sizes = [self.num_uniforms(layer) for layer in range(len(self.latent_shapes))]
        sizes += [self.data_dim] if with_data else []
        zeros = x.new_zeros((x.shape[0], sum(sizes)))
        noise = ops.rsample_normal(zeros, zeros, (num_samples,), seed, row_offset)
        uniforms = (0.5 * torch.erfc(noise * -math.sqrt(0.5))).clamp_max(1.0 - 0.5 * torch.finfo(x.dtype).eps)
        parts: tuple[Tensor, ...] = uniforms.split(sizes, -1)
        return parts

    def _check_data(self, x: object) -> None:
        owner = type(self).__name__
        expected = f"a tensor of the shape (B, {self.data_dim}) of floating-point values in [0, 1]"
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{owner}: x must be {expected}, got {got}")
        if x.dim() != 2 or x.shape[1] != self.data_dim:
            raise ValueError(f"{owner}: x must be {expected}, got the shape {tuple(x.shape)}")
        if values_at_hand(x) and (bounds := range_outside_unit_interval(x)) is not None:
            raise ValueError(f"{owner}: a Bernoulli likelihood needs x in [0, 1], got {describe_range(bounds)}")

    def _set_output_bias(self, linear: nn.Linear, data_mean: Tensor | None) -> None:
        """Let the output biases start at the logit of the data's mean, where that is given."""
        if data_mean is None:
            return
        if data_mean.shape != (self.data_dim,):
            raise ValueError(
                f"{type(self).__name__}: data_mean must have the shape ({self.data_dim},), got {tuple(data_mean.shape)}"
            )
        with torch.no_grad():
            linear.bias.copy_(torch.logit(data_mean.clamp(MEAN_MARGIN, 1.0 - MEAN_MARGIN)))

    def _counts(self, name: str, values: Sequence[int]) -> tuple[int, ...]:
        own = type(self).__name__
        counts = tuple(check_count(own, name, value) for value in check_sizes(own, name, values))
        if not counts:
            raise ValueError(f"{own}: {name} must be one width or more, got ()")
        return counts


def _product(slope: Tensor, difference: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inner product over the axes of a layer's states."""
    return (slope * difference).sum(tuple(range(-len(shape), 0)))
