"""Examples that a trained model makes up, and what it makes of examples: samples, codes, reconstructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi._examples import count_examples, first_tensor
from fastvi._options import check_count
from fastvi._sizes import check_seed
from fastvi.evaluate._batches import IMAGES_AT_A_TIME, batches
from fastvi.evaluate._classes import check_label
from fastvi.models import LIKELIHOODS, HamiltonianPosterior
from fastvi.models.generation import draw_latents, draw_values
from fastvi.models.likelihoods import check_values_of
from fastvi.objectives import draw
from fastvi.objectives.latent import GaussianPosterior, posterior_of
from fastvi.objectives.model import completes_labels, has_bound, has_own_draw, lacking
from fastvi.seeding import mix_seed

_LATENTS, _VALUES, _LOWEST = range(3)
"""Streams of noise: ``mix_seed(seed, _LATENTS)``."""


class Samples(NamedTuple):
    """Examples that a model made up.

    Attributes
    ----------
    x
        (N, D).
    labels
        (N,), the classes that they were made for, which take turns unless one was chosen; None for a model without
        labels.
    """

    x: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Codes:
    """The approximate posteriors q(z|x) of M examples.

    Attributes
    ----------
    mean, logvar
        (M, Z), the mean and the log-variance of each latent variable; None where q has no closed form.
    samples
        (K, M, Z) for each stochastic layer, from the data upwards; empty where none were asked for.
    code
        (M, Z), what a model without a distribution of the code gives, such as an autoencoder; else None.
    """

    mean: Tensor | None
    logvar: Tensor | None
    samples: tuple[Tensor, ...] = ()
    code: Tensor | None = None

    def arrays(self) -> dict[str, Tensor]:
        """Return what there is by name: samples of several layers are ``samples_1``, ``samples_2`` and so on."""
        found = {"code": self.code, "mean": self.mean, "logvar": self.logvar}
        several = len(self.samples) > 1
        found |= {f"samples_{i}" if several else "samples": layer for i, layer in enumerate(self.samples, 1)}
        return {name: value for name, value in found.items() if value is not None}


@torch.no_grad()
def sample(model: Any, count: int, *, mean: bool = False, seed: int = 0, label: int | None = None) -> Samples:
    """Draw examples from a model: z from its prior, layer by layer where there are several, then x from p(x|z).

    Parameters
    ----------
    model
        A trained model: one with ``decode_parts`` and a likelihood, as fastvi's, one of discrete latent variables, or,
        for means alone, any with ``sample(count, seed)`` or with ``decode`` and ``latent_dim``.
    count
        N, how many.
    mean
        Return the mean of p(x|z) in place of a draw from it.
    seed
        Determines the draws.
    label
        The class to draw, for a model with classes; None: they take turns.

    Raises
    ------
    TypeError
        If the model cannot be drawn from, or a ``label`` is given for one without classes.
    ValueError
        If ``count``, ``seed`` or ``label`` is out of range.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> sample(VAE(16, 2, (8,)), 3, seed=1).x.unique().tolist()
    [0.0, 1.0]
    """
    count, seed = check_count("sample", "count", count), check_seed("sample", seed, "an integer")
    inner = model.model if isinstance(model, HamiltonianPosterior) else model
    label = None if label is None else check_label("sample", inner, label)
    if hasattr(inner, "sample_prior_and_data"):
        return Samples(_of_discrete(inner, count, mean, seed), None)
    if not has_bound(model):
        raise TypeError(f"sample: {type(model).__name__} has no distribution of its codes to draw from")
    decoder = inner.m1 if hasattr(inner, "draw_lowest") else inner  # of M1+M2, whose decode has no noise in z1
    if not mean and not hasattr(decoder, "decode_parts"):
        words = "its means can be had without draws of p(x|z)" if hasattr(decoder, "decode") else "it has no decode"
        raise TypeError(f"sample: {type(decoder).__name__} has no decode_parts, which says what p(x|z) is: {words}")
    if hasattr(inner, "decode") and hasattr(inner, "latent_dim"):
        of_class = None if label is None else torch.full((count,), label, device=next(inner.parameters()).device)
        z, labels = draw_latents(inner, count, mix_seed(seed, _LATENTS), of_class)
        parts = []
        for number, (some, of_some) in enumerate(_pairs(z, labels)):
            arguments = (some,) if of_some is None else (some, of_some)
            if decoder is not inner:
                arguments = (inner.draw_lowest(*arguments, seed=mix_seed(seed, _LOWEST, number)),)
            if mean:
                parts.append(decoder.decode(*arguments))
            else:
                parts.append(
                    draw_values(decoder.likelihood, decoder.decode_parts(*arguments), mix_seed(seed, _VALUES, number))
                )
        return Samples(torch.cat(parts), labels)
    if hasattr(inner, "sample"):
        return Samples(inner.sample(count, seed), None)
    raise TypeError(
        f"sample: {type(inner).__name__} cannot be drawn from: it has neither sample(count, seed) nor decode(z) with "
        "latent_dim"
    )


def _of_discrete(model: Any, count: int, mean: bool, seed: int) -> Tensor:
    parameter = next(model.parameters())
    parts = []
    for number, start in enumerate(range(0, count, IMAGES_AT_A_TIME)):
        like = parameter.new_zeros(min(IMAGES_AT_A_TIME, count - start), model.data_dim)
        latents, x = model.sample_prior_and_data(like, seed=mix_seed(seed, number))
        parts.append(torch.sigmoid(model.data_logits(latents[0]))[0] if mean else x)
    return torch.cat(parts)


def _pairs(z: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(z), IMAGES_AT_A_TIME):
        rows = slice(start, start + IMAGES_AT_A_TIME)
        yield z[rows], None if labels is None else labels[rows]


@torch.no_grad()
def encode(model: Any, x: Any, *, num_samples: int = 0, seed: int = 0) -> Codes:
    """Return the approximate posteriors q(z|x) of examples, and samples of them where they are asked for.

    Models whose q has no mean in closed form (several layers, trajectories, flows, discrete latent variables) have
    samples alone. Those that take missing labels (M2, M1+M2) give q(z|x, y) of the label, and of the likeliest class by
    q(y|x) where it is missing; of M1+M2 that is q(z2|z1, y) at the mean of q(z1|x).

    Parameters
    ----------
    model
        A trained model with an ``encode``, a ``draw``, or, without a distribution, a ``code``.
    x
        (M, D), or with labels in a pair where the model takes it.
    num_samples
        K, samples for each example.
    seed
        Determines the samples, with the example's place in ``x``.

    Raises
    ------
    TypeError
        If the model has no encoder.
    ValueError
        If there is no example, a value is not of the likelihood's kind, a number is out of range, or q has no mean and
        no samples were asked for.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> codes = encode(VAE(16, 2, (8,)), torch.ones(5, 16), num_samples=3)
    >>> codes.mean.shape, codes.samples[0].shape
    (torch.Size([5, 2]), torch.Size([3, 5, 2]))
    """
    count = _count("encode", x)
    _check_values("encode", model, x)
    num_samples = check_count("encode", "num_samples", num_samples, at_least=0)
    seed = check_seed("encode", seed, "an integer")
    name = type(model).__name__
    if not has_bound(model) and hasattr(model, "code"):
        if num_samples > 0:
            raise ValueError(f"encode: a code of {name} is a number, not a distribution: leave `num_samples` at 0")
        return Codes(None, None, code=torch.cat([model.code(part) for part in batches(x, count)]))
    if not hasattr(model, "encode") and not has_own_draw(model):
        raise TypeError(f"encode: {name} has no encoder q(z|x)")
    moments = [] if _is_drawn(model) else [_moments(_posterior(model, part)) for part in batches(x, count)]
    closed = [pair for pair in moments if pair is not None]
    if len(closed) < len(moments) or not moments:
        if num_samples == 0:
            raise ValueError(
                f"encode: q(z|x) of this {name} has no mean in closed form: ask for samples of it, `num_samples` of 1 "
                "or more"
            )
        closed = []
    samples: tuple[Tensor, ...] = ()
    if num_samples > 0:
        drawn = [
            _draws(model, part, num_samples, seed, number * IMAGES_AT_A_TIME)
            for number, part in enumerate(batches(x, count))
        ]
        samples = tuple(torch.cat(layer, 1) for layer in zip(*drawn, strict=True))
    if not closed:
        return Codes(None, None, samples)
    mean, logvar = (torch.cat(parts) for parts in zip(*closed, strict=True))
    return Codes(mean, logvar, samples)


def _is_drawn(model: Any) -> bool:
    """Whether samples come from the model's ``draw``: not of one that sums the class out, whose codes are of one."""
    return has_own_draw(model) and not completes_labels(model)


