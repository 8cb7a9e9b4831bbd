"""Labels beside data, some of which may be missing: what models, objectives and runs share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi.ops._values import values_at_hand

UNLABELLED = -1
"""Stands for the label of an example that has none, as in scikit-learn."""


def images_and_labels(owner: str, x: Any) -> tuple[Tensor, Tensor | None]:
    """Return the images and the labels of x, which is images alone or begins with both; for messages of ``owner``.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(x, Tensor):
        return x, None
    if not isinstance(x, (tuple, list)) or len(x) < 2 or not all(isinstance(part, Tensor) for part in x):
        raise TypeError(f"{owner}: x must be images, or the pair (images, labels) of tensors, got {type(x).__name__}")
    return x[0], x[1]


def check_labels(
    owner: str, labels: Any, num_classes: int | None, images: Tensor | None = None, least: int = 0
) -> None:
    """Check labels: their type, their number where there are images, and their range where the classes are known.

    Raises
    ------
    TypeError, ValueError
        If they are no int64 tensor, of another shape than ``(len(images),)``, or not from ``least`` to
        ``num_classes`` - 1.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{owner}: labels must be an int64 tensor, got {got}")
    if images is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"{owner}: labels must have the shape ({len(images)},), got {tuple(labels.shape)}")
    if values_at_hand(labels) and labels.numel() > 0:
        lowest, highest = (int(bound) for bound in torch.aminmax(labels))
        if lowest < least or (num_classes is not None and highest >= num_classes):
            known = "0 or more" if num_classes is None else f"from 0 to {num_classes - 1}"
            unknown = ", or -1 for one that is not known" if least < 0 else ""
            raise ValueError(f"{owner}: labels must be {known}{unknown}, got {lowest} to {highest}")
