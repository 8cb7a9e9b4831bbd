"""The partially importance-weighted estimator: one bound for the encoder, a tighter one for the decoder.

Rainforth et al. 2018. The encoder's gradient is told from the decoder's by the samples: they come from the encoder, and
the decoder's parameters act at samples that stand.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import iwae_bound, log_weights
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.importance import gradient_only, repeatable
from fastvi.objectives.latent import prior_of, reparameterised_posterior_of, sample_with_log_ratio
from fastvi.objectives.miwae import mean_bound
from fastvi.objectives.model import LatentVariableModel, has_own_draw, log_likelihood, member


@dataclasses.dataclass(frozen=True)
class PIWAE(Bound):
    """Importance-weighted bound L_MK for the likelihood and the prior, the mean of M bounds L_K for the encoder.

    Both come from the same M K samples, the mean as in :class:`fastvi.objectives.MIWAE`. The likelihood and the prior
    get the gradient of L_MK, the tightest bound that these samples give, and the encoder gets that of the mean, whose
    signal is not lost in noise.

    Parameters
    ----------
    num_bounds
        M, the bounds that are averaged for the encoder.
    num_samples
        K, the samples of each of them.

    Raises
    ------
    ValueError, TypeError
        If a number is not a positive integer; or, for a model that draws for itself, if its samples have a score
        instead of a gradient, or are others than those that its log-weights were made of.

    Notes
    -----
    The value is L_MK. The likelihood is evaluated twice, at samples with a gradient and at the same ones without. What
    reaches it beside z, the data or the encoder's own layers, counts with the likelihood.

    A model with a ``draw`` of its own draws twice from the same seed, with and without ``detach_posterior``. Its
    ``samples`` have to be reparameterised, and the very tensors that the log-weights were made of; those of a layer may
    be made of those of another.

    Source: Rainforth et al. 2018, "Tighter variational bounds are not necessarily better".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import IWAE, PIWAE
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> torch.equal(PIWAE(num_bounds=8, num_samples=4)(model, x, seed=0), IWAE(32)(model, x, seed=0))
    True
    """

    num_bounds: int = option("M, bounds that are averaged for the encoder", at_least=1, usual=4)
    num_samples: int = option("K, samples for each example and bound", at_least=1, usual=4)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound L_MK of each example, ``(B,)``, in nats."""
        count = self.num_bounds * self.num_samples
        if not torch.is_grad_enabled():
            return iwae_bound(log_weights(model, x, count, seed=seed, row_offset=row_offset))
        parts = _parts_of_draw if has_own_draw(model) else _parts_of_encoder
        whole, generative = parts(model, x, count, seed, row_offset)
        value = whole.detach()
        of_encoder = mean_bound(value + gradient_only(whole - generative), self.num_bounds)
        return iwae_bound(value + gradient_only(generative)) + gradient_only(of_encoder)


def _parts_of_encoder(model: Any, x: Any, count: int, seed: int | None, row_offset: int) -> tuple[Tensor, Tensor]:
    """The log-weights, and what has their gradient in the likelihood and the prior alone, each ``(K, B)``."""
    q = reparameterised_posterior_of(model, x, "PIWAE")
    p = prior_of(model, x, q)
    z, log_ratio = sample_with_log_ratio(q, p, count, seed=seed, row_offset=row_offset)
    fixed = z.detach()
    generative = log_likelihood(model, x, fixed) + p.log_prob(fixed)
    return log_likelihood(model, x, z) + log_ratio, generative


def _parts_of_draw(model: Any, x: Any, count: int, seed: int | None, row_offset: int) -> tuple[Tensor, Tensor]:
    """The same of a model that draws for itself.

    With the parameters of q constant inside log q, they act through the samples alone: the gradient of the log-weights
    less that of ``path``, which is linear in the samples, is that of the likelihood and the prior.
    """
    place = member(model, "draw")
    seed = repeatable(seed, x)  # one seed for two draws
    whole = draw(model, x, count, seed=seed, row_offset=row_offset).log_weights
    drawn = draw(model, x, count, detach_posterior=True, seed=seed, row_offset=row_offset)
    if drawn.log_posterior is not None:
        raise ValueError(f"PIWAE: needs reparameterised samples, and those of {place} have a log_posterior, the score")
    samples = (drawn.samples,) if isinstance(drawn.samples, Tensor) else tuple(drawn.samples)
    layers = [layer for layer in samples if layer.requires_grad]  # none of them where the encoder is frozen
    gradients = _direct_gradients(drawn.log_weights, layers, place) if layers else []
    return whole, drawn.log_weights - _inner(drawn.log_weights, gradients, layers)


def _direct_gradients(log_weights: Tensor, layers: list[Tensor], place: str) -> list[Tensor]:
    """Gradients of the log-weights in the samples of each layer, those of the other layers held.

    Autograd's are others where the samples of one layer are made of another's: they have the way through those, too.
    So do the derivatives of ``sum_l g_l z_l`` in the samples, which are to be autograd's: each correction of g by what
    is missing is right for one layer more.
    """
    totals = torch.autograd.grad(log_weights.sum(), layers, retain_graph=True, allow_unused=True)
    wanted = [total for total in totals if total is not None]
    if len(wanted) < len(layers):
        raise ValueError(f"PIWAE: needs the samples that the log-weights are made of, and {place} returned others")
    gradients = wanted
    for _ in layers[1:]:
        found = torch.autograd.grad(_inner(log_weights, gradients, layers).sum(), layers, retain_graph=True)
        gradients = [now + (goal - came) for now, goal, came in zip(gradients, wanted, found, strict=True)]
    return gradients


def _inner(like: Tensor, gradients: list[Tensor], layers: list[Tensor]) -> Tensor:
    """Inner products of each sample with its gradient, a constant, summed over the layers, ``(K, B)``."""
    products = [(gradient * layer).flatten(2).sum(2) for gradient, layer in zip(gradients, layers, strict=True)]
    return sum(products, torch.zeros_like(like))