def _draws(model: Any, x: Any, num_samples: int, seed: int, row_offset: int) -> tuple[Tensor, ...]:
    if not _is_drawn(model):
        return (_posterior(model, x).rsample(num_samples, seed, row_offset),)
    samples = draw(model, x, num_samples, seed=seed, row_offset=row_offset).samples
    return (samples,) if isinstance(samples, Tensor) else tuple(samples)


def _posterior(model: Any, x: Any) -> Any:
    """What ``encode`` gives, checked.

    Raises
    ------
    TypeError
        For a model without a likelihood, whose ``encode`` may give anything.
    """
    if completes_labels(model) and isinstance(found := model.encode(x), tuple):
        return GaussianPosterior(*found)  # M1+M2 has no log_likelihood, because it has two layers
    if lacking(model):
        raise TypeError(f"encode: {type(model).__name__} has no log_likelihood: its codes are no q(z|x)")
    return posterior_of(model, x)


def _moments(q: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and log-variance of each latent variable; None where the distribution has neither in closed form."""
    if isinstance(q, GaussianPosterior):
        return q.mean, q.logvar
    try:
        return q.mean, q.distribution.variance.log()
    except NotImplementedError:
        return None


@torch.no_grad()
def reconstruct(model: Any, x: Any) -> Tensor:
    """Return what the model makes of examples, (M, D): the mean of p(x|z) where its ``reconstruct`` takes z.

    Raises
    ------
    TypeError
        If the model has no ``reconstruct``.
    ValueError
        If there is no example, or a value is not of the likelihood's kind.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> reconstruct(VAE(16, 2, (8,)), torch.ones(5, 16)).shape
    torch.Size([5, 16])
    """
    count = _count("reconstruct", x)
    if not hasattr(model, "reconstruct"):
        raise TypeError(f"reconstruct: {type(model).__name__} has no reconstruct(x)")
    _check_values("reconstruct", model, x)
    return torch.cat([model.reconstruct(part) for part in batches(x, count)])


def _check_values(operation: str, model: Any, x: Any) -> None:
    """Check that examples hold values of the kind that the likelihood, or the error of an autoencoder, is of.

    Raises
    ------
    ValueError
        If they do not.
    """
    inner = model.model if isinstance(model, HamiltonianPosterior) else model
    likelihood = getattr(inner, "likelihood", getattr(inner, "error", None))
    images = first_tensor(x)
    if likelihood in LIKELIHOODS and images is not None and getattr(inner, "validate_args", True):
        check_values_of(f"{operation}: x", images, likelihood)


def _count(operation: str, x: Any) -> int:
    count = count_examples(operation, "x", x)
    if count == 0 or first_tensor(x) is None:
        raise ValueError(f"{operation}: x holds no example")
    return count
