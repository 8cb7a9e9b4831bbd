"""Checks of the data and the latent variables that models are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi._sizes import shown


def check_images(owner: str, images: Any, data_dim: int, dtype: torch.dtype) -> None:
    """Check that images are floating-point rows (B, D) of the model's dtype; in autocast any such dtype will do.

    Raises
    ------
    TypeError, ValueError
        If they are not; the message begins with ``owner``.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{owner}: images must be a tensor of floating-point values, got {got}")
    if images.dim() != 2 or images.shape[-1] != data_dim:
        raise ValueError(f"{owner}: images must have the shape (B, {data_dim}), got {tuple(images.shape)}")
    if images.dtype is not dtype and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(f"{owner}: images must have the model's dtype {dtype}, got {images.dtype}")


def check_codes(owner: str, z: Any, latent_dim: int, dtype: torch.dtype | None = None, labels: Any = None) -> None:
    """Check that z, which is to be decoded, has the shape ``(..., Z)``, and that there is a label for each, or None.

    Its values are floating-point ones; of the model's ``dtype`` where that is given, but in autocast any will do.

    Raises
    ------
    TypeError, ValueError
        If they are other; the message begins with ``owner``.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"{owner}: z must be a tensor of the shape (..., {latent_dim}), got {shown(z)}")
    if z.dim() == 0 or z.shape[-1] != latent_dim:
        raise ValueError(f"{owner}: z must be a tensor of the shape (..., {latent_dim}), got {tuple(z.shape)}")
    if not z.is_floating_point():
        raise TypeError(f"{owner}: z must have floating-point values, got {z.dtype}")
    if dtype is not None and z.dtype is not dtype and not torch.is_autocast_enabled(z.device.type):
        raise TypeError(f"{owner}: z must have the model's dtype {dtype}, got {z.dtype}")
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise TypeError(f"{owner}: labels must be a tensor, got {type(labels).__name__}")
    expected = z.shape[:-1]
    trailing = expected[len(expected) - labels.dim() :] if labels.dim() <= len(expected) else None
    if trailing is None or any(size not in (1, wanted) for size, wanted in zip(labels.shape, trailing, strict=True)):
        raise ValueError(
            f"{owner}: labels must have the shape {tuple(expected)}, one for each z, got {tuple(labels.shape)}"
        )
