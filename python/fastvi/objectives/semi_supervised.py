"""The objective of the semi-supervised model M2: labels summed out where they are missing, and a classifier's term.

Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models", equations 6 to 9.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastvi._labels import UNLABELLED, check_labels
from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.elbo import LinearWarmUp
from fastvi.seeding import mix_seed

_FEATURES = 1
"""Counter of `mix_seed` for the features of a model that draws some, beside the noise of its latent variables."""


class PartlyLabelled(NamedTuple):
    """A batch in which some examples have a label, with the weight of each example in the whole data set.

    Attributes
    ----------
    images
        (B, D).
    labels
        (B,), int64; -1 for an example without a label.
    weights
        (B,): what the bound of an example is multiplied by, so that a batch in which labelled ones, or those of one
        class, are more frequent than in the data still estimates the mean over the data.
    classifier_weights
        (B,): n_total / n_labelled times ``weights`` for an example with a label: what alpha log q(y|x) is multiplied
        by.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    classifier_weights: Tensor


class SemiSupervisedModel(Protocol):
    """A model of data and classes: see :class:`fastvi.models.SemiSupervisedVAE`.

    One whose data are features of the images has ``at_features(images, seed=..., row_offset=...)`` instead, which
    returns such a model and its data for one step: see :class:`fastvi.models.StackedVAE`.
    """

    def log_classifier(self, images: Tensor) -> Tensor:
        """Log q(y|x), ``(B, C)``."""
        ...

    def noise(self, count: int, num_samples: int = 1, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Standard normal numbers for z, ``(S, count, Z)``."""
        ...

    def label_bounds(self, images: Tensor, noise: Tensor) -> Tensor:
        """L(x, y), the bound on log p(x, y), of each class: ``(C, B)``."""
        ...

    def bound_of_labels(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """L(x, y) of the labels that are given: ``(B,)``."""
        ...


@dataclasses.dataclass(frozen=True)
class SemiSupervised(Bound):
    """The objective of M2 for each example: a bound on log p(x, y) or log p(x), and the classifier's log-likelihood.

    With a label: L(x, y) + w log q(y|x). Without one: U(x) = sum_y q(y|x) (L(x, y) - log q(y|x)), all classes in one
    call of the decoder.

    Parameters
    ----------
    num_samples
        Samples of z for each class.
    alpha
        w is alpha n_total / n_labelled. Of a :class:`PartlyLabelled` batch that ratio is that of the data; of a plain
        pair (images, labels) it is the ratio within the batch.
    classifier_weight
        w itself, in place of alpha.
    unlabelled_share
        Share, from 0 to 1, of the gradient of U(x) with respect to q(y|x) that reaches the classifier. The value of
        the objective and all other gradients are the same at any share.
    hold_steps, warm_up_steps
        In the first ``hold_steps`` steps of training the share is 0, and over the next ``warm_up_steps`` it rises
        linearly from 0 to ``unlabelled_share``: ``objective.at_step(step)`` has the share of that step, counted from 0,
        which is ``unlabelled_share`` times (step - hold_steps) / warm_up_steps between 0 and 1. So with a rise the step
        after the hold still has 0, as any `LinearWarmUp` has at its beginning, and step hold_steps + warm_up_steps is
        the first with the whole share. A classifier that has not yet learnt from the
        labels may otherwise take the classes for another division of the examples.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range or of a wrong type; when it is called, if the model has no classes.

    Notes
    -----
    The value is an objective and not a bound where w is not 0. Source: Kingma et al. 2014, equations 6, 7 and 9; there
    alpha is 0.1.

    Examples
    --------
    >>> from fastvi.models import SemiSupervisedVAE
    >>> model = SemiSupervisedVAE(16, num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> x, labels = torch.ones(4, 16), torch.tensor([0, 2, -1, -1])
    >>> SemiSupervised()(model, (x, labels), seed=0).shape
    torch.Size([4])
    """

    value_name = "objective"
    uses_labels = True
    trains_classifier = True

    num_samples: int = option("samples for each class of each example", 1, at_least=1)
    alpha: float = option("weight of the classifier's term, times n_total / n_labelled", 0.1)
    classifier_weight: float | None = option("that weight itself, for a label; none: by alpha", None)
    unlabelled_share: float = option("share of the classifier's gradient without labels, from 0 to 1", 1.0)
    hold_steps: int = option("first steps, in which that share is 0", 0)
    warm_up_steps: int = option("steps after these, over which it rises from 0", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unlabelled_share > 1.0:
            raise ValueError(f"SemiSupervised: unlabelled_share must be at most 1, got {self.unlabelled_share}")

    def at_step(self, step: int) -> SemiSupervised:
        """Return the objective with the share that it has at training step ``step``, counted from 0."""
        if step >= self.hold_steps + self.warm_up_steps:
            return self
        share = 0.0 if step < self.hold_steps else LinearWarmUp(self.warm_up_steps)(step - self.hold_steps)
        return dataclasses.replace(self, unlabelled_share=share * self.unlabelled_share)

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a classifier and a bound for each class."""
        asked = ("log_classifier", "noise", "label_bounds", "bound_of_labels")
        if hasattr(model, "at_features"):
            return
        lacking = [name for name in asked if not hasattr(model, name)]
        if lacking:
            raise TypeError(
                f"SemiSupervised: needs a model of data and classes, such as m2; {type(model).__name__} lacks "
                f"{' and '.join(lacking)}"
            )

    def __call__(self, model: Any, x: Any, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the objective of each example, ``(B,)``, in nats."""
        self.check_model(model)
        batch = as_partly_labelled(x)
        at_features = getattr(model, "at_features", None)
        if at_features is not None:
            model, features = at_features(
                batch.images, seed=None if seed is None else mix_seed(seed, _FEATURES), row_offset=row_offset
            )
            batch = batch._replace(images=features)
        known = batch.labels >= 0
        value = torch.zeros_like(batch.weights)
        all_noise = model.noise(batch.labels.shape[0], self.num_samples, seed=seed, row_offset=row_offset)
        for rows, has_label in ((known.nonzero().squeeze(1), True), ((~known).nonzero().squeeze(1), False)):
            if rows.numel() == 0:
                continue
            images, weights = batch.images.index_select(0, rows), batch.weights.index_select(0, rows)
            noise = all_noise.index_select(1, rows)
            log_q = model.log_classifier(images)
            if has_label:
                labels = batch.labels.index_select(0, rows)
                weight = (
                    self.alpha * batch.classifier_weights.index_select(0, rows)
                    if self.classifier_weight is None
                    else self.classifier_weight * weights
                )
                found = weights * model.bound_of_labels(images, labels, noise)
                found = found + weight * log_q.gather(1, labels.unsqueeze(1)).squeeze(1)
            else:
                if self.unlabelled_share < 1.0:
                    log_q = with_gradient_times(self.unlabelled_share, log_q)
                found = weights * unlabelled_bound(log_q, model.label_bounds(images, noise))
            value = value.index_copy(0, rows, found.to(value.dtype))
        return value


def with_gradient_times(share: float, log_q: Tensor) -> Tensor:
    """Return log_q, whose gradient is ``share`` times what it would be; also where log_q is -inf."""
    return share * log_q.clamp_min(torch.finfo(log_q.dtype).min) + (1.0 - share) * log_q.detach()


def unlabelled_bound(log_q: Tensor, bounds: Tensor) -> Tensor:
    """Return U(x) = sum_y q(y|x) (L(x, y) - log q(y|x)), ``(B,)``, of log q(y|x) (B, C) and L(x, y) (C, B).

    A class with q(y|x) = 0 adds nothing, whatever its bound.
    """
    q = log_q.exp()
    # Before the product, so that its gradient has no 0 times infinity either.
    gap = torch.where(q > 0, bounds.t() - log_q, torch.zeros_like(log_q))
    return (q * gap).sum(1)


def as_partly_labelled(x: Any) -> PartlyLabelled:
    """Return a batch with its weights: those of a pair (images, labels) are one, and n_total / n_labelled its own.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or the labels are no int64 tensor (B,) of -1 and more.
    """
    if isinstance(x, PartlyLabelled):
        return x
    if not isinstance(x, (tuple, list)) or len(x) != 2 or not all(isinstance(part, Tensor) for part in x):
        raise TypeError(
            f"SemiSupervised: x must be the pair (images, labels) of tensors, with -1 for a label that is missing, "
            f"got {type(x).__name__}"
        )
    images, labels = x
    check_labels("SemiSupervised", labels, None, images, UNLABELLED)
    known = (labels >= 0).to(images.dtype)
    ratio = labels.shape[0] / known.sum().clamp_min(1.0)
    return PartlyLabelled(images, labels, torch.ones_like(known), known * ratio)
