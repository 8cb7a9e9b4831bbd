"""The objective on examples that do not train, and how much each latent dimension tells of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi.objectives.latent import GaussianPosterior, GaussianPrior, posterior_of, prior_of
from fastvi.objectives.model import has_own_draw, lacking
from fastvi.seeding import mix_seed
from fastvi.training.batches import VALIDATION_STREAM
from fastvi.training.settings import TrainingConfig
from fastvi.training.sources import Source

COLLAPSE_THRESHOLD = 0.01
"""Nats: a latent dimension whose mean divergence from the prior is below tells nothing of an example."""
NOISE = 2
"""Second counter of `mix_seed` in the stream of validation: all epochs draw the same noise, and compare better."""


class Sums(NamedTuple):
    """Sums over validation examples.

    Attributes
    ----------
    value
        Of the objective, float64, without axes.
    divergence
        Of KL(q(z|x) || p(z)) by latent dimension, float64, shape (Z,); None where that has no closed form.
    examples
        How many there are, float64, without axes.
    """

    value: Tensor
    divergence: Tensor | None
    examples: Tensor


@torch.no_grad()
def validate(
    config: TrainingConfig, model: nn.Module, source: Source, rank: int, world_size: int, device: torch.device
) -> Sums:
    """Return this process's sums over its share of the validation examples, in float32 arithmetic."""
    was_training = model.training
    model.eval()
    seed = mix_seed(config.seed, VALIDATION_STREAM, NOISE)
    value = torch.zeros((), dtype=torch.float64, device=device)
    examples = torch.zeros_like(value)
    divergence: Tensor | None = None
    try:
        for batch in source.validation_batches(rank, world_size):
            batch = batch._replace(indices=batch.indices.to(device))
            x = source.present(batch, validating=True)
            bound = config.objective(model, x, seed=seed, row_offset=batch.row_offset)
            value += bound.double().sum()
            examples += bound.shape[0]
            found = divergence_by_dimension(model, x)
            if found is not None:
                total = found.double().sum(0)
                divergence = total if divergence is None else divergence + total
    finally:
        model.train(was_training)
    return Sums(value, divergence, examples)


def divergence_by_dimension(model: Any, x: Any) -> Tensor | None:
    """Return KL(q(z|x) || p(z)) by example and latent dimension, (B, Z), in nats.

    None where the model has no encoder of its own, or q or p is no diagonal Gaussian.
    """
    if lacking(model) or has_own_draw(model):
        return None
    q = posterior_of(model, x)
    if not isinstance(q, GaussianPosterior):
        return None
    p = prior_of(model, x, q)
    if not isinstance(p, GaussianPrior):
        return None
    # One latent dimension at a time is one example of one dimension.
    shape = q.mean.shape
    mean, logvar = (parameter.reshape(-1, 1) for parameter in (q.mean, q.logvar))
    prior_mean, prior_logvar = (
        None if parameter is None else parameter.expand(shape).reshape(-1, 1) for parameter in (p.mean, p.logvar)
    )
    return ops.kl_normal(mean, logvar, prior_mean, prior_logvar).reshape(shape)


@dataclasses.dataclass
class BestEpoch:
    """The epoch with the best validation value so far.

    Attributes
    ----------
    higher_is_better
        True for bounds, False for losses.
    value, epoch
        Its value and its number, from 1; None and 0 before the first.
    """

    higher_is_better: bool
    value: float | None = None
    epoch: int = 0

    def update(self, value: float, epoch: int) -> bool:
        """Take in the value of an epoch; return whether it is the best."""
        better = self.value is None or (value > self.value if self.higher_is_better else value < self.value)
        if better:
            self.value, self.epoch = value, epoch
        return better

    def is_over(self, epoch: int, patience: int) -> bool:
        """Return whether ``patience`` epochs up to this one have passed without a better value."""
        return 0 < patience <= epoch - self.epoch

    def state_dict(self, epoch: int) -> dict[str, Any]:
        """Return the state after an epoch, plain values."""
        return {"value": self.value, "epoch": self.epoch, "after": epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the state that `state_dict` gave."""
        self.value, self.epoch = state["value"], state["epoch"]
