"""Which examples keep their labels where few of them have any: as many of each class, drawn by a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi._sizes import check_integer, check_seed
from fastvi.seeding import mix_seed

_OWNER = "balanced_labels"
_ORDER_STREAM, _REMAINDER_STREAM = range(2)


def balanced_labels(labels: Any, count: int, seed: int) -> Tensor:
    """Draw ``count`` labelled examples, the same number of each class.

    The draw is a pure function of the arguments. Where ``count`` is no multiple of the number of classes, the classes
    of which one more is taken are drawn too. The examples of a smaller ``count`` are among those of a larger one with
    the same seed, so that figures for several counts tell of more labels, not of other ones.

    Parameters
    ----------
    labels
        Class of each example, integers of shape (N,); a negative one marks an example without a label, which is never
        drawn. The classes are the labels that occur.
    count
        Number of examples to draw, at least one for each class.
    seed
        Seed of the draw, in [0, 2^63).

    Returns
    -------
    Tensor
        Indices of the examples in increasing order, int64 of shape (count,), on the CPU.

    Raises
    ------
    TypeError
        If the labels are no integers, or ``count`` or ``seed`` is none.
    ValueError
        If the labels have another shape, one is not less than 2^63, none of them is 0 or more, ``count`` is less than
        the number of classes, or a class has fewer examples than are to be drawn of it.

    Notes
    -----
    Kingma, Mohamed, Rezende and Welling 2014, "Semi-supervised learning with deep generative models", section 4: few
    labels are kept, the same number of each class.

    Examples
    --------
    >>> labels = torch.tensor([0, 1, 0, 1, -1, 0, 1, 0])
    >>> chosen = balanced_labels(labels, 4, seed=0)
    >>> labels[chosen].bincount().tolist()
    [2, 2]
    >>> balanced_labels(labels, 8, seed=0)
    Traceback (most recent call last):
    ...
    ValueError: balanced_labels: class 1 has 3 labelled examples, 8 labels over 2 classes need 4 of it; 6 are possible
    """
    values = _checked(labels)
    count = check_integer(_OWNER, "count", count)
    seed = check_seed(_OWNER, seed, "an int")
    classes, sizes = values[values >= 0].unique(return_counts=True)
    if len(classes) == 0:
        raise ValueError(f"{_OWNER}: no example has a label: expected one of 0 or more")
    if count < len(classes):
        raise ValueError(f"{_OWNER}: count is {count}, expected at least {len(classes)}, one label for each class")
    wanted = _sizes_of_classes(len(classes), count, seed)
    short = (sizes < wanted).nonzero().squeeze(1)
    if len(short) > 0:
        place = int(short[sizes[short].argmin()])
        raise ValueError(
            f"{_OWNER}: class {int(classes[place])} has {int(sizes[place]):,} labelled examples, {count:,} labels over "
            f"{len(classes)} classes need {int(wanted[place]):,} of it; {_most_labels(sizes, seed):,} are possible"
        )
    drawn = []
    for label, size, number in zip(classes.tolist(), sizes.tolist(), wanted.tolist(), strict=True):
        members = (values == label).nonzero().squeeze(1)
        drawn.append(members[_permutation(size, seed, _ORDER_STREAM, label)[:number]])
    return torch.cat(drawn).sort().values


def _checked(labels: Any) -> Tensor:
    """The labels as a tensor on the CPU."""
    try:
        values = torch.as_tensor(labels).cpu()
    except (ValueError, TypeError, RuntimeError):
        large = _beyond_int64(labels)
        if large is not None:
            raise ValueError(f"{_OWNER}: labels must be less than 2^63, got {large}") from None
        raise TypeError(f"{_OWNER}: labels must be integers, got {type(labels).__name__}") from None
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{_OWNER}: labels must be integers, got {values.dtype}")
    if values.dim() != 1:
        raise ValueError(f"{_OWNER}: labels must have the shape (N,), one for each example, got {tuple(values.shape)}")
    numbers = values.long()
    if values.dtype == torch.uint64 and bool((numbers < 0).any()):
        raise ValueError(f"{_OWNER}: labels must be less than 2^63, got {values[numbers < 0][0].item()}")
    return numbers


def _beyond_int64(labels: Any) -> int | None:
    """The first of a list's integers that int64 does not hold."""
    if not isinstance(labels, list | tuple):
        return None
    return next((each for each in labels if isinstance(each, int) and not -(2**63) <= each < 2**63), None)


def _sizes_of_classes(num_classes: int, count: int, seed: int) -> Tensor:
    """How many examples of each class make ``count``; which classes have one more is drawn."""
    size, remainder = divmod(count, num_classes)
    wanted = torch.full((num_classes,), size)
    wanted[_permutation(num_classes, seed, _REMAINDER_STREAM, 0)[:remainder]] += 1
    return wanted


def _most_labels(sizes: Tensor, seed: int) -> int:
    """The largest count that the classes suffice for: they give one label more in the order of the remainder."""
    least, order = int(sizes.min()), _permutation(len(sizes), seed, _REMAINDER_STREAM, 0)
    return len(sizes) * least + int((sizes[order] == least).nonzero()[0])


def _permutation(size: int, seed: int, *stream: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix_seed(seed, *stream)))
